//! Ways through rules, written as tables: `rules` reads a little language.

mod answers;
pub mod language;
mod marks;
mod reach;
mod slice;
mod tunnel;
mod unread;
