//! Rules of netfilter, whichever backend holds them: hooks, chains, rules, what they test and what they do.
//!
//! What was understood is exact; what was not is kept as [`Match::Unsupported`] or [`Step::Unsupported`], never left out.

mod field;
mod header;
mod map;
mod nat;
pub mod owner;
mod pattern;
mod rule;
mod same;
pub mod signatures;
mod source_nat;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};

use super::{Failure, Name, Reading, Shared, names};
pub use field::{
    Counted, DeviceProperty, Field, MarkBits, TypeScope, address_key, device_name, name_key, prefix_range,
};
pub use header::HeaderBytes;
pub use map::{MapLookup, mark_in};
pub use nat::{Chosen, Nat, NatAction, NatMap, PortRandomization, given_addresses, with_data, with_each};
pub use rule::{Comparison, Counter, End, FieldTest, MarkWrite, Match, Rule, Step, Verdict};
pub use source_nat::{
    Backend, MarkTest, Owner, SourceNatKind, SourceNatRule, SourceNatTotal, SourceTranslation, all_source_translations,
};

names! {
    /// Family of a table (`NFPROTO_*`).
    Family {
        /// `NFPROTO_IPV4`
        Ipv4 = "ipv4",
        /// `NFPROTO_IPV6`
        Ipv6 = "ipv6",
        /// `NFPROTO_INET`: both
        Inet = "inet",
        /// `NFPROTO_NETDEV`: hooks of single devices
        Netdev = "netdev",
        /// Frames that cross a bridge.
        Bridge = "bridge",
    }
}

names! {
    /// Where a base chain is called.
    Hook {
        /// Every packet that arrives
        Prerouting = "prerouting",
        /// Packets for this host
        Input = "input",
        /// Packets for others
        Forward = "forward",
        /// Packets of this host
        Output = "output",
        /// Every packet that leaves
        Postrouting = "postrouting",
        /// Packets that a device is about to send (family netdev)
        Egress = "egress",
        /// What a device receives, before anything else sees it.
        Ingress = "ingress",
    }
}

names! {
    /// What a base chain is for (`struct nft_chain_type`; the table's name for x_tables).
    ChainKind {
        /// Sees every packet
        Filter = "filter",
        /// The same; the packet is routed again when its mark changed (hook output)
        Route = "route",
        /// Sees the first packet of a flow; called from conntrack's NAT hook whatever its priority
        Nat = "nat",
    }
}

impl Family {
    /// Families of IP packets.
    pub const IP: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    pub const fn of(address: &IpAddr) -> Self {
        if address.is_ipv6() { Self::Ipv6 } else { Self::Ipv4 }
    }

    /// Index into arrays that have one of each of [`Family::IP`].
    pub const fn ip_index(self) -> usize {
        matches!(self, Self::Ipv6) as usize
    }

    /// `NFPROTO_*`; of IPv4 and IPv6 it is `AF_*` too.
    pub const fn nfproto(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
        }
    }
}

/// Everything that was read of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `NFTA_GEN_ID`, which every change of nf_tables moves. `None`: another look at the same generation may find more
    /// or something else.
    pub generation: Option<u32>,
    /// Which base chains the kernel calls, by family and hook.
    pub base_chains: BaseChains,
    /// Devices whose egress chains were read; `None`: no tunnel that is up was seen.
    pub devices: Option<BTreeSet<String>>,
    /// Base chains on the hooks that matter, and every chain that their rules lead to. The nat chains on prerouting and
    /// output are read whole only where they are few; see [`Chain::udp_rules`].
    pub chains: Shared<BTreeMap<ChainId, Chain>>,
    /// Sets that their rules ask, as far as anything about them was read.
    pub sets: Shared<BTreeMap<SetId, Set>>,
    /// Who sets the mark bits that source-NAT rules test.
    pub mark_writers: MarkWriters,
    /// Families whose connections are tracked because of a rule in a chain that no hook leads to, or in a dormant table.
    pub tracks: BTreeSet<Family>,
    /// Families of which it could not be told whether such a rule is there, and why.
    pub tracking_unread: BTreeMap<Family, String>,
}

/// Base chains by family and hook. A list that could not be read has no chains that could be taken for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChains {
    lists: BTreeMap<(Family, Hook), Reading<Vec<ChainId>>>,
    /// What a list is that is not here: empty, or why none was read.
    others: Reading<Vec<ChainId>>,
}

impl Default for BaseChains {
    /// No base chains at all.
    fn default() -> Self {
        Self { lists: BTreeMap::new(), others: Reading::Ok(Vec::new()) }
    }
}

impl BaseChains {
    /// None of the lists could be read.
    pub fn unread<T>(why: &Reading<T>) -> Self {
        Self { lists: BTreeMap::new(), others: why.as_ref().map(|_| Vec::new()) }
    }

