//! Matches of x_tables on connection tracking.

use super::{Extension, all, masked, other, test, unsupported_match, within};
use crate::facts::netfilter::{Field, FieldTest, Step};
use crate::netfilter::xtables::XtFamily;
use crate::netfilter::xtables::matches::{connmark, conntrack::XtConntrackMtinfo3};

/// `NF_CT_STATE_INVALID_BIT`, `NF_CT_STATE_UNTRACKED_BIT`: states of packets without a connection.
const NO_CONNECTION: u8 = 0x41;

/// A packet without a connection never matches tests of a connection, inverted or not (before Linux 4.12 an untracked
/// one had an empty connection).
pub(crate) fn has_connection() -> FieldTest {
    masked(Field::ConnectionState, NO_CONNECTION, 0u8)
}

/// `connmark_mt`: the connection's mark under a mask.
pub(crate) fn connmark(info: &connmark::XtConnmarkMtinfo1<'_>) -> Vec<Step> {
    let mark = masked(Field::ConnectionMark, info.mask, info.mark);
    vec![test(has_connection(), false), test(mark, info.invert != 0)]
}

/// `XT_STATE_*`, equal to nf_tables' bits
pub(crate) fn state(statemask: u32) -> Vec<Step> {
    vec![test(masked(Field::ConnectionState, statemask & 0x4f, 0u8), true)]
}

/// `conntrack_mt`: state, status, tuples, expiration.
pub(crate) fn conntrack(extension: &Extension, info: &XtConntrackMtinfo3<'_>) -> Vec<Step> {
    const STATE: u16 = 1 << 0;
    let checks = checks(info, XtFamily::of(extension.family.nfproto()));
    if info.match_flags & STATE == 0 {
        let mut steps = vec![test(has_connection(), false)];
        steps.extend(checks.into_iter().map(|(check, inverted)| test(check, inverted)));
        return steps;
    }
    let inverted = info.invert_flags & STATE != 0;
    let (tests, states) = states(info.state_mask);
    let mut steps = vec![all(tests, !inverted)];
    // If the state is tested, a packet without a connection passes all other tests.
    let without = if inverted { !states } else { states } & NO_CONNECTION;
    for (check, inverted) in checks {
        if without == 0 {
            steps.push(test(check, inverted));
        } else if inverted {
            steps.push(all(vec![has_connection(), check], true));
        } else {
            steps.extend(unsupported_match(extension));
        }
    }
    steps
}

/// State test of a mask, as tests that all hold for *none* of its states, and those states (`NF_CT_STATE_BIT`). A
/// packet without a connection has a state but no status bits, which then count as 0.
fn states(mask: u16) -> (Vec<FieldTest>, u8) {
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
    let mut tests = vec![masked(Field::ConnectionState, states, 0u8)];
    if status != 0 {
        tests.push(masked(Field::ConnectionStatus, status, 0u8));
    }
    (tests, states)
}

/// All checks but that of the state (`XT_CONNTRACK_*`), each with whether it is inverted.
fn checks(info: &XtConntrackMtinfo3<'_>, family: XtFamily) -> Vec<(FieldTest, bool)> {
    const STATUS: u16 = 1 << 6;
    let mut checks = vec![(1 << 12, masked(Field::ConnectionDirection, u8::MAX, 0u8))];
    for (flag, name, address, mask) in [
        (1 << 2, "ct original saddr", info.origsrc_addr, info.origsrc_mask),
        (1 << 3, "ct original daddr", info.origdst_addr, info.origdst_mask),
        (1 << 4, "ct reply saddr", info.replsrc_addr, info.replsrc_mask),
        (1 << 5, "ct reply daddr", info.repldst_addr, info.repldst_mask),
    ] {
        let mask = mask.number(family);
        checks.push((flag, masked(other(name), mask, address.number(family) & mask)));
    }
    checks.push((1 << 1, masked(other("ct protocol"), u16::MAX, info.l4proto)));
    for (flag, name, first, last) in [
        (1 << 8, "ct original proto-src", info.origsrc_port, info.origsrc_port_high),
        (1 << 9, "ct original proto-dst", info.origdst_port, info.origdst_port_high),
        (1 << 10, "ct reply proto-src", info.replsrc_port, info.replsrc_port_high),
        (1 << 11, "ct reply proto-dst", info.repldst_port, info.repldst_port_high),
    ] {
        checks.push((flag, within(other(name), first, last)));
    }
    checks.push((STATUS, masked(Field::ConnectionStatus, info.status_mask, 0u8)));
    checks.push((1 << 7, within(other("ct expiration"), info.expires_min, info.expires_max)));
    let wanted = checks.into_iter().filter(|(flag, _)| info.match_flags & flag != 0);
    // The status test above is for none of the bits.
    wanted.map(|(flag, check)| (check, (info.invert_flags & flag != 0) != (flag == STATUS))).collect()
}
