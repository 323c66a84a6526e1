//! What rules look into, and what else they make worth asking: gone through once, and kept as long as the rules stand.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::facts::Name;
use crate::facts::netfilter::{
    Chosen, End, Family, Field, Match, Nat, NatAction, Ruleset, SetId, Step, Verdict, address_key, key_address,
    with_map_data,
};

/// Sets of one rule set that are read. With more the source is a failed one.
pub(crate) const MAX_SETS: usize = 512;
/// Addresses of SNAT rules that are looked up, 10 µs each; what is beyond is not known.
const MAX_SOURCES: usize = 64;
/// The same for addresses that destinations are given.
const MAX_TARGETS: usize = 64;
/// Destinations of a range that are looked up one by one.
const MAX_RANGE: u128 = 16;

/// Sets, and by what each is looked into.
pub(crate) type LookedInto<K, T> = Vec<(K, Vec<Vec<T>>)>;

/// What the rules of one rule set look into, and with what, and what else they make worth asking; everything in the order in
/// which the rules name it. It holds as long as the rules do, whatever sets hold and counters have counted meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    pub(crate) nftables: LookedInto<SetId, Field>,
    pub(crate) ipset: LookedInto<u16, End>,
    /// There are more than [`MAX_SETS`].
    pub(crate) cut: bool,
    /// Rules ask whether IPsec handles a packet.
    pub ipsec: bool,
    /// Rules ask what entries of connection tracking have counted.
    pub counts: bool,
    /// Dates that rules ask for, in nanoseconds since the epoch: what is asked about a time between two of them has one answer.
    pub dates: BTreeSet<u64>,
    /// Sets that rules add to, or delete from.
    filled: BTreeSet<SetId>,
    /// Tables with a chain that was not read: it may fill any set of theirs.
    unread: BTreeSet<(Family, Name)>,
    /// Translations that give [`sources`].
    snat: Vec<Nat>,
    /// Translations that give [`targets`].
    dnat: Vec<Nat>,
}

impl Lookups {
    /// Of the rules that were read.
    pub(crate) fn of(ruleset: &Ruleset) -> Self {
        let mut lookups = Self::default();
        let mut fixed: [Vec<IpAddr>; 2] = [Vec::new(), Vec::new()];
        for (id, chain) in &ruleset.chains {
            if chain.rules.ok().is_none() {
                lookups.unread.insert((id.family, id.table.clone()));
            }
            let rules = chain.rules_for_udp().unwrap_or_default();
            for step in rules.iter().flat_map(|rule| &rule.steps) {
                lookups.add(step, &mut fixed);
            }
        }
        lookups
    }

    /// `fixed`: addresses that translations without a map have given so far.
    fn add(&mut self, step: &Step, [sources, targets]: &mut [Vec<IpAddr>; 2]) {
        let room = self.nftables.len() + self.ipset.len() < MAX_SETS;
        self.ipsec |= asks_for(step, |field| matches!(field, Field::Ipsec { .. }));
        self.counts |= asks_for(step, |field| matches!(field, Field::Counted { .. }));
        self.add_dates(step);
        let added = match step {
            Step::Match(Match::Set { fields, set, .. }) | Step::Verdict(Verdict::Map { fields, set, .. }) => {
                add(&mut self.nftables, set, fields, room)
            }
            Step::Match(Match::Ipset { index, ends, .. }) => add(&mut self.ipset, index, ends, room),
            Step::UpdateSet { set, .. } => {
                self.filled.insert(set.clone());
                true
            }
            Step::Nat(nat) => {
                let (nats, fixed, most) = match nat.action {
                    NatAction::Snat => (&mut self.snat, sources, MAX_SOURCES),
                    NatAction::Dnat => (&mut self.dnat, targets, MAX_TARGETS),
                    NatAction::Masquerade | NatAction::Redirect | NatAction::Netmap => return,
                };
                // Beyond so many addresses none counts.
                let is_new =
                    fixed.len() < most && (nat.map.is_some() || add_addresses(fixed, nat.action, nat.addresses));
                nats.extend(is_new.then(|| nat.clone()));
                true
            }
            _ => true,
        };
        self.cut |= !added;
    }

