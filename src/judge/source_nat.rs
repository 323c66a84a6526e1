//! Conditions about source-NAT rules.

use std::sync::Arc;

use super::ConditionState;
use super::context::{Context, Evaluation};
use crate::advisory::defects::DefectState;
use crate::facts::netfilter::{Backend, Chosen, Owner, PortRandomization, SourceNatRule};
use crate::facts::{Question, Reading};
use crate::symbolic::{Happens, ReachedSourceNat, ReachedSourceNats, RuleAt};

/// Rules that let new connections compete for ports, and why there may be more; or why that is not known.
pub(super) fn reached(context: &Context<'_>) -> Result<Arc<ReachedSourceNats>, Question> {
    context.network().map(|network| context.derived.reached(network, &context.effort))
}

/// `source_nat_reachable`: new connections reach a rule that translates their source.
pub(super) fn source_nat_reachable(context: &Context<'_>) -> Evaluation {
    let found = match reached(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let (reached, gave_up) = (found.rules.as_slice(), found.gave_up.as_deref());
    let certain = reached.iter().find(|rule| rule.happens == Happens::Must && rule.nat.is_some());
    if reached.is_empty()
        && let Some(outcome) = by_rover(context, &found, |rule| {
            let shared = share_ports(context, rule);
            let unknown = format!("{shared}; whether this kernel gives one after the other is not known");
            [shared, unknown]
        })
    {
        return outcome;
    }
    match (certain, reached) {
        (Some(rule), all) => {
            let more = others(all.len() - 1);
            Evaluation::holds(format!("new connections get to {}{more}", describe(context, rule)))
        }
        (None, [rule, ..]) => match &rule.happens {
            Happens::May(why) => Evaluation::unknown(why),
            _ => Evaluation::unknown(format!("{} is not understood", rule.place)),
        },
        (None, []) if gave_up.is_some() => Evaluation::unknown(gave_up.unwrap_or_default()),
        (None, []) => Evaluation::fails(match &found.one_to_one {
            Some(place) => {
                format!("where new connections are translated ({place}), no two sources get one address")
            }
            None => "new connections get to no rule that translates their source".into(),
        }),
    }
}

/// The defect by which the next port is the one behind the last.
const ROVER: &str = "nat-port-rover";

/// A rule that gives each source an address of its own, and ports one after the other where the kernel does so: two connections of one
/// source that begin at once get the same one (`nf_nat_l4proto_unique_tuple` with its `rover`). Else the first port is drawn.
///
/// `words`: what holds of such a rule, and what is said where it is not known whether the kernel does so.
fn by_rover(
    context: &Context<'_>,
    found: &ReachedSourceNats,
    words: impl FnOnce(&ReachedSourceNat) -> [String; 2],
) -> Option<Evaluation> {
    let rover = context.defect(ROVER).map_or(DefectState::Unknown, |defect| defect.state);
    let rules = || found.few_ports.iter();
    let rule = rules().find(|rule| rule.happens == Happens::Must).or_else(|| rules().next())?;
    let [holds, unknown] = words(rule);
    match (rover, &rule.happens) {
        (DefectState::Absent, _) => None,
        (_, Happens::May(why)) => Some(Evaluation::unknown(why)),
        (DefectState::Present, _) => Some(Evaluation::holds(holds)),
        _ => Some(Evaluation::unknown(unknown)),
    }
}

fn gives_in_order(context: &Context<'_>, rule: &ReachedSourceNat) -> [String; 2] {
    let (place, few) = (describe(context, rule), few_ports(rule));
    let same = "so that two connections can get the same one at once";
    [
        format!("{place} gives ports one after the other on this kernel, {same}{few}"),
        format!("{place} gives ports of a range; whether this kernel does so one after the other is not known"),
    ]
}

fn share_ports(context: &Context<'_>, rule: &ReachedSourceNat) -> String {
    format!("connections of one source share the ports that {} gives it", describe(context, rule))
}

/// The same, and where each source has an address of its own, but fewer ports than it may have connections.
pub(super) fn source_nat_chooses_ports(context: &Context<'_>) -> Evaluation {
    let shared = source_nat_reachable(context);
    let Ok(found) = reached(context) else { return shared };
    let certain = found.few_ports.iter().find(|rule| rule.happens == Happens::Must);
    match (&shared.state, certain, found.few_ports.as_slice()) {
        (ConditionState::Holds, ..) | (_, None, []) => shared,
        (_, Some(rule), _) => Evaluation::holds(share_ports(context, rule)),
        (_, None, [rule, ..]) => match &rule.happens {
            Happens::May(why) => Evaluation::unknown(why),
            _ => shared,
        },
    }
}

/// `several_cpus`: more than one CPU is online.
pub(super) fn several_cpus(context: &Context<'_>) -> Evaluation {
    match &context.facts.online_cpus {
        Reading::Ok(1) => Evaluation::fails("1 CPU is online: no two packets are translated at once"),
        Reading::Ok(cpus) => Evaluation::holds(format!("{cpus} CPUs are online")),
        other => Evaluation::unknown(format!("it could not be told how many CPUs are online: {}", other.why())),
    }
}

/// `port_not_random`: such a rule may choose the same port twice: it keeps ports, or one of these defects makes
/// `random` predictable.
pub(super) fn port_not_random(context: &Context<'_>, defects: &[String]) -> Evaluation {
    let found = match reached(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let (reached, gave_up) = (found.rules.as_slice(), found.gave_up.as_deref());
    let states = defects.iter().map(|id| context.defect(id).map_or(DefectState::Unknown, |defect| defect.state));
    let states: Vec<DefectState> = states.collect();
    let worst = [DefectState::Present, DefectState::Unknown].into_iter().find(|state| states.contains(state));
    let predictable = worst.unwrap_or(DefectState::Absent);
    let keeps: Vec<(&ReachedSourceNat, Choice)> =
        reached.iter().map(|rule| (rule, choice(rule, predictable))).collect();
    let racing = keeps.iter().find(|(rule, choice)| *choice == Choice::Predictable && rule.happens == Happens::Must);
    if let Some((rule, _)) = racing {
        let count = keeps.iter().filter(|(_, choice)| *choice == Choice::Predictable).count();
        let how = match &rule.nat {
            Some(nat) if nat.randomization == PortRandomization::Random => {
                "chooses ports by a hash that this kernel makes predictable (random instead of random-fully)"
            }
            _ => "keeps ports where it can, so that two connections can pick the same one at once",
        };
        let few = few_ports(rule);
        return Evaluation::holds(format!("{} {how}{few}{}", describe(context, rule), others(count - 1)));
    }
    for (rule, choice) in &keeps {
        match (choice, &rule.happens) {
            (Choice::Random, _) => {}
            (Choice::Predictable, Happens::May(why)) => return Evaluation::unknown(why),
            (Choice::Predictable, _) => {}
            (Choice::NotUnderstood, _) => {
                return Evaluation::unknown(format!("{} is not understood", rule.place));
            }
            (Choice::ByKernel, _) => {
                let place = describe(context, rule);
                return Evaluation::unknown(format!(
                    "{place} has random, which protects where the kernel chooses ports freely; whether this one does \
                     is not known"
                ));
            }
        }
    }
    if let Some(outcome) = by_rover(context, &found, |rule| gives_in_order(context, rule)) {
        return outcome;
    }
    if let Some(why) = gave_up {
        return Evaluation::unknown(why);
    }
    match keeps.as_slice() {
        [] => Evaluation::fails("no port is chosen"),
        all => {
            // The rule with the fewest ports is shown.
            let (rule, _) = all.iter().min_by_key(|(rule, _)| ports(rule)).unwrap_or(&all[0]);
            let rest = match all.len() - 1 {
                0 => String::new(),
                1 => ", and so does 1 other".into(),
                rest => format!(", and so do {rest} others"),
            };
            Evaluation::fails(format!("{} chooses random ports{}{rest}", describe(context, rule), few_ports(rule)))
        }
    }
}

/// `kube-proxy's rule 3 of chain KUBE-POSTROUTING (table ip nat)`
fn describe(context: &Context<'_>, rule: &ReachedSourceNat) -> String {
    let Some((backend, RuleAt { chain, position, .. })) = &rule.at else { return rule.place.clone() };
    let mine = |known: &&SourceNatRule| {
        let same_chain = known.family == chain.family && known.table == chain.table && known.chain == chain.chain;
        let legacy = |backend: Backend| backend == Backend::Legacy;
        same_chain && known.position == *position && legacy(known.backend) == legacy(*backend)
    };
    let owner = context.facts.source_nat_rules.ok().and_then(|rules| rules.iter().find(mine)).map(|rule| rule.owner);
    match owner {
        None | Some(Owner::Other) => rule.place.clone(),
        Some(owner) => format!("{owner}'s {}", rule.place),
    }
}

/// How a rule chooses a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// At random.
    Random,
    /// Predictably: two simultaneous connections may get the same one.
    Predictable,
    /// At random if the kernel lacks the defect.
    ByKernel,
    /// Not known.
    NotUnderstood,
}

/// `predictable`: whether the kernel makes `random` predictable.
fn choice(rule: &ReachedSourceNat, predictable: DefectState) -> Choice {
    let Some(nat) = &rule.nat else { return Choice::NotUnderstood };
    match (nat.randomization, predictable) {
        (PortRandomization::RandomFully, _) | (PortRandomization::Random, DefectState::Absent) => Choice::Random,
        (PortRandomization::Random, DefectState::Unknown) => Choice::ByKernel,
        (PortRandomization::Random, DefectState::Present) | (PortRandomization::None, _) => Choice::Predictable,
    }
}

/// Number of ports of a rule's range.
fn ports(rule: &ReachedSourceNat) -> u32 {
    match rule.nat.as_ref().map(|nat| nat.ports) {
        Some(Chosen::Range(first, last)) => u32::from(last.saturating_sub(first)) + 1,
        _ => u16::MAX.into(),
    }
}

/// Warning if a rule has few ports, which randomization does not help against.
fn few_ports(rule: &ReachedSourceNat) -> String {
    /// Ports towards one destination that a busy client may use up.
    const FEW: u32 = 8192;
    match ports(rule) {
        many if many > FEW => String::new(),
        1 => "; it has only 1 port: a second connection to one destination is lost, which is no race".into(),
        few => format!(
            "; it has only {few} ports: connections to one destination are lost once these are used up, which is no race"
        ),
    }
}

fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", and 1 more rule".into(),
        count => format!(", and {count} more rules"),
    }
}
