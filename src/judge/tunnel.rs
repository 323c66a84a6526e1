//! Conditions about a tunnel's outer packets, such as whether NAT breaks their checksum.

use std::collections::BTreeSet;

use super::ConditionState;
use super::context::{Context, Evaluation, unread_links};
use crate::advisory::defects::DefectState;
use crate::facts::{
    Feature, Filter, Link, Programs, Question, Reading, Toggle, Tunnel, UdpChecksum, may_forward, upper_devices,
    with_lower_devices,
};
use crate::symbolic::{self, Happens, OtherMarks, OuterPackets};

/// Command that tests kernel defects by experiment.
pub(super) const PROBE: [&str; 2] = ["natwatch", "probe"];

const NO_TUNNEL: &str = "there is no tunnel that is up";

fn describe(filter: &Filter, link: &Link) -> Question {
    let Filter { kind, place, .. } = filter;
    by_tc(link, format!("a tc filter ({kind} on {place}) of {}", link.name), &[place])
}

fn unread_filters(link: &Link, why: &str) -> Question {
    by_tc(link, format!("tc filters of {} could not be read: {why}", link.name), &["ingress", "egress", "root"])
}

fn by_tc(link: &Link, text: String, places: &[&str]) -> Question {
    places.iter().fold(Question::from(text), |question, place| {
        let words = ["tc", "filter", "show", "dev", &link.name].into_iter().chain(place.split(' '));
        question.shown_by(words)
    })
}

fn up(tunnel: Option<&Link>) -> Option<(&Link, &Tunnel)> {
    tunnel.filter(|link| link.up).and_then(|link| Some((link, link.tunnel.as_ref()?)))
}

/// What happens to a tunnel's outer packets, by rules and outside of them.
fn outer(context: &Context<'_>, link: &Link, tunnel: &Tunnel) -> Result<OuterPackets, Question> {
    if let Some(known) = context.outer.borrow().get(&link.index) {
        return known.clone();
    }
    let walked = context.network().and_then(|network| {
        let facts = symbolic::facts(context.facts, link, tunnel)?;
        let mut outer = OuterPackets::clone(&context.derived.outer(network, facts, &context.effort));
        if let Some(what) = marks_from_outside(context).filter(|_| outer.with_other_marks != OtherMarks::NoEffect) {
            for happens in [&mut outer.rewritten, &mut outer.tracked, &mut outer.ports_written] {
                if *happens == Happens::Never {
                    *happens = Happens::May(what.clone());
                }
            }
        }
        if let Some(what) = beside_the_rules(context, link, tunnel) {
            if outer.tracked == Happens::Never {
                outer.tracked = Happens::May(what.clone()); // it may translate as well
            }
            outer.rewritten = Happens::May(what);
        }
        if let unread @ (Reading::Denied(_) | Reading::Failed(_)) = &tunnel.underlay {
            // Programs on underlay devices are not known either.
            for happens in [&mut outer.tracked, &mut outer.rewritten] {
                if *happens == Happens::Never {
                    *happens = Happens::May(Question::unread(unread));
                }
            }
        }
        Ok(outer)
    });
    context.outer.borrow_mut().insert(link.index, walked.clone());
    walked
}

/// What may process this tunnel's packets outside netfilter; `None`: nothing.
fn beside_the_rules(context: &Context<'_>, link: &Link, tunnel: &Tunnel) -> Option<Question> {
    let links = context.facts.known_links();
    if let Some(switch) = links.iter().find(|link| link.kind.as_deref() == Some("openvswitch")) {
        let why = format!("Open vSwitch (device {}) sends packets past the rules that natwatch reads", switch.name);
        return Some(Question::from(why).shown_by(["ovs-dpctl", "show"]));
    }
    crossed(context, link, tunnel).into_iter().find_map(|link| {
        let found = match &link.filters {
            _ if link.xdp => {
                let why = format!("an XDP program on {}", link.name);
                Some(Question::from(why).shown_by(["bpftool", "net", "show", "dev", &link.name]))
            }
            Reading::Ok(filters) => filters.first().map(|filter| describe(filter, link)),
            Reading::Absent(_) => None,
            other => return Some(unread_filters(link, &other.why())),
        };
        let what = found.or_else(|| programs(context, link))?;
        Some(what.reword(|what| format!("{what} may change packets or their marks")))
    })
}

/// BPF programs of a device, attached other than by tc, that exist or may exist. If they cannot be queried, none is
/// assumed unless something else shows BPF in use.
fn programs(context: &Context<'_>, link: &Link) -> Option<Question> {
    let is_netkit = link.kind.as_deref() == Some("netkit");
    let shown = |why: String| Question::from(why).shown_by(["bpftool", "net", "show", "dev", &link.name]);
    let unread = |why: &str| shown(format!("BPF programs of {}, which could not be read ({why}),", link.name));
    match &context.facts.programs {
        Reading::Ok(Programs::Counted(programs)) => match programs.get(&link.index) {
            Some(0) => None,
            Some(_) => Some(shown(format!("BPF programs (tcx or netkit) on {}", link.name))),
            None => Some(unread("no number was told")),
        },
        Reading::Ok(Programs::Unseen(why)) => {
            let of_bpf = ["cilium_", "bpfin", "bpfout"].iter().any(|start| link.name.starts_with(start));
            (is_netkit || of_bpf).then(|| unread(why))
        }
        Reading::Absent(_) => None,
        other => Some(unread(&other.why())),
    }
}

