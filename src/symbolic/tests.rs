//! Walks through rules, in tables: `rules` parses a small language (`language`).

mod answers;
mod bypass;
mod idle;
pub(crate) mod language;
mod maps;
mod marks;
mod policies;
pub(crate) mod race;
mod reach;
mod slice;
mod tunnel;
mod unread;
