//! Redacts nf_tables rules and sets. Which data are addresses follows from tracking the registers through a rule.
//!
//! What cannot be mapped is zeroed, and the expression that uses it gets a register that does not exist: no kernel has
//! such a rule, and natwatch reads it as unsupported rather than with another meaning.

mod registers;

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Redactor;
use super::labels::{self, Label, LabelKind, Part, is_address, parts};
use super::netfilter::{text, user_data};
use crate::facts::Failure;
use crate::netfilter::netlink::{Emit as _, Text};
use crate::netfilter::nftables::expr::Expr;
use crate::netfilter::nftables::register::Machine;
use crate::netfilter::nftables::uapi::{
    NFPROTO_IPV6, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_REG_1, NFT_REG_VERDICT,
};
use crate::netfilter::nftables::{Body, Expression, NftMessage};
use crate::netfilter::xtables::NO_REVISION;
use crate::netfilter::{Visit, Visitor, Zero as _};

/// Family, table and name of a set.
pub(super) type SetKey = (u8, Vec<u8>, Vec<u8>);

/// New bytes for an expression's value: index of the expression, offset, bytes.
pub(super) type ValueChange = (usize, usize, Vec<u8>);

/// The state while visiting one message.
pub(super) struct Visiting<'r> {
    redactor: &'r mut Redactor,
    family: u8,
    table: Vec<u8>,
    machine: Machine,
    /// Index of the expression being visited.
    at: usize,
    /// Values of `immediate`, by index of the expression.
    constants: BTreeMap<usize, Constant>,
    /// Changes to values of earlier expressions.
    changes: Vec<ValueChange>,
    /// The lower end of a range, if the preceding expression compared with one.
    lower: Option<Lower>,
    before: Option<Lower>,
    /// Sets looked up, by index of the expression.
    sets: BTreeMap<usize, SetKey>,
    /// The set whose elements follow.
    set: SetKey,
    /// The first failure.
    failed: Option<Failure>,
}

/// A value of `immediate` and its replacement; bytes without a known use are zeroed.
struct Constant {
    original: Vec<u8>,
    becomes: Vec<Option<u8>>,
    /// Expressions that use it.
    users: Vec<usize>,
    /// Whether two of them use it differently, so that no replacement fits both.
    clash: bool,
}

struct Lower {
    expression: usize,
    register: u32,
    original: Vec<u8>,
}

/// A constant found in a register.
struct Found {
    expression: usize,
    first: usize,
    value: Vec<u8>,
}

impl Redactor {
    /// Redacts an nf_tables message.
    pub(super) fn nftables(&mut self, message: &mut NftMessage<'_>) -> Result<(), Failure> {
        let table = match &message.body {
            Body::Rule(rule) => rule.table.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let (changes, unclear) = self.visit(message.header.family, &table, &mut message.body)?;
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
            for at in unclear {
                elements.get_mut(at).into_iter().for_each(|user| forget(&mut user.expr));
            }
        }
        Ok(())
    }

    /// Visits a message about a table of this family. Returns changes that are still to be made to values of a rule's
    /// expressions, and the expressions whose registers are to be invalidated.
    pub(super) fn visit(
        &mut self,
        family: u8,
        table: &[u8],
        body: &mut impl Visit,
    ) -> Result<(Vec<ValueChange>, Vec<usize>), Failure> {
        let mut visiting = Visiting {
            redactor: self,
            family,
            table: table.to_vec(),
            machine: Machine::new(family),
            at: 0,
            constants: BTreeMap::new(),
            changes: Vec::new(),
            lower: None,
            before: None,
            sets: BTreeMap::new(),
            set: SetKey::default(),
            failed: None,
        };
        body.visit(&mut visiting);
        let mut unclear = Vec::new();
        for (expression, Constant { becomes, users, clash, .. }) in visiting.constants {
            let becomes = becomes.into_iter().map(|byte| byte.filter(|_| !clash).unwrap_or_default());
            visiting.changes.push((expression, 0, becomes.collect()));
            unclear.extend(users.into_iter().filter(|_| clash));
        }
        visiting.failed.map_or(Ok((visiting.changes, unclear)), Err)
    }

    /// Maps a value that is compared with registers; `false`: not possible, it was zeroed.
    fn value(&self, value: &mut [u8], labels: &[Label]) -> bool {
        let labels = labels.get(..value.len()).unwrap_or_default();
        let beyond = |part: &Part| {
            let bits = value.iter().skip(part.at).take(part.length).flat_map(|byte| (0..8).map(move |bit| byte << bit));
            bits.skip(part.prefix.into()).any(|bit| bit & 0x80 != 0) // a set host bit: it never matches
        };
        let parts = parts(labels).filter(|parts| labels.len() == value.len() && !parts.iter().any(beyond));
        let Some(parts) = parts else {
            value.fill(0);
            return false;
        };
        for Part { at, length, kind, prefix } in parts {
            let (mut whole, part) = ([0; 16], &mut value[at..at + length]);
            whole[..length].copy_from_slice(part);
            let whole = &mut whole[..kind.width()];
            match kind {
                LabelKind::Ipv4 | LabelKind::Ipv6 => self.address(whole, Some(prefix)),
                LabelKind::Hardware => self.hardware_prefix(whole, prefix),
                LabelKind::Unknown => self.unknown(whole, prefix),
            }
            part.copy_from_slice(&whole[..length]);
        }
        self.name(value); // what is kept includes device names
        let padding = value.iter_mut().zip(labels).filter(|(_, label)| **label == Label::Padding);
        padding.for_each(|(byte, _)| *byte = 0);
        true
    }
}

