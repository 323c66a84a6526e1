//! The command line: flags and sub-commands, and their conversion into settings.

mod collectors;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::advisory::defects::{self, DefectState};
use crate::advisory::{Catalogue, Severity};
use crate::facts::Collector;
use crate::judge::{self, Acceptance};
use crate::kernel::Paths;
use crate::probe::{self, saved::Choice};
use crate::read::{Collectors, FlowLimits};
pub(crate) use collectors::{CollectorFlags, FlowFlags};

/// Why packets get lost on this node: conntrack, NAT, tunnels, offloads and the kernel, as metrics and verdicts.
#[derive(Debug, Parser)]
#[command(name = "natwatch", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    /// What to do; `serve` when nothing is named.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeFlags,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Serve metrics, a report page and JSON until SIGTERM (the default)
    Serve(Box<ServeFlags>),
    /// Look once and report on stdout
    Check(Box<CheckFlags>),
    /// Save the kernel's raw answers, to be replayed anywhere with `check --from`
    Capture(Box<CaptureFlags>),
    /// Find out by experiment which known defects the running kernel has
    Probe(Box<ProbeFlags>),
    /// Explain an advisory: mechanism, conditions, remedies, sources
    Explain {
        /// The advisory; without it all are listed
        id: Option<String>,
    },
    /// Print the table of every metric
    Metrics,
    /// Print a manual page
    #[command(hide = true)]
    Manpage {
        /// The sub-command that it is about; without it, the program
        command: Option<String>,
    },
    /// Print a completion script
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
}

/// Flags of `serve`, spelled as node_exporter's.
#[derive(Debug, Args)]
pub struct ServeFlags {
    /// Address to listen on, repeatable
    #[arg(long = "web.listen-address", value_name = "HOST:PORT", default_value = ":10077")]
    pub listen: Vec<String>,
    /// Path under which to expose metrics
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = telemetry_path)]
    pub telemetry_path: String,
    /// TLS, users and headers, in the format of exporter-toolkit; re-read when it changes
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config: Option<PathBuf>,
    /// Serve on the sockets that systemd passes, instead of listening
    #[arg(long = "web.systemd-socket", conflicts_with = "listen")]
    pub systemd_socket: bool,
    /// Requests that are answered at once; 0 is no limit
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 200)]
    pub max_requests: usize,
    /// Only log messages with this severity or above
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Form of log messages
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    pub log_format: LogFormat,
    /// Probe the kernel once at start; a probe that fails is logged and stops nothing
    #[arg(long, conflicts_with = "probe_result")]
    pub probe: bool,
    /// What is shown of the readings
    #[command(flatten)]
    pub shown: Shown,
    /// Flags shared with `check` and `capture`
    #[command(flatten)]
    pub common: Common,
}

/// Severity of log messages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// Everything
    Debug,
    /// Starts, stops, states
    Info,
    /// What may need attention
    Warn,
    /// What went wrong
    Error,
}

/// Form of log messages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// key=value
    Logfmt,
    /// One JSON object per line
    Json,
}

/// How much of the readings becomes series.
#[derive(Debug, Args)]
pub struct Shown {
    /// Devices whose offload features have series
    #[arg(long = "collector.links.max-devices", value_name = "N", default_value_t = 8)]
    pub max_devices: usize,
    /// Add insert_failed and drop by CPU
    #[arg(long = "collector.conntrack.per-cpu")]
    pub per_cpu: bool,
    /// Add a series for each condition of each advisory
    #[arg(long = "collector.verdict.conditions")]
    pub conditions: bool,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckFlags {
    /// Replay a capture, a directory or a text of its files, instead of looking at this machine
    #[arg(long, value_name = "DIR|FILE", conflicts_with_all = ["path.procfs", "path.sysfs", "path.rootfs"])]
    pub from: Option<PathBuf>,
    /// Judge only this advisory, repeatable
    #[arg(long = "advisory", value_name = "ID", value_parser = advisory)]
    pub advisories: Vec<String>,
    /// Severity from which on an advisory decides the exit code
    #[arg(long, value_name = "SEVERITY", default_value = "warning", value_parser = severity)]
    pub min_severity: Severity,
    /// Form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// What is shown of the readings
    #[command(flatten)]
    pub shown: Shown,
    /// Flags shared with `serve` and `capture`
    #[command(flatten)]
    pub common: Common,
}

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// The document of /report.json
    Json,
    /// The page of /, as a file of its own
    Html,
    /// Text format 0.0.4, as for the textfile collector of node_exporter
    Prometheus,
    /// A monitoring plugin's line, performance data and exit code
    Nagios,
    /// One line and an exit code for node-problem-detector
    Npd,
}

