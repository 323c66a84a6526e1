//! Expressions of nf_tables: one at a time, from attributes to registers and steps.
//!
//! Kernel sources: `nft_*_ops`, each with its `dump` function; numbers from `linux/netfilter/nf_tables.h`.

use super::registers::{Compare, Loaded, Registers};
use crate::decode::xtables::{self, Extension};
use crate::netfilter::netlink::Attributes;
use crate::snapshot::netfilter::{Condition, Counter, Family, Field, Match, SetId, Step, Test, TypeScope, Verdict};
use crate::snapshot::{Failure, Name, Reading};

const NFPROTO_IPV4: u128 = 2;
const NFPROTO_IPV6: u128 = 10;
const ETH_P_IP: u128 = 0x0800;
const ETH_P_IPV6: u128 = 0x86dd;

/// A rule while it is read.
#[derive(Debug)]
pub struct Reader<'a> {
    pub(super) family: Family,
    table: &'a Name,
    /// IPv4 or IPv6, once the family or a match has told.
    pub(super) network: Option<Family>,
    pub(super) registers: Registers,
    /// Read so far.
    pub steps: Vec<Step>,
    /// The last counter seen.
    pub counter: Option<Counter>,
    /// Text of an x_tables comment.
    pub comment: String,
    /// Whether an x_tables extension was seen.
    pub from_xtables: bool,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

pub(super) fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.ok_or_else(|| Failure::unexpected(format!("{what} is missing")))
}

impl<'a> Reader<'a> {
    /// A rule of a chain of this table.
    pub fn new(family: Family, table: &'a Name) -> Self {
        let network = Some(family).filter(|family| matches!(family, Family::Ipv4 | Family::Ipv6));
        Self {
            family,
            table,
            network,
            registers: Registers::new(),
            steps: Vec::new(),
            counter: None,
            comment: String::new(),
            from_xtables: false,
        }
    }

    fn push(&mut self, found: Match) {
        if let Match::Tests { tests, inverted: false } = &found {
            self.learn_network(tests);
        }
        self.steps.push(Step::Match(found));
    }

    fn learn_network(&mut self, tests: &[Test]) {
        for test in tests {
            let Condition::Masked { value, .. } = test.condition else { continue };
            self.network = match (&test.field, value) {
                (Field::NfProto, NFPROTO_IPV4) | (Field::EtherType, ETH_P_IP) => Some(Family::Ipv4),
                (Field::NfProto, NFPROTO_IPV6) | (Field::EtherType, ETH_P_IPV6) => Some(Family::Ipv6),
                _ => self.network,
            };
        }
    }

    fn occasional(&mut self, what: &str) {
        self.push(Match::Occasional(what.to_owned()));
    }

    /// Reads one expression.
    pub fn read(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let attributes = Attributes::parse(data, "expression")?;
        self.dispatch(name, &attributes).map_err(|error| error.within(name))
    }

    fn dispatch(&mut self, name: &str, a: &Attributes<'_>) -> Result<()> {
        /// `NFT_DYNSET_OP_DELETE`
        const DELETE: u32 = 2;
        match name {
            "payload" => self.payload(a)?,
            "meta" => self.meta(a)?,
            "ct" => self.ct(a)?,
            "fib" => self.fib(a)?,
            "cmp" => self.cmp(a)?,
            "range" => self.range(a)?,
            "bitwise" => self.bitwise(a)?,
            "byteorder" => self.byteorder(a)?,
            "immediate" => self.immediate(a)?,
            "lookup" => self.lookup(a)?,
            "match" | "target" => self.extension(name, a)?,
            "masq" => self.masq(a)?,
            "nat" => self.nat(a)?,
            "redir" => self.redir(a)?,
            "notrack" => self.steps.push(Step::Notrack),
            "counter" => self.counter = Some(counter(a)?),
            // Rewriting a TCP option ends the rule for packets that have none (NFT_BREAK); nft writes no test of TCP.
            "exthdr" if a.get(7).is_some() => {
                self.push(Match::Tests { tests: vec![equal(Field::L4Proto, 0xff, 6)], inverted: false });
                self.occasional("exthdr write");
            }
            "exthdr" => self.occasionally_loaded(a.be32(1)?, "a header option"),
            "numgen" => self.occasionally_loaded(a.be32(1)?, "numgen"),
            "socket" => self.occasionally_loaded(a.be32(2)?, "socket"),
            "osf" => self.occasionally_loaded(a.be32(1)?, "osf"),
            "hash" => self.occasionally_loaded(a.be32(2)?, "a hash"),
            "rt" => self.opaquely_loaded(a.be32(1)?, "rt"),
            "xfrm" => self.opaquely_loaded(a.be32(1)?, "ipsec"),
            "tunnel" => self.opaquely_loaded(a.be32(2)?, "tunnel"),
            // The last two do something, but end the rule where they cannot (NFT_BREAK).
            "limit" | "quota" | "connlimit" | "tproxy" | "flow_offload" => self.occasional(name),
            "dynset" => {
                let set = required(a.get(1).map(Name::from_bytes), "NFTA_DYNSET_SET_NAME")?;
                let set = SetId::Nftables { family: self.family, table: self.table.clone(), set };
                self.steps.push(Step::UpdateSet { set, adds: a.be32(3)?.unwrap_or(0) != DELETE });
                self.occasional(name);
            }
            "log" | "dup" | "last" => self.steps.push(Step::Harmless(name.to_owned())),
            "reject" => self.steps.push(Step::Verdict(Verdict::Drop)),
            "queue" | "fwd" => self.steps.push(Step::Verdict(Verdict::Gone(name.to_owned()))),
            "synproxy" => self.synproxy(),
            "objref" => self.objref(a)?,
            _ => {
                self.registers = Registers::new();
                self.steps.push(Step::Opaque(format!("expression {name}")));
            }
        }
        Ok(())
    }