/// Devices on the path of a tunnel's packets: upper devices and underlay devices.
fn crossed<'a>(context: &Context<'a>, link: &Link, tunnel: &Tunnel) -> Vec<&'a Link> {
    let links = context.facts.known_links();
    let near = upper_devices(links, link.index);
    let underlay_devices = tunnel.underlay.ok().into_iter().flatten().copied();
    let below: BTreeSet<usize> = underlay_devices.flat_map(|index| with_lower_devices(links, index)).collect();
    let crossed = links.iter().enumerate().filter(|(at, link)| near.contains(&link.index) || below.contains(at));
    crossed.map(|(_, link)| link).collect()
}

/// What may mark packets that this host forwards into a tunnel: a BPF program at ingress, or a tc filter with an action
/// that does.
fn marks_from_outside(context: &Context<'_>) -> Option<Question> {
    if !may_forward(&context.facts.forwarding) {
        return None;
    }
    context.facts.known_links().iter().filter(|link| link.up).find_map(|link| {
        let found = match &link.filters {
            Reading::Ok(filters) => {
                filters.iter().find(|filter| filter.marks_incoming).map(|filter| describe(filter, link))
            }
            Reading::Absent(_) => None,
            unread => return Some(unread_filters(link, &unread.why())),
        };
        let what = found.or_else(|| programs(context, link))?;
        Some(what.reword(|what| format!("{what} may mark packets that are forwarded")))
    })
}

/// Effect of rules that write ports without conntrack on packets without a checksum: `nft_payload_set_eval` gives them
/// a wrong one, on every kernel, unless the inner checksum is left to a device. `None`: no such effect.
fn ports_written(context: &Context<'_>, link: &Link, tunnel: &Tunnel) -> Option<Evaluation> {
    if tunnel.udp_checksum == UdpChecksum::On {
        return None;
    }
    let what = "a rule writes ports into its packets without connection tracking, and those without a checksum get a wrong one";
    match outer(context, link, tunnel).ok()?.ports_written {
        Happens::Never => None,
        Happens::May(why) => Some(Evaluation::unknown(why)),
        Happens::Must => {
            let all =
                tunnel.udp_checksum == UdpChecksum::Off && link.feature(Feature::TxChecksumIpGeneric) == Toggle::Off;
            Some(match all {
                true => Evaluation::holds(what),
                false => Evaluation::unknown(format!("{what}, unless the checksum inside is left to a device")),
            })
        }
    }
}

/// `checksum_breakable`: NAT would leave a tunnel packet with a wrong checksum.
pub(super) fn checksum_breakable(context: &Context<'_>, tunnel: Option<&Link>, on: &str, off: &str) -> Evaluation {
    let Some((link, tunnel)) = up(tunnel) else { return Evaluation::unknown(NO_TUNNEL) };
    if let Some(broken) = ports_written(context, link, tunnel) {
        return broken;
    }
    let state = |id: &str| context.defect(id).map_or(DefectState::Unknown, |defect| defect.state);
    let why = |id: &str| {
        context.defect(id).map_or_else(|| format!("there is no table for {id}"), |defect| defect.detail.clone())
    };
    let by = |id: &str, checksums: &str| {
        let detail = format!("outer checksums are {checksums}, and {id} decides: {}", why(id));
        match state(id) {
            DefectState::Present => Evaluation::holds(detail),
            DefectState::Absent => Evaluation::fails(detail),
            DefectState::Unknown => Evaluation::unknown(Question::from(detail).shown_by(PROBE)),
        }
    };
    match tunnel.udp_checksum {
        UdpChecksum::On => by(on, "on"),
        UdpChecksum::Off => by(off, "off"),
        UdpChecksum::PerPacket | UdpChecksum::Unknown => match (state(on), state(off)) {
            (DefectState::Present, DefectState::Present) => {
                Evaluation::holds(format!("whether outer checksums are on or off: {}", why(on)))
            }
            (DefectState::Absent, DefectState::Absent) => {
                Evaluation::fails(format!("whether outer checksums are on or off: {}", why(on)))
            }
            _ => Evaluation::unknown("whether outer checksums are on is decided for each packet"),
        },
    }
}

/// `source_nat_present`: there are rules that translate addresses.
pub(super) fn source_nat_present(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    if tunnel.is_some_and(|link| link.link_netnsid.is_some()) {
        return Evaluation::unknown("its packets leave in another network namespace, whose rules are not read");
    }
    match context.network() {
        Err(why) => Evaluation::unknown(why),
        Ok(network) => {
            let found = context.derived.translates(network, &context.effort);
            match &found.happens {
                Happens::Must => Evaluation::holds(format!("{} translates addresses", found.place)),
                Happens::May(why) => Evaluation::unknown(why),
                Happens::Never => Evaluation::fails("no rule translates addresses"),
            }
        }
    }
}

