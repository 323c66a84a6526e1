//! Runs sub-commands, and determines the exit code.

mod capture;
pub(crate) mod check;
mod explain;
mod manual;
mod probe;
mod serve;

use std::io::{self, Write as _};
use std::time::Duration;

use clap::CommandFactory as _;

use crate::cli::{Action, Cli, Common, Shown};
use crate::read::Collectors;
use crate::report::printable;
use crate::{kernel, metrics};

/// Exit code of a failure of natwatch itself.
const FAILED: u8 = 1;

/// Time limit of `check` and `capture`.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between the two readings of UDP entries whose translation no rule gives any more.
const BETWEEN_READINGS: Duration = Duration::from_secs(2);

/// Runs a command line; prints errors to stderr.
pub fn run(cli: Cli) -> u8 {
    kernel::heap::set_up();
    let result = match cli.action {
        None => serve::run(&cli.serve),
        Some(Action::Serve(serve_flags)) => serve::run(&serve_flags),
        Some(Action::Check(flags)) => return check::run(&flags),
        Some(Action::Capture(flags)) => capture::run(&flags),
        Some(Action::Probe(flags)) => match probe::run(&flags) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Some(Action::Explain { id }) => explain::run(id.as_deref()),
        Some(Action::Metrics) => print(&metrics::table()),
        Some(Action::Manpage { command }) => manual::run(command.as_deref()),
        Some(Action::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "natwatch", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("natwatch: {}", printable(&error));
            FAILED
        }
    }
}

/// Writes to stdout. A closed pipe is no error.
fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write to stdout: {error}")),
        _ => Ok(()),
    }
}

fn shown(shown: &Shown, common: &Common, collectors: &Collectors) -> metrics::MetricSettings {
    let Shown { max_devices, per_cpu, conditions } = *shown;
    let flow_destinations = common.flows.destinations;
    metrics::MetricSettings { max_devices, per_cpu, conditions, flow_destinations, collectors: collectors.clone() }
}