    /// Takes TCP away; the rule ends for any other protocol (`nft_synproxy_do_eval`).
    fn synproxy(&mut self) {
        self.push(Match::Tests { tests: vec![equal(Field::L4Proto, 0xff, 6)], inverted: false });
        self.steps.push(Step::Verdict(Verdict::Gone("synproxy".into())));
    }

    fn occasionally_loaded(&mut self, register: Option<u32>, what: &'static str) {
        match register {
            Some(register) => self.registers.load(register, Loaded::Occasional(what)),
            None => self.occasional(what), // it is a test of its own
        }
    }

    fn opaquely_loaded(&mut self, register: Option<u32>, what: &str) {
        self.registers.load(register.unwrap_or_default(), Loaded::Opaque(what.to_owned()));
    }

    fn meta(&mut self, a: &Attributes<'_>) -> Result<()> {
        const MARK: u32 = 3;
        let key = required(a.be32(2)?, "NFTA_META_KEY")?;
        if let Some(register) = a.be32(3)? {
            self.steps.push(match key {
                MARK => Step::SetMark(self.registers.mark(register, &Field::Mark, &Field::ConnectionMark)),
                _ => Step::Harmless(format!("meta {key} write")),
            });
            return Ok(());
        }
        let loaded = match key {
            0 => Loaded::Occasional("meta length"),
            1 => Loaded::Wire(Field::EtherType, 2),
            2 => Loaded::Occasional("meta priority"),
            MARK => Loaded::Host(Field::Mark, 4),
            4 => Loaded::Host(Field::InputIndex, 4),
            5 => Loaded::Host(Field::OutputIndex, 4),
            6 => Loaded::Wire(Field::InputName, 16),
            7 => Loaded::Wire(Field::OutputName, 16),
            10 => Loaded::Occasional("meta skuid"),
            11 => Loaded::Occasional("meta skgid"),
            15 => Loaded::Wire(Field::NfProto, 1),
            16 => Loaded::Wire(Field::L4Proto, 1),
            19 => Loaded::Occasional("meta pkttype"),
            20 => Loaded::Occasional("meta cpu"),
            23 => Loaded::Occasional("meta cgroup"),
            24 => Loaded::Occasional("meta random"),
            30..=32 => Loaded::Occasional("meta time"),
            _ => Loaded::Opaque(format!("meta {key}")),
        };
        self.registers.load(required(a.be32(1)?, "NFTA_META_DREG")?, loaded);
        Ok(())
    }

    fn ct(&mut self, a: &Attributes<'_>) -> Result<()> {
        const STATE: u32 = 0;
        const MARK: u32 = 3;
        const ZONE: u32 = 17;
        let key = required(a.be32(2)?, "NFTA_CT_KEY")?;
        if let Some(register) = a.be32(4)? {
            self.steps.push(match key {
                MARK => Step::SetConnectionMark(self.registers.mark(register, &Field::ConnectionMark, &Field::Mark)),
                ZONE => Step::Template,
                _ => Step::Harmless(format!("ct {key} write")),
            });
            return Ok(());
        }
        if key != STATE {
            // Without a connection the rule ends here (NFT_BREAK), inverted or not.
            self.push(Match::Tests { tests: vec![has_connection()], inverted: false });
        }
        let loaded = match key {
            STATE => Loaded::Host(Field::ConnectionState, 4),
            1 => Loaded::Wire(Field::ConnectionDirection, 1),
            2 => Loaded::Host(Field::ConnectionStatus, 4),
            MARK => Loaded::Host(Field::ConnectionMark, 4),
            5 => Loaded::Occasional("ct expiration"),
            14..=16 => Loaded::Occasional("ct packets or bytes"),
            23 => Loaded::Occasional("ct id"),
            8..=12 | 19..=22 => self.tuple(key, a.u8(3)?),
            _ => Loaded::Opaque(format!("ct {key}")),
        };
        self.registers.load(required(a.be32(1)?, "NFTA_CT_DREG")?, loaded);
        Ok(())
    }

