//! Rules and sets of nf_tables: which data are addresses shows only when the registers are followed through a rule.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Redactor;
use super::labels::{Label, is_address, labels};
use super::netfilter::{text, user_data};
use super::xtables::prefix_length;
use crate::netfilter::netlink::Text;
use crate::netfilter::nftables::expr::{Expr, Payload};
use crate::netfilter::nftables::register::{Machine, SIZE, Source};
use crate::netfilter::nftables::uapi::{NFPROTO_IPV6, NFT_CMP_GTE, NFT_CMP_LTE, NFT_REG_1};
use crate::netfilter::nftables::{Body, Expression, Message};
use crate::netfilter::{Visit, Visitor};
use crate::snapshot::Failure;

/// Family, table and name of a set.
pub(super) type SetKey = (u8, Vec<u8>, Vec<u8>);

/// A part of the value of an expression: which expression, first byte, what it becomes.
pub(super) type Change = (usize, usize, Vec<u8>);

/// One message.
pub(super) struct Visiting<'r> {
    redactor: &'r mut Redactor,
    family: u8,
    table: Vec<u8>,
    machine: Machine,
    /// Number of the expression that is visited.
    at: usize,
    /// Values of `immediate`, by expression, as they were.
    constants: BTreeMap<usize, Vec<u8>>,
    /// Those that were used for something else than an address.
    used: BTreeSet<usize>,
    /// Values of earlier expressions that become others.
    changes: Vec<Change>,
    /// The lower end of a range, if the expression before compared with one.
    lower: Option<Lower>,
    before: Option<Lower>,
    /// The set whose elements follow.
    set: SetKey,
    /// Something cannot be told apart from an address.
    failed: Option<Failure>,
}

struct Lower {
    expression: usize,
    register: u32,
    original: Vec<u8>,
}

impl Redactor {
    /// A message of nf_tables.
    pub(super) fn nftables(&mut self, message: &mut Message<'_>) -> Result<(), Failure> {
        let table = match &message.body {
            Body::Rule(rule) => rule.table.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let changes = self.visit(message.header.family, &table, &mut message.body)?;
        if let Body::Rule(rule) = &mut message.body {
            let mut elements = rule.expressions.iter_mut().flat_map(|list| &mut list.elements).collect::<Vec<_>>();
            for (expression, from, bytes) in changes {
                let value = elements.get_mut(expression).and_then(|element| match &mut element.expr {
                    Expr::Immediate(immediate) => immediate.data.value.as_mut(),
                    Expr::Cmp(cmp) => cmp.data.value.as_mut(),
                    _ => None,
                });
                let place = value.and_then(|value| value.to_mut().get_mut(from..from + bytes.len()));
                place.into_iter().for_each(|place| place.copy_from_slice(&bytes));
            }
        }
        Ok(())
    }

    /// Visits a message about a table of this family; which values of a rule's expressions are still to be changed.
    pub(super) fn visit(&mut self, family: u8, table: &[u8], body: &mut impl Visit) -> Result<Vec<Change>, Failure> {
        let mut visiting = Visiting {
            redactor: self,
            family,
            table: table.to_vec(),
            machine: Machine::new(family),
            at: 0,
            constants: BTreeMap::new(),
            used: BTreeSet::new(),
            changes: Vec::new(),
            lower: None,
            before: None,
            set: SetKey::default(),
            failed: None,
        };
        body.visit(&mut visiting);
        visiting.failed.map_or(Ok(visiting.changes), Err)
    }

    /// Maps the addresses in a value that is compared with registers; of an address there may be only the first bytes.
    fn value(&self, value: &mut [u8], labels: &[Label]) -> Result<(), Failure> {
        let labels =
            labels.get(..value.len()).ok_or_else(|| Failure::unexpected("a value is longer than its registers"))?;
        let mut at = 0;
        while at < labels.len() {
            let rest = &labels[at..];
            let length = match rest[0] {
                Label::Address { ipv6, .. } => {
                    let width = if ipv6 { 16 } else { 4 };
                    let mask = |(index, label): (usize, &Label)| match label {
                        Label::Address { ipv6: same, octet, mask } if (*same, *octet) == (ipv6, index) => Some(*mask),
                        _ => None,
                    };
                    let masks: Vec<u8> = rest.iter().take(width).enumerate().map_while(mask).collect();
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
                Label::Other => 1,
            };
            at += length;
        }
        Ok(())
    }
}

/// Bytes of an address of this family.
fn width(family: u32) -> usize {
    if family == u32::from(NFPROTO_IPV6) { 16 } else { 4 }
}

impl Visiting<'_> {
    fn check(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.failed.get_or_insert(failure);
        }
    }

