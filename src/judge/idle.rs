//! Conditions about connections that outlive their conntrack entries.

use std::sync::Arc;

use super::context::{Context, Evaluation};
use crate::facts::{Question, Reading};
use crate::symbolic::{Happens, SourceNatReplies};

/// Name of the sysctl below `/proc/sys/net/netfilter`.
const TIMEOUT: &str = "nf_conntrack_tcp_timeout_established";

/// Results for connections with a translated source.
pub(super) fn replies(context: &Context<'_>) -> Result<Arc<SourceNatReplies>, Question> {
    context.network().map(|network| context.derived.replies(network, &context.effort))
}

/// `source_nat_reached`: TCP connections leave with a translated source.
pub(super) fn source_nat_reached(context: &Context<'_>) -> Evaluation {
    let found = match replies(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    match &found.idle.translated.happens {
        Happens::Must => {
            Evaluation::holds(format!("TCP connections leave with another source: {}", found.idle.translated.place))
        }
        Happens::May(why) => Evaluation::unknown(why),
        Happens::Never => Evaluation::fails("no TCP connection leaves with another source"),
    }
}

/// `random_ports`: some of them get a new random port with each entry.
pub(super) fn random_ports(context: &Context<'_>) -> Evaluation {
    let found = match replies(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let place = &found.idle.random.place;
    match &found.idle.random.happens {
        Happens::Must => Evaluation::holds(format!("{place} draws another port for each entry")),
        Happens::May(why) => Evaluation::unknown(why),
        Happens::Never => {
            Evaluation::fails("no TCP connection gets a random port: without its entry it gets the same one again")
        }
    }
}

/// `tcp_timeout_short`: entries of established connections expire after less than `seconds` of silence.
pub(super) fn tcp_timeout_short(context: &Context<'_>, seconds: u64) -> Evaluation {
    let found = match replies(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let timeout = match &context.facts.conntrack.tcp_timeout_established {
        Reading::Ok(timeout) => *timeout,
        Reading::Absent(_) => return Evaluation::fails("nf_conntrack is not in the running kernel"),
        other => {
            let timeout = ["sysctl", "net.netfilter.nf_conntrack_tcp_timeout_established"];
            return Evaluation::unknown(Question::unread(other).shown_by(timeout));
        }
    };
    let (short, own) = (timeout < seconds, &found.idle.own_timeout);
    let another = || match &own.happens {
        Happens::May(why) if own.place.is_empty() => Evaluation::unknown(why),
        _ => Evaluation::unknown(format!(
            "{} gives such connections another timeout than {TIMEOUT}, which is not read",
            own.place
        )),
    };
    match (short, &found.idle.by_sysctl, &own.happens) {
        (true, Happens::Never | Happens::May(_), Happens::Must | Happens::May(_))
        | (false, _, Happens::Must | Happens::May(_)) => another(),
        (true, ..) => Evaluation::holds(format!(
            "{TIMEOUT} is {timeout}: after as many seconds without a packet an entry is lost"
        )),
        (false, ..) => Evaluation::fails(format!("{TIMEOUT} is {timeout}, at least {seconds}")),
    }
}
