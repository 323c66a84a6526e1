//! Parses the command line, runs it, and returns the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match natwatch::cli::parse(std::env::args_os()) {
        Ok(cli) => ExitCode::from(natwatch::commands::run(cli)),
        Err((error, code)) => {
            let _ = error.print(); // a closed pipe is no error
            ExitCode::from(code)
        }
    }
}