/// Invalidates the registers that natwatch would use: marks, addresses, ports.
fn forget(expression: &mut Expr<'_>) {
    let registers = match expression {
        Expr::Meta(meta) => vec![&mut meta.sreg],
        Expr::Ct(ct) => vec![&mut ct.sreg],
        Expr::Masq(masq) => vec![&mut masq.reg_proto_min, &mut masq.reg_proto_max],
        Expr::Redir(redir) => vec![&mut redir.reg_proto_min, &mut redir.reg_proto_max],
        Expr::Nat(nat) => {
            vec![&mut nat.reg_addr_min, &mut nat.reg_addr_max, &mut nat.reg_proto_min, &mut nat.reg_proto_max]
        }
        _ => Vec::new(),
    };
    registers.into_iter().flatten().for_each(|register| *register = NFT_REG_VERDICT);
}

/// Length of an address of this family, bytes.
fn width(family: u32) -> usize {
    if family == u32::from(NFPROTO_IPV6) { 16 } else { 4 }
}

fn is_plain(labels: &[Label], length: usize) -> bool {
    labels.get(..length).is_some_and(|labels| labels.iter().all(|label| *label == Label::Plain))
}

impl Visitor for Visiting<'_> {
    fn family(&self) -> u32 {
        self.family.into()
    }

    fn table(&mut self, name: &mut Text<'_>) {
        self.redactor.table_name(name.0.to_mut());
    }

    fn device(&mut self, name: &mut Text<'_>) {
        self.redactor.name(name.0.to_mut());
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
        user_data(data.to_mut());
    }

    fn elements_of(&mut self, table: &[u8], set: &[u8]) {
        self.set = (self.family, table.to_vec(), set.to_vec());
    }

    /// Zeroes keys of sets whose fields no rule shows.
    fn key(&mut self, key: &mut Cow<'_, [u8]>) {
        let layout = self.redactor.layouts.entry(self.set.clone()).or_default();
        layout.length = layout.length.max(key.len());
        let labels = layout.labels.clone().filter(|_| layout.is_clear());
        self.redactor.value(key.to_mut(), &labels.unwrap_or_default());
    }

    fn mapped(&mut self, value: &mut Cow<'_, [u8]>) {
        let data = self.redactor.data.entry(self.set.clone()).or_default();
        data.length = data.length.max(value.len());
        let labels = data.labels().map(<[Label]>::to_vec);
        self.redactor.value(value.to_mut(), &labels.unwrap_or_default());
    }

    fn data_type(&mut self, table: &[u8], map: &[u8], kind: u32) {
        let key = (self.family, table.to_vec(), map.to_vec());
        self.redactor.data.entry(key).or_default().add_type(kind);
    }

    fn network(&mut self, first: &mut [u8], last: Option<&mut [u8]>, prefix_length: Option<u8>) {
        match last {
            Some(last) => self.redactor.range(first, last),
            None => self.redactor.address(first, prefix_length),
        }
    }

    fn expression(&mut self, at: usize, expression: &mut Expression<'_>) {
        (self.at, self.before) = (at, self.lower.take());
        let original = expression.clone();
        expression.visit(self);
        match original.has_unknown() {
            true => self.machine.run_unknown(at),
            false => self.machine.run(at, &original.expr),
        }
    }

    fn constant(&mut self, value: &mut Cow<'_, [u8]>) {
        self.constants.insert(
            self.at,
            Constant { original: value.to_vec(), becomes: vec![None; value.len()], users: Vec::new(), clash: false },
        );
    }

    fn compared(&mut self, register: &mut u32, operator: u32, value: &mut Cow<'_, [u8]>) {
        let labels = self.labels(*register);
        let (whole, original) = (is_address(&labels, value.len()), value.to_vec());
        match self.before.take() {
            Some(mut lower)
                if operator == NFT_CMP_LTE
                    && lower.register == *register
                    && whole
                    && lower.original.len() == value.len() =>
            {
                self.redactor.range(&mut lower.original, value.to_mut());
                self.changes.push((lower.expression, 0, lower.original));
            }
            _ => {
                let lower = Lower { expression: self.at, register: *register, original };
                // Only whole addresses keep part of their order.
                let ordered = operator > NFT_CMP_NEQ && !whole && !is_plain(&labels, value.len());
                if ordered || !self.redactor.value(value.to_mut(), &labels) {
                    value.zero();
                    *register = NFT_REG_VERDICT;
                }
                self.lower = (operator == NFT_CMP_GTE && whole).then_some(lower);
            }
        }
    }

    /// Masks of mapped fields can be kept only if they are prefixes.
    fn masked(&mut self, register: u32, mask: &mut Cow<'_, [u8]>) {
        let labels = self.labels(register);
        let labels = labels.iter().zip(mask.iter()).map(|(label, bits)| match *label {
            Label::Part { kind, octet, mask } => Label::Part { kind, octet, mask: mask & bits },
            label => label,
        });
        let labels: Vec<_> = labels.collect();
        let clear = labels.len() == mask.len() && parts(&labels).is_some();
        for (at, byte) in mask.to_mut().iter_mut().enumerate() {
            let stays = match labels.get(at) {
                Some(Label::Plain) => true,
                Some(Label::Part { .. }) => clear,
                _ => *byte == 0xff,
            };
            *byte = if stays { *byte } else { 0 };
        }
    }

    fn combined(&mut self, register: u32, value: &mut Cow<'_, [u8]>) {
        let labels = self.labels(register);
        for (at, byte) in value.to_mut().iter_mut().enumerate() {
            *byte = if labels.get(at) == Some(&Label::Plain) { *byte } else { 0 };
        }
    }

    fn in_range(&mut self, register: &mut u32, from: &mut Cow<'_, [u8]>, to: &mut Cow<'_, [u8]>) {
        let labels = self.labels(*register);
        let length = from.len().max(to.len());
        if is_address(&labels, length) && from.len() == to.len() {
            self.redactor.range(from.to_mut(), to.to_mut());
        } else if !is_plain(&labels, length) {
            from.zero();
            to.zero();
            *register = NFT_REG_VERDICT;
        }
    }

    /// The layout of keys is known after all rules were visited.
    fn looked_up(&mut self, register: &mut u32, set: &mut Text<'_>) {
        let key = (self.family, self.table.clone(), set.as_bytes().to_vec());
        let found = self.labels(*register);
        self.sets.insert(self.at, key.clone());
        let layout = self.redactor.layouts.entry(key).or_default();
        layout.add(found);
        if !layout.is_clear() {
            *register = NFT_REG_VERDICT;
        }
        self.set(set);
    }

    fn stored(&mut self, register: &mut u32, field: &Expr<'_>) {
        let mut loaded = Machine::new(self.family);
        (loaded.network, loaded.transport) = (self.machine.network, self.machine.transport);
        loaded.run(0, field);
        let length = loaded.from(NFT_REG_1).iter().take_while(|cell| cell.load.is_some()).count();
        let labels = labels::labels(&loaded, NFT_REG_1, |_, _| Label::Unclear);
        if self.is_from_map(register, &labels[..length]) {
            return;
        }
        if let Some(mut found) = self.constant_in(register, length) {
            if self.redactor.value(&mut found.value, &labels) {
                self.becomes(found);
            } else {
                *register = NFT_REG_VERDICT;
            }
        }
    }

    fn number(&mut self, register: &mut u32, length: usize) {
        if self.is_from_map(register, &vec![Label::Plain; length]) {
            return;
        }
        if let Some(found) = self.constant_in(register, length) {
            self.becomes(found);
        }
    }

    fn address_in(&mut self, register: &mut u32, family: u32) {
        if !self.is_from_map(register, &labels::address(width(family))) {
            let found = self.constant_in(register, width(family));
            self.becomes_address(found);
        }
    }

    /// Zeroes ranges in a map, which would not remain ranges.
    fn translated(&mut self, family: u32, mut min: Option<&mut u32>, mut max: Option<&mut u32>) {
        let address = labels::address(width(family));
        let is_range = min.as_deref() != max.as_deref();
        let mut is_from_map = |end: &mut Option<&mut u32>| {
            end.as_deref_mut().is_some_and(|register| self.is_from_map(register, &address))
        };
        if is_from_map(&mut min) | is_from_map(&mut max) {
            [min, max].into_iter().flatten().filter(|_| is_range).for_each(|end| *end = NFT_REG_VERDICT);
            return;
        }
        let end = |register: Option<&mut u32>| self.constant_in(register?, width(family));
        match (end(min), end(max)) {
            (Some(mut min), Some(mut max)) if (min.expression, min.first) != (max.expression, max.first) => {
                self.redactor.range(&mut min.value, &mut max.value);
                self.becomes(min);
                self.becomes(max);
            }
            (min, max) => {
                self.becomes_address(min);
                self.becomes_address(max);
            }
        }
    }

    fn extension(&mut self, target: bool, name: &[u8], revision: &mut u32, info: &mut Cow<'_, [u8]>) {
        match self.redactor.extension(self.family, target, name, *revision, info.to_mut()) {
            Ok(true) => {}
            Ok(false) => {
                info.zero();
                *revision = NO_REVISION.into();
            }
            Err(failure) => {
                self.failed.get_or_insert(failure);
            }
        }
    }
}
