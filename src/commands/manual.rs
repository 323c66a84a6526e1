//! `manpage`: manual pages, generated from the table of flags.

use clap::CommandFactory as _;

use super::print;
use crate::cli::Cli;

/// Runs `natwatch manpage`: the page of the program or of a sub-command.
pub(super) fn run(name: Option<&str>) -> Result<(), String> {
    let mut program = Cli::command();
    program.build();
    let command = match name {
        None => program,
        Some(name) => {
            let found = program.get_subcommands().find(|command| command.get_name() == name);
            let found = found.ok_or_else(|| format!("no sub-command is called {name:?}"))?;
            found
                .clone()
                .name(format!("natwatch-{name}"))
                .bin_name(format!("natwatch {name}"))
                .version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    print(&String::from_utf8_lossy(&page))
}
