//! Expressions of nf_tables: one at a time, to steps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::maps::{self, Maps};
use super::registers::{EndRegisters, Registers, chosen};
use super::{headers, loads, verdicts};
use crate::facts::netfilter::{
    Comparison, Counter, DeviceProperty, Family, Field, FieldTest, MapLookup, MarkWrite, Match, Nat as Translation,
    NatAction, PortRandomization, SetId, Step, Verdict,
};
use crate::facts::{Failure, Name, Reading};
use crate::netfilter::netlink::{Emit as _, Text};
use crate::netfilter::nftables::expr::{Cmp, Ct, Dynset, Expr, Lookup, Meta, Nat, Objref, Payload, Quota, Range};
use crate::netfilter::nftables::uapi::{
    NFPROTO_INET, NFPROTO_IPV6, NFT_CMP_GTE, NFT_CT_HELPER, NFT_CT_MARK, NFT_CT_STATE, NFT_CT_ZONE, NFT_LOOKUP_F_INV,
    NFT_META_IIFKIND, NFT_META_MARK, NFT_META_OIFKIND, NFT_NAT_DNAT, NFT_NAT_SNAT, NFT_OBJECT_CONNLIMIT,
    NFT_OBJECT_CT_TIMEOUT, NFT_OBJECT_LIMIT, NFT_OBJECT_QUOTA, NFT_OBJECT_SYNPROXY, NFT_QUOTA_F_INV, NFT_REG_VERDICT,
};
use crate::netfilter::nftables::{Data, Expression};
use crate::read::xtables::{self, Extension};

const IPPROTO_TCP: u128 = 6;
/// Another connection made the kernel expect it.
const IPS_EXPECTED: u128 = 0x1;

/// A rule while it is read.
#[derive(Debug)]
pub(crate) struct RuleReader<'a> {
    family: Family,
    table: &'a Name,
    registers: Registers,
    /// Numbers that expressions make, by the place of the expression.
    numbers: BTreeMap<usize, (MarkWrite, Option<Field>)>,
    maps: Maps,
    /// Read so far.
    pub steps: Vec<Step>,
    /// The last counter seen.
    pub counter: Option<Counter>,
    /// Text of an x_tables comment.
    pub comment: String,
    /// Whether an x_tables extension was seen.
    pub from_xtables: bool,
}

type Result<T> = std::result::Result<T, Failure>;

impl<'a> RuleReader<'a> {
    /// A rule of a chain of this table.
    pub(crate) fn new(family: Family, table: &'a Name) -> Self {
        Self {
            family,
            table,
            registers: Registers::new(family.nfproto()),
            numbers: BTreeMap::new(),
            maps: Maps::default(),
            steps: Vec::new(),
            counter: None,
            comment: String::new(),
            from_xtables: false,
        }
    }

    fn push(&mut self, found: Match) {
        self.steps.push(Step::Match(found));
    }

    fn non_deterministic(&mut self, what: &str) {
        self.push(Match::NonDeterministic(what.to_owned()));
    }

    fn no_effect(&mut self, what: impl Into<String>) {
        self.steps.push(Step::NoEffect(what.into()));
    }

    fn stolen(&mut self, what: &str) {
        self.steps.push(Step::Verdict(Verdict::Stolen(what.to_owned())));
    }

    fn set(&self, set: &Text<'_>) -> SetId {
        SetId::Nftables { family: self.family, table: self.table.clone(), set: Name::from_bytes(set.as_bytes()) }
    }

    /// Reads expression number `at`.
    pub(crate) fn read(&mut self, at: usize, expression: &Expression<'_>) -> Result<()> {
        let read = match expression.has_unknown() {
            true => {
                self.unsupported(&expression.expr);
                Ok(())
            }
            false => {
                let number = maps::number(&expression.expr, |register| self.registers.key(register).ok());
                self.numbers.extend(number.map(|number| (at, number)));
                self.step(at, &expression.expr)
            }
        };
        self.registers.run(at, expression);
        read.map_err(|failure| failure.within(String::from_utf8_lossy(expression.expr.name())))
    }

