//! Destinations that connections may have instead of their packets', from all DNAT rules.

use super::{Network, Targets, recall};
use crate::facts::netfilter::{
    Chain, ChainId, Family, Field, Hook, Match, Nat, NatAction, Step, TypeScope, Verdict, given_addresses,
};
use crate::symbolic::happens::Happens;
use crate::symbolic::values::Numbers;

impl Network<'_> {
    /// Whether a connection's destination may differ from its packets', on output or elsewhere; received packets may
    /// also be replies to connections with a translated source.
    pub fn translates_destinations(&self, family: Family, on_output: bool) -> Happens {
        let find = || self.find_destinations(family, on_output);
        recall(&self.remembered.destinations, (family, on_output), find)
    }

    /// The destinations that connections may have instead, in the same sense, and why there may be others.
    pub fn targets(&self, family: Family, on_output: bool) -> Targets {
        recall(&self.remembered.targets, (family, on_output), || self.find_targets(family, on_output))
    }

    fn find_targets(&self, family: Family, on_output: bool) -> Targets {
        let (mut targets, mut unclear) = (Vec::new(), self.unread(family));
        let translating = self.chains_on(family, destination_hook(on_output)).map(|chain| (chain, false));
        let answered = self.chains_on(family, answered_hook(on_output)).map(|chain| (chain, true));
        for ((set, id, chain), answers) in translating.chain(answered) {
            if chain.only_searched() {
                return (Numbers::ranges(vec![(0, u128::MAX)]), None); // targets of Services
            }
            let sets = &self.rules[set].ruleset.sets;
            for step in chain.known_rules().iter().flat_map(|rule| &rule.steps) {
                let given = match step {
                    Step::Nat(Nat { action: NatAction::Redirect, .. }) => continue, // this host
                    // Replies get the source of what they reply to.
                    Step::Nat(_) if answers => Some(vec![(0, u128::MAX)]),
                    Step::Nat(nat) => given_addresses(nat, sets),
                    Step::Unsupported { .. } => None,
                    _ => continue,
                };
                match given {
                    Some(given) => targets.extend(given),
                    None => {
                        let what = |chain| format!("which destination a rule of {chain} gives is not known");
                        unclear.get_or_insert_with(|| self.question_of_chain(set, id, what));
                    }
                }
            }
        }
        (Numbers::ranges(targets), unclear)
    }

    /// Destinations of packets, not on output, that may be translated. `None`: any, because DNAT rules exist.
    pub fn answered(&self, family: Family) -> Option<Numbers> {
        recall(&self.remembered.answered, family, || self.find_answered(family))
    }

    /// If only sources are translated, packets with a translated destination are replies to the source that was given.
    fn find_answered(&self, family: Family) -> Option<Numbers> {
        if self.unread(family).is_some() {
            return None;
        }
        let translates = |step: &Step| matches!(step, Step::Nat(_) | Step::Unsupported { .. });
        if self.chains_on(family, destination_hook(false)).any(|(.., chain)| has(chain, translates)) {
            return None;
        }
        let mut sources = Vec::new();
        for (set, _, chain) in self.chains_on(family, answered_hook(false)) {
            if chain.only_searched() {
                return None;
            }
            for step in chain.known_rules().iter().flat_map(|rule| &rule.steps) {
                match step {
                    Step::Nat(Nat { action: NatAction::Masquerade, .. }) => {
                        sources.extend(self.local_addresses(family)?.as_ranges());
                    }
                    Step::Nat(nat @ Nat { action: NatAction::Snat, .. }) => {
                        let given = given_addresses(nat, &self.rules[set].ruleset.sets)?;
                        if given.is_empty() {
                            return None; // a port only, so any address
                        }
                        sources.extend(given);
                    }
                    Step::Nat(_) | Step::Unsupported { .. } => return None,
                    _ => {}
                }
            }
        }
        Some(Numbers::ranges(sources))
    }

    fn find_destinations(&self, family: Family, on_output: bool) -> Happens {
        let translates = |step: &Step| matches!(step, Step::Nat(_));
        let mut unclear = None;
        let hooks = [destination_hook(on_output), answered_hook(on_output)].into_iter();
        for (set, id, chain) in hooks.flat_map(|hook| self.chains_on(family, hook)) {
            if chain.only_searched() || has(chain, translates) {
                return Happens::Must;
            }
            if has(chain, |step| matches!(step, Step::Unsupported { .. })) {
                let what = |chain| format!("a rule of {chain} is not understood");
                unclear.get_or_insert_with(|| self.question_of_chain(set, id, what));
            }
        }
        let why = self.unread(family).or(unclear);
        why.map_or(Happens::Never, Happens::May)
    }

    /// Whether rules that this host's packets traverse test the device of the untranslated destination.
    pub fn asks_for_first_path(&self, family: Family) -> bool {
        let asks = |step: &Step| match step {
            Step::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| is_device(&test.field)),
            Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
                fields.iter().any(is_device)
            }
            Step::Match(Match::Ipset { .. }) => true,
            _ => false,
        };
        self.chains_on(family, Hook::Output).any(|(.., chain)| has(chain, asks))
    }

    /// Base chains for packets of a family on a hook, and those reachable from them.
    fn chains_on(&self, family: Family, hook: Hook) -> impl Iterator<Item = (usize, &ChainId, &Chain)> {
        let based = move |chain: &Chain| chain.base.as_ref().is_some_and(|base| base.hook == hook);
        let bases = self.chains_of(family).filter(move |(.., chain)| based(chain));
        bases.flat_map(|(set, id, _)| self.chains_from(set, id).flatten().map(move |(id, chain)| (set, id, chain)))
    }
}

/// Hook of destination NAT for first packets: output, or prerouting.
const fn destination_hook(on_output: bool) -> Hook {
    if on_output { Hook::Output } else { Hook::Prerouting }
}

/// Hook of source NAT for connections whose replies arrive there.
const fn answered_hook(on_output: bool) -> Hook {
    if on_output { Hook::Input } else { Hook::Postrouting }
}

fn has(chain: &Chain, wanted: impl Fn(&Step) -> bool) -> bool {
    chain.known_rules().iter().flat_map(|rule| &rule.steps).any(wanted)
}

/// Whether a field distinguishes output devices.
fn is_device(field: &Field) -> bool {
    let scoped = matches!(field, Field::SourceType(TypeScope::Output) | Field::DestinationType(TypeScope::Output));
    scoped || matches!(field, Field::OutputName | Field::OutputIndex | Field::Device { outgoing: true, .. })
}
