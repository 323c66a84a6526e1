//! Internals used by the tests and benches of this repository. Not a stable interface.

/// Advisories.
pub mod advisory {
    pub use crate::advisory::defects;
    pub use crate::advisory::{Catalogue, ConditionKind, Severity, State};
}

/// Captures.
pub mod capture {
    pub use crate::capture::archive;
    pub use crate::capture::{
        Ask, Capture, NetlinkFamily, NetlinkRequest, Replay, Request, RequestKind, Response, Root, Take,
    };
}

/// The command line, and what `check` prints.
pub mod cli {
    pub use crate::cli::{Action, Cli};
    pub use crate::commands::check::{CheckAnswer, answer};
}

/// Facts.
pub mod facts {
    pub use crate::facts::netfilter;
    pub use crate::facts::{Collector, Facts, Failure, Reading, Source, SourceState, SystemCall};
}

/// Verdicts.
pub mod judge {
    pub use crate::judge::{ConditionState, Derived, Options, Report, judge, judge_again};
}

/// The kernel.
pub mod kernel {
    pub use crate::kernel::{Live, Paths, Progress, meta};
}

/// Metrics.
pub mod metrics {
    pub use crate::metrics::{METRICS, MetricSettings, exposition, families, table};
}

/// Readings.
pub mod read {
    pub use crate::read::absence::believed;
    pub use crate::read::{Collectors, Known, Parts, all, replay};
}

/// Reports, and pages that are derived.
pub mod report {
    pub use crate::report::text::Style;
    pub use crate::report::{json, markdown, runbook};
}
