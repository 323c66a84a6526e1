//! Expressions of nf_tables: which data are addresses shows only when the registers are followed through a rule.

use std::ops::Range;

use super::Redactor;
use super::netfilter::{Places, text};
use super::registers::{Label, REGISTERS, Rule, address, bitwise, changed, is_address, need, payload};
use super::xtables::prefix_length;
use crate::snapshot::Failure;

/// Data of these expressions are harmless, and they load this register.
const LOADS: &[(&[u8], u16)] =
    &[(b"fib", 1), (b"exthdr", 1), (b"hash", 2), (b"numgen", 1), (b"socket", 2), (b"osf", 1), (b"tunnel", 2)];
/// Neither loads a register nor holds an address.
const HARMLESS: &[&[u8]] = &[
    b"masq",
    b"redir",
    b"reject",
    b"limit",
    b"counter",
    b"quota",
    b"notrack",
    b"queue",
    b"connlimit",
    b"last",
    b"flow_offload",
    b"synproxy",
];

impl Redactor {
    /// `NFTA_RULE_EXPRESSIONS`
    pub(super) fn expressions(
        &mut self,
        family: u8,
        table: &[u8],
        body: &mut [u8],
        block: Range<usize>,
    ) -> Result<(), Failure> {
        let v6 = match family {
            2 => Some(false),
            10 => Some(true),
            _ => None,
        };
        let mut rule = Rule { family, table, registers: [Label::Other; REGISTERS], v6, lower: None };
        for (_, expression) in Places::of(body, block)?.iter() {
            let parts = Places::of(body, expression)?;
            let name = parts.get(1).map(|place| body[place].to_vec()).unwrap_or_default();
            let name = name.strip_suffix(b"\0").unwrap_or(&name);
            let data = parts.get(2).unwrap_or_default();
            let places = Places::of(body, data.clone())?;
            let lower = rule.lower.take();
            self.expression(&mut rule, name, body, &places, lower)?;
        }
        Ok(())
    }

