//! The registers of the nf_tables machine, byte by byte, while a rule is read: where each byte comes from and what
//! was done to it. A comparison of registers thereby becomes tests of fields, whatever was loaded together.
//!
//! Kernel source: `enum nft_registers`, `struct nft_regs`.

use crate::snapshot::netfilter::{Condition, Field, MarkWrite, Match, Test};

/// `NFT_REG_1` to `NFT_REG_4` are 16 bytes each; `NFT_REG32_00` to `NFT_REG32_15` are the same bytes by 4.
const SIZE: usize = 64;

/// Where a byte of a register comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Nothing was loaded.
    Unset,
    /// The same for every packet: the value is in `xor`.
    Constant,
    /// A byte of a field, by position in [`Registers::loads`] and in memory.
    Field(usize, usize),
}

/// A byte: `origin & and ^ xor`.
#[derive(Clone, Copy, Debug)]
struct Cell {
    origin: Origin,
    and: u8,
    xor: u8,
}

const UNSET: Cell = Cell { origin: Origin::Unset, and: 0, xor: 0 };

/// What a load puts into a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// A field that lies in memory as on the wire.
    Wire(Field, usize),
    /// A number of this many bytes in the byte order of the machine.
    Host(Field, usize),
    /// Differs from packet to packet by chance or circumstance; the text names it.
    Occasional(&'static str),
    /// Not understood.
    Opaque(String),
}

impl Loaded {
    fn width(&self) -> usize {
        match self {
            Self::Wire(_, width) | Self::Host(_, width) => *width,
            Self::Occasional(_) | Self::Opaque(_) => SIZE,
        }
    }

    /// How far to shift a byte of the field, by its position in memory, to its place in the number.
    fn shift(&self, byte: usize) -> usize {
        match self {
            Self::Host(..) if cfg!(target_endian = "little") => 8 * byte,
            _ => 8 * (self.width() - 1 - byte),
        }
    }
}

/// All registers.
#[derive(Debug)]
pub struct Registers {
    cells: [Cell; SIZE],
    loads: Vec<Loaded>,
}

/// Comparison operators, in the order of `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// First byte of a register; `None`: the verdict register, or none at all.
fn offset(register: u32) -> Option<usize> {
    match register {
        1..=4 => Some(16 * (register as usize - 1)),
        8..=23 => Some(4 * (register as usize - 8)),
        _ => None,
    }
}

impl Registers {
    /// As they are when a rule begins.
    pub fn new() -> Self {
        Self { cells: [UNSET; SIZE], loads: Vec::new() }
    }

    fn at(&self, register: u32, length: usize) -> Option<&[Cell]> {
        let start = offset(register)?;
        self.cells.get(start..start.checked_add(length)?)
    }

    /// Everything from here on is forgotten: parts of a key are loaded in order, so what lies behind is stale.
    fn start(&mut self, register: u32) -> &mut [Cell] {
        let start = offset(register).unwrap_or(SIZE);
        self.cells[start..].fill(UNSET);
        &mut self.cells[start..]
    }

    /// Loads a field.
    pub fn load(&mut self, register: u32, loaded: Loaded) {
        let number = self.loads.len();
        let cells = self.start(register);
        for (byte, cell) in cells.iter_mut().enumerate().take(loaded.width()) {
            *cell = Cell { origin: Origin::Field(number, byte), and: 0xff, xor: 0 };
        }
        self.loads.push(loaded);
    }

    /// Loads several fields that lie behind each other; of each, this many bytes from this one on.
    pub fn load_parts(&mut self, register: u32, parts: Vec<(Loaded, usize, usize)>) {
        let first = self.loads.len();
        let mut cells = self.start(register).iter_mut();
        for (number, (_, from, length)) in parts.iter().enumerate() {
            for byte in *from..from + length {
                if let Some(cell) = cells.next() {
                    *cell = Cell { origin: Origin::Field(first + number, byte), and: 0xff, xor: 0 };
                }
            }
        }
        self.loads.extend(parts.into_iter().map(|(loaded, ..)| loaded));
    }

    /// Loads a constant.
    pub fn load_constant(&mut self, register: u32, data: &[u8]) {
        for (cell, byte) in self.start(register).iter_mut().zip(data) {
            *cell = Cell { origin: Origin::Constant, and: 0, xor: *byte };
        }
    }

