//! Meaning of register contents: turns comparisons of registers into tests of fields, however these were loaded.
//!
//! `expressions` runs each expression of a rule through [`Registers`]. `netfilter::nftables::register` follows bytes
//! through registers, `loads` says which field a load takes, and this module combines both.

use std::ops::Range;

use super::loads::Loaded;
use crate::facts::netfilter::{Chosen, Comparison, Field, FieldTest, MapLookup, MarkBits, MarkWrite, Match};
use crate::netfilter::netlink::Emit as _;
use crate::netfilter::nftables::Expression;
use crate::netfilter::nftables::register::{Cell, Machine, NetworkHeader, Source, offset};
use crate::netfilter::nftables::uapi::{
    NFT_CMP_EQ, NFT_CMP_GT, NFT_CMP_LT, NFT_CMP_LTE, NFT_CMP_NEQ, REGISTERS_LENGTH,
};

/// The registers of a first and of a last value.
pub(super) type EndRegisters = [Option<u32>; 2];

/// What is read from both of them.
pub(super) fn chosen<T: Copy>([min, max]: EndRegisters, read: impl Fn(u32) -> Option<T>) -> Chosen<T> {
    let Some(min) = min else { return Chosen::Unset };
    match (read(min), read(max.unwrap_or(min))) {
        (Some(min), Some(max)) => Chosen::Range(min, max),
        _ => Chosen::ByPacket,
    }
}

/// All registers.
#[derive(Debug)]
pub(crate) struct Registers {
    machine: Machine,
    /// Meaning of each of [`Machine::loads`].
    meanings: Vec<Loaded>,
}

impl Registers {
    /// At the start of a rule in this family (`NFPROTO_*`).
    pub(crate) fn new(family: u8) -> Self {
        Self { machine: Machine::new(family), meanings: Vec::new() }
    }

    /// The network header of packets here, as far as the rule has tested it.
    pub(crate) fn network(&self) -> Option<NetworkHeader> {
        self.machine.network
    }

    /// The transport protocol of packets here, as far as the rule has tested it.
    pub(crate) fn transport(&self) -> Option<u8> {
        self.machine.transport
    }

    /// Applies the expression at index `at`.
    pub(crate) fn run(&mut self, at: usize, expression: &Expression<'_>) {
        match expression.has_unknown() {
            true => self.machine.run_unknown(at),
            false => self.machine.run(at, &expression.expr),
        }
        self.meanings.extend(self.machine.loads[self.meanings.len()..].iter().map(Loaded::of));
    }

    /// The constant in a register; `None` if it holds anything else.
    pub(crate) fn constant(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        self.machine.constant(register, length)
    }

    /// The header bytes that a write changes: offset, and the new value if constant. Bytes that are written back
    /// unchanged do not count.
    pub(crate) fn written(&self, register: u32, base: u32, from: usize, length: usize) -> Vec<(usize, Option<u8>)> {
        let Some(cells) = self.machine.at(register, length) else {
            return (from..from.saturating_add(length.min(REGISTERS_LENGTH))).map(|at| (at, None)).collect();
        };
        let changed = (from..).zip(cells).filter(|(at, cell)| !self.machine.is_of_header(cell, base, *at));
        changed.map(|(at, cell)| (at, (cell.and == 0 && cell.computed == 0).then_some(cell.xor))).collect()
    }

    fn meaning(&self, cell: &Cell) -> Option<&Loaded> {
        self.meanings.get(cell.load?)
    }

    /// What a comparison of a register with constant bytes (`NFT_CMP_*`) tests.
    pub(crate) fn compare(&self, register: u32, operator: u32, data: &[u8]) -> Match {
        let Some(cells) = self.machine.at(register, data.len()) else {
            return Match::Unsupported(format!("register {register} is compared, which does not exist"));
        };
        if let Some(unclear) = self.unclear(cells) {
            return unclear;
        }
        match operator {
            NFT_CMP_EQ => self.equal(cells, data, false),
            NFT_CMP_NEQ => self.equal(cells, data, true),
            _ => match self.whole(cells) {
                Some(field) => Match::Tests { tests: vec![ordered(field, operator, data)], inverted: false },
                None => Match::Unsupported("an ordered comparison of something other than a whole field".into()),
            },
        }
    }

    /// What a range comparison of a register with constants tests.
    pub(crate) fn range(&self, register: u32, from: &[u8], to: &[u8], inverted: bool) -> Match {
        let cells = self.machine.at(register, from.len()).unwrap_or_default();
        if let Some(unclear) = self.unclear(cells) {
            return unclear;
        }
        match self.whole(cells) {
            Some(field) => {
                let test = FieldTest::within(field, vec![(number(from), number(to))]);
                Match::Tests { tests: vec![test], inverted }
            }
            None => Match::Unsupported("a range of something other than a whole field".into()),
        }
    }

