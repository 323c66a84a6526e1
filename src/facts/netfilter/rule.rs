//! Rules: matches, statements and verdicts.

use std::fmt;

use super::{BridgePort, Field, MapLookup, Nat, SetId};
use crate::facts::{Name, Reading};

/// A rule: its steps are evaluated in order until a match fails or a verdict ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Position in its chain, from 1.
    pub position: u32,
    /// Its comment; empty if none.
    pub comment: String,
    /// Matches and statements, in order.
    pub steps: Vec<Step>,
    /// Packets and bytes counted; `None` if it has no counter of its own.
    pub counter: Option<Counter>,
    /// Whether it uses an x_tables extension, as rules of iptables do.
    pub from_xtables: bool,
    /// Hash of everything but counters and handle; equal if the same rule is written again.
    pub fingerprint: u64,
}

/// Counters of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets
    pub packets: u64,
    /// Bytes
    pub bytes: u64,
}

/// One match or statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ends the rule if the match does not hold.
    Match(Match),
    /// Writes the packet's mark.
    SetMark(MarkWrite),
    /// Writes the connection's mark; `other` in [`MarkWrite`] is the packet's mark.
    SetConnectionMark(MarkWrite),
    /// Attaches a conntrack template, such as one with a zone; the packet can no longer become untracked.
    Template,
    /// Gives the connection's entry a timeout other than the sysctls': a timeout policy (`nf_ct_timeout_ext_add`), or a
    /// flowtable, which forwards later packets itself and keeps the entry alive meanwhile (`flow_offload_add`).
    OwnTimeout,
    /// Assigns the packet to a local socket (`nf_tproxy_assign_sock`); such packets are never forwarded (`ip_forward`,
    /// `ip6_forward`).
    ToSocket,
    /// Completes the checksum, leaving none to the device (`skb_checksum_help`), or sets it to "none".
    FillChecksum,
    /// Writes an address or port in the packet's header, independently of conntrack (`nft_payload_set_eval`).
    Rewrite {
        /// The field.
        field: Field,
        /// The value; `None`: computed, or only a part of the field is written.
        value: Option<u128>,
    },
    /// Adds the packet's key to a set, or deletes it.
    UpdateSet {
        /// The set.
        set: SetId,
        /// Whether it adds; else deletes.
        adds: bool,
        /// What of the packet is the element.
        key: ElementKey,
    },
    /// Makes the packet untracked, hence never translated.
    Notrack,
    /// Sets up NAT; ends the rule.
    Nat(Nat),
    /// A verdict, which ends the rule. A map without an element for the packet ends only this rule (`NFT_BREAK`), and
    /// the element `continue` goes on with the next step.
    Verdict(Verdict),
    /// Decoded, without effect on marks, NAT or the path through the rules (log, TCP options, …).
    NoEffect(String),
    /// Not decoded: may have any effect.
    Unsupported {
        /// Its name.
        what: String,
        /// Whether it may also translate addresses.
        may_translate: bool,
    },
}

/// What of a packet is the element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementKey {
    /// Fields, of a set of nf_tables. Empty: not known.
    Fields(Vec<Field>),
    /// Which ends of the packet the dimensions of an ipset's element are. Empty: not known.
    Ends(Vec<End>),
}

