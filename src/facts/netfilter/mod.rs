//! Netfilter rule sets in one model for all backends: hooks, chains, rules, matches, actions and sets.
//!
//! `read::nftables` and `read::iptables` fill it, `symbolic` runs packets through it. What was decoded is exact; what
//! was not is kept as [`Match::Unsupported`] or [`Step::Unsupported`], never left out.

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
    Counted, DeviceProperty, Field, MarkBits, TypeScope, address_key, device_name, key_address, name_key, prefix_range,
};
pub use header::HeaderBytes;
pub use map::{MapLookup, mark_in};
pub use nat::{Chosen, Nat, NatAction, NatMap, PortRandomization, given_addresses, resolve_map, with_map_data};
pub use rule::{Comparison, Counter, ElementKey, End, FieldTest, MarkWrite, Match, Rule, Step, Verdict};
pub use source_nat::{
    Backend, MarkTest, Owner, SourceNatKind, SourceNatRule, SourceNatTotal, SourceTranslation, all_source_translations,
    in_all_backends,
};

names! {
    /// Family of a table (`NFPROTO_*`).
    Family {
        /// `NFPROTO_IPV4`
        Ipv4 = "ipv4",
        /// `NFPROTO_IPV6`
        Ipv6 = "ipv6",
        /// `NFPROTO_INET`: IPv4 and IPv6
        Inet = "inet",
        /// `NFPROTO_NETDEV`: ingress and egress of single devices
        Netdev = "netdev",
        /// `NFPROTO_BRIDGE`: bridged frames
        Bridge = "bridge",
    }
}

names! {
    /// Where a base chain is registered (`NF_INET_*`, `NF_NETDEV_*`).
    Hook {
        /// All received packets
        Prerouting = "prerouting",
        /// Packets to this host
        Input = "input",
        /// Forwarded packets
        Forward = "forward",
        /// Packets sent by this host
        Output = "output",
        /// All packets sent or forwarded
        Postrouting = "postrouting",
        /// Packets that a device is about to send (`NF_NETDEV_EGRESS`)
        Egress = "egress",
        /// Packets that a device received, before the network layer (`NF_NETDEV_INGRESS`)
        Ingress = "ingress",
    }
}

names! {
    /// Type of a base chain (`struct nft_chain_type`; for x_tables the table's name).
    ChainKind {
        /// Traversed by every packet
        Filter = "filter",
        /// Like `filter`, and at hook output a packet whose mark changed is re-routed
        Route = "route",
        /// Traversed by the first packet of a connection; called by the NAT hook of conntrack, whatever its priority
        Nat = "nat",
    }
}

impl Family {
    /// Families of IP packets.
    pub const IP: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        if address.is_ipv6() { Self::Ipv6 } else { Self::Ipv4 }
    }

    /// Index into arrays with one item for each of [`Family::IP`].
    pub const fn ip_index(self) -> usize {
        matches!(self, Self::Ipv6) as usize
    }

    /// `NFPROTO_*`; for IPv4 and IPv6 also `AF_*`.
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

/// The rule set of one backend, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `NFTA_GEN_ID`, which every nf_tables change increments. `None`: unchanged generation does not imply unchanged
    /// contents, so the next reading has to read it all again.
    pub generation: Option<u32>,
    /// Base chains by family and hook.
    pub base_chains: BaseChains,
    /// Devices whose egress chains were read; `None`: no tunnel that is up was found.
    pub devices: Option<BTreeSet<String>>,
    /// Base chains on the relevant hooks, and all chains reachable from them. nat chains on prerouting and output are
    /// read whole only if they are few; see [`Chain::udp_rules`].
    pub chains: Shared<BTreeMap<ChainId, Chain>>,
    /// Sets that rules look up, as far as they were read.
    pub sets: Shared<BTreeMap<SetId, Set>>,
    /// Rules that write the mark bits tested by source-NAT rules.
    pub mark_writers: MarkWriters,
    /// Families whose packets are tracked because of a rule in an unreachable chain or a dormant table.
    pub tracks: BTreeSet<Family>,
    /// Families for which the search for such a rule failed, and why.
    pub tracking_unread: BTreeMap<Family, String>,
}

/// Base chains by family and hook. A list that was not read completely has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChains {
    lists: BTreeMap<(Family, Hook), Reading<Vec<ChainId>>>,
    /// Any list that is not in `lists`: empty, or why it was not read.
    others: Reading<Vec<ChainId>>,
}

impl Default for BaseChains {
    /// No base chains.
    fn default() -> Self {
        Self { lists: BTreeMap::new(), others: Reading::Ok(Vec::new()) }
    }
}

impl BaseChains {
    /// No list was read, for this reason.
    pub fn unread<T>(why: &Reading<T>) -> Self {
        Self { lists: BTreeMap::new(), others: why.as_ref().map(|_| Vec::new()) }
    }

    /// Adds a chain to the list of its hook, unless that list is unread.
    pub fn add(&mut self, hook: Hook, id: ChainId) {
        let list = self.lists.entry((id.family, hook)).or_insert_with(|| Reading::Ok(Vec::new()));
        if let Reading::Ok(list) = list {
            list.push(id);
        }
    }

    /// Marks the list of a hook as unread.
    pub fn lose<T>(&mut self, family: Family, hook: Hook, why: &Reading<T>) {
        self.lists.insert((family, hook), why.as_ref().map(|_| Vec::new()));
    }

