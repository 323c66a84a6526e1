//! Parses the command line, runs it, and returns the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    match natwatch::parse(std::env::args_os()) {
        Ok(cli) => ExitCode::from(natwatch::run(cli)),
        Err((error, code)) => match error.print().and_then(|()| io::stdout().flush()) {
            Err(broken) if broken.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("natwatch: cannot write: {broken}");
                ExitCode::FAILURE
            }
            _ => ExitCode::from(code),
        },
    }
}