/// Flags of `capture`.
#[derive(Debug, Args)]
pub struct CaptureFlags {
    /// Where to save: a directory that is empty or not there yet
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Replace addresses and the host name, consistently
    #[arg(long)]
    pub redact: bool,
    /// Flags shared with `serve` and `check`
    #[command(flatten)]
    pub common: Common,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeFlags {
    /// Probe only for this defect, repeatable; it then decides the exit code
    #[arg(long = "defect", value_name = "ID", value_parser = decidable_defect)]
    pub defects: Vec<String>,
    /// Form of the result [default: text, and json with --output]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ProbeFormat>,
    /// Write the result to this file, which is replaced as a whole, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Exit with 0 whatever was found; for init containers, which must not fail
    #[arg(long)]
    pub exit_zero: bool,
    /// Let the kernel load the modules that an experiment needs
    #[arg(long)]
    pub allow_module_load: bool,
    /// Where the trees are mounted
    #[command(flatten)]
    pub trees: Trees,
}

/// Form of what a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeFormat {
    /// For people
    Text,
    /// The document that `--probe-result` reads
    Json,
}

/// Where the trees are mounted.
#[derive(Debug, Args)]
pub struct Trees {
    /// Where procfs is mounted
    #[arg(id = "path.procfs", long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Where sysfs is mounted
    #[arg(id = "path.sysfs", long = "path.sysfs", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,
    /// Where the host's root file system is mounted
    #[arg(id = "path.rootfs", long = "path.rootfs", value_name = "DIR", default_value = "/")]
    pub rootfs: PathBuf,
}

impl Trees {
    /// The mount points.
    pub fn paths(&self) -> Paths {
        Paths { procfs: self.procfs.clone(), sysfs: self.sysfs.clone(), rootfs: self.rootfs.clone() }
    }
}

/// Flags that `serve`, `check` and `capture` share.
#[derive(Debug, Args)]
pub struct Common {
    /// Which collectors are on
    #[command(flatten)]
    pub collectors: CollectorFlags,
    /// How much is read of entries
    #[command(flatten)]
    pub flows: FlowFlags,
    /// Where the trees are mounted
    #[command(flatten)]
    pub trees: Trees,
    /// What is known better than by natwatch, repeatable: it beats every other evidence
    #[arg(long = "kernel-defect", value_name = "ID=present|absent", value_parser = kernel_defect)]
    pub kernel_defects: Vec<(String, DefectState)>,
    /// A known risk, repeatable (the last for an ID counts): it is shown, but left out of verdict and exit code as long as it is
    /// not critical; with :critical also then
    #[arg(long = "accept", value_name = "ID[:critical][=REASON]", value_parser = acceptance)]
    pub accepted: Vec<(String, Acceptance)>,
    /// What `natwatch probe --output FILE` has found, used if it is of this boot of this kernel; empty for none [default:
    /// /run/natwatch/probe.json where it exists; with --from what the capture holds]
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub probe_result: Option<PathBuf>,
    /// Judge this namespace although it is not the node's
    #[arg(long = "network-namespace", value_name = "current", value_parser = ["current"])]
    pub network_namespace: Option<String>,
}

impl Common {
    /// Enabled collectors, with their limits.
    pub fn collectors(&self) -> Collectors {
        let mut collectors = self.collectors.on.clone();
        collectors.flows.sample = self.flows.sample;
        collectors
    }

