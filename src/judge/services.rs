//! The vocabulary of conditions that is about Services.

use super::conditions::{Context, Outcome};
use crate::snapshot::Reading;
use crate::symbolic::{Certainty, Found};

/// The device that NodeLocal DNSCache makes.
const NODE_LOCAL_DNS: &str = "nodelocaldns";

impl Context<'_> {
    /// What follows where no rule translates destinations: IPVS may.
    fn without_a_rule(&self, nothing: &str, services: impl Fn(u64) -> Outcome) -> Outcome {
        match &self.snapshot.ipvs_services {
            Reading::Ok(0) | Reading::Absent(_) => Outcome::fails(nothing),
            Reading::Ok(count) => services(*count),
            other => Outcome::unknown(other.why()),
        }
    }

    pub(super) fn dns_dnat_to_several(&self) -> Outcome {
        match self.world().map(|world| self.derived.dns_to_several(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => match &found.certainty {
                Certainty::Happens => Outcome::holds(format!(
                    "UDP to one address and port 53 goes to one of several name servers: {}",
                    found.place
                )),
                Certainty::Unknown(why) => Outcome::unknown(why),
                Certainty::DoesNot => self.without_a_rule(
                    "no rule spreads UDP to one address and port 53 over several name servers",
                    |services| Outcome::unknown(format!("IPVS has {services} services, which may spread it")),
                ),
            },
        }
    }

    pub(super) fn no_local_cache(&self) -> Outcome {
        match &self.snapshot.links {
            Reading::Ok(links) => match links.iter().find(|link| link.name == NODE_LOCAL_DNS) {
                Some(link) => Outcome::fails(format!("pods ask the cache on this node (device {})", link.name)),
                None => Outcome::holds(format!("there is no cache on this node (no device {NODE_LOCAL_DNS})")),
            },
            other => Outcome::unknown(other.why()),
        }
    }

    pub(super) fn service_dnat(&self) -> Outcome {
        match self.world().map(|world| self.derived.destination_nat(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => match &found.certainty {
                Certainty::Happens => {
                    Outcome::holds(format!("connections are given other destinations: {}", found.place))
                }
                Certainty::Unknown(why) => Outcome::unknown(why),
                Certainty::DoesNot => self
                    .without_a_rule("no rule gives connections another destination", |services| {
                        Outcome::holds(format!("IPVS has {services} services"))
                    }),
            },
        }
    }

    pub(super) fn tcp_not_liberal(&self) -> Outcome {
        match &self.snapshot.conntrack.tcp_be_liberal {
            Reading::Ok(0) => {
                Outcome::holds("nf_conntrack_tcp_be_liberal is 0: segments outside the window are invalid")
            }
            Reading::Ok(value) => Outcome::fails(format!("nf_conntrack_tcp_be_liberal is {value}")),
            Reading::Absent(_) => Outcome::fails("nf_conntrack is not in the running kernel"),
            other => Outcome::unknown(other.why()),
        }
    }

    pub(super) fn invalid_passes(&self) -> Outcome {
        match self.world().map(|world| self.derived.invalid_passes(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => undropped(
                &found,
                "no rule drops invalid TCP segments on their way through this host",
                "invalid TCP segments pass through this host",
                "no connection is tracked, so no segment is invalid",
            ),
        }
    }

    pub(super) fn source_nat_answered_here(&self) -> Outcome {
        match self.world().map(|world| self.derived.answers(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => match &found.translated.certainty {
                Certainty::Happens => Outcome::holds(format!(
                    "TCP connections leave with an address of this host's as their source: {}",
                    found.translated.place
                )),
                Certainty::Unknown(why) => Outcome::unknown(why),
                Certainty::DoesNot => {
                    Outcome::fails("no TCP connection leaves with an address of this host's as another source")
                }
            },
        }
    }

    pub(super) fn invalid_arrives(&self) -> Outcome {
        match self.world().map(|world| self.derived.answers(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => undropped(
                &found.arrive,
                "no rule drops invalid TCP segments that are for this host itself",
                "invalid TCP segments that are for this host itself get to it",
                "no invalid TCP segment that answers such a connection gets to this host's own TCP",
            ),
        }
    }
}

/// Whether invalid segments get to where they were sent; the place is that of a rule that drops some. In words: that none does,
/// that some get there all the same, and that there are none although none does.
fn undropped(found: &Found, all: &str, some: &str, none: &str) -> Outcome {
    match (&found.certainty, found.place.as_str()) {
        (Certainty::Happens, "") => Outcome::holds(all),
        (Certainty::Happens, place) => Outcome::holds(format!("{some}; {place} drops only some")),
        (Certainty::Unknown(why), _) => Outcome::unknown(why),
        (Certainty::DoesNot, "") => Outcome::fails(none),
        (Certainty::DoesNot, place) => Outcome::fails(format!("{place} drops invalid TCP segments")),
    }
}
