//! Whether something happens to packets: must, may or never.

use crate::facts::Question;

/// Whether something happens to packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Must: to some packet, for all answers to open questions.
    Happens,
    /// May: depends on the open question.
    Unknown(Question),
    /// Never: to no packet.
    DoesNot,
}