    fn step(&mut self, at: usize, expression: &Expr<'_>) -> Result<()> {
        match expression {
            Expr::Payload(payload) => self.payload(payload),
            Expr::Meta(meta) => self.meta(meta),
            Expr::Ct(ct) => self.ct(ct),
            Expr::Cmp(cmp) => self.cmp(cmp)?,
            Expr::Range(range) => self.range(range)?,
            Expr::Immediate(immediate) => self.immediate(&immediate.data)?,
            Expr::Lookup(lookup) => self.lookup(at, lookup),
            Expr::Match(found) => self.extension(false, &found.name, found.rev, found.info.as_deref())?,
            Expr::Target(found) => self.extension(true, &found.name, found.rev, found.info.as_deref())?,
            Expr::Masq(masq) => {
                let ports = [masq.reg_proto_min, masq.reg_proto_max];
                self.translate(NatAction::Masquerade, ([None; 2], 0), ports, masq.flags);
            }
            Expr::Redir(redir) => {
                let ports = [redir.reg_proto_min, redir.reg_proto_max];
                self.translate(NatAction::Redirect, ([None; 2], 0), ports, redir.flags);
            }
            Expr::Nat(nat) => self.nat(nat)?,
            Expr::Notrack(_) => self.steps.push(Step::Notrack),
            Expr::Counter(counter) => {
                self.counter = Some(Counter { packets: counter.packets, bytes: counter.bytes });
            }
            // Rewriting a TCP option ends the rule for packets that have none (NFT_BREAK); nft writes no test of TCP.
            Expr::Exthdr(exthdr) if exthdr.sreg.is_some() => {
                self.test(equal(Field::L4Proto, 0xff, IPPROTO_TCP));
                self.non_deterministic("exthdr write");
            }
            Expr::Exthdr(exthdr) if exthdr.dreg.is_none() => self.non_deterministic("a header option"),
            Expr::Exthdr(exthdr) if !exthdr.asks_presence() => self.test(loads::has_option(exthdr)),
            // What these load is in the registers.
            Expr::Exthdr(_)
            | Expr::Numgen(_)
            | Expr::Socket(_)
            | Expr::Osf(_)
            | Expr::Hash(_)
            | Expr::Rt(_)
            | Expr::Tunnel(_)
            | Expr::Fib(_)
            | Expr::Bitwise(_)
            | Expr::Byteorder(_) => {}
            Expr::Xfrm(xfrm) => self.xfrm(xfrm.dir),
            Expr::Quota(quota) => self.quota(quota),
            Expr::Limit(_) | Expr::Connlimit(_) => {
                self.non_deterministic(&String::from_utf8_lossy(expression.name()));
            }
            // These do something, but end the rule where they cannot (NFT_BREAK).
            Expr::Tproxy(_) => self.tproxy(),
            Expr::FlowOffload(_) => {
                self.steps.extend([Step::OwnTimeout, Step::Match(Match::NonDeterministic("flow_offload".into()))]);
            }
            Expr::Dynset(dynset) => self.dynset(dynset),
            Expr::Log(_) | Expr::Dup(_) | Expr::Last(_) => {
                self.no_effect(String::from_utf8_lossy(expression.name()));
            }
            Expr::Reject(reject) => self.steps.push(verdicts::rejected(reject)),
            Expr::Queue(_) => self.stolen("queue"),
            Expr::Fwd(_) => self.stolen("fwd"),
            Expr::Synproxy(_) => self.synproxy(),
            Expr::Objref(objref) => self.objref(objref),
            Expr::Unsupported { .. } => self.unsupported(expression),
        }
        Ok(())
    }

    fn cmp(&mut self, cmp: &Cmp<'_>) -> Result<()> {
        if cmp.op > NFT_CMP_GTE {
            return Err(Failure::unexpected(format!("operator {} is unknown", cmp.op)));
        }
        let found = self.registers.compare(cmp.sreg, cmp.op, cmp.data.value()?);
        self.push(found);
        Ok(())
    }

    fn range(&mut self, range: &Range<'_>) -> Result<()> {
        let (from, to) = (range.from_data.value()?, range.to_data.value()?);
        if from.len() != to.len() {
            return Err(Failure::unexpected("the ends of the range differ in length"));
        }
        let found = self.registers.range(range.sreg, from, to, range.op != 0);
        self.push(found);
        Ok(())
    }

    /// Without IPsec there is nothing to load, and the rule ends (NFT_BREAK). `direction`: `XFRM_POLICY_IN` or `XFRM_POLICY_OUT`.
    fn xfrm(&mut self, direction: Option<u8>) {
        let condition = Comparison::Masked { mask: 1, value: 1 };
        self.test(FieldTest { field: Field::Ipsec { outgoing: direction == Some(1) }, condition });
    }

    fn dynset(&mut self, dynset: &Dynset<'_>) {
        let fields = self.registers.key(dynset.sreg_key).unwrap_or_default();
        self.steps.push(maps::update(self.set(&dynset.set_name), dynset, fields));
        self.non_deterministic("dynset");
    }

    /// An expression that is not known, or has attributes that are not: what they say may be what it does not do.
    fn unsupported(&mut self, expression: &Expr<'_>) {
        let what = format!("expression {}", String::from_utf8_lossy(expression.name()));
        self.steps.push(Step::Unsupported { what, may_translate: true });
    }

    fn test(&mut self, test: FieldTest) {
        self.push(Match::Tests { tests: vec![test], inverted: false });
    }