    fn expression(
        &mut self,
        rule: &mut Rule,
        name: &[u8],
        body: &mut [u8],
        places: &Places,
        lower: Option<(u32, Range<usize>, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let number = |kind| places.be32(body, kind);
        match name {
            b"payload" => {
                let (base, at, length) = (need(number(2)?)?, need(number(3)?)?, need(number(4)?)?);
                let labels = payload(base, at as usize, length as usize, rule.v6)?;
                match (number(1)?, number(5)?) {
                    (Some(register), _) => rule.load(register, &labels)?,
                    (None, Some(register)) => self.written(rule, register, &labels, body)?,
                    (None, None) => return Err(Failure::unexpected("an expression lacks an attribute")),
                }
            }
            b"meta" => match (number(1)?, need(number(2)?)?, number(3)?) {
                (Some(register), key, _) => {
                    let protocol = matches!(key, 1 | 15); // NFT_META_PROTOCOL, NFT_META_NFPROTO
                    rule.load_any(register, if protocol { Label::Protocol } else { Label::Other })?;
                }
                (None, _, Some(register)) => rule.used(register)?,
                _ => {}
            },
            b"ct" => match (number(1)?, need(number(2)?)?, number(4)?) {
                (Some(register), key, _) => match key {
                    8 | 9 => rule.load(register, &address(rule.v6 == Some(true)))?, // NFT_CT_SRC, NFT_CT_DST
                    19 | 20 => rule.load(register, &address(false))?,
                    21 | 22 => rule.load(register, &address(true))?,
                    _ => rule.load_any(register, Label::Other)?,
                },
                (None, _, Some(register)) => rule.used(register)?,
                _ => {}
            },
            b"rt" | b"xfrm" => {
                let labels = match (name, need(number(2)?)?) {
                    (b"rt", 1) | (b"xfrm", 1 | 3) => address(false),
                    (b"rt", 2) | (b"xfrm", 2 | 4) => address(true),
                    _ => vec![Label::Other; 4],
                };
                rule.load(need(number(1)?)?, &labels)?;
            }
            b"immediate" => match need(number(1)?)? {
                0 => self.verdict(body, places.get(2).unwrap_or_default())?,
                register => {
                    let value = places.value(body, 2)?.unwrap_or_default();
                    rule.load(register, &value.map(Label::Constant).collect::<Vec<_>>())?;
                }
            },
            b"bitwise" => bitwise(rule, body, places)?,
            b"byteorder" => {
                let labels = changed(rule.at(need(number(1)?)?)?);
                rule.load(need(number(2)?)?, &labels[..labels.len().min(need(number(4)?)? as usize)])?;
            }
            b"cmp" => {
                let (register, op) = (need(number(1)?)?, need(number(2)?)?);
                if let Some(value) = places.value(body, 3)? {
                    self.compare(rule, register, op, body, value, lower)?;
                }
            }
            b"range" => {
                let labels = rule.at(need(number(1)?)?)?;
                let (from, to) =
                    (places.value(body, 3)?.unwrap_or_default(), places.value(body, 4)?.unwrap_or_default());
                if is_address(labels, from.len()) && from.len() == to.len() {
                    self.range_at(body, from, to);
                } else {
                    let labels = labels.to_vec();
                    self.value(body, from, &labels)?;
                    self.value(body, to, &labels)?;
                }
            }
            b"lookup" => {
                let (layout, target) = (rule.at(need(number(2)?)?)?.to_vec(), number(3)?);
                self.asked(rule, body, places.get(1), layout);
                match target {
                    Some(0) | None => {}
                    Some(register) => rule.load_any(register, Label::Other)?,
                }
            }
            b"dynset" => {
                let layout = rule.at(need(number(4)?)?)?.to_vec();
                self.asked(rule, body, places.get(1), layout);
            }
            b"objref" => {
                for kind in [2, 4] {
                    if let Some(place) = places.get(kind) {
                        self.set_name(&mut body[place]);
                    }
                }
            }
            b"nat" => self.nat(rule, body, places)?,
            b"tproxy" => self.to(rule, number(2)?, number(1)? == Some(10), body)?,
            b"dup" => self.to(rule, number(1)?, rule.family == 10, body)?,
            b"fwd" => self.to(rule, number(2)?, number(3)? == Some(10), body)?,
            b"log" => {
                if let Some(place) = places.get(2) {
                    text(&mut body[place]);
                }
            }
            b"match" | b"target" => {
                let extension = places.get(1).map(|place| body[place].to_vec()).unwrap_or_default();
                let extension = extension.split(|byte| *byte == 0).next().unwrap_or_default();
                let (revision, info) = (number(2)?.unwrap_or(0), &mut body[places.get(3).unwrap_or_default()]);
                if name == b"match" {
                    self.xt_match(rule.family, extension, revision, info)?;
                } else {
                    self.xt_target(rule.family, extension, revision, info)?;
                }
            }
            _ if HARMLESS.contains(&name) => {}
            _ => match LOADS.iter().find(|(load, _)| *load == name) {
                Some((_, kind)) => {
                    if let Some(register) = number(*kind)? {
                        rule.load_any(register, Label::Other)?;
                    }
                }
                None => unknown(rule, body, places),
            },
        }
        Ok(())
    }

    fn compare(
        &mut self,
        rule: &mut Rule,
        register: u32,
        op: u32,
        body: &mut [u8],
        value: Range<usize>,
        lower: Option<(u32, Range<usize>, Vec<u8>)>,
    ) -> Result<(), Failure> {
        const EQ: u32 = 0;
        const LTE: u32 = 3;
        const GTE: u32 = 5;
        let labels = rule.at(register)?.to_vec();
        if labels[0] == Label::Protocol && op == EQ {
            rule.v6 = match &body[value.clone()] {
                [2] | [8, 0] => Some(false),
                [10] | [0x86, 0xdd] => Some(true),
                _ => rule.v6,
            };
        }
        match lower {
            Some((other, from, original))
                if op == LTE && other == register && is_address(&labels, value.len()) && from.len() == value.len() =>
            {
                body[from.clone()].copy_from_slice(&original);
                self.range_at(body, from, value);
            }
            _ => {
                rule.lower = (op == GTE && is_address(&labels, value.len()))
                    .then(|| (register, value.clone(), body[value.clone()].to_vec()));
                self.value(body, value, &labels)?;
            }
        }
        Ok(())
    }

    fn range_at(&self, body: &mut [u8], from: Range<usize>, to: Range<usize>) {
        let (mut min, mut max) = (body[from.clone()].to_vec(), body[to.clone()].to_vec());
        self.range(&mut min, &mut max);
        body[from].copy_from_slice(&min);
        body[to].copy_from_slice(&max);
    }

    /// Maps the addresses in a value that is compared with registers; of an address there may be only the first bytes.
    pub(super) fn value(&self, body: &mut [u8], value: Range<usize>, labels: &[Label]) -> Result<(), Failure> {
        let value = &mut body[value];
        let labels =
            labels.get(..value.len()).ok_or_else(|| Failure::unexpected("a value is longer than its registers"))?;
        let mut at = 0;
        while at < labels.len() {
            let rest = &labels[at..];
            let length = match rest[0] {
                Label::Address { v6, .. } => {
                    let width = if v6 { 16 } else { 4 };
                    let mut masks = Vec::new();
                    for (index, label) in rest.iter().take(width).enumerate() {
                        match label {
                            Label::Address { v6: same, octet, mask } if *same == v6 && *octet == index => {
                                masks.push(*mask)
                            }
                            _ => break,
                        }
                    }
                    if masks.is_empty() {
                        return Err(Failure::unexpected("a rule tests a part of an address"));
                    }
                    let part = &mut value[at..at + masks.len()];
                    let mut whole = [0; 16];
                    whole[..part.len()].copy_from_slice(part);
                    let prefix = prefix_length(&masks)?;
                    let beyond = part.iter().zip(&masks).any(|(byte, mask)| byte & !mask != 0); // it never holds
                    self.address(&mut whole[..width], (!beyond).then_some(prefix));
                    part.copy_from_slice(&whole[..part.len()]);
                    part.len()
                }
                Label::Hardware => {
                    let length = rest.iter().take(6).take_while(|label| **label == Label::Hardware).count();
                    self.hardware(&mut value[at..at + length]);
                    length
                }
                Label::HardwarePart => {
                    value[at] = 0;
                    1
                }
                Label::Mixed => return Err(Failure::unexpected("a rule tests what may be a part of an address")),
                Label::Other | Label::Protocol | Label::Constant(_) => 1,
            };
            at += length;
        }
        Ok(())
    }

    /// A set that a rule asks: what its keys are made of is known from now on.
    fn asked(&mut self, rule: &Rule, body: &mut [u8], name: Option<Range<usize>>, layout: Vec<Label>) {
        if let Some(place) = name {
            let set = body[place.clone()].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
            self.layouts.insert((rule.family, rule.table.to_vec(), set), layout);
            self.set_name(&mut body[place]);
        }
    }

    fn nat(&mut self, rule: &mut Rule, body: &mut [u8], places: &Places) -> Result<(), Failure> {
        let width = if places.be32(body, 2)? == Some(10) { 16 } else { 4 };
        let end = |kind| match places.be32(body, kind)? {
            Some(register) => rule.constant(register, width),
            None => Ok(None),
        };
        match (end(3)?, end(4)?) {
            (Some(min), Some(max)) if min != max => self.range_at(body, min, max),
            (Some(one), _) | (None, Some(one)) => self.address(&mut body[one], None),
            (None, None) => {}
        }
        rule.registers = [Label::Other; REGISTERS]; // nothing follows a translation
        Ok(())
    }

    /// A register that is used as an address.
    fn to(&self, rule: &mut Rule, register: Option<u32>, v6: bool, body: &mut [u8]) -> Result<(), Failure> {
        let Some(register) = register else { return Ok(()) };
        if let Some(place) = rule.constant(register, if v6 { 16 } else { 4 })? {
            self.address(&mut body[place], None);
        }
        rule.used(register)
    }

    /// A register that is written into the packet.
    fn written(&self, rule: &mut Rule, register: u32, labels: &[Label], body: &mut [u8]) -> Result<(), Failure> {
        if let Some(place) = rule.constant(register, labels.len())? {
            self.value(body, place, labels)?;
        }
        rule.used(register)
    }
}

/// An expression that this natwatch does not know: neither its data nor the constants that it may use stay.
fn unknown(rule: &mut Rule, body: &mut [u8], places: &Places) {
    for (_, place) in places.iter() {
        body[place].fill(0);
    }
    for label in &mut rule.registers {
        if let Label::Constant(place) = *label {
            body[place] = 0;
        }
        *label = Label::Mixed; // it may have loaded anything
    }
}
