//! Ways through rules, written as tables: `rules` reads a little language.

mod language;
mod reach;
mod tunnel;

use language::rules;