    /// The match to use if these cells cannot be compared field by field; `None` if they can.
    fn unclear(&self, cells: &[Cell]) -> Option<Match> {
        let mut non_deterministic = None;
        for cell in cells {
            match self.meaning(cell) {
                Some(Loaded::Unsupported(what)) => return Some(Match::Unsupported(what.clone())),
                Some(Loaded::Constant) => return Some(Match::Unsupported("a comparison of constants".into())),
                None => return Some(Match::Unsupported("a register that nothing was loaded into".into())),
                Some(_) if cell.computed != 0 => {
                    return Some(Match::Unsupported(format!("bitwise operation {}", cell.computed)));
                }
                Some(Loaded::NonDeterministic(what)) => {
                    non_deterministic = Some(Match::NonDeterministic((*what).to_owned()))
                }
                Some(Loaded::Wire(..) | Loaded::Host(..)) => {}
            }
        }
        non_deterministic
    }

    fn equal(&self, cells: &[Cell], data: &[u8], inverted: bool) -> Match {
        let mut tests: Vec<(usize, u128, u128)> = Vec::new();
        for (cell, byte) in cells.iter().zip(data) {
            let (Some(load), Some(meaning)) = (cell.load, self.meaning(cell)) else { continue };
            let shift = meaning.shift(cell.byte);
            let (mask, value) = (u128::from(cell.and) << shift, u128::from(byte ^ cell.xor) << shift);
            match tests.iter_mut().find(|(known, ..)| *known == load) {
                Some((_, masks, values)) => (*masks, *values) = (*masks | mask, *values | value),
                None => tests.push((load, mask, value)),
            }
        }
        let tests = tests.into_iter().filter_map(|(load, mask, value)| {
            let (field, _) = self.meanings[load].field()?;
            Some(FieldTest { field: field.clone(), condition: Comparison::Masked { mask, value } })
        });
        Match::Tests { tests: tests.collect(), inverted }
    }

    /// The field in these cells, if they hold all of it unchanged, most significant byte first; or bits of a mark.
    fn whole(&self, cells: &[Cell]) -> Option<Field> {
        let first = cells.first()?;
        let meaning = self.meaning(first)?;
        let (field, width) = meaning.field()?;
        let in_order = |(at, cell): (usize, &Cell)| {
            let place = 8 * (width - 1 - at.min(width - 1));
            cell.load == first.load && meaning.shift(cell.byte) == place && cell.xor == 0
        };
        if cells.len() != width || !cells.iter().enumerate().all(in_order) {
            return None;
        }
        match cells.iter().all(|cell| cell.and == 0xff) {
            true => Some(field.clone()),
            false => bits_of_mark(field, cells, true),
        }
    }

    /// The fields of a lookup key that begins in this register, each padded to 4 bytes. Parts of a key are loaded in
    /// order, so what was loaded before the first of them is not part of it.
    pub(crate) fn key(&self, register: u32) -> Result<Vec<Field>, Match> {
        let mut fields = Vec::new();
        let mut at = offset(register).unwrap_or(REGISTERS_LENGTH);
        let start = at;
        let cells = self.machine.from(register);
        let mut first = None;
        while let Some(&Cell { load: Some(load), byte, .. }) = cells.get(at - start) {
            // A byte-swapped mark begins with its last byte.
            if byte != 0 && byte != 3 {
                break;
            }
            if first.get_or_insert(load) > &mut load.clone() || self.meanings[load] == Loaded::Constant {
                break;
            }
            let width = self.meanings[load].field().map_or(REGISTERS_LENGTH, |(_, width)| width);
            let part = &cells[at - start..(at - start + width).min(cells.len())];
            if let Some(unclear) = self.unclear(part) {
                return Err(unclear);
            }
            let as_loaded = |(byte, cell): (usize, &Cell)| (cell.load, cell.byte, cell.xor) == (Some(load), byte, 0);
            let is_as_loaded = part.iter().enumerate().all(as_loaded);
            let bits = |field: &Field| match is_as_loaded {
                true if part.iter().all(|cell| cell.and == 0xff) => Some(field.clone()),
                true => bits_of_mark(field, part, false),
                // Keys of intervals are byte-swapped before the lookup.
                false => self.whole(part).and_then(|_| bits_of_mark(field, part, true)),
            };
            match self.meanings[load].field().and_then(|(field, _)| bits(field)) {
                Some(field) => fields.push(field),
                None => return Err(Match::Unsupported("a look-up of something other than whole fields".into())),
            }
            at += width.next_multiple_of(4);
        }
        if fields.is_empty() {
            Err(Match::Unsupported("a look-up of something that was computed".into()))
        } else {
            Ok(fields)
        }
    }

    /// Index of the expression whose result is in this 4-byte register, unchanged.
    pub(crate) fn result_of(&self, register: u32) -> Option<usize> {
        self.result(register, |byte| byte)
    }

