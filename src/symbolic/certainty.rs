//! What is known of whether something happens to packets.

use crate::facts::Question;

/// Whether something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// To some packet, whatever could not be told.
    Happens,
    /// That depends on what could not be told.
    Unknown(Question),
    /// To no packet.
    DoesNot,
}
