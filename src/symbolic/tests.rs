//! Ways through rules, written as tables: `rules` reads a little language.

mod language;
mod marks;
mod reach;
mod tunnel;
mod unread;