    /// The same; and whether its bytes were brought into the order of the network.
    pub(crate) fn number_in(&self, register: u32) -> Option<(usize, bool)> {
        let as_it_was = || Some((self.result_of(register)?, false));
        self.result(register, |byte| 3 - byte).map(|at| (at, true)).or_else(as_it_was)
    }

    fn result(&self, register: u32, place: impl Fn(usize) -> usize) -> Option<usize> {
        let cells = self.machine.at(register, 4)?;
        let load = cells.first()?.load?;
        let whole = |(byte, cell): (usize, &Cell)| {
            (cell.load, cell.byte, cell.and, cell.xor, cell.computed) == (Some(load), place(byte), 0xff, 0, 0)
        };
        cells.iter().enumerate().all(whole).then(|| self.machine.loads[load].expression)
    }

    /// Index of the map lookup expression that put this byte here.
    fn look_up_of(&self, cell: &Cell) -> Option<usize> {
        self.machine.load_of(cell).filter(|load| load.source == Source::Map).map(|load| load.expression)
    }

    /// If a register holds this many bytes of map data, unchanged: index of the lookup expression, and their position
    /// in the data.
    pub(crate) fn of_map(&self, register: u32, length: usize) -> Option<(usize, Range<usize>)> {
        let cells = self.machine.at(register, length)?;
        let first = cells.first()?.byte;
        let expression = self.look_up_of(cells.first()?)?;
        let unchanged = |(at, cell): (usize, &Cell)| {
            self.look_up_of(cell) == Some(expression)
                && (cell.byte, cell.and, cell.xor, cell.computed) == (first + at, 0xff, 0, 0)
        };
        cells.iter().enumerate().all(unchanged).then_some((expression, first..first + length))
    }

    /// The mark write from this register: `own` is the mark written, `other` the other one; `looked_up` returns the
    /// lookup made by an expression.
    pub(crate) fn mark(
        &self,
        register: u32,
        own: &Field,
        other: &Field,
        looked_up: impl Fn(usize) -> Option<MapLookup>,
    ) -> MarkWrite {
        let unknown = |what: &str| MarkWrite::Unknown(what.to_owned());
        let Some(cells) = self.machine.at(register, 4) else { return unknown("from a register that does not exist") };
        let (mut keep, mut take, mut mapped, mut xor) = ([0; 4], [0; 4], [0; 4], [0; 4]);
        let mut map = None;
        for (at, cell) in cells.iter().enumerate() {
            xor[at] = cell.xor;
            if let Some(expression) = self.look_up_of(cell).filter(|_| (cell.byte, cell.computed) == (at, 0)) {
                if *map.get_or_insert(expression) != expression {
                    return unknown("two maps");
                }
                mapped[at] = cell.and;
                continue;
            }
            match self.meaning(cell) {
                Some(_) if cell.computed != 0 => return unknown(&format!("bitwise operation {}", cell.computed)),
                Some(Loaded::Constant) => {}
                Some(Loaded::Unsupported(what)) => return unknown(what),
                Some(Loaded::NonDeterministic(what)) => return unknown(what),
                Some(Loaded::Wire(field, _) | Loaded::Host(field, _)) => match field {
                    _ if cell.byte == at && field == own => keep[at] = cell.and,
                    _ if cell.byte == at && field == other => take[at] = cell.and,
                    _ => return unknown(&format!("from {field}")),
                },
                None => return unknown("from a register that nothing was loaded into"),
            }
        }
        let [keep, take, mapped, xor] = [keep, take, mapped, xor].map(u32::from_ne_bytes);
        match map.map(looked_up) {
            None => MarkWrite::Exact { keep, take, xor },
            Some(Some(lookup)) => MarkWrite::Mapped { lookup, mapped, keep, take, xor },
            Some(None) => unknown("a map"),
        }
    }
}

/// Bits of a mark in these cells; `network_order`: most significant byte first.
fn bits_of_mark(field: &Field, cells: &[Cell], network_order: bool) -> Option<Field> {
    let connection = match field {
        Field::Mark => false,
        Field::ConnectionMark => true,
        _ => return None,
    };
    let bytes: [u8; 4] = cells.iter().map(|cell| cell.and).collect::<Vec<u8>>().try_into().ok()?;
    let mask = if network_order { u32::from_be_bytes(bytes) } else { u32::from_ne_bytes(bytes) };
    Some(Field::MarkBits(MarkBits { connection, mask, network_order }))
}

/// Bytes as a big-endian number.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn ordered(field: Field, operator: u32, data: &[u8]) -> FieldTest {
    let value = number(data);
    let most = if data.len() >= 16 { u128::MAX } else { (1 << (8 * data.len())) - 1 };
    let range = match operator {
        NFT_CMP_LT => value.checked_sub(1).map(|max| (0, max)),
        NFT_CMP_LTE => Some((0, value)),
        NFT_CMP_GT => (value < most).then_some((value.saturating_add(1), most)),
        _ => Some((value, most)),
    };
    FieldTest::within(field, range.into_iter().collect())
}

#[cfg(test)]
mod tests;