    /// The constants that stand in so many bytes of a register and were not used otherwise: of which expression.
    fn constants_in(&self, register: u32, length: usize) -> impl Iterator<Item = Option<(usize, usize)>> {
        let cells = self.machine.from(register).iter().take(length);
        cells.map(|cell| {
            let load = self.machine.load_of(cell).filter(|load| load.source == Source::Constant)?;
            (!self.used.contains(&load.expression)).then_some((load.expression, cell.byte))
        })
    }

    /// The constant of this length that a register holds: its expression, its first byte, and what it was. One that is put
    /// together of several cannot be told apart from an address.
    fn constant_in(&mut self, register: u32, length: usize) -> Option<(usize, usize, Vec<u8>)> {
        let places: Vec<_> = self.constants_in(register, length).collect();
        let (expression, first) = places.iter().flatten().next().copied()?;
        let whole = places.len() == length && (0..length).all(|at| places[at] == Some((expression, first + at)));
        let value = self.constants.get(&expression).and_then(|value| value.get(first..first + length));
        match value.filter(|_| whole) {
            Some(value) => Some((expression, first, value.to_vec())),
            None => {
                self.check(Err(Failure::unexpected("a rule puts an address together")));
                None
            }
        }
    }

    fn range(&self, from: &mut [u8], to: &mut [u8]) {
        self.redactor.range(from, to);
    }
}

