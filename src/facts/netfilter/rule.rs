//! A rule: what it tests and what it does.

use std::fmt;

use super::{BridgePort, Field, MapLookup, Nat, SetId};
use crate::facts::{Name, Reading};

/// A rule: its steps run in order until a match fails or a verdict ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// From 1 within its chain.
    pub position: u32,
    /// Its comment; empty without one.
    pub comment: String,
    /// What it tests and does.
    pub steps: Vec<Step>,
    /// Packets and bytes that it counted; `None` without a counter of its own.
    pub counter: Option<Counter>,
    /// Written with an extension of x_tables.
    pub from_xtables: bool,
    /// Hash of everything but counters and handle: the same rule written again has the same one.
    pub fingerprint: u64,
}

/// Counts of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets
    pub packets: u64,
    /// Bytes
    pub bytes: u64,
}

/// One part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The rule goes on only if this holds.
    Match(Match),
    /// Writes the packet's mark.
    SetMark(MarkWrite),
    /// Writes the connection's mark; `other` is the packet's.
    SetConnectionMark(MarkWrite),
    /// Gives the packet a template of a connection, such as its zone; such a packet cannot be left untracked any more.
    Template,
    /// Gives the entry of the packet's connection another timeout than the sysctls say: a timeout policy (`nf_ct_timeout_ext_add`),
    /// or a flowtable, which forwards later packets itself and keeps the entry meanwhile (`flow_offload_add`).
    OwnTimeout,
    /// Gives the packet to a socket of this host (`nf_tproxy_assign_sock`): one that has one is never forwarded (`ip_forward`,
    /// `ip6_forward`).
    ToSocket,
    /// Completes the packet's checksum, so that nothing is left to a device (`skb_checksum_help`), or writes that it has none.
    FillChecksum,
    /// Writes an address or a port into the header of the packet, whatever its connection is (`nft_payload_set_eval`).
    Rewrite {
        /// Which.
        field: Field,
        /// The number that is written; `None`: it is computed, or only a part of the field is written.
        value: Option<u128>,
    },
    /// Adds the packet to a set, or takes it out.
    UpdateSet {
        /// Which.
        set: SetId,
        /// Added.
        adds: bool,
        /// The fields that are the element; of an ipset none. Empty: not known.
        fields: Vec<Field>,
        /// Which ends of the packet the dimensions of an ipset's element are.
        ends: Vec<End>,
    },
    /// The packet is not tracked, hence never translated.
    Notrack,
    /// Translates an address; ends the rule.
    Nat(Nat),
    /// Ends the rule; a map that has no element, or `continue` as one, does not.
    Verdict(Verdict),
    /// Understood, and without influence on marks, NAT and the way through the rules (log, TCP options, …).
    NoEffect(String),
    /// Not understood: it may do anything.
    Unsupported {
        /// What it is.
        what: String,
        /// It may translate addresses too.
        may_translate: bool,
    },
}

impl Step {
    /// Whether a rule with it makes the kernel track connections of its family (`nf_ct_netns_get`), wherever it stands.
    pub fn needs_conntrack(&self) -> bool {
        const MATCHES: &[&str] = &["connlabel", "connlimit", "flow_offload", "helper"];
        let tracked = |field: &Field| match field {
            Field::ConnectionMark
            | Field::ConnectionState
            | Field::ConnectionStatus
            | Field::ConnectionDirection
            | Field::Counted { .. } => true,
            Field::MarkBits(bits) => bits.connection,
            Field::Other(name) => name.starts_with("ct "),
            _ => false,
        };
        match self {
            Self::Nat(_) | Self::SetConnectionMark(_) | Self::Unsupported { .. } => true,
            Self::SetMark(write) => write.copies() != 0,
            Self::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| tracked(&test.field)),
            Self::Template => true,
            Self::Match(Match::Set { fields, .. }) | Self::Verdict(Verdict::Map { fields, .. }) => {
                fields.iter().any(tracked)
            }
            Self::Match(Match::NonDeterministic(name)) => MATCHES.contains(&name.as_str()) || name.starts_with("ct "),
            Self::NoEffect(name) => name == "CONNSECMARK" || name.starts_with("ct "),
            Self::Verdict(Verdict::Stolen(name)) => name.eq_ignore_ascii_case("synproxy"),
            _ => false,
        }
    }
}