    /// `dreg = sreg & mask ^ xor`
    pub fn bitwise(&mut self, sreg: u32, dreg: u32, mask: &[u8], xor: &[u8]) {
        let length = mask.len().max(xor.len());
        let Some(cells) = self.at(sreg, length).map(<[Cell]>::to_vec) else { return self.load(dreg, no_register()) };
        let target = offset(dreg).unwrap_or(SIZE);
        for (at, cell) in cells.into_iter().enumerate() {
            let mask = mask.get(at).copied().unwrap_or(0);
            let flipped = xor.get(at).copied().unwrap_or(0);
            let changed = Cell { and: cell.and & mask, xor: cell.xor & mask ^ flipped, ..cell };
            if let Some(place) = self.cells.get_mut(target + at) {
                *place = changed;
            }
        }
    }

    /// `dreg = hton(sreg)` or back, by groups of `size` bytes: the same thing.
    pub fn swap(&mut self, sreg: u32, dreg: u32, length: usize, size: usize) {
        let Some(cells) = self.at(sreg, length).map(<[Cell]>::to_vec) else { return self.load(dreg, no_register()) };
        let target = offset(dreg).unwrap_or(SIZE);
        let swapped = cells.chunks(size.max(1)).flat_map(|group| {
            let little = cfg!(target_endian = "little");
            let order: Vec<&Cell> = if little { group.iter().rev().collect() } else { group.iter().collect() };
            order.into_iter().copied()
        });
        let swapped: Vec<Cell> = swapped.collect();
        for (place, cell) in self.cells.iter_mut().skip(target).zip(swapped) {
            *place = cell;
        }
    }

    /// The constant in a register, if it is one.
    pub fn constant(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        let cells = self.at(register, length)?;
        cells.iter().map(|cell| (cell.origin == Origin::Constant).then_some(cell.xor)).collect()
    }

    /// What a register compared with constant bytes tests.
    pub fn compare(&self, register: u32, operator: Compare, data: &[u8]) -> Match {
        let Some(cells) = self.at(register, data.len()) else {
            return Match::Opaque(format!("register {register} is compared, which does not exist"));
        };
        if let Some(unclear) = self.unclear(cells) {
            return unclear;
        }
        match operator {
            Compare::Equal => self.equal(cells, data, false),
            Compare::NotEqual => self.equal(cells, data, true),
            _ => match self.whole(cells) {
                Some(field) => Match::Tests { tests: vec![ordered(field, operator, data)], inverted: false },
                None => Match::Opaque("an ordered comparison of something other than a whole field".into()),
            },
        }
    }

    /// What a register within a range of constants tests.
    pub fn range(&self, register: u32, from: &[u8], to: &[u8], inverted: bool) -> Match {
        let cells = self.at(register, from.len()).unwrap_or_default();
        if let Some(unclear) = self.unclear(cells) {
            return unclear;
        }
        match self.whole(cells) {
            Some(field) => {
                let condition = Condition::Ranges(vec![(number(from), number(to))]);
                Match::Tests { tests: vec![Test { field, condition }], inverted }
            }
            None => Match::Opaque("a range of something other than a whole field".into()),
        }
    }

    /// Why cells cannot be compared field by field, if they cannot.
    fn unclear(&self, cells: &[Cell]) -> Option<Match> {
        let mut occasional = None;
        for cell in cells {
            match cell.origin {
                Origin::Field(load, _) => match &self.loads[load] {
                    Loaded::Opaque(what) => return Some(Match::Opaque(what.clone())),
                    Loaded::Occasional(what) => occasional = Some(Match::Occasional((*what).to_owned())),
                    Loaded::Wire(..) | Loaded::Host(..) => {}
                },
                Origin::Unset => return Some(Match::Opaque("a register that nothing was loaded into".into())),
                Origin::Constant => return Some(Match::Opaque("a comparison of constants".into())),
            }
        }
        occasional
    }

    fn equal(&self, cells: &[Cell], data: &[u8], inverted: bool) -> Match {
        let mut tests: Vec<(usize, u128, u128)> = Vec::new();
        for (cell, byte) in cells.iter().zip(data) {
            let Origin::Field(load, position) = cell.origin else { continue };
            let shift = self.loads[load].shift(position);
            let (mask, value) = (u128::from(cell.and) << shift, u128::from(byte ^ cell.xor) << shift);
            match tests.iter_mut().find(|(known, ..)| *known == load) {
                Some((_, masks, values)) => (*masks, *values) = (*masks | mask, *values | value),
                None => tests.push((load, mask, value)),
            }
        }
        let tests = tests.into_iter().filter_map(|(load, mask, value)| {
            Some(Test { field: self.field(load)?.clone(), condition: Condition::Masked { mask, value } })
        });
        Match::Tests { tests: tests.collect(), inverted }
    }