impl Step {
    /// Whether a rule with this step enables conntrack for its family (`nf_ct_netns_get`), in any chain.
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

/// The condition of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// All tests hold; if inverted, at least one does not.
    Tests {
        /// The tests; never empty.
        tests: Vec<FieldTest>,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// The key is an element of an nf_tables set; if inverted, it is not.
    Set {
        /// Key fields, concatenated.
        fields: Vec<Field>,
        /// The set.
        set: SetId,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// The same for an ipset, whose type says what its dimensions are.
    Ipset {
        /// Index of the set.
        index: u16,
        /// For each dimension, whether the source or destination side is looked up.
        ends: Vec<End>,
        /// Whether the result is inverted.
        inverted: bool,
    },
    /// Depends on chance, rate or circumstances (limit, statistic, owner, …): may hold for any packet, or not.
    NonDeterministic(String),
    /// `nfacct`: holds for every packet; if the accounting object of this name has a quota, only once it is exceeded
    /// (`nfacct_mt`).
    Accounting(String),
    /// A quota: holds for all packets or for none, by whether it is used up.
    Quota,
    /// All of these hold for the ports of a bridge that forwards the packet; of packets that none does it is known.
    OfBridged {
        /// Result for packets that are not bridged.
        holds: bool,
        /// Tests of the ports, whose values are never known.
        ports: Vec<BridgePort>,
    },
    /// Not decoded: may hold for any packet, or not.
    Unsupported(String),
}

/// Side of a packet that an ipset dimension refers to.
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
    /// The field.
    pub field: Field,
    /// What its value must be.
    pub condition: Comparison,
}

impl FieldTest {
    /// The field is within these ranges, both ends included. A range of one value becomes a comparison, because
    /// x_tables has only port ranges where nf_tables compares.
    pub fn within(field: Field, ranges: Vec<(u128, u128)>) -> Self {
        let condition = match (ranges.as_slice(), field.bits()) {
            ([(first, last)], Some(mask)) if first == last => Comparison::Masked { mask, value: *first },
            _ => Comparison::Ranges(ranges),
        };
        Self { field, condition }
    }
}

/// What a field's value must be. All values are unsigned numbers: addresses in network byte order, marks in host order,
/// device names as 16 bytes, first byte most significant, padded with zeros.
#[derive(Clone, PartialEq, Eq)]
pub enum Comparison {
    /// `field & mask == value`
    Masked {
        /// Bits compared.
        mask: u128,
        /// Their value.
        value: u128,
    },
    /// In one of these ranges, both ends included.
    Ranges(Vec<(u128, u128)>),
}

impl Comparison {
    /// The matching values of a field of this width in bits, as ranges with both ends included; `None` if they are not
    /// ranges.
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
    /// Hexadecimal: `0x4000/0x4000`, `0x400-0xffff`.
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

/// A write to a mark: `new = (old & keep) ^ (other & take) ^ xor`. `other` is the connection's mark if the packet's is
/// written, and vice versa.
#[derive(Clone, PartialEq, Eq)]
pub enum MarkWrite {
    /// Decoded.
    Exact {
        /// Bits of the old value that are kept.
        keep: u32,
        /// Bits copied from the other mark.
        take: u32,
        /// Bits inverted last.
        xor: u32,
    },
    /// With data from a map: `new = (old & keep) ^ (other & take) ^ (data & mapped) ^ xor`.
    Mapped {
        /// The lookup.
        lookup: MapLookup,
        /// Bits taken from the map's data.
        mapped: u32,
        /// Bits of the old value that are kept.
        keep: u32,
        /// Bits copied from the other mark.
        take: u32,
        /// Bits inverted last.
        xor: u32,
    },
    /// A generated number, both ends included: a counter, random, or a hash of the packet (`nft_numgen.c`,
    /// `nft_hash.c`).
    Number {
        /// The smallest.
        first: u32,
        /// The largest.
        last: u32,
        /// Whether it is a hash, so that equal packets get the same number.
        hashed: bool,
    },
    /// Not decoded: any bit may be set; the text names it.
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
    /// Bits that may be 1 afterwards if both marks were 0.
    pub fn can_set(&self) -> u32 {
        match self {
            Self::Exact { xor, .. } => *xor,
            Self::Mapped { mapped, xor, .. } => mapped | xor,
            // Below the first bit in which the ends differ, any bit may be 1.
            Self::Number { first, last, .. } => {
                last | u32::MAX.checked_shr((first ^ last).leading_zeros()).unwrap_or(0)
            }
            Self::Unknown(_) => u32::MAX,
        }
    }

    /// Bits that may change.
    pub fn can_change(&self) -> u32 {
        match self {
            Self::Exact { keep, take, xor } => !keep | take | xor,
            Self::Mapped { mapped, keep, take, xor, .. } => !keep | take | xor | mapped,
            Self::Number { .. } | Self::Unknown(_) => u32::MAX,
        }
    }

    /// Bits copied from the other mark.
    pub fn copies(&self) -> u32 {
        match self {
            Self::Exact { take, .. } | Self::Mapped { take, .. } => *take,
            Self::Number { .. } | Self::Unknown(_) => 0,
        }
    }
}

/// How rule evaluation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `NF_ACCEPT`: continue with the next base chain.
    Accept,
    /// `NF_DROP`, or reject: the packet is discarded.
    Drop,
    /// Like `Drop`, and the sender of a TCP segment gets a reset (`nf_send_reset`).
    Reset,
    /// Return to the calling chain, or apply the policy.
    Return,
    /// Continue with the rest of the rule; only in verdict maps.
    Continue,
    /// Continue in a chain of the same table and come back here.
    Jump(Name),
    /// Continue in a chain of the same table and come back to this chain's caller.
    Goto(Name),
    /// The packet leaves the hooks (queued, stolen); what happens to it is not known. The text names the reason.
    Stolen(String),
    /// Looked up in a verdict map. Without an element for the packet, the next rule is evaluated (`NFT_BREAK`).
    Map {
        /// Key fields.
        fields: Vec<Field>,
        /// The map.
        set: SetId,
        /// The distinct verdicts in the map.
        verdicts: Reading<Vec<Verdict>>,
    },
}

impl Verdict {
    /// The chain that it jumps or goes to.
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