    /// Collectors for a capture; conntrack entries only if requested.
    pub fn captured(&self) -> Collectors {
        let named = self.collectors.named.contains(&Collector::Flows);
        let wanted = |collector: &Collector| *collector != Collector::Flows || named;
        let mut collectors: Collectors = self.collectors.on.iter().copied().filter(wanted).collect();
        collectors.flows = FlowLimits::CAPTURE;
        collectors
    }

    /// Settings for the judge.
    pub fn options(&self, advisories: &[String]) -> judge::Options {
        judge::Options {
            kernel_defects: self.kernel_defects.iter().cloned().collect(),
            probe: judge::Probed::default(),
            hide_flow_addresses: false,
            this_namespace: self.network_namespace.is_some(),
            advisories: advisories.to_vec(),
            accepted: self.accepted.iter().cloned().collect(),
        }
    }

    /// Which probe result to use.
    pub fn probe_choice(&self) -> Choice {
        match &self.probe_result {
            None => Choice::Usual,
            Some(file) if file.as_os_str().is_empty() => Choice::Nothing,
            Some(file) => Choice::Named(file.clone()),
        }
    }
}

fn telemetry_path(text: &str) -> Result<String, String> {
    let taken = ["/", "/report.json", "/runbooks", "/-/healthy", "/-/ready"];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    let plain_path = text.starts_with('/') && !text.contains("//") && text.chars().all(plain);
    if !plain_path || taken.contains(&text) || text.starts_with("/runbooks/") {
        return Err(format!("must be a plain path that begins with / and is none of {}", taken.join(" ")));
    }
    Ok(text.to_owned())
}

fn severity(text: &str) -> Result<Severity, String> {
    Severity::from_name(text).ok_or_else(|| "must be info, warning or critical".into())
}

fn advisory(text: &str) -> Result<String, String> {
    let catalogue = Catalogue::built_in();
    if catalogue.get(text).is_some() {
        return Ok(text.to_owned());
    }
    let known: Vec<&str> = catalogue.advisories.iter().map(|advisory| advisory.id.as_str()).collect();
    Err(format!("known are {}", known.join(", ")))
}

fn acceptance(text: &str) -> Result<(String, Acceptance), String> {
    const LONGEST: usize = 200;
    let (risk, reason) = text.split_once('=').unwrap_or((text, ""));
    let (id, critical) = match risk.split_once(':') {
        None => (risk, false),
        Some((id, "critical")) => (id, true),
        Some((_, word)) => {
            return Err(format!(
                "{word:?} behind the colon: only ID:critical is known; write ID or ID:critical, and =REASON behind it"
            ));
        }
    };
    let reason = reason.trim();
    if reason.chars().any(char::is_control) || reason.chars().count() > LONGEST {
        return Err(format!("the reason must be one line of at most {LONGEST} characters"));
    }
    Ok((advisory(id)?, Acceptance { critical, reason: reason.to_owned() }))
}

fn kernel_defect(text: &str) -> Result<(String, DefectState), String> {
    let known = || defects::all().iter().map(|defect| defect.id.as_str()).collect::<Vec<_>>().join(", ");
    let (id, state) = text.split_once('=').ok_or("must be ID=present or ID=absent")?;
    if !defects::all().iter().any(|defect| defect.id == id) {
        return Err(format!("no defect is called {id:?}; known are {}", known()));
    }
    match state {
        "present" => Ok((id.to_owned(), DefectState::Present)),
        "absent" => Ok((id.to_owned(), DefectState::Absent)),
        _ => Err(format!("{state:?} is neither present nor absent")),
    }
}

fn decidable_defect(text: &str) -> Result<String, String> {
    let known: Vec<&str> = probe::decidable().collect();
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    if defects::all().iter().any(|defect| defect.id == text) {
        return Err(format!("no experiment decides this defect; there are some for {}", known.join(", ")));
    }
    Err(format!("known are {}", known.join(", ")))
}

/// Parses the command line. The error carries the exit code of the contract: 1, and 0 for `--help`.
///
/// # Errors
/// What to print, where, and the exit code.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, (clap::Error, u8)> {
    Cli::try_parse_from(arguments).map_err(|error| {
        let code = if error.use_stderr() { 1 } else { 0 };
        (error, code)
    })
}