    /// Base chains in tables of exactly this family on a hook, unordered.
    pub fn at(&self, family: Family, hook: Hook) -> Reading<&[ChainId]> {
        self.lists.get(&(family, hook)).unwrap_or(&self.others).as_ref().map(Vec::as_slice)
    }

    /// The first unread list of these hooks, and why it is unread.
    pub fn first_unread(&self, families: &[Family], hooks: &[Hook]) -> Option<(Family, Hook, Reading<()>)> {
        let all = families.iter().flat_map(|family| hooks.iter().map(move |hook| (*family, *hook)));
        all.map(|(family, hook)| (family, hook, self.at(family, hook).map(|_| ())))
            .find(|(.., list)| list.ok().is_none())
    }
}

/// Identifies a chain within its backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: Name,
    /// Name of the chain.
    pub chain: Name,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it is registered; `None`: it is not a base chain.
    pub base: Option<Base>,
    /// Its rules, in order. Failed: not read.
    pub rules: Reading<Arc<Vec<Rule>>>,
    /// If `rules` was not read: the rules that may match UDP packets, in order, such as those of tunnels; `None`: these
    /// neither.
    pub udp_rules: Option<Arc<Vec<Rule>>>,
}

impl Chain {
    /// A chain that was read completely or not at all.
    pub fn new(base: Option<Base>, rules: Reading<Arc<Vec<Rule>>>) -> Self {
        Self { base, rules, udp_rules: None }
    }

    /// The rules that may match UDP packets; `None` if unread.
    pub fn rules_for_udp(&self) -> Option<&[Rule]> {
        self.rules.ok().or(self.udp_rules.as_ref()).map(|rules| rules.as_slice())
    }

    /// Whether its rules were only searched rather than read, as those of nat chains with too many Services are.
    pub fn only_searched(&self) -> bool {
        self.rules.failure().is_some_and(|failure| matches!(failure.root(), Failure::NotNeeded(_)))
    }

    /// Its rules; empty if unread.
    pub fn known_rules(&self) -> &[Rule] {
        self.rules.ok().map_or(&[], |rules| rules.as_slice())
    }
}

/// Properties of a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Hook that it is registered at.
    pub hook: Hook,
    /// Its type.
    pub kind: ChainKind,
    /// Order among the base chains of a hook, lowest first. The order of equal priorities is not known.
    pub priority: i32,
    /// Policy: packets without a verdict are dropped; else accepted.
    pub drops: bool,
    /// Devices that it is bound to (family netdev).
    pub devices: Vec<String>,
}

/// Identifies a set within its backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetId {
    /// An nf_tables set.
    Nftables {
        /// Family of its table.
        family: Family,
        /// Name of its table.
        table: Name,
        /// Name of the set.
        set: Name,
    },
    /// An ipset, by the index that rules contain.
    Ipset(u16),
}

/// A set, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Type of an ipset (`hash:net`), or the key length of an nf_tables set (`4 bytes`).
    pub kind: String,
    /// Whether elements change with the generation only: none times out, none is added or removed by packets.
    pub stable: bool,
    /// Results of lookups of single keys that verdicts depend on. A key that is not here was not looked up.
    pub members: BTreeMap<Vec<u128>, Reading<bool>>,
    /// All elements. Failed: too many, or not decoded; then only [`Set::members`] has information.
    pub elements: Reading<Vec<Element>>,
    /// For a verdict map, the verdict of each element; else empty.
    pub verdicts: Vec<Verdict>,
    /// For a data map, the data of each element as laid out in registers; else empty.
    pub data: Vec<Vec<u8>>,
    /// For an ipset, the family of packets that can match; `None`: both.
    pub family: Option<Family>,
    /// For a `list:set`, its member sets whose index is known.
    pub sets: Vec<SetId>,
}

/// A set element: for each key field a range, both ends included.
pub type Element = Vec<(u128, u128)>;

/// Where the mark bits come from that source-NAT rules test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkWriters {
    /// Bits tested by rules of this backend; for nf_tables also by those of legacy tables.
    pub tested: u32,
    /// Bits that rules set, tested or not, each with one such rule (chain and position): in a reachable chain, or in a
    /// well-known chain that other rules jump to.
    pub found: BTreeMap<u32, (ChainId, u32)>,
    /// Bits that no rule sets, neither in packet marks nor in connection marks; every chain was searched.
    pub none: u32,
    /// Bits for which the search was abandoned; they may be set.
    pub given_up: u32,
    /// Why it was abandoned; empty if it was not.
    pub why: String,
}

impl MarkWriters {
    /// Tested bits for which no rule was found.
    pub fn missing(&self) -> u32 {
        self.tested & !self.found.keys().fold(0, |all, bit| all | bit)
    }
}

/// A test of the bridge port that a packet passes (`physdev`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// What is tested: `physdev in`, `physdev out`, or whether there is a port.
    pub field: &'static str,
    /// Bits tested, encoded as for a device name [`Field`]; 0 if only the existence of a port is tested.
    pub mask: u128,
    /// Required value of these bits.
    pub value: u128,
    /// Whether the result is inverted.
    pub inverted: bool,
}

impl Ruleset {
    /// Like [`Self::reachable`], if that is complete: all lists of these hooks, all reachable chains and all their
    /// verdict maps were read. Else the first reading without a value.
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

    /// The first part of a chain that was not read: its rules, a verdict map in them, or a chain that they jump to.
    /// `None`: all was read.
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

    /// Base chains of this kind on these hooks and all chains reachable from them, each once: base chains by priority,
    /// then name, and depth first in rule order. Only chains that were read; there may be more.
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