    fn add_dates(&mut self, step: &Step) {
        let Step::Match(Match::Tests { tests, .. }) = step else { return };
        for test in tests.iter().filter(|test| test.field == Field::Time) {
            let ranges = test.condition.ranges(u64::BITS).unwrap_or_default().into_iter();
            let ends = ranges.flat_map(|(first, last)| [first, last.saturating_add(1)]);
            self.dates.extend(ends.filter_map(|date| u64::try_from(date).ok()));
        }
    }

    /// Whether a rule adds to the set, or may do so for all that is known.
    pub(crate) fn may_fill(&self, id: &SetId) -> bool {
        let of_table = |id: &SetId| match id {
            SetId::Nftables { family, table, .. } => self.unread.contains(&(*family, table.clone())),
            SetId::Ipset(_) => false,
        };
        self.filled.contains(id) || of_table(id)
    }
}

/// Addresses that SNAT rules give, each its only one; of more than [`MAX_SOURCES`] the first.
pub(crate) fn sources(all: &[(Arc<Lookups>, &Ruleset)]) -> Vec<IpAddr> {
    given(all.iter().map(|(lookups, ruleset)| (&lookups.snat, *ruleset)), MAX_SOURCES)
}

/// Addresses that rules give to destinations of TCP, by themselves or in a small range; of more than [`MAX_TARGETS`] the first.
pub(crate) fn targets(all: &[(Arc<Lookups>, &Ruleset)]) -> Vec<IpAddr> {
    given(all.iter().map(|(lookups, ruleset)| (&lookups.dnat, *ruleset)), MAX_TARGETS)
}

/// Addresses that translations give, by themselves or by what their maps hold now.
fn given<'a>(all: impl Iterator<Item = (&'a Vec<Nat>, &'a Ruleset)>, most: usize) -> Vec<IpAddr> {
    let mut known = Vec::new();
    for (nat, ruleset) in all.flat_map(|(nats, ruleset)| nats.iter().map(move |nat| (nat, ruleset))) {
        let mapped = nat.map.as_ref().and_then(|map| map.lookup.known_in(&ruleset.sets)).into_iter().flatten();
        let mapped = mapped.filter_map(|(_, data)| with_map_data(nat, data)).map(|nat| nat.addresses);
        for addresses in mapped.chain([nat.addresses]) {
            if known.len() >= most {
                return known;
            }
            add_addresses(&mut known, nat.action, addresses);
        }
    }
    known
}

/// Adds the addresses that a translation gives, if it is a single one, or a small range of destinations. Whether any is new.
fn add_addresses(known: &mut Vec<IpAddr>, action: NatAction, addresses: Chosen<IpAddr>) -> bool {
    let Chosen::Range(first, last) = addresses else { return false };
    let (from, to) = (address_key(first), address_key(last));
    let most = if action == NatAction::Dnat { MAX_RANGE } else { 1 };
    let before = known.len();
    if to.saturating_sub(from) < most {
        for key in from..=to {
            let address = key_address(Family::of(&first), key);
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }
    known.len() > before
}

fn asks_for(step: &Step, wanted: impl Fn(&Field) -> bool) -> bool {
    match step {
        Step::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| wanted(&test.field)),
        Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
            fields.iter().any(wanted)
        }
        _ => false,
    }
}

/// Notes by what a set is looked into; false: there is no room for another set.
pub(crate) fn add<K: PartialEq + Clone, T: PartialEq + Clone>(
    lookups: &mut LookedInto<K, T>,
    set: &K,
    by: &[T],
    room: bool,
) -> bool {
    match lookups.iter_mut().find(|(known, _)| known == set) {
        Some((_, all)) if all.iter().any(|known| known == by) => {}
        Some((_, all)) => all.push(by.to_vec()),
        None if room => lookups.push((set.clone(), vec![by.to_vec()])),
        None => return false,
    }
    true
}