/// What a rule tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// All tests hold; or, if inverted, not all of them do.
    Tests {
        /// What is tested; never empty.
        tests: Vec<FieldTest>,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// The fields, one after the other, are an element of a set; or, if inverted, are not.
    Set {
        /// What is looked up.
        fields: Vec<Field>,
        /// Where.
        set: SetId,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// The same for an ipset, whose type decides what its dimensions are.
    Ipset {
        /// Which set: the index that rules hold.
        index: u16,
        /// For each dimension, which end of the packet is looked up.
        ends: Vec<End>,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// Holds for some packets and not for others, by chance or rate or circumstance (limit, statistic, owner, …).
    NonDeterministic(String),
    /// `nfacct`: holds for every packet, unless the accounting object of this name has a quota; then only for those that are beyond
    /// it (`nfacct_mt`).
    Accounting(String),
    /// A quota: holds for all packets or for none, by whether it is used up.
    Quota,
    /// All of these hold for the ports of a bridge that forwards the packet; of packets that none does it is known.
    OfBridged {
        /// Whether it holds for the latter.
        holds: bool,
        /// What is asked of the ports; nobody knows by which ones a packet comes and goes.
        ports: Vec<BridgePort>,
    },
    /// Not understood.
    Unsupported(String),
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `src`
    Source,
    /// `dst`
    Destination,
}

/// A test of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTest {
    /// What is looked at.
    pub field: Field,
    /// What it must be.
    pub condition: Comparison,
}

impl FieldTest {
    /// The field is one of these, both ends included. One value is one value, however it was written: x_tables has only
    /// ranges of ports, nf_tables compares.
    pub fn within(field: Field, ranges: Vec<(u128, u128)>) -> Self {
        let condition = match (ranges.as_slice(), field.bits()) {
            ([(first, last)], Some(mask)) if first == last => Comparison::Masked { mask, value: *first },
            _ => Comparison::Ranges(ranges),
        };
        Self { field, condition }
    }
}

/// What a field must be. Every field is an unsigned number: addresses as if written in network order, marks by value,
/// device names as 16 bytes, the first the most significant, filled up with zeros.
#[derive(Clone, PartialEq, Eq)]
pub enum Comparison {
    /// `field & mask == value`
    Masked {
        /// Bits looked at.
        mask: u128,
        /// What they must be.
        value: u128,
    },
    /// Within one of these ranges, both ends included.
    Ranges(Vec<(u128, u128)>),
}

impl Comparison {
    /// The numbers for which it holds of a field of so many bits, where they are ranges, both ends included.
    pub fn ranges(&self, width: u32) -> Option<Vec<(u128, u128)>> {
        match self {
            Self::Ranges(ranges) => Some(ranges.clone()),
            Self::Masked { mask, value } => {
                let largest = u128::MAX >> (128 - width);
                let low = largest & !mask;
                let is_prefix = low & low.wrapping_add(1) == 0;
                match value & !mask {
                    0 => is_prefix.then(|| vec![(*value, value | low)]),
                    _ => Some(Vec::new()),
                }
            }
        }
    }
}

impl fmt::Debug for Comparison {
    /// In hexadecimal, as masks are thought of: `0x4000/0x4000`, `0x400-0xffff`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masked { mask, value } => write!(f, "{value:#x}/{mask:#x}"),
            Self::Ranges(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(|(min, max)| format!("{min:#x}-{max:#x}")).collect();
                f.write_str(&ranges.join(","))
            }
        }
    }
}

