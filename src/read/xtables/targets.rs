//! Targets of x_tables: what each does.

use super::conntrack::has_connection;
use super::{Extension, test};
use crate::facts::Failure;
use crate::facts::netfilter::{
    Chosen, ElementKey, End, Family, MarkWrite, Nat, NatAction, PortRandomization, SetId, Step, Verdict,
};
use crate::netfilter::xtables::targets::{connmark::XtConnmarkTginfo2, nat::NfNatRange2};
use crate::netfilter::xtables::{Target as Xt, XtFamily};

/// `enum ipt_reject_with`, `enum ip6t_reject_with`
const IPT_TCP_RESET: u32 = 7;
const IP6T_TCP_RESET: u32 = 6;

/// The steps for a target.
///
/// # Errors
/// The data are too short for the structure, or have values that the kernel rejects.
#[expect(clippy::too_many_lines, reason = "a list: an arm for each target")]
pub(crate) fn decode_target(extension: &Extension) -> Result<Vec<Step>, Failure> {
    use NatAction::{Dnat, Masquerade, Netmap, Redirect, Snat};
    let Some(family) = extension.nfproto() else { return Ok(unsupported(extension)) };
    let nat = |action, range| vec![nat(action, range, XtFamily::of(extension.family.nfproto()))];
    Ok(match Xt::parse(extension.name.as_bytes(), extension.revision.into(), family, extension.data)? {
        Xt::SnatV0(range) => nat(Snat, range.into()),
        Xt::SnatV1(range) => nat(Snat, range.into()),
        Xt::Snat(range) => nat(Snat, range),
        Xt::DnatV0(range) => nat(Dnat, range.into()),
        Xt::DnatV1(range) => nat(Dnat, range.into()),
        Xt::Dnat(range) => nat(Dnat, range),
        Xt::Masquerade4(range) => nat(Masquerade, range.into()),
        Xt::Masquerade6(range) => nat(Masquerade, range.into()),
        Xt::Redirect4(range) => nat(Redirect, range.into()),
        Xt::Redirect6(range) => nat(Redirect, range.into()),
        Xt::Netmap4(range) => nat(Netmap, range.into()),
        Xt::Netmap6(range) => nat(Netmap, range.into()),
        Xt::Mark(info) => vec![Step::SetMark(MarkWrite::Exact { keep: !info.mask, take: 0, xor: info.mark })],
        Xt::ConnmarkV1(info) => connmark(extension, &info.into()),
        Xt::Connmark(info) => connmark(extension, &info),
        Xt::Hmark(_) => vec![Step::SetMark(MarkWrite::Unknown("hash of the flow".into()))],
        Xt::TproxyV0(info) => tproxy(info.mark_mask, info.mark_value),
        Xt::Tproxy(info) => tproxy(info.mark_mask, info.mark_value),
        // Its dimensions are in another form, which iptables has not written since 2011.
        Xt::SetV0(info) => set((info.add_index, 0, 0), info.del_index),
        Xt::SetV1(info) => set((info.add_index, info.add_dim, info.add_flags), info.del_index),
        Xt::SetV2(info) => set((info.add_index, info.add_dim, info.add_flags), info.del_index),
        Xt::Set(info) => {
            const MAP_MARK: u32 = 1 << 8;
            let mut steps = set((info.add_index, info.add_dim, info.add_flags), info.del_index);
            if info.map_index != INVALID_ID && info.flags & MAP_MARK != 0 {
                steps.push(Step::SetMark(MarkWrite::Unknown("mark of an ipset's element".into())));
            }
            steps
        }
        Xt::CtV0(info) => ct(info.flags, false),
        Xt::Ct(info) => ct(info.flags, info.timeout[0] != 0),
        Xt::Notrack(_) => vec![Step::Notrack],
        Xt::Checksum(_) => vec![Step::FillChecksum], // its only operation
        Xt::Reject(info) => {
            let reset = if extension.family == Family::Ipv6 { IP6T_TCP_RESET } else { IPT_TCP_RESET };
            vec![Step::Verdict(if info.with == reset { Verdict::Reset } else { Verdict::Drop })]
        }
        // No effect on marks, NAT or the path through the rules.
        Xt::Audit(_)
        | Xt::Classify(_)
        | Xt::Connsecmark(_)
        | Xt::Dscp(_)
        | Xt::Ecn(_)
        | Xt::Hl(_)
        | Xt::IdletimerV0(_)
        | Xt::Idletimer(_)
        | Xt::Led(_)
        | Xt::Log(_)
        | Xt::Nflog(_)
        | Xt::Rateest(_)
        | Xt::SecmarkV0(_)
        | Xt::Secmark(_)
        | Xt::Tcpmss(_)
        | Xt::Tcpoptstrip(_)
        | Xt::Tee(_)
        | Xt::Tos(_)
        | Xt::Trace(_)
        | Xt::Ttl(_)
        | Xt::Ulog(_) => vec![Step::NoEffect(extension.name.to_owned())],
        // They take the packet away.
        Xt::NfqueueV0(_) | Xt::NfqueueV1(_) | Xt::Nfqueue(_) | Xt::Synproxy(_) => {
            vec![Step::Verdict(Verdict::Stolen(extension.name.to_owned()))]
        }
        Xt::Standard(_) | Xt::Error(_) | Xt::Unsupported { .. } => unsupported(extension),
    })
}

