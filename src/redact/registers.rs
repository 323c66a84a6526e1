//! The registers of nf_tables: what the bytes hold that a rule has loaded so far.

use std::ops::Range;

use super::netfilter::Places;
use crate::snapshot::Failure;

/// What a byte of a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Nothing that identifies anyone.
    Other,
    /// What tells IPv4 from IPv6.
    Protocol,
    /// A byte of an address, with the mask put on it.
    Address { v6: bool, octet: usize, mask: u8 },
    /// A byte of a hardware address.
    Hardware,
    /// The same with a mask put on it.
    HardwarePart,
    /// What was computed from an address, or a part of a packet that may be one.
    Mixed,
    /// The byte of the message at this place.
    Constant(usize),
}

/// Bytes of all registers.
pub(super) const REGISTERS: usize = 64;

/// How far a rule was followed.
pub(super) struct Rule<'a> {
    pub(super) family: u8,
    pub(super) table: &'a [u8],
    pub(super) registers: [Label; REGISTERS],
    /// Whether packets are IPv6, as far as the rule said so.
    pub(super) v6: Option<bool>,
    /// Where the lower end of a range was just compared, and what stood there.
    pub(super) lower: Option<(u32, Range<usize>, Vec<u8>)>,
}

/// Where a register begins.
fn offset(register: u32) -> Result<usize, Failure> {
    match register {
        1..=4 => Ok((register as usize - 1) * 16),
        8..=23 => Ok((register as usize - 8) * 4),
        _ => Err(Failure::unexpected("no such register")),
    }
}

impl Rule<'_> {
    pub(super) fn at(&self, register: u32) -> Result<&[Label], Failure> {
        Ok(&self.registers[offset(register)?..])
    }

    /// Sets the registers from this one on; what is longer than they are is an error.
    pub(super) fn load(&mut self, register: u32, labels: &[Label]) -> Result<(), Failure> {
        let start = offset(register)?;
        let place = self.registers.get_mut(start..start + labels.len());
        place.ok_or_else(|| Failure::unexpected("a register is too short"))?.copy_from_slice(labels);
        Ok(())
    }

    /// Loads something of unknown length.
    pub(super) fn load_any(&mut self, register: u32, label: Label) -> Result<(), Failure> {
        let start = offset(register)?;
        self.registers[start..].iter_mut().take(16).for_each(|place| *place = label);
        Ok(())
    }

    /// Constants that were used for something else than an address.
    pub(super) fn used(&mut self, register: u32) -> Result<(), Failure> {
        let start = offset(register)?;
        let constants = self.registers[start..].iter_mut().take(16);
        constants.filter(|label| matches!(label, Label::Constant(_))).for_each(|label| *label = Label::Other);
        Ok(())
    }

    /// The constant of this length that a register holds.
    pub(super) fn constant(&self, register: u32, length: usize) -> Result<Option<Range<usize>>, Failure> {
        let Some(labels @ [Label::Constant(first), ..]) = self.at(register)?.get(..length) else { return Ok(None) };
        let whole = labels.iter().enumerate().all(|(at, label)| *label == Label::Constant(first + at));
        Ok(whole.then_some(*first..*first + length))
    }
}

/// What is loaded from a packet.
pub(super) fn payload(base: u32, at: usize, length: usize, v6: Option<bool>) -> Result<Vec<Label>, Failure> {
    if length > REGISTERS {
        return Err(Failure::unexpected("a register is too short"));
    }
    let v6 = v6.unwrap_or(matches!((at, length), (_, 16) | (8, 4..) | (24, _)));
    let (start, width) = if v6 { (8usize, 16) } else { (12, 4) };
    let label = |at: usize| match base {
        0 if at < 12 => Label::Hardware,
        1 if (start..start + 2 * width).contains(&at) => Label::Address { v6, octet: (at - start) % width, mask: 0xff },
        0..=2 => Label::Other,
        _ => Label::Mixed, // within a tunnel
    };
    Ok((at..at.saturating_add(length)).map(label).collect())
}

pub(super) fn address(v6: bool) -> Vec<Label> {
    (0..if v6 { 16 } else { 4 }).map(|octet| Label::Address { v6, octet, mask: 0xff }).collect()
}

/// Whether these are all the bytes of one address, without a mask.
pub(super) fn is_address(labels: &[Label], length: usize) -> bool {
    labels.get(..length).is_some_and(|labels| *labels == address(length == 16)[..])
}

/// What is left of registers that were computed with.
pub(super) fn changed(labels: &[Label]) -> Vec<Label> {
    let change = |label: &Label| match label {
        Label::Other | Label::Protocol => Label::Other,
        Label::Constant(place) => Label::Constant(*place),
        Label::Address { .. } | Label::Hardware | Label::HardwarePart | Label::Mixed => Label::Mixed,
    };
    labels.iter().map(change).collect()
}

pub(super) fn need(number: Option<u32>) -> Result<u32, Failure> {
    number.ok_or_else(|| Failure::unexpected("an expression lacks an attribute"))
}

pub(super) fn bitwise(rule: &mut Rule, body: &[u8], places: &Places) -> Result<(), Failure> {
    let (source, target) = (need(places.be32(body, 1)?)?, need(places.be32(body, 2)?)?);
    let length = need(places.be32(body, 3)?)? as usize;
    let labels = rule.at(source)?;
    let labels = labels.get(..length).ok_or_else(|| Failure::unexpected("a register is too short"))?;
    let masked = places.value(body, 4)?.zip(places.value(body, 5)?);
    let result = match masked {
        Some((mask, xor)) if mask.len() == length && body[xor.clone()].iter().all(|byte| *byte == 0) => {
            let put = |(label, put): (&Label, &u8)| match *label {
                Label::Address { v6, octet, mask } => Label::Address { v6, octet, mask: mask & put },
                Label::Hardware if *put != 0xff => Label::HardwarePart,
                label => label,
            };
            labels.iter().zip(&body[mask]).map(put).collect()
        }
        _ => changed(labels),
    };
    rule.load(target, &result)
}