    /// Takes TCP away; the rule ends for any other protocol (`nft_synproxy_do_eval`).
    fn synproxy(&mut self) {
        self.test(equal(Field::L4Proto, 0xff, IPPROTO_TCP));
        self.stolen("synproxy");
    }

    /// A write: a load is in the registers.
    fn tproxy(&mut self) {
        self.steps.extend([Step::Match(Match::NonDeterministic("tproxy".into())), Step::ToSocket]);
    }

    fn payload(&mut self, payload: &Payload<'_>) {
        if let Some(register) = payload.sreg {
            let steps = headers::written(&self.registers, payload, register);
            self.steps.extend(steps);
        }
    }

    fn meta(&mut self, meta: &Meta<'_>) {
        match (meta.sreg, meta.key) {
            (Some(register), NFT_META_MARK) => {
                let write = self.mark(register, &Field::Mark, &Field::ConnectionMark);
                self.steps.push(Step::SetMark(write));
            }
            (Some(_), key) => self.no_effect(format!("meta {key} write")),
            // Without such a device, or a kind of it, the rule ends here (NFT_BREAK), inverted or not.
            (None, NFT_META_IIFKIND | NFT_META_OIFKIND) => {
                let field = Field::Device { outgoing: meta.key == NFT_META_OIFKIND, property: DeviceProperty::Kind };
                self.test(FieldTest { field, condition: Comparison::Ranges(vec![(1, u128::MAX)]) });
            }
            (None, _) => {}
        }
    }

    fn mark(&self, register: u32, own: &Field, other: &Field) -> MarkWrite {
        let number = self.registers.result_of(register).and_then(|at| self.numbers.get(&at)?.0.clone().into());
        number.unwrap_or_else(|| self.registers.mark(register, own, other, |at| self.maps.looked_up(at, &self.steps)))
    }

    fn ct(&mut self, ct: &Ct<'_>) {
        match (ct.sreg, ct.key) {
            (Some(register), NFT_CT_MARK) => {
                let write = self.mark(register, &Field::ConnectionMark, &Field::Mark);
                self.steps.push(Step::SetConnectionMark(write));
            }
            (Some(_), NFT_CT_ZONE) => self.steps.push(Step::Template),
            (Some(_), key) => self.no_effect(format!("ct {key} write")),
            (None, NFT_CT_STATE) => {}
            // Without a connection the rule ends here (NFT_BREAK), inverted or not.
            (None, NFT_CT_HELPER) => {
                self.test(has_connection());
                self.test(equal(Field::ConnectionStatus, IPS_EXPECTED, IPS_EXPECTED)); // it asks the connection's master
            }
            (None, _) => self.test(has_connection()),
        }
    }

    fn immediate(&mut self, data: &Data<'_>) -> Result<()> {
        match &data.verdict {
            Some(found) => {
                let verdict = verdicts::decode_verdict(found)?;
                if verdict != Verdict::Continue {
                    self.steps.push(Step::Verdict(verdict));
                }
            }
            None => drop(data.value()?),
        }
        Ok(())
    }

    fn lookup(&mut self, at: usize, lookup: &Lookup<'_>) {
        let (set, fields) = (self.set(&lookup.set), self.registers.key(lookup.sreg));
        match (lookup.dreg, fields) {
            (Some(NFT_REG_VERDICT), fields) => {
                let verdicts = Reading::Failed(Failure::not_needed("not read yet"));
                let number = || self.made(lookup.sreg).into_iter().collect();
                let fields = fields.unwrap_or_else(|_| number());
                self.steps.push(Step::Verdict(Verdict::Map { fields, set, verdicts }));
            }
            // A packet without an element does not get further (NFT_BREAK).
            (Some(_), Ok(fields)) => {
                self.push(Match::Set { fields: fields.clone(), set: set.clone(), inverted: false });
                self.maps.add(at, MapLookup { fields, set }, &self.steps);
            }
            (Some(_), Err(_)) => match self.made(lookup.sreg) {
                Some(number) => {
                    let fields = vec![number];
                    self.push(Match::Set { fields: fields.clone(), set: set.clone(), inverted: false });
                    self.maps.add(at, MapLookup { fields, set }, &self.steps);
                }
                None => self.non_deterministic("a map"),
            },
            (None, Ok(fields)) => {
                let inverted = lookup.flags.unwrap_or(0) & NFT_LOOKUP_F_INV != 0;
                self.push(Match::Set { fields, set, inverted });
            }
            (None, Err(unclear)) => self.push(unclear),
        }
    }

    /// The number that a register holds, if an expression of this rule has made it.
    fn made(&self, register: u32) -> Option<Field> {
        self.registers.number_in(register).and_then(|(at, order)| maps::in_order(self.numbers.get(&at)?, order))
    }