    /// A part of the connection's tuple: `NFT_CT_SRC`, …, `NFT_CT_DST_IP6`. The names are those of `xt_conntrack`.
    fn tuple(&self, key: u32, direction: Option<u8>) -> Loaded {
        let direction = if direction.unwrap_or(0) == 0 { "original" } else { "reply" };
        let address = if self.network == Some(Family::Ipv6) { 16 } else { 4 };
        let (name, width) = match key {
            8 => ("saddr", address),
            9 => ("daddr", address),
            10 => return Loaded::Wire(Field::Other("ct protocol".into()), 1),
            11 => ("proto-src", 2),
            12 => ("proto-dst", 2),
            19 => ("saddr", 4),
            20 => ("daddr", 4),
            21 => ("saddr", 16),
            _ => ("daddr", 16),
        };
        Loaded::Wire(Field::Other(format!("ct {direction} {name}")), width)
    }

    fn fib(&mut self, a: &Attributes<'_>) -> Result<()> {
        const ADDRTYPE: u32 = 3;
        const SADDR: u32 = 1;
        const DADDR: u32 = 2;
        const IIF: u32 = 8;
        const OIF: u32 = 16;
        let flags = required(a.be32(3)?, "NFTA_FIB_FLAGS")?;
        let scope = match flags & !(SADDR | DADDR) {
            0 => Some(TypeScope::Any),
            IIF => Some(TypeScope::Input),
            OIF => Some(TypeScope::Output),
            _ => None,
        };
        let loaded = match (required(a.be32(2)?, "NFTA_FIB_RESULT")?, flags & (SADDR | DADDR), scope) {
            (ADDRTYPE, SADDR, Some(scope)) => Loaded::Host(Field::SourceType(scope), 4),
            (ADDRTYPE, DADDR, Some(scope)) => Loaded::Host(Field::DestinationType(scope), 4),
            (ADDRTYPE, ..) => Loaded::Opaque(format!("fib type with flags {flags:#x}")),
            _ => Loaded::Occasional("fib"), // the device of a route: reverse path filters
        };
        self.registers.load(required(a.be32(1)?, "NFTA_FIB_DREG")?, loaded);
        Ok(())
    }

    fn cmp(&mut self, a: &Attributes<'_>) -> Result<()> {
        let register = required(a.be32(1)?, "NFTA_CMP_SREG")?;
        let operator = match required(a.be32(2)?, "NFTA_CMP_OP")? {
            0 => Compare::Equal,
            1 => Compare::NotEqual,
            2 => Compare::Less,
            3 => Compare::LessOrEqual,
            4 => Compare::Greater,
            5 => Compare::GreaterOrEqual,
            other => return Err(Failure::unexpected(format!("operator {other} is unknown"))),
        };
        let found = self.registers.compare(register, operator, value(a, 3)?);
        self.push(found);
        Ok(())
    }

    fn range(&mut self, a: &Attributes<'_>) -> Result<()> {
        let register = required(a.be32(1)?, "NFTA_RANGE_SREG")?;
        let inverted = required(a.be32(2)?, "NFTA_RANGE_OP")? != 0;
        let (from, to) = (value(a, 3)?, value(a, 4)?);
        if from.len() != to.len() {
            return Err(Failure::unexpected("the ends of the range differ in length"));
        }
        let found = self.registers.range(register, from, to, inverted);
        self.push(found);
        Ok(())
    }

    fn bitwise(&mut self, a: &Attributes<'_>) -> Result<()> {
        let (from, to) = (required(a.be32(1)?, "NFTA_BITWISE_SREG")?, required(a.be32(2)?, "NFTA_BITWISE_DREG")?);
        match a.be32(6)?.unwrap_or(0) {
            0 => self.registers.bitwise(from, to, value(a, 4)?, value(a, 5)?),
            operation => self.registers.load(to, Loaded::Opaque(format!("bitwise operation {operation}"))),
        }
        Ok(())
    }

    fn byteorder(&mut self, a: &Attributes<'_>) -> Result<()> {
        let (from, to) = (required(a.be32(1)?, "NFTA_BYTEORDER_SREG")?, required(a.be32(2)?, "NFTA_BYTEORDER_DREG")?);
        let length = required(a.be32(4)?, "NFTA_BYTEORDER_LEN")? as usize;
        let size = required(a.be32(5)?, "NFTA_BYTEORDER_SIZE")? as usize;
        self.registers.swap(from, to, length, size);
        Ok(())
    }