    /// Adds a chain to the list of its hook, if that was read.
    pub fn add(&mut self, hook: Hook, id: ChainId) {
        let list = self.lists.entry((id.family, hook)).or_insert_with(|| Reading::Ok(Vec::new()));
        if let Reading::Ok(list) = list {
            list.push(id);
        }
    }

    /// The list of a hook could not be read as a whole.
    pub fn lose<T>(&mut self, family: Family, hook: Hook, why: &Reading<T>) {
        self.lists.insert((family, hook), why.as_ref().map(|_| Vec::new()));
    }

    /// The base chains of tables of this very family on a hook, in no order.
    pub fn at(&self, family: Family, hook: Hook) -> Reading<&[ChainId]> {
        self.lists.get(&(family, hook)).unwrap_or(&self.others).as_ref().map(Vec::as_slice)
    }

    /// The first list of these hooks that could not be read, and why.
    pub fn first_unread(&self, families: &[Family], hooks: &[Hook]) -> Option<(Family, Hook, Reading<()>)> {
        let all = families.iter().flat_map(|family| hooks.iter().map(move |hook| (*family, *hook)));
        all.map(|(family, hook)| (family, hook, self.at(family, hook).map(|_| ())))
            .find(|(.., list)| list.ok().is_none())
    }
}

/// A chain's name, unique in its backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: Name,
    /// The chain itself.
    pub chain: Name,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel calls it; `None`: only other chains do.
    pub base: Option<Base>,
    /// Its rules, in order. `Failed`: they were not read; the text says why.
    pub rules: Reading<Arc<Vec<Rule>>>,
    /// Where they were not read: those that UDP packets can meet, as those of tunnels are, in order, if these were.
    pub udp_rules: Option<Arc<Vec<Rule>>>,
}

impl Chain {
    /// A chain that was read whole, or not at all.
    pub fn new(base: Option<Base>, rules: Reading<Arc<Vec<Rule>>>) -> Self {
        Self { base, rules, udp_rules: None }
    }

    /// The rules that UDP packets can meet.
    pub fn rules_for_udp(&self) -> Option<&[Rule]> {
        self.rules.ok().or(self.udp_rules.as_ref()).map(|rules| rules.as_slice())
    }

    /// Whether it was not read because it only needed to be searched: a nat chain with more Services than are read whole.
    pub fn only_searched(&self) -> bool {
        self.rules.failure().is_some_and(|failure| matches!(failure.root(), Failure::NotNeeded(_)))
    }

    /// Its rules, or none where they were not read.
    pub fn known_rules(&self) -> &[Rule] {
        self.rules.ok().map_or(&[], |rules| rules.as_slice())
    }
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where it is called.
    pub hook: Hook,
    /// What for.
    pub kind: ChainKind,
    /// Order among the chains of a hook; lower is first. Which of two equal ones is first is not known.
    pub priority: i32,
    /// What happens to a packet that no rule decided about: dropped, or accepted.
    pub drops: bool,
    /// Devices that it is bound to (hook egress).
    pub devices: Vec<String>,
}

/// A set's name, unique in its backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetId {
    /// Of nf_tables.
    Nftables {
        /// Family of its table.
        family: Family,
        /// Its table.
        table: Name,
        /// The set itself.
        set: Name,
    },
    /// Of ipset, by the index that rules hold.
    Ipset(u16),
}

/// What is known about a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Type of an ipset (`hash:net`), or the key of an nf_tables set (`4 bytes`).
    pub kind: String,
    /// Its elements only change with the generation of the rule set: none times out, none is added by a packet.
    pub stable: bool,
    /// Whether values that matter to the verdicts are elements. A value that is not here was not asked about.
    pub members: BTreeMap<Vec<u128>, Reading<bool>>,
    /// All elements, each with a range for every field. Failed: they are too many to be read, or not understood; then only
    /// [`Set::members`] tells.
    pub elements: Reading<Vec<Element>>,
    /// Of a verdict map, the verdict of each element; else empty.
    pub verdicts: Vec<Verdict>,
    /// Of a map of data, those of each element, as they lie in registers; else empty.
    pub data: Vec<Vec<u8>>,
    /// Of an ipset, the family of packets that can be in it; `None`: both.
    pub family: Option<Family>,
    /// Of a `list:set`, the sets that it consists of, as far as they are known by number.
    pub sets: Vec<SetId>,
}

/// An element of a set: of each field that is looked up, a range, both ends included.
pub type Element = Vec<(u128, u128)>;

/// Where the bits come from that source-NAT rules look for in a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkWriters {
    /// Bits that are tested: by rules of this backend, and for nf_tables by those of legacy tables too.
    pub tested: u32,
    /// Bits that a rule sets, tested or not, and one such rule for each: one that a hook leads to, or of a well-known chain that other
    /// rules lead to.
    pub found: BTreeMap<u32, (ChainId, u32)>,
    /// Bits for which every chain was searched, and no rule sets them, not in the connection's mark either.
    pub none: u32,
    /// Bits for which the search was given up, and why. They count as possible.
    pub given_up: u32,
    /// Why it was given up; empty if it was not.
    pub why: String,
}