    fn extension(&mut self, target: bool, name: &Text<'_>, revision: u32, data: Option<&[u8]>) -> Result<()> {
        let name = std::str::from_utf8(name.as_bytes()).map_err(|_| Failure::unexpected("its name is not UTF-8"))?;
        let (revision, data) = (u8::try_from(revision).unwrap_or(u8::MAX), data.unwrap_or_default());
        let extension = Extension { name, revision, family: self.family, data };
        self.from_xtables = true;
        if target {
            self.steps.extend(xtables::decode_target(&extension)?);
        } else {
            if let Some(comment) = xtables::comment(&extension) {
                self.comment = comment;
            }
            self.steps.extend(xtables::decode_match(&extension)?);
        }
        Ok(())
    }

    fn objref(&mut self, objref: &Objref<'_>) {
        match objref.imm_type {
            Some(NFT_OBJECT_QUOTA) => self.push(Match::Quota),
            Some(NFT_OBJECT_LIMIT | NFT_OBJECT_CONNLIMIT) => self.non_deterministic("a named limit"),
            Some(NFT_OBJECT_SYNPROXY) => self.synproxy(),
            Some(NFT_OBJECT_CT_TIMEOUT) => {
                self.no_effect("ct timeout write");
                self.steps.push(Step::OwnTimeout);
            }
            Some(kind) => self.no_effect(format!("object of type {kind}")),
            // What kind they are of was not read.
            None => {
                self.non_deterministic("a map of objects");
                self.steps.push(Step::OwnTimeout);
            }
        }
    }

    /// `nft_quota_do_eval`: one that is used up, from where the rule goes on, stays so until somebody resets it.
    fn quota(&mut self, quota: &Quota) {
        let is_over = quota.flags.unwrap_or(0) & NFT_QUOTA_F_INV != 0;
        let used_up = quota.consumed.zip(quota.bytes).is_some_and(|(consumed, bytes)| consumed >= bytes);
        if !(is_over && used_up) {
            self.push(Match::Quota);
        }
    }

    fn nat(&mut self, nat: &Nat<'_>) -> Result<()> {
        /// `NF_NAT_RANGE_NETMAP`
        const NETMAP: u32 = 0x40;
        let action = match (nat.kind, nat.flags.unwrap_or(0) & NETMAP) {
            (_, NETMAP) => NatAction::Netmap,
            (NFT_NAT_SNAT, _) => NatAction::Snat,
            (NFT_NAT_DNAT, _) => NatAction::Dnat,
            (other, _) => return Err(Failure::unexpected(format!("NFTA_NAT_TYPE {other} is unknown"))),
        };
        if self.family == Family::Inet && nat.family != u32::from(NFPROTO_INET) {
            // nft_nat_inet_eval: packets of the other family go on behind it; nft writes no test of the family.
            self.test(equal(Field::NfProto, 0xff, nat.family.into()));
        }
        let width = if nat.family == u32::from(NFPROTO_IPV6) { 16 } else { 4 };
        let addresses = [nat.reg_addr_min, nat.reg_addr_max];
        self.translate(action, (addresses, width), [nat.reg_proto_min, nat.reg_proto_max], nat.flags);
        Ok(())
    }

    /// `addresses`, `ports`: the registers of the first and the last one; an address has so many bytes.
    fn translate(
        &mut self,
        action: NatAction,
        (addresses, width): (EndRegisters, usize),
        ports: EndRegisters,
        flags: Option<u32>,
    ) {
        /// `NF_NAT_RANGE_PERSISTENT`
        const PERSISTENT: u32 = 8;
        let of_map = |[min, max]: EndRegisters, width| {
            let (at, first) = self.registers.of_map(min?, width)?;
            let (same, last) = self.registers.of_map(max.or(min)?, width)?;
            (same == at).then_some((at, [first, last]))
        };
        let map = self.maps.nat(of_map(addresses, width), of_map(ports, 2), &self.steps);
        let addresses = chosen(addresses, |register| {
            let bytes = self.registers.constant(register, width)?;
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        });
        let ports =
            chosen(ports, |register| Some(u16::from_be_bytes(self.registers.constant(register, 2)?.try_into().ok()?)));
        let flags = flags.unwrap_or(0); // the attribute is left out when there are none
        let (randomization, persistent) = (PortRandomization::from_flags(flags), flags & PERSISTENT != 0);
        self.steps.push(Step::Nat(Translation { action, addresses, ports, randomization, persistent, map }));
    }
}

fn equal(field: Field, mask: u128, value: u128) -> FieldTest {
    FieldTest { field, condition: Comparison::Masked { mask, value } }
}

/// Neither invalid nor untracked: `nf_ct_get` finds a connection.
fn has_connection() -> FieldTest {
    equal(Field::ConnectionState, 0x41, 0)
}