    fn immediate(&mut self, a: &Attributes<'_>) -> Result<()> {
        let register = required(a.be32(1)?, "NFTA_IMMEDIATE_DREG")?;
        let data = required(a.nested(2, "NFTA_IMMEDIATE_DATA")?, "NFTA_IMMEDIATE_DATA")?;
        if let Some(attributes) = data.nested(2, "NFTA_DATA_VERDICT")? {
            let verdict = verdict(&attributes)?;
            if verdict != Verdict::Continue {
                self.steps.push(Step::Verdict(verdict));
            }
        } else {
            self.registers.load_constant(register, required(data.get(1), "NFTA_DATA_VALUE")?);
        }
        Ok(())
    }

    fn lookup(&mut self, a: &Attributes<'_>) -> Result<()> {
        let set = required(a.get(1).map(Name::from_bytes), "NFTA_LOOKUP_SET")?;
        let set = SetId::Nftables { family: self.family, table: self.table.clone(), set };
        let fields = self.registers.key(required(a.be32(2)?, "NFTA_LOOKUP_SREG")?);
        match (a.be32(3)?, fields) {
            (Some(0), fields) => {
                let verdicts = Reading::Failed(Failure::not_needed("not read yet"));
                let fields = fields.unwrap_or_default();
                self.steps.push(Step::Verdict(Verdict::Map { fields, set, verdicts }));
            }
            (Some(register), fields) => {
                // A packet without an element does not get further (NFT_BREAK).
                match fields {
                    Ok(fields) => self.push(Match::Set { fields, set, inverted: false }),
                    Err(_) => self.occasional("a map"),
                }
                self.registers.load(register, Loaded::Opaque("a map".into()));
            }
            (None, Ok(fields)) => {
                let inverted = a.be32(5)?.unwrap_or(0) & 1 != 0;
                self.push(Match::Set { fields, set, inverted });
            }
            (None, Err(unclear)) => self.push(unclear),
        }
        Ok(())
    }

    fn extension(&mut self, kind: &str, a: &Attributes<'_>) -> Result<()> {
        let name = required(a.string(1)?, "name")?;
        let revision = u8::try_from(required(a.be32(2)?, "revision")?).unwrap_or(u8::MAX);
        let data = a.get(3).unwrap_or_default();
        let extension = Extension { name: &name, revision, family: self.family, data };
        self.from_xtables = true;
        if kind == "match" {
            if let Some(comment) = xtables::comment(&extension) {
                self.comment = comment;
            }
            self.steps.extend(xtables::decode_match(&extension)?);
        } else {
            self.steps.extend(xtables::decode_target(&extension)?);
        }
        Ok(())
    }

    fn objref(&mut self, a: &Attributes<'_>) -> Result<()> {
        match a.be32(1)? {
            Some(2 | 4 | 5) => self.occasional("a named quota or limit"),
            Some(10) => self.synproxy(),
            Some(kind) => self.steps.push(Step::Harmless(format!("object of type {kind}"))),
            None => self.occasional("a map of objects"),
        }
        Ok(())
    }
}

pub(super) fn equal(field: Field, mask: u128, value: u128) -> Test {
    Test { field, condition: Condition::Masked { mask, value } }
}

/// Neither invalid nor untracked: `nf_ct_get` finds a connection.
fn has_connection() -> Test {
    equal(Field::ConnectionState, 0x41, 0)
}

/// `NFTA_DATA_VALUE` inside an attribute.
fn value<'a>(a: &Attributes<'a>, kind: u16) -> Result<&'a [u8]> {
    let data = required(a.nested(kind, "data")?, "data")?;
    required(data.get(1), "NFTA_DATA_VALUE")
}

fn counter(a: &Attributes<'_>) -> Result<Counter> {
    let (bytes, packets) = (a.be64(1)?, a.be64(2)?);
    Ok(Counter { packets: required(packets, "NFTA_COUNTER_PACKETS")?, bytes: required(bytes, "NFTA_COUNTER_BYTES")? })
}

/// `NFTA_VERDICT_*`: an `NF_*` or `NFT_*` code, and a chain.
pub fn verdict(a: &Attributes<'_>) -> Result<Verdict> {
    let code = required(a.be32(1)?, "NFTA_VERDICT_CODE")?.cast_signed();
    let chain = || required(a.get(2).map(Name::from_bytes), "NFTA_VERDICT_CHAIN");
    Ok(match code {
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        _ => Verdict::Gone(format!("verdict {code}")),
    })
}