fn unsupported(extension: &Extension) -> Vec<Step> {
    vec![Step::Unsupported {
        what: format!("target {} revision {}", extension.name, extension.revision),
        may_translate: true,
    }]
}

fn nat(action: NatAction, range: NfNatRange2<'_>, family: XtFamily) -> Step {
    const MAP_IPS: u32 = 0x1;
    const PROTO_SPECIFIED: u32 = 0x2;
    const PERSISTENT: u32 = 0x8;
    let NfNatRange2 { flags, min_addr, max_addr, min_proto, max_proto, .. } = range;
    let has_addresses = match action {
        NatAction::Masquerade | NatAction::Redirect => false,
        NatAction::Netmap => true,
        NatAction::Snat | NatAction::Dnat => flags & MAP_IPS != 0,
    };
    let addresses = if has_addresses { Chosen::Range(min_addr.ip(family), max_addr.ip(family)) } else { Chosen::Unset };
    let ports = if flags & PROTO_SPECIFIED != 0 { Chosen::Range(min_proto.0, max_proto.0) } else { Chosen::Unset };
    let randomization = PortRandomization::from_flags(flags);
    Step::Nat(Nat { action, addresses, ports, randomization, persistent: flags & PERSISTENT != 0, map: None })
}

fn connmark(extension: &Extension, info: &XtConnmarkTginfo2<'_>) -> Vec<Step> {
    let XtConnmarkTginfo2 { ctmark, ctmask, nfmask, shift_bits, mode, .. } = *info;
    let shifted = |write| match shift_bits {
        0 => write,
        _ => MarkWrite::Unknown(format!("shifted by {shift_bits} bits")),
    };
    match mode {
        0 => vec![Step::SetConnectionMark(shifted(MarkWrite::Exact { keep: !ctmask, take: 0, xor: ctmark }))],
        1 => vec![Step::SetConnectionMark(shifted(MarkWrite::Exact { keep: !ctmask, take: nfmask, xor: 0 }))],
        // connmark_tg_shift: without a connection the packet keeps its mark
        2 => vec![
            test(has_connection(), false),
            Step::SetMark(shifted(MarkWrite::Exact { keep: !nfmask, take: ctmask, xor: 0 })),
        ],
        _ => vec![Step::Unsupported {
            what: format!("target CONNMARK revision {} mode {mode}", extension.revision),
            may_translate: true,
        }],
    }
}

/// Sets the mark and accepts; drops if there is no socket.
fn tproxy(mask: u32, value: u32) -> Vec<Step> {
    let write = MarkWrite::Exact { keep: !mask, take: 0, xor: value };
    vec![Step::SetMark(write), Step::ToSocket, Step::Verdict(Verdict::Accept)]
}

/// `IPSET_INVALID_ID`
const INVALID_ID: u16 = u16::MAX;

/// Adds to a set, by its dimensions and which of them are of the source; deletes from another.
fn set((add, dimensions, flags): (u16, u8, u8), del: u16) -> Vec<Step> {
    let end = |dimension: u8| if flags >> dimension & 1 == 1 { End::Source } else { End::Destination };
    let ends: Vec<End> = (1..=dimensions.min(7)).map(end).collect();
    let updates =
        [(true, add, ends), (false, del, Vec::new())].into_iter().filter(|(_, index, _)| *index != INVALID_ID);
    let update = |(adds, index, ends)| Step::UpdateSet { set: SetId::Ipset(index), adds, key: ElementKey::Ends(ends) };
    updates.map(update).collect()
}

fn ct(flags: u16, has_timeout: bool) -> Vec<Step> {
    const NOTRACK: u16 = 0x1;
    if flags & NOTRACK != 0 {
        return vec![Step::Notrack];
    }
    [Step::Template].into_iter().chain(has_timeout.then_some(Step::OwnTimeout)).collect()
}