    fn field(&self, load: usize) -> Option<&Field> {
        match &self.loads[load] {
            Loaded::Wire(field, _) | Loaded::Host(field, _) => Some(field),
            Loaded::Occasional(_) | Loaded::Opaque(_) => None,
        }
    }

    /// The field that these cells are: all of it, unchanged, the most significant byte first.
    fn whole(&self, cells: &[Cell]) -> Option<Field> {
        let Origin::Field(load, _) = cells.first()?.origin else { return None };
        let width = self.loads[load].width();
        let in_order = |(at, cell): (usize, &Cell)| match cell.origin {
            Origin::Field(same, byte) => {
                let place = 8 * (width - 1 - at.min(width - 1));
                same == load && self.loads[load].shift(byte) == place && (cell.and, cell.xor) == (0xff, 0)
            }
            _ => false,
        };
        (cells.len() == width && cells.iter().enumerate().all(in_order)).then(|| self.field(load).cloned())?
    }

    /// The fields of a key that begins in this register; each is filled up to 4 bytes.
    pub fn key(&self, register: u32) -> Result<Vec<Field>, Match> {
        let mut fields = Vec::new();
        let mut at = offset(register).unwrap_or(SIZE);
        while let Some(&Cell { origin: Origin::Field(load, 0), .. }) = self.cells.get(at) {
            let width = self.loads[load].width();
            let cells = &self.cells[at..(at + width).min(SIZE)];
            if let Some(unclear) = self.unclear(cells) {
                return Err(unclear);
            }
            let unchanged = cells
                .iter()
                .enumerate()
                .all(|(byte, cell)| cell.origin == Origin::Field(load, byte) && (cell.and, cell.xor) == (0xff, 0));
            match self.field(load) {
                Some(field) if unchanged => fields.push(field.clone()),
                _ => return Err(Match::Opaque("a look-up of something other than whole fields".into())),
            }
            at += width.next_multiple_of(4);
        }
        if fields.is_empty() {
            Err(Match::Opaque("a look-up of something that was computed".into()))
        } else {
            Ok(fields)
        }
    }

    /// What a mark becomes that is written from this register: `own` is the mark that is written, `other` the other.
    pub fn mark(&self, register: u32, own: &Field, other: &Field) -> MarkWrite {
        let unknown = |what: &str| MarkWrite::Unknown(what.to_owned());
        let Some(cells) = self.at(register, 4) else { return unknown("from a register that does not exist") };
        let (mut keep, mut take, mut xor) = ([0; 4], [0; 4], [0; 4]);
        for (at, cell) in cells.iter().enumerate() {
            xor[at] = cell.xor;
            match cell.origin {
                Origin::Constant => {}
                Origin::Field(load, byte) if byte == at && self.field(load) == Some(own) => keep[at] = cell.and,
                Origin::Field(load, byte) if byte == at && self.field(load) == Some(other) => take[at] = cell.and,
                Origin::Field(load, _) => match &self.loads[load] {
                    Loaded::Opaque(what) => return unknown(what),
                    Loaded::Occasional(what) => return unknown(what),
                    Loaded::Wire(field, _) | Loaded::Host(field, _) => return unknown(&format!("from {field:?}")),
                },
                Origin::Unset => return unknown("from a register that nothing was loaded into"),
            }
        }
        let [keep, take, xor] = [keep, take, xor].map(u32::from_ne_bytes);
        MarkWrite::Exact { keep, take, xor }
    }
}

fn no_register() -> Loaded {
    Loaded::Opaque("a register that does not exist".into())
}

