//! Ways through rules, written as tables: `rules` reads a little language.

pub mod language;
mod marks;
mod reach;
mod tunnel;
mod unread;