/// A write to a mark: `new = (old & keep) ^ (other & take) ^ xor`, where `other` is the connection's mark when the
/// packet's is written, and the packet's when the connection's is.
#[derive(Clone, PartialEq, Eq)]
pub enum MarkWrite {
    /// Understood.
    Exact {
        /// Bits of the old value that stay.
        keep: u32,
        /// Bits taken from the other mark.
        take: u32,
        /// Bits inverted at last.
        xor: u32,
    },
    /// The same with what a map has for the packet: `new = (old & keep) ^ (other & take) ^ (data & mapped) ^ xor`.
    Mapped {
        /// The look-up.
        lookup: MapLookup,
        /// Bits taken from the map.
        mapped: u32,
        /// Bits of the old value that stay.
        keep: u32,
        /// Bits taken from the other mark.
        take: u32,
        /// Bits inverted at last.
        xor: u32,
    },
    /// A number of a range, both ends included: one after the other, by chance, or by a hash (`nft_numgen.c`, `nft_hash.c`).
    Number {
        /// The smallest.
        first: u32,
        /// The largest.
        last: u32,
        /// Packets that are alike get the same one.
        hashed: bool,
    },
    /// Not understood: any bit may come out; the text says what it is.
    Unknown(String),
}

impl fmt::Debug for MarkWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { keep, take, xor } => write!(f, "keep {keep:#x}, take {take:#x}, xor {xor:#x}"),
            Self::Mapped { lookup, mapped, keep, take, xor } => {
                write!(f, "keep {keep:#x}, take {take:#x}, {lookup} & {mapped:#x}, xor {xor:#x}")
            }
            Self::Number { first, last, .. } => write!(f, "one of {first:#x}-{last:#x}"),
            Self::Unknown(what) => write!(f, "unknown: {what}"),
        }
    }
}

impl MarkWrite {
    /// Bits that can be 1 afterwards although they were 0 in both marks.
    pub fn can_set(&self) -> u32 {
        match self {
            Self::Exact { xor, .. } => *xor,
            Self::Mapped { mapped, xor, .. } => mapped | xor,
            // Above the first bit in which the ends differ all numbers are alike.
            Self::Number { first, last, .. } => {
                last | u32::MAX.checked_shr((first ^ last).leading_zeros()).unwrap_or(0)
            }
            Self::Unknown(_) => u32::MAX,
        }
    }

    /// Bits that may not be what they were.
    pub fn can_change(&self) -> u32 {
        match self {
            Self::Exact { keep, take, xor } => !keep | take | xor,
            Self::Mapped { mapped, keep, take, xor, .. } => !keep | take | xor | mapped,
            Self::Number { .. } | Self::Unknown(_) => u32::MAX,
        }
    }

    /// Bits that are copied from the other mark.
    pub fn copies(&self) -> u32 {
        match self {
            Self::Exact { take, .. } | Self::Mapped { take, .. } => *take,
            Self::Number { .. } | Self::Unknown(_) => 0,
        }
    }
}

/// How a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next base chain.
    Accept,
    /// The packet is gone: dropped, rejected.
    Drop,
    /// The same, and who sent a segment of TCP is answered with a reset (`nf_send_reset`).
    Reset,
    /// Back to the calling chain, or to the policy.
    Return,
    /// On with what follows in the same rule; only in maps.
    Continue,
    /// Into a chain of the same table, and back here.
    Jump(Name),
    /// Into a chain of the same table, and back to where this one was called.
    Goto(Name),
    /// The packet leaves the hooks (queued to user space, sent elsewhere): what happens to it is not known here.
    Stolen(String),
    /// By a map from fields to verdicts. A packet without an element goes on with the next rule (`NFT_BREAK`).
    Map {
        /// What is looked up.
        fields: Vec<Field>,
        /// Where.
        set: SetId,
        /// The verdicts in it: each once, without the keys.
        verdicts: Reading<Vec<Verdict>>,
    },
}

impl Verdict {
    /// The chain that it leads to.
    pub fn target(&self) -> Option<&Name> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// The chains that it can lead to.
    fn targets(&self) -> impl Iterator<Item = &Name> {
        let mapped = match self {
            Self::Map { verdicts: Reading::Ok(verdicts), .. } => verdicts.as_slice(),
            _ => &[],
        };
        self.target().into_iter().chain(mapped.iter().filter_map(Self::target))
    }
}

impl Rule {
    /// Names of the chains that it leads to.
    pub fn jumps(&self) -> impl Iterator<Item = &Name> {
        let verdicts = self.steps.iter().filter_map(|step| match step {
            Step::Verdict(verdict) => Some(verdict),
            _ => None,
        });
        verdicts.flat_map(Verdict::targets)
    }
}