/// `tunnel_checksum_offload`: the tunnel device leaves the checksum of inner packets to a later device.
pub(super) fn tunnel_checksum_offload(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    let Some((link, tunnel)) = up(tunnel) else { return Evaluation::unknown(NO_TUNNEL) };
    let feature = Feature::TxChecksumIpGeneric;
    let outcome = match (ports_written(context, link, tunnel), link.feature(feature)) {
        (Some(broken), _) => broken,
        (None, _) if link.is_elsewhere() => Evaluation::holds(format!(
            "its device lives in another network namespace, where {feature} is taken to be on, as the kernel makes it"
        )),
        (None, Toggle::On) => Evaluation::holds(format!("{feature} is on")),
        (None, Toggle::Off) => {
            Evaluation::fails(format!("{feature} is off: checksums are complete before the packet is wrapped"))
        }
        (None, Toggle::Unknown) => {
            let why = format!("{feature} is not known: {}", link.features.why());
            Evaluation::unknown(Question::from(why).shown_by(["ethtool", "-k", &link.name]))
        }
    };
    let port = tunnel.port.map(|port| port.to_string()).unwrap_or_default();
    let outcome = outcome.with("tunnel_port", port);
    if link.is_elsewhere() { outcome } else { outcome.with("tunnel_device", &link.name) }
}

/// `outer_tracked`: the tunnel's outer packets are tracked.
pub(super) fn outer_tracked(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    let Some((link, tunnel)) = up(tunnel) else { return Evaluation::unknown(NO_TUNNEL) };
    match outer(context, link, tunnel) {
        Err(why) => Evaluation::unknown(why),
        Ok(outer) => match outer.tracked {
            Happens::Must => Evaluation::holds("connection tracking sees its packets"),
            Happens::May(why) => Evaluation::unknown(why),
            Happens::Never => {
                Evaluation::fails("connection tracking does not see its packets, so they are never translated")
            }
        },
    }
}

/// `outer_rewritten`: a rule rewrites the address or port of an outer packet.
pub(super) fn outer_rewritten(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    let Some((link, tunnel)) = up(tunnel) else { return Evaluation::unknown(NO_TUNNEL) };
    match outer(context, link, tunnel) {
        Err(why) => Evaluation::unknown(why),
        Ok(outer) => match outer.rewritten {
            Happens::Must => Evaluation::holds(outer.how),
            Happens::May(why) if outer.how.is_empty() => Evaluation::unknown(why),
            Happens::May(why) => {
                Evaluation::unknown(why.reword(|why| format!("{}, but that depends: {why}", outer.how)))
            }
            Happens::Never => {
                let kept = if outer.kept.is_empty() { String::new() } else { format!("; {}", outer.kept) };
                let assumed = match &context.facts.programs {
                    Reading::Ok(Programs::Unseen(why)) => format!("; no tcx program is assumed: {why}"),
                    _ => String::new(),
                };
                let would = "a process (SO_MARK) or BPF program that does would make it exposed";
                let marks = match outer.with_other_marks {
                    OtherMarks::NoEffect => String::new(),
                    OtherMarks::Rewritten(mark) => format!("; no rule here gives them mark {mark:#x}: {would}"),
                    OtherMarks::Unclear => {
                        format!("; no rule here gives them a mark with which one would: {would}")
                    }
                };
                Evaluation::fails(format!(
                    "no rule that its packets get to changes their address or port{kept}{marks}{assumed}"
                ))
            }
        },
    }
}

/// `tunnel_checksum_offload_off`: the tunnel device computes the checksum of inner packets at once.
pub(super) fn tunnel_checksum_offload_off(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    let Some((link, _)) = up(tunnel) else {
        return match &context.facts.links {
            Reading::Ok(_) => Evaluation::fails(NO_TUNNEL),
            other => Evaluation::unknown(unread_links(other)),
        };
    };
    let outcome = tunnel_checksum_offload(context, tunnel);
    let state = match outcome.state {
        ConditionState::Holds => ConditionState::Fails,
        ConditionState::Fails => ConditionState::Holds,
        ConditionState::Unknown => ConditionState::Unknown,
    };
    Evaluation { state, ..outcome }.with("tunnel_device", &link.name)
}

/// `offload_not_needed`: one of the other conditions of the checksum advisory fails, so that turning offload off has no
/// benefit.
pub(super) fn offload_not_needed(context: &Context<'_>, tunnel: Option<&Link>, on: &str, off: &str) -> Evaluation {
    let others = [
        checksum_breakable(context, tunnel, on, off),
        source_nat_present(context, tunnel),
        outer_tracked(context, tunnel),
        outer_rewritten(context, tunnel),
    ];
    if let Some(reason) = others.iter().find(|outcome| outcome.state == ConditionState::Fails) {
        return Evaluation::holds(&reason.detail);
    }
    match others.into_iter().find(|outcome| outcome.state == ConditionState::Unknown) {
        Some(open) => open,
        None => Evaluation::fails("its packets are translated, and their checksum would be wrong with it"),
    }
}
