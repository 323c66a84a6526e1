//! Matches that ask connection tracking.

use crate::decode::xtables::{Blob, Extension, all, masked, opaque_match, other, test, within};
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Field, Step, Test};

/// `NF_CT_STATE_INVALID_BIT`, `NF_CT_STATE_UNTRACKED_BIT`: states of packets without a connection.
const NO_CONNECTION: u8 = 0x41;

/// A packet without a connection fails the tests of a connection, inverted or not (before Linux 4.12, an untracked one
/// had an empty connection).
pub fn has_connection() -> Test {
    masked(Field::ConnectionState, NO_CONNECTION, 0u8)
}

/// `struct xt_connmark_mtinfo1`
pub fn connmark(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    let mark = masked(Field::ConnectionMark, blob.u32(4)?, blob.u32(0)?);
    Ok(vec![test(has_connection(), false), test(mark, blob.u8(8)? != 0)])
}

/// `struct xt_state_info`, whose bits are those of nf_tables
pub fn state(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 4)?;
    let bits = blob.u32(0)? & 0x4f;
    Ok(vec![test(masked(Field::ConnectionState, bits, 0u8), true)])
}

/// What `struct xt_conntrack_mtinfo1`, `2` and `3` have in common.
struct Info<'a> {
    blob: Blob<'a>,
    /// `match_flags`
    wanted: u16,
    /// `invert_flags`
    invert: u16,
    state_mask: u16,
    status_mask: u16,
}

/// Adds a test for a flag of `match_flags`.
struct Checks<'a> {
    info: &'a Info<'a>,
    found: Vec<(Test, bool)>,
}

impl Checks<'_> {
    fn add(&mut self, flag: u16, make: impl FnOnce(&Blob) -> Result<Test, Failure>) -> Result<(), Failure> {
        if self.info.wanted & flag != 0 {
            self.found.push((make(&self.info.blob)?, self.info.invert & flag != 0));
        }
        Ok(())
    }
}

/// `struct xt_conntrack_mtinfo1`, `2`, `3`
pub fn conntrack(extension: &Extension) -> Result<Vec<Step>, Failure> {
    const STATE: u16 = 1 << 0;
    let size = match extension.revision {
        1 => 152,
        2 => 156,
        _ => 164,
    };
    let blob = Blob::new(extension, size)?;
    let (wanted, invert) = (blob.u16(146)?, blob.u16(148)?);
    let (state_mask, status_mask) = match extension.revision {
        1 => (blob.u8(150)?.into(), blob.u8(151)?.into()),
        _ => (blob.u16(150)?, blob.u16(152)?),
    };
    let info = Info { blob, wanted, invert, state_mask, status_mask };
    let checks = checks(&info)?;
    if wanted & STATE == 0 {
        let mut steps = vec![test(has_connection(), false)];
        steps.extend(checks.into_iter().map(|(check, inverted)| test(check, inverted)));
        return Ok(steps);
    }
    let inverted = invert & STATE != 0;
    let (tests, states) = states(info.state_mask);
    let mut steps = vec![all(tests, !inverted)];
    // Once the state is tested, a packet without a connection passes all the rest.
    let without = if inverted { !states } else { states } & NO_CONNECTION;
    for (check, inverted) in checks {
        if without == 0 {
            steps.push(test(check, inverted));
        } else if inverted {
            steps.push(all(vec![has_connection(), check], true));
        } else {
            steps.extend(opaque_match(extension));
        }
    }
    Ok(steps)
}

/// No state of a mask: tests that all hold then, and the states (`NF_CT_STATE_BIT`) of the mask.
fn states(mask: u16) -> (Vec<Test>, u8) {
    const SNAT: u16 = 1 << 6;
    const DNAT: u16 = 1 << 7;
    const UNTRACKED: u16 = 1 << 8;
    let mut states = 0u8;
    for (theirs, ours) in [(1 << 0, 1), (1 << 1, 2), (1 << 2, 4), (1 << 3, 8), (UNTRACKED, 64)] {
        states |= if mask & theirs != 0 { ours } else { 0 };
    }
    let mut status = 0u8;
    for (theirs, ours) in [(SNAT, 0x10), (DNAT, 0x20)] {
        status |= if mask & theirs != 0 { ours } else { 0 };
    }
    let mut tests = Vec::new();
    if states != 0 || status == 0 {
        tests.push(masked(Field::ConnectionState, states, 0u8));
    }
    if status != 0 {
        tests.push(masked(Field::ConnectionStatus, status, 0u8));
    }
    (tests, states)
}

/// Everything but the state: tests, and whether each is inverted.
fn checks(info: &Info) -> Result<Vec<(Test, bool)>, Failure> {
    let mut checks = Checks { info, found: Vec::new() };
    checks.add(1 << 12, |_| Ok(masked(Field::ConnectionDirection, u8::MAX, 0u8)))?;
    for (flag, name, at) in [
        (1 << 2, "ct original saddr", 0),
        (1 << 3, "ct original daddr", 32),
        (1 << 4, "ct reply saddr", 64),
        (1 << 5, "ct reply daddr", 96),
    ] {
        checks.add(flag, |blob| {
            let mask = blob.inet_number(at + 16)?;
            Ok(masked(other(name), mask, blob.inet_number(at)? & mask))
        })?;
    }
    checks.add(1 << 1, |blob| Ok(masked(other("ct protocol"), u16::MAX, blob.u16(136)?)))?;
    for (flag, name, at) in [
        (1 << 8, "ct original proto-src", 138),
        (1 << 9, "ct original proto-dst", 140),
        (1 << 10, "ct reply proto-src", 142),
        (1 << 11, "ct reply proto-dst", 144),
    ] {
        let ranges = info.blob.extension.revision == 3;
        checks.add(flag, |blob| {
            let first = if ranges { blob.u16(at)? } else { blob.be16(at)? };
            let last = if ranges { blob.u16(at + 16)? } else { first };
            Ok(within(other(name), first, last))
        })?;
    }
    if info.wanted & 1 << 6 != 0 {
        checks.found.push((masked(Field::ConnectionStatus, info.status_mask, 0u8), info.invert & 1 << 6 == 0));
    }
    checks.add(1 << 7, |blob| Ok(within(other("ct expiration"), blob.u32(128)?, blob.u32(132)?)))?;
    Ok(checks.found)
}
