//! Ways through rules, written as tables: `rules` reads a little language.

mod answers;
pub mod language;
mod maps;
mod marks;
mod reach;
mod slice;
mod tunnel;
mod unread;
