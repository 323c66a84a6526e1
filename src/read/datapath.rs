//! What processes packets outside netfilter rules: tc filters and XDP or tcx programs on the path of a tunnel's
//! packets, IPVS, and sockets of tunnels whose device is in another network namespace. Called by the reader of links.
//!
//! Kernel sources: `tcf_fill_node`, `rtnl_xdp_fill`, `ip_vs_info_seq_show`, `udp4_seq_show`. BPF programs attached as
//! links (tcx, netkit) are reported by `bpf(2)` only: `tcx_prog_query`, `netkit_prog_query`.

mod filters;

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{NetlinkFamily, Request, Root};
use crate::facts::netfilter::Family;
use crate::facts::{Failure, Filter, Link, Programs, Reading, Source};
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::{RTM_GETQDISC, RTM_GETTCLASS, RTM_GETTFILTER, TCA_KIND, TCA_OPTIONS};
use crate::netfilter::netlink::{Attributes, Message};
use crate::read::Node;
use crate::read::known::links::TunnelSockets;

/// Ports of VXLAN (two) and Geneve: a socket on one of these that no device here owns belongs to a tunnel in another
/// namespace.
const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];
/// Length of `struct tcmsg`.
const TCMSG: usize = 20;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`, the same with `…_EGRESS`, and 0, the root.
const HOOKS: [(&str, u32); 3] = [("ingress", 0xffff_fff2), ("egress", 0xffff_fff3), ("root", 0)];
/// `TC_H_ROOT`
const ROOT: u32 = u32::MAX;
/// `TC_H_MIN_MASK`
const MINOR: u32 = 0xffff;
/// Qdiscs whose classes have filters of their own (`htb_tcf_block`, `hfsc_tcf_block`).
const CLASSFUL: &[&str] = &["atm", "cbq", "hfsc", "htb"];
/// Maximum number of attachment points per device that are dumped for filters, one dump each.
const MAX_PLACES: usize = 256;

fn sockets(family: Family) -> Request {
    let words: Vec<String> = TUNNEL_PORTS.iter().map(|port| format!(":{port:04X} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = if family == Family::Ipv6 { "udp6" } else { "udp" };
    Request::lines(Source::Datapath, Root::Procfs, format!("thread-self/net/{name}"), &words)
}

fn ipvs() -> Request {
    Request::file(Source::Datapath, Root::Procfs, "thread-self/net/ip_vs")
}

/// A dump of one device's objects with this parent.
fn below(link: &Link, name: &str, kind: u16, parent: u32) -> Request {
    let mut body = vec![0; TCMSG];
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    Request::netlink(Source::Datapath, &format!("route/{name}"), NetlinkFamily::Route, kind, true, body)
}

/// A qdisc: `tc_fill_qdisc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Qdisc {
    device: u32,
    kind: String,
    /// 0: a default qdisc of the kernel, whose filters can only be at the device's root.
    handle: u32,
    parent: u32,
}

impl Qdisc {
    /// Whether it is this device's ingress or clsact qdisc.
    pub(crate) fn classifies(&self, device: u32) -> bool {
        self.device == device && matches!(self.kind.as_str(), "clsact" | "ingress")
    }
}

fn number(message: &Message<'_>, at: usize) -> Result<u32, Failure> {
    Ok(u32::from_ne_bytes(array(message.body, at, "tcmsg")?))
}

/// Without traffic control or classifiers in the kernel there are none.
fn where_supported<T>(found: Reading<Vec<T>>) -> Reading<Vec<T>> {
    const EOPNOTSUPP: i32 = 95;
    const EINVAL: i32 = 22;
    match found.failure().and_then(Failure::refused) {
        Some(EOPNOTSUPP | EINVAL) => Reading::Ok(Vec::new()),
        _ => found,
    }
}

/// Qdiscs of all devices.
pub(crate) fn qdiscs(node: &mut Node<'_>) -> Reading<Vec<Qdisc>> {
    let request =
        Request::netlink(Source::Datapath, "route/qdiscs", NetlinkFamily::Route, RTM_GETQDISC, true, vec![0; TCMSG]);
    let found = node.try_dump(&request, |message| {
        let kind = Attributes::after(message.body, TCMSG, "TCA")?.string(TCA_KIND)?.unwrap_or_default();
        let [device, handle, parent] = [number(message, 4)?, number(message, 8)?, number(message, 12)?];
        Ok(Some(Qdisc { device, kind, handle, parent }))
    });
    // A capture from before this request: none is assumed.
    match found.failure().is_some_and(Failure::is_not_captured) {
        true => Reading::Ok(Vec::new()),
        false => node.note(&request, where_supported(found)),
    }
}