/// Bytes as a number, the first the most significant.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn ordered(field: Field, operator: Compare, data: &[u8]) -> Test {
    let value = number(data);
    let most = if data.len() >= 16 { u128::MAX } else { (1 << (8 * data.len())) - 1 };
    let range = match operator {
        Compare::Less => value.checked_sub(1).map(|max| (0, max)),
        Compare::LessOrEqual => Some((0, value)),
        Compare::Greater => (value < most).then_some((value.saturating_add(1), most)),
        _ => Some((value, most)),
    };
    Test { field, condition: Condition::Ranges(range.into_iter().collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: u128, value: u128) -> Condition {
        Condition::Masked { mask, value }
    }

    fn tests(fields: &[(Field, Condition)], inverted: bool) -> Match {
        let tests = fields.iter().cloned().map(|(field, condition)| Test { field, condition });
        Match::Tests { tests: tests.collect(), inverted }
    }

    #[test]
    fn a_masked_mark_is_a_number() {
        let mut registers = Registers::new();
        registers.load(1, Loaded::Host(Field::Mark, 4));
        registers.bitwise(1, 1, &0x4000u32.to_ne_bytes(), &[0; 4]);
        let found = registers.compare(1, Compare::NotEqual, &0u32.to_ne_bytes());
        assert_eq!(found, tests(&[(Field::Mark, masked(0x4000, 0))], true));
    }

    #[test]
    fn fields_that_were_loaded_together_come_apart_again() {
        let mut registers = Registers::new();
        let load = |field| (Loaded::Wire(field, 4), 0, 4);
        registers.load_parts(8, vec![load(Field::Ipv4Source), load(Field::Ipv4Destination)]);
        let found = registers.compare(8, Compare::NotEqual, &[10, 1, 2, 3, 10, 4, 5, 6]);
        let (source, destination) = (masked(0xffff_ffff, 0x0a01_0203), masked(0xffff_ffff, 0x0a04_0506));
        let wanted = [(Field::Ipv4Source, source), (Field::Ipv4Destination, destination)];
        assert_eq!(found, tests(&wanted, true), "not both, which is not the same as neither");
    }

    #[test]
    fn a_shorter_comparison_is_a_prefix() {
        let mut registers = Registers::new();
        registers.load(1, Loaded::Wire(Field::OutputName, 16));
        let found = registers.compare(1, Compare::Equal, b"veth");
        let (mask, value) = (u128::MAX << 96, u128::from(u32::from_be_bytes(*b"veth")) << 96);
        assert_eq!(found, tests(&[(Field::OutputName, masked(mask, value))], false));
    }

    #[test]
    fn ports_are_ordered_as_on_the_wire_and_marks_after_a_swap() {
        let mut registers = Registers::new();
        registers.load(1, Loaded::Wire(Field::DestinationPort, 2));
        let found = registers.compare(1, Compare::Greater, &8472u16.to_be_bytes());
        assert_eq!(found, tests(&[(Field::DestinationPort, Condition::Ranges(vec![(8473, 65535)]))], false));
        assert!(matches!(registers.compare(1, Compare::Less, &[1]), Match::Opaque(_)), "half a port");
        registers.load(1, Loaded::Host(Field::Mark, 4));
        if cfg!(target_endian = "little") {
            assert!(matches!(registers.compare(1, Compare::Less, &[0, 0, 1, 0]), Match::Opaque(_)));
        }
        registers.swap(1, 1, 4, 4);
        let found = registers.range(1, &[0, 0, 1, 0], &[0, 0, 2, 0], true);
        assert_eq!(found, tests(&[(Field::Mark, Condition::Ranges(vec![(256, 512)]))], true));
    }

    #[test]
    fn mark_arithmetic_is_exact() {
        let (own, other) = (Field::Mark, Field::ConnectionMark);
        let mut registers = Registers::new();
        registers.load(1, Loaded::Host(Field::Mark, 4));
        registers.bitwise(1, 1, &(!0x4000u32).to_ne_bytes(), &0x4000u32.to_ne_bytes());
        let exact = |keep, take, xor| MarkWrite::Exact { keep, take, xor };
        assert_eq!(registers.mark(1, &own, &other), exact(!0x4000, 0, 0x4000));
        assert_eq!(registers.mark(1, &other, &own), exact(0, !0x4000, 0x4000));
        registers.load_constant(1, &0x12u32.to_ne_bytes());
        assert_eq!(registers.mark(1, &own, &other), exact(0, 0, 0x12));
        registers.load(1, Loaded::Opaque("a map".into()));
        assert_eq!(registers.mark(1, &own, &other), MarkWrite::Unknown("a map".into()));
        registers.load(1, Loaded::Wire(Field::Ipv4Source, 4));
        assert!(matches!(registers.mark(1, &own, &other), MarkWrite::Unknown(_)));
    }

    #[test]
    fn keys_are_the_fields_from_a_register_on_and_nothing_stale() {
        let mut registers = Registers::new();
        registers.load(1, Loaded::Wire(Field::Ipv4Source, 4));
        registers.load(9, Loaded::Wire(Field::DestinationPort, 2));
        assert_eq!(registers.key(1), Ok(vec![Field::Ipv4Source, Field::DestinationPort]));
        registers.load(1, Loaded::Wire(Field::Ipv4Destination, 4));
        assert_eq!(registers.key(1), Ok(vec![Field::Ipv4Destination]));
        registers.bitwise(1, 1, &[255, 255, 0, 0], &[0; 4]);
        assert!(matches!(registers.key(1), Err(Match::Opaque(_))));
    }
}
