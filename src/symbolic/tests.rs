//! Walks through rules, in tables: `rules` parses a small language (`language`).

mod bypass;
mod idle;
pub(crate) mod language;
mod maps;
mod marks;
mod policies;
pub(crate) mod race;
mod reach;
mod replies;
mod slice;
mod tunnel;
mod unread;