/// Handles below the root where a device may have filters: those of qdiscs, and of classes with child classes
/// (`htb_classify`: filters of leaf classes are not evaluated).
fn handles_below(node: &mut Node<'_>, link: &Link, qdiscs: &[Qdisc]) -> Reading<BTreeSet<u32>> {
    let mut handles = BTreeSet::new();
    for qdisc in qdiscs.iter().filter(|qdisc| qdisc.device == link.index && qdisc.handle != 0) {
        if qdisc.classifies(link.index) {
            continue; // its two hooks are dumped in any case
        }
        if qdisc.parent != ROOT {
            handles.insert(qdisc.handle);
        }
        if !CLASSFUL.contains(&qdisc.kind.as_str()) {
            continue;
        }
        let name = format!("classes-{}-{:x}", link.name, qdisc.handle >> 16);
        let request = below(link, &name, RTM_GETTCLASS, qdisc.handle);
        let parents = node.try_dump(&request, |message| Ok(Some(number(message, 12)?)));
        match node.note(&request, parents) {
            Reading::Ok(parents) => handles.extend(
                parents.into_iter().filter(|parent| parent & !MINOR == qdisc.handle & !MINOR && parent & MINOR != 0),
            ),
            other => return other.map(|_| BTreeSet::new()),
        }
        if handles.len() > MAX_PLACES {
            let failure = Failure::too_large(MAX_PLACES, "places for filters").within(&link.name);
            return node.note(&request, Reading::Failed(failure));
        }
    }
    Reading::Ok(handles)
}

/// tc filters of a device with these qdiscs.
pub(crate) fn filters_of(node: &mut Node<'_>, link: &Link, qdiscs: &[Qdisc]) -> Reading<Vec<Filter>> {
    let handles = match handles_below(node, link, qdiscs) {
        Reading::Ok(handles) => handles,
        other => return other.map(|_| Vec::new()),
    };
    let hooks = HOOKS.map(|(hook, parent)| (hook.to_owned(), hook.to_owned(), parent));
    let others = handles.into_iter().map(|handle| {
        let (major, minor) = (handle >> 16, handle & MINOR);
        let minor = if minor == 0 { String::new() } else { format!("{minor:x}") };
        (format!("{major:x}:{minor}"), format!("parent {major:x}:{minor}"), handle)
    });
    let mut all = Vec::new();
    for (name, place, parent) in hooks.into_iter().chain(others) {
        let request = below(link, &format!("filters-{}-{name}", link.name), RTM_GETTFILTER, parent);
        let found = node.try_dump(&request, |message| {
            let attributes = Attributes::after(message.body, TCMSG, "TCA")?;
            let Some(kind) = attributes.string(TCA_KIND)? else { return Ok(None) };
            let marks = filters::may_mark(&kind, attributes.get(TCA_OPTIONS).unwrap_or_default());
            let marks_incoming = place == "ingress" && marks;
            Ok(Some(Filter { kind, place: place.clone(), marks_incoming }))
        });
        if place == "root" && found.failure().is_some_and(Failure::is_not_captured) {
            continue;
        }
        match node.note(&request, where_supported(found)) {
            Reading::Ok(found) => all.extend(found),
            other => return other,
        }
    }
    all.dedup();
    Reading::Ok(all)
}

/// Hooks of BPF programs attached other than by tc: name and `enum bpf_attach_type`. `BPF_TCX_*` is queried for all
/// devices, `BPF_NETKIT_*` for netkit devices, where the primary reports both ends.
const TCX_INGRESS: (&str, u32) = ("tcx-ingress", 46);
const TCX_EGRESS: (&str, u32) = ("tcx-egress", 47);
const NETKIT: [(&str, u32); 2] = [("netkit-primary", 54), ("netkit-peer", 55)];

/// Number of programs at a hook by device index, for those devices that have the hook.
fn counted(node: &mut Node<'_>, (name, hook): (&str, u32), devices: &[u32]) -> Reading<BTreeMap<u32, u32>> {
    let request = Request::programs(Source::Datapath, name, hook, devices.to_vec());
    let counts = node.try_text(&request).decode(|text| {
        let counts = text.lines().map(|line| {
            let (device, count) = line.split_once(' ')?;
            Some((device.parse().ok()?, count.parse().ok()?))
        });
        counts.collect::<Option<BTreeMap<u32, u32>>>().ok_or_else(|| Failure::unexpected("a line is not two numbers"))
    });
    match counts {
        Reading::Failed(failure) if !failure.is_not_captured() => node.note(&request, Reading::Failed(failure)),
        other => other,
    }
}