impl Visitor for Visiting<'_> {
    fn family(&self) -> u32 {
        self.family.into()
    }

    fn chain(&mut self, name: &mut Text<'_>) {
        self.redactor.chain_name(name.0.to_mut());
    }

    fn set(&mut self, name: &mut Text<'_>) {
        self.redactor.set_name(name.0.to_mut());
    }

    fn comment(&mut self, comment: &mut Text<'_>) {
        text(comment.0.to_mut());
    }

    fn user_data(&mut self, data: &mut Cow<'_, [u8]>) {
        let result = user_data(data.to_mut());
        self.check(result);
    }

    fn elements_of(&mut self, table: &[u8], set: &[u8]) {
        self.set = (self.family, table.to_vec(), set.to_vec());
    }

    /// Keys of sets whose fields no rule tells are taken for addresses if they could be one, else zeroed.
    fn key(&mut self, key: &mut Cow<'_, [u8]>) {
        let result = match self.redactor.layouts.get(&self.set) {
            Some(layout) => self.redactor.value(key.to_mut(), layout),
            None => {
                self.redactor.address(key.to_mut(), None);
                Ok(())
            }
        };
        self.check(result);
    }

    fn expression(&mut self, at: usize, expression: &mut Expression<'_>) {
        (self.at, self.before) = (at, self.lower.take());
        let original = expression.expr.clone();
        expression.visit(self);
        self.machine.run(at, &original);
    }

    /// Neither its data nor the constants that it may use stay.
    fn unknown(&mut self) {
        let places: BTreeSet<_> = self.constants_in(NFT_REG_1, SIZE).flatten().collect();
        self.changes.extend(places.into_iter().map(|(expression, byte)| (expression, byte, vec![0])));
    }

    fn constant(&mut self, value: &mut Cow<'_, [u8]>) {
        self.constants.insert(self.at, value.to_vec());
    }

    fn compared(&mut self, register: u32, operator: u32, value: &mut Cow<'_, [u8]>) {
        let labels = labels(&self.machine, register);
        let (whole, original) = (is_address(&labels, value.len()), value.to_vec());
        match self.before.take() {
            Some(mut lower)
                if operator == NFT_CMP_LTE
                    && lower.register == register
                    && whole
                    && lower.original.len() == value.len() =>
            {
                self.range(&mut lower.original, value.to_mut());
                self.changes.push((lower.expression, 0, lower.original));
            }
            _ => {
                let result = self.redactor.value(value.to_mut(), &labels);
                self.check(result);
                self.lower =
                    (operator == NFT_CMP_GTE && whole).then_some(Lower { expression: self.at, register, original });
            }
        }
    }

    fn combined(&mut self, register: u32, value: &mut Cow<'_, [u8]>) {
        let labels = labels(&self.machine, register);
        let plain = |(byte, label): (&u8, &Label)| *byte == 0 || *label == Label::Other;
        if !value.iter().zip(&labels).all(plain) {
            self.check(Err(Failure::unexpected("a rule computes with an address")));
        }
    }

    fn in_range(&mut self, register: u32, from: &mut Cow<'_, [u8]>, to: &mut Cow<'_, [u8]>) {
        let labels = labels(&self.machine, register);
        if is_address(&labels, from.len()) && from.len() == to.len() {
            self.range(from.to_mut(), to.to_mut());
        } else {
            for end in [from.to_mut(), to.to_mut()] {
                let result = self.redactor.value(end, &labels);
                self.check(result);
            }
        }
    }

    /// What the keys of the set are made of is known from now on.
    fn looked_up(&mut self, register: u32, set: &mut Text<'_>) {
        let key = (self.family, self.table.clone(), set.as_bytes().to_vec());
        self.redactor.layouts.insert(key, labels(&self.machine, register));
        self.set(set);
    }

    fn written(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        if let Some((expression, first, mut value)) = self.constant_in(register, length as usize) {
            let mut header = Machine::new(self.family);
            header.network = self.machine.network;
            let load = Payload { dreg: Some(NFT_REG_1), base, offset, len: length, ..Payload::default() };
            header.run(0, &load.into());
            let result = self.redactor.value(&mut value, &labels(&header, NFT_REG_1));
            self.check(result);
            self.changes.push((expression, first, value));
        }
        self.used(register);
    }

    fn used(&mut self, register: u32) {
        let used: Vec<usize> = self.constants_in(register, 16).flatten().map(|(expression, _)| expression).collect();
        self.used.extend(used);
    }

    fn address_in(&mut self, register: u32, family: u32) {
        let width = width(family);
        if let Some((expression, first, mut value)) = self.constant_in(register, width) {
            self.redactor.address(&mut value, None);
            self.changes.push((expression, first, value));
        }
        self.used(register);
    }

    fn translated(&mut self, family: u32, min: Option<u32>, max: Option<u32>) {
        let width = width(family);
        let mut end = |register: Option<u32>| self.constant_in(register?, width);
        match (end(min), end(max)) {
            (Some((first, from, mut min)), Some((last, to, mut max))) if (first, from) != (last, to) => {
                self.range(&mut min, &mut max);
                self.changes.extend([(first, from, min), (last, to, max)]);
            }
            (Some((expression, from, mut one)), _) | (None, Some((expression, from, mut one))) => {
                self.redactor.address(&mut one, None);
                self.changes.push((expression, from, one));
            }
            (None, None) => {}
        }
    }

    fn extension(&mut self, target: bool, name: &[u8], revision: u32, info: &mut Cow<'_, [u8]>) {
        let result = match target {
            false => self.redactor.xt_match(self.family, name, revision, info.to_mut()),
            true => self.redactor.xt_target(self.family, name, revision, info.to_mut()),
        };
        self.check(result);
    }
}
