//! The vocabulary of conditions that is about connections that outlive their entries.

use std::sync::Arc;

use super::conditions::{Context, Outcome};
use crate::facts::{Question, Reading};
use crate::symbolic::{Answers, Certainty};

/// The sysctl, without the directory that all of these are in.
const TIMEOUT: &str = "nf_conntrack_tcp_timeout_established";

impl Context<'_> {
    /// What was found of connections whose source is translated.
    pub(super) fn answers(&self) -> Result<Arc<Answers>, Question> {
        self.world().map(|world| self.derived.answers(world, &self.effort))
    }

    pub(super) fn source_nat_reached(&self) -> Outcome {
        let found = match self.answers() {
            Ok(found) => found,
            Err(why) => return Outcome::unknown(why),
        };
        match &found.idle.translated.certainty {
            Certainty::Happens => {
                Outcome::holds(format!("TCP connections leave with another source: {}", found.idle.translated.place))
            }
            Certainty::Unknown(why) => Outcome::unknown(why),
            Certainty::DoesNot => Outcome::fails("no TCP connection leaves with another source"),
        }
    }

    pub(super) fn random_ports(&self) -> Outcome {
        let found = match self.answers() {
            Ok(found) => found,
            Err(why) => return Outcome::unknown(why),
        };
        let place = &found.idle.random.place;
        match &found.idle.random.certainty {
            Certainty::Happens => Outcome::holds(format!("{place} draws another port for each entry")),
            Certainty::Unknown(why) => Outcome::unknown(why),
            Certainty::DoesNot => {
                Outcome::fails("no TCP connection gets a random port: without its entry it gets the same one again")
            }
        }
    }

    pub(super) fn tcp_timeout_short(&self, seconds: u64) -> Outcome {
        let found = match self.answers() {
            Ok(found) => found,
            Err(why) => return Outcome::unknown(why),
        };
        let timeout = match &self.facts.conntrack.tcp_timeout_established {
            Reading::Ok(timeout) => *timeout,
            Reading::Absent(_) => return Outcome::fails("nf_conntrack is not in the running kernel"),
            other => {
                let timeout = ["sysctl", "net.netfilter.nf_conntrack_tcp_timeout_established"];
                return Outcome::unknown(Question::unread(other).shown_by(timeout));
            }
        };
        let (short, own) = (timeout < seconds, &found.idle.own_timeout);
        let another = || match &own.certainty {
            Certainty::Unknown(why) if own.place.is_empty() => Outcome::unknown(why),
            _ => Outcome::unknown(format!(
                "{} gives such connections another timeout than {TIMEOUT}, which is not read",
                own.place
            )),
        };
        match (short, &found.idle.by_sysctl, &own.certainty) {
            (true, Certainty::DoesNot | Certainty::Unknown(_), Certainty::Happens | Certainty::Unknown(_))
            | (false, _, Certainty::Happens | Certainty::Unknown(_)) => another(),
            (true, ..) => Outcome::holds(format!(
                "{TIMEOUT} is {timeout}: after as many seconds without a packet an entry is lost"
            )),
            (false, ..) => Outcome::fails(format!("{TIMEOUT} is {timeout}, at least {seconds}")),
        }
    }
}