/// Number of programs by device index: at ingress for `entered`, at egress for `crossed`. Queried in each reading,
/// since there are no notifications; a query takes some microseconds.
pub(crate) fn programs(node: &mut Node<'_>, entered: &[&Link], crossed: &[&Link]) -> Reading<Programs> {
    let indices = |links: &[&Link]| links.iter().map(|link| link.index).collect::<Vec<u32>>();
    let netkit: Vec<&Link> = entered.iter().copied().filter(|link| link.kind.as_deref() == Some("netkit")).collect();
    let mut found = BTreeMap::new();
    let tcx = [(TCX_INGRESS, indices(entered)), (TCX_EGRESS, indices(crossed))];
    for (hook, devices) in tcx.into_iter().chain(NETKIT.map(|hook| (hook, indices(&netkit)))) {
        if devices.is_empty() {
            continue;
        }
        match counted(node, hook, &devices) {
            Reading::Ok(counts) => {
                for device in &devices {
                    match counts.get(device) {
                        Some(count) => *found.entry(*device).or_default() += count,
                        // Removed, or reported by its netkit peer.
                        None => drop(found.remove(device)),
                    }
                }
            }
            Reading::Denied(why) => return Reading::Ok(Programs::Unseen(why)),
            Reading::Failed(failure) if failure.is_not_captured() => {
                return Reading::Ok(Programs::Unseen(failure.to_string()));
            }
            // The kernel lacks this hook; a sandbox's refusal has another errno.
            Reading::Absent(_) => devices.into_iter().for_each(|device| *found.entry(device).or_default() += 0),
            failed @ Reading::Failed(_) => return failed.map(|_| Programs::Counted(found)),
        }
    }
    Reading::Ok(Programs::Counted(found))
}

/// Number of IPVS services. Absent: ip_vs is not loaded.
pub(crate) fn ipvs_services(node: &mut Node<'_>) -> Reading<u64> {
    node.text(&ipvs()).map(|text| {
        let is_service = |line: &&str| ["TCP ", "UDP ", "SCTP", "FWM "].iter().any(|start| line.starts_with(start));
        text.lines().filter(is_service).count() as u64
    })
}

/// Whether bridged frames traverse the IPv4 / IPv6 rules: `br_nf_pre_routing`. Absent: br_netfilter is not loaded.
pub(crate) fn bridges_call_rules(node: &mut Node<'_>) -> [Reading<bool>; 2] {
    ["iptables", "ip6tables"].map(|rules| {
        let name = format!("sys/net/bridge/bridge-nf-call-{rules}");
        let request = Request::file(Source::Datapath, Root::Procfs, &name);
        let read = node.try_switch(&request);
        node.note(&request, read)
    })
}

/// UDP sockets on tunnel ports. IPv6 may be off.
pub(crate) fn tunnel_sockets(node: &mut Node<'_>) -> Reading<TunnelSockets> {
    let mut found = TunnelSockets::new();
    for family in Family::IP {
        match node.text(&sockets(family)) {
            Reading::Ok(text) => {
                for port in text.lines().filter_map(local_port).filter(|port| TUNNEL_PORTS.contains(port)) {
                    found.entry(port).or_default()[family.ip_index()] = true;
                }
            }
            Reading::Absent(_) if family == Family::Ipv6 => {}
            other => return other.map(|_| TunnelSockets::new()),
        }
    }
    Reading::Ok(found)
}

/// `  123: 00000000:2118 00000000:0000 07 …`: local port of an unconnected socket, as a tunnel's is; `None` for others.
fn local_port(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    let connected = remote.bytes().any(|digit| !matches!(digit, b'0' | b':'));
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok().filter(|_| !connected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{Answers, answering, read_with};

    #[test]
    fn a_socket_on_a_tunnels_port_belongs_to_a_tunnel() {
        let socket =
            "  12: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0 0\n";
        let client =
            "  13: 0100007F:9C40 0100007F:2118 01 00000000:00000000 00:00000000 00000000     0        0 98 2 0 0\n";
        let found = |answers: &Answers| read_with(answers, tunnel_sockets).0;
        let ipv4 = |text: &str| {
            Answers::from([(sockets(Family::Ipv4).name.as_str(), text), (&sockets(Family::Ipv6).name, "")])
        };
        assert_eq!(found(&ipv4(&[socket, client].concat())), Reading::Ok([(8472, [true, false])].into()));
        assert_eq!(found(&ipv4(client)), Reading::Ok([].into()));
        assert!(matches!(found(&Answers::default()), Reading::Failed(_)));
    }

    #[test]
    fn services_of_ipvs_are_counted() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  0A600001:01BB rr  \n  -> C000020A:192B      Masq    1      0          0         \nUDP  0A60000A:0035 rr  \n";
        assert_eq!(answering(text.as_bytes(), ipvs_services), Reading::Ok(2));
    }

    #[test]
    fn random_bytes_never_panic() {
        let device = Link::new(1, "eth0");
        let qdiscs = [Qdisc { device: 1, kind: "htb".into(), handle: 1 << 16, parent: ROOT }];
        proptest::proptest!(|(bytes: Vec<u8>)| { let _ = answering(&bytes, |node| filters_of(node, &device, &qdiscs)); let _ = answering(&bytes, super::qdiscs); });
    }
}
