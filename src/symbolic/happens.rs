//! Whether something happens to packets: must, may or never.

use crate::facts::Question;

/// Whether something happens to packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happens {
    /// To some packet, for all answers to open questions.
    Must,
    /// That depends on the open question.
    May(Question),
    /// To no packet.
    Never,
}