impl MarkWriters {
    /// Bits that are tested and for which no rule was found.
    pub fn missing(&self) -> u32 {
        self.tested & !self.found.keys().fold(0, |all, bit| all | bit)
    }
}

/// A test of a port of the bridge that forwards a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// What is tested: `physdev in`, `physdev out`, or whether there is one.
    pub field: &'static str,
    /// As for a [`Field`] of a device's name; without bits where it is asked whether there is one.
    pub mask: u128,
    /// What the bits of the mask are.
    pub value: u128,
    /// Whether the result is inverted.
    pub inverted: bool,
}

impl Ruleset {
    /// The same as [`Self::reachable`] if nothing is missing there: every list of these hooks was read, every chain that
    /// is reached, and every verdict map in these. Else the reading that has no value.
    pub fn all_reachable(&self, kind: ChainKind, hooks: &[Hook]) -> Reading<Vec<(&ChainId, &Chain)>> {
        const FAMILIES: [Family; 3] = [Family::Ipv4, Family::Ipv6, Family::Inet];
        if let Some((family, hook, reading)) = self.base_chains.first_unread(&FAMILIES, hooks) {
            return reading.within(format_args!("base chains of {family} {hook}")).map(|()| Vec::new());
        }
        let listed = FAMILIES.iter().flat_map(|family| hooks.iter().map(|hook| self.base_chains.at(*family, *hook)));
        let listed: Vec<&ChainId> = listed.filter_map(|list| list.ok().copied()).flatten().collect();
        if let Some(id) = listed.into_iter().find(|id| !self.chains.contains_key(id)) {
            return Reading::Failed(Failure::unexpected("it was not read").within(format_args!("chain {}", id.chain)));
        }
        let reached = self.reachable(kind, hooks);
        match reached.iter().find_map(|(id, chain)| self.first_unread_in(id, chain)) {
            Some(unread) => unread.map(|()| Vec::new()),
            None => Reading::Ok(reached),
        }
    }

    /// What was not read of a chain: its rules, a verdict map in them, or a chain that they name.
    pub fn first_unread_in(&self, id: &ChainId, chain: &Chain) -> Option<Reading<()>> {
        let Reading::Ok(rules) = &chain.rules else {
            return Some(chain.rules.without_value().within(format_args!("chain {}", id.chain)));
        };
        let maps = rules.iter().flat_map(|rule| &rule.steps).filter_map(|step| match step {
            Step::Verdict(Verdict::Map { verdicts, .. }) => Some(verdicts),
            _ => None,
        });
        if let Some(unread) = maps.into_iter().find(|verdicts| verdicts.ok().is_none()) {
            return Some(unread.without_value().within(format_args!("a verdict map in chain {}", id.chain)));
        }
        let named = |name: &Name| ChainId { chain: name.clone(), ..id.clone() };
        let missing = rules.iter().flat_map(Rule::jumps).find(|name| !self.chains.contains_key(&named(name)))?;
        Some(Reading::Failed(Failure::unexpected("it was not read").within(format_args!("chain {missing}"))))
    }

    /// The chains that base chains of this kind on these hooks lead to, base chains included, each once: in the order
    /// of the base chains (by priority, then name), then depth first as the rules name them. Only those that were read,
    /// and what these lead to; there may be others.
    pub fn reachable(&self, kind: ChainKind, hooks: &[Hook]) -> Vec<(&ChainId, &Chain)> {
        let is_first = |base: &Base| base.kind == kind && hooks.contains(&base.hook);
        let mut bases: Vec<_> = self
            .chains
            .iter()
            .filter_map(|(id, chain)| Some((chain.base.as_ref().filter(|base| is_first(base))?, id)))
            .collect();
        bases.sort_by_key(|(base, id)| (base.hook != Hook::Postrouting, base.priority, *id));
        let Some((_, first)) = bases.first() else { return Vec::new() };
        // One name for all look-ups: there may be some ten thousand.
        let mut wanted = ChainId::clone(first);
        let mut open: Vec<(&ChainId, &Name)> = bases.iter().rev().map(|(_, id)| (*id, &id.chain)).collect();
        let mut seen: HashSet<*const Chain> = HashSet::new();
        let mut found = Vec::new();
        while let Some((from, name)) = open.pop() {
            wanted.family = from.family;
            wanted.table.clone_from(&from.table);
            wanted.chain.clone_from(name);
            let Some((id, chain)) = self.chains.get_key_value(&wanted) else { continue };
            if !seen.insert(chain) {
                continue;
            }
            found.push((id, chain));
            let next = open.len();
            open.extend(chain.known_rules().iter().flat_map(Rule::jumps).map(|name| (id, name)));
            open[next..].reverse();
        }
        found
    }
}
