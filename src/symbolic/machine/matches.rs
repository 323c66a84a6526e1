//! The packets that a match holds for.

use super::{PacketKind, StepPlace, Walk};
use crate::facts::Question;
use crate::facts::netfilter::{BridgePort, Comparison, Counted, Field, FieldTest, MarkBits, Match, SetId};
use crate::symbolic::assumptions::About;
use crate::symbolic::network::RuleAt;
use crate::symbolic::packets::{is_name, state};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// TCP and UDP
const WITH_PORTS: &[(u128, u128)] = &[(6, 6), (17, 17)];
/// `IPS_CONFIRMED`
const IPS_CONFIRMED: u128 = 0x8;
/// What is asked about the port that a frame leaves by.
const LEAVING: &[&str] = &["physdev out", "physdev is bridged", "physdev is out"];

impl Walk<'_> {
    /// Packets for which a match holds, among those that reach it. `None`: it is non-deterministic.
    pub(super) fn condition(&mut self, place: &StepPlace<'_>, found: &Match, packets: PacketSet) -> Option<PacketSet> {
        match found {
            Match::Tests { tests, inverted } => {
                let mut all = EVERYTHING;
                // If the state is tested as well, fields of a missing connection are 0 (`conntrack_mt`).
                let has_state = tests.iter().any(|test| test.field == Field::ConnectionState);
                for test in tests {
                    let mut holds = match self.test(test, packets) {
                        Some(holds) => holds,
                        None => self.unknown(place, &test.to_string()),
                    };
                    if has_state && test.field.is_of_connection() {
                        let none = if meets(&test.condition, 0) { EVERYTHING } else { NOTHING };
                        let connected = self.with_connection(EVERYTHING);
                        let none = self.space.minus(none, connected);
                        holds = self.space.or(self.space.and(holds, connected), none);
                    }
                    all = self.space.and(all, holds);
                }
                let holds = self.turned(all, *inverted);
                if has_state {
                    return Some(holds);
                }
                Some(self.testable(tests.iter().map(|test| &test.field), holds))
            }
            Match::Set { fields, set, inverted } => {
                let parts: Vec<Vec<Field>> = fields.iter().map(|field| vec![field.clone()]).collect();
                let holds = self.in_set(place, set, &parts, packets);
                let holds = self.turned(holds, *inverted);
                Some(self.testable(fields.iter(), holds))
            }
            Match::Ipset { index, ends, inverted } => {
                let holds = self.in_ipset(place, *index, ends, packets);
                Some(self.turned(holds, *inverted))
            }
            Match::Quota => {
                let (network, at) = (self.network, place.at);
                let why = format!("whether the quota of {} is used up", network.describe(at));
                let key = format!("quota {:?} {}", at, place.number);
                Some(self.assume(key, &Err(network.question(at, why))))
            }
            Match::NonDeterministic(_) | Match::Accounting(_) => None,
            Match::OfBridged { holds, .. } if self.packets.kind == PacketKind::Tunnel => {
                Some(if *holds { EVERYTHING } else { NOTHING })
            }
            Match::OfBridged { ports, .. } => {
                let each: Vec<PacketSet> = ports.iter().map(|port| self.port(place.at, port)).collect();
                Some(each.into_iter().fold(EVERYTHING, |all, holds| self.space.and(all, holds)))
            }
            Match::Unsupported(what) => Some(self.unknown(place, what)),
        }
    }

    /// Of these packets, those for which such fields can be tested: those with a connection, if the fields are a
    /// connection's.
    pub(super) fn testable<'f>(&mut self, mut fields: impl Iterator<Item = &'f Field>, holds: PacketSet) -> PacketSet {
        if fields.any(Field::is_of_connection) { self.with_connection(holds) } else { holds }
    }

    /// Of these packets, those with a connection or template.
    pub(super) fn with_connection(&mut self, packets: PacketSet) -> PacketSet {
        let none = self.in_state(&[state::INVALID, state::UNTRACKED]);
        let none = self.space.minus(none, self.space.is_set(self.layout.template));
        self.space.minus(packets, none)
    }

    /// Everything if an nfacct object has a quota.
    pub(super) fn if_limited(&mut self, at: &RuleAt, object: &str) -> PacketSet {
        let why = format!("{}: whether the accounting object {object} has a quota", self.network.describe(at));
        let why = Question::from(why).shown_by(["nfacct", "get", object]);
        self.assume(format!("quota of {object}"), &Err(why))
    }

    /// The bridge ports of a packet are not known, but there are some.
    fn port(&mut self, at: &RuleAt, port: &BridgePort) -> PacketSet {
        let BridgePort { field, mask, value, inverted } = port;
        if !self.packets.bridged && LEAVING.contains(field) {
            let none = *mask != 0 && *value == 0;
            return self.turned(if none { EVERYTHING } else { NOTHING }, *inverted);
        }
        let why = format!("{}: by which port of a bridge packets come", self.network.describe(at));
        let why = || self.network.question(at, why).shown_by(["bridge", "link", "show"]);
        let (key, space) = (format!("{} {field}", self.stage), &self.space);
        let bits = if *mask == 0 { 1 } else { 128 };
        let block = self.assumptions.ask_number(key, About::EachPacket, || Some(space.block(bits)), why);
        let Some(block) = block else { return EVERYTHING };
        let (mask, value) = if bits == 1 { (1, 1) } else { (*mask, *value) };
        self.turned(self.space.matching(&block, mask, value), *inverted)
    }

    fn turned(&self, holds: PacketSet, inverted: bool) -> PacketSet {
        if inverted { self.space.minus(EVERYTHING, holds) } else { holds }
    }

    /// A per-packet question: each packet may have another answer.
    pub(super) fn unknown(&mut self, place: &StepPlace<'_>, what: &str) -> PacketSet {
        let (network, at) = (self.network, place.at);
        self.unanswered(place, || network.question(at, format!("{}: {what}", network.describe(at))))
    }

    /// Like [`Self::unknown`], for a question about a set.
    pub(super) fn unknown_in_set(&mut self, place: &StepPlace<'_>, id: &SetId, what: &str) -> PacketSet {
        let (network, at) = (self.network, place.at);
        self.unanswered(place, || network.question_of_set(at, id, format!("{}: {what}", network.describe(at))))
    }

    fn unanswered(&mut self, place: &StepPlace<'_>, why: impl FnOnce() -> Question) -> PacketSet {
        let key = format!("{} {:?} {}", self.stage, place.at, place.number);
        self.answer(key, About::EachPacket, 2, 1, why)
    }

    /// Packets for which a test holds. `None`: not known.
    pub(super) fn test(&mut self, test: &FieldTest, packets: PacketSet) -> Option<PacketSet> {
        let FieldTest { field, condition } = test;
        // Nothing is known about an input device in another namespace.
        let of_input = matches!(field, Field::InputIndex | Field::Device { outgoing: false, .. });
        if of_input && self.packets.kind == PacketKind::Tunnel && !self.packets.knows(&Field::InputName) {
            return None;
        }
        match field {
            Field::InputIndex => self.index(&Field::InputName, condition),
            Field::OutputIndex => self.index(&Field::OutputName, condition),
            Field::SourceType(scope) | Field::DestinationType(scope) => {
                let (source, destination) = self.packets.ends();
                let end = if matches!(field, Field::SourceType(_)) { source } else { destination };
                let (family, wanted) = (self.packets.family, |kind| meets(condition, kind));
                let device = self.scoped(*scope, packets);
                match device.and_then(|device| self.network.addresses_of_types(family, wanted, device)) {
                    Some(addresses) => Some(self.with(&end, addresses.as_ranges())),
                    None => self.number(field, condition),
                }
            }
            Field::MarkBits(bits) => Some(self.bits_of_mark(*bits, condition)),
            Field::Device { outgoing, property } => {
                let names = self.network.names_with(*property, |number| meets(condition, number))?;
                Some(self.with(if *outgoing { &Field::OutputName } else { &Field::InputName }, names.as_ranges()))
            }
            Field::Ipsec { .. } => match self.network.ipsec {
                Ok(false) => Some(if meets(condition, 0) { EVERYTHING } else { NOTHING }),
                _ => None,
            },
            Field::Counted { what, direction } => self.counted(*what, *direction, condition),
            Field::Time => self.at_time(condition),
            // Connections are in zone 0, but those that a template gives another (`nf_ct_zone_tmpl`).
            Field::Other(name) if name == "ct zone" => {
                let without = if meets(condition, 0) { EVERYTHING } else { NOTHING };
                let with = self.number(field, condition)?;
                let template = self.space.is_set(self.layout.template);
                let with = self.space.and(with, template);
                Some(self.space.or(with, self.space.minus(without, template)))
            }
            Field::Other(name) => match self.of_tuple(name) {
                Some([field, of_answer]) => self.of_connection(name, [&field, &of_answer], condition),
                None => self.number(field, condition),
            },
            field => self.number(field, condition),
        }
    }

    /// A test of a field with variables of its own.
    fn number(&mut self, field: &Field, condition: &Comparison) -> Option<PacketSet> {
        let holds = |number: u128| meets(condition, number);
        if let Some(number) = self.packets.constant(field) {
            return Some(if holds(number) { EVERYTHING } else { NOTHING });
        }
        if *field == Field::ConnectionState {
            let states: Vec<u128> = state::ALL.into_iter().filter(|state| holds(*state)).collect();
            return Some(self.in_state(&states));
        }
        let block = self.block(field);
        if is_name(field) {
            let pieces = self.layout.names.pieces(&condition.ranges(128)?)?;
            return Some(self.space.ranges(&block, &pieces));
        }
        let all = block.largest();
        let condition = self.packets.condition(field, condition);
        let found = match &*condition {
            Comparison::Ranges(ranges) => self.space.ranges(&block, ranges),
            Comparison::Masked { mask, value } => self.space.matching(&block, mask & all, *value),
        };
        let Some((mask, value)) = self.packets.known_bits(field) else { return Some(found) };
        let known = self.space.matching(&block, mask & all, value);
        Some(self.space.exists(self.space.and(found, known), &block.bits(mask).collect()))
    }

    /// Packets whose connection has counted so much: the first one is counted before any rule meets it (`nf_ct_refresh_acct`).
    fn counted(&mut self, what: Counted, direction: Option<u8>, condition: &Comparison) -> Option<PacketSet> {
        const REPLY: u8 = 1;
        let network = self.network;
        let holds = |number| if meets(condition, number) { EVERYTHING } else { NOTHING };
        let first = match what {
            _ if direction == Some(REPLY) => holds(0),
            Counted::Packets => holds(1),
            Counted::Bytes | Counted::BytesPerPacket => self.number(&Field::Other("meta length".into()), condition)?,
        };
        let later = self.number(&Field::Counted { what, direction }, condition)?;
        let confirmed = self.block(&Field::ConnectionStatus);
        let confirmed = self.space.matching(&confirmed, IPS_CONFIRMED, IPS_CONFIRMED);
        let counted = self.space.or(self.space.and(later, confirmed), self.space.minus(first, confirmed));
        let uncounted = holds(0);
        let is_counted = self.assume("accounting", &network.host.counts_entries);
        Some(self.space.or(self.space.and(counted, is_counted), self.space.minus(uncounted, is_counted)))
    }

    /// All packets, if a time is that of the reading. What is still to come is a question; what has passed does not come again.
    fn at_time(&mut self, condition: &Comparison) -> Option<PacketSet> {
        let now = match &self.network.host.date {
            Ok(now) => u128::from(*now),
            Err(why) => return Some(self.assume("date", &Err(why.clone()))),
        };
        let ranges = condition.ranges(64)?;
        Some(match ranges.iter().map(|(_, last)| *last).max() {
            _ if meets(condition, now) => EVERYTHING,
            Some(last) if last > now => {
                let why = format!("whether the time has come that a rule asks for ({} {condition:?})", Field::Time);
                self.assume(why.clone(), &Err(Question::from(why).shown_by(["date"])))
            }
            _ => NOTHING,
        })
    }

    /// Packets with such bits of a mark; the others count as 0.
    fn bits_of_mark(&mut self, bits: MarkBits, condition: &Comparison) -> PacketSet {
        let mark = self.block(if bits.connection { &Field::ConnectionMark } else { &Field::Mark });
        let whole = match condition {
            Comparison::Ranges(ranges) => self.space.ranges(&mark, ranges),
            Comparison::Masked { mask, value } => self.space.matching(&mark, mask & mark.largest(), *value),
        };
        let others = u128::from(!bits.mask);
        let without = self.space.and(whole, self.space.matching(&mark, others, 0));
        self.space.exists(without, &mark.bits(others).collect())
    }

    /// A test of a device index as a test of its name, since both are unique.
    fn index(&mut self, name: &Field, condition: &Comparison) -> Option<PacketSet> {
        let names = self.network.names(|index| meets(condition, index))?;
        Some(self.with(name, names.as_ranges()))
    }

    /// The field that a part of the connection's tuple is where nothing is translated, of packets of the original direction, and
    /// of answers.
    fn of_tuple(&self, name: &str) -> Option<[Field; 2]> {
        let (source, destination) = self.packets.ends();
        Some(match name {
            "ct protocol" => [Field::L4Proto, Field::L4Proto],
            "ct original saddr" | "ct reply daddr" => [source, destination],
            "ct original daddr" | "ct reply saddr" => [destination, source],
            "ct original proto-src" | "ct reply proto-dst" => [Field::SourcePort, Field::DestinationPort],
            "ct original proto-dst" | "ct reply proto-src" => [Field::DestinationPort, Field::SourcePort],
            _ => return None,
        })
    }

    /// Packets with such a part of their connection's tuple. Whatever changes an outer packet ends its walk; others may belong to
    /// connections that are translated, and errors of ICMP to those that they are about.
    fn of_connection(&mut self, name: &str, fields: [&Field; 2], condition: &Comparison) -> Option<PacketSet> {
        /// `IPS_SRC_NAT`, `IPS_DST_NAT`
        const TRANSLATED: u128 = 0x30;
        let [there, back] = [self.number(fields[0], condition)?, self.number(fields[1], condition)?];
        if self.packets.kind == PacketKind::Tunnel {
            return Some(there);
        }
        let any = self.number(&Field::Other(name.into()), condition)?;
        let status = self.block(&Field::ConnectionStatus);
        let plain = self.with(&Field::L4Proto, WITH_PORTS);
        let plain = self.space.and(plain, self.space.matching(&status, TRANSLATED, 0));
        let original = self.with(&Field::ConnectionDirection, &[(0, 0)]);
        let same = self.space.or(self.space.and(there, original), self.space.minus(back, original));
        Some(self.space.or(self.space.and(same, plain), self.space.minus(any, plain)))
    }
}

/// Whether a comparison holds for a number.
fn meets(condition: &Comparison, number: u128) -> bool {
    match condition {
        Comparison::Masked { mask, value } => number & mask == *value,
        Comparison::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)),
    }
}
