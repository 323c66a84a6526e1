//! What handles packets beside the rules of netfilter: tc filters and XDP programs on a tunnel's way, IPVS, and tunnels
//! whose device lives in another network namespace.
//!
//! Kernel sources: `tcf_fill_node`, `rtnl_xdp_fill`, `ip_vs_info_seq_show`, `udp4_seq_show`. Of BPF programs that were
//! attached as links (tcx, netkit) only `bpf(2)` tells: `tcx_prog_query`, `netkit_prog_query`.

mod filters;

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{NetlinkFamily, Request, Root};
use crate::facts::{Failure, Filter, Link, Programs, Reading, Source};
use crate::netfilter::array;
use crate::netfilter::netlink::Attributes;
use crate::netfilter::netlink::rtnl::{RTM_GETQDISC, RTM_GETTFILTER, TCA_KIND, TCA_OPTIONS};
use crate::read::Node;
use crate::read::links::TunnelSockets;

/// VXLAN's two ports and Geneve's: where a socket that no device here owns belongs to a tunnel elsewhere.
const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];
/// Length of `struct tcmsg`.
const TCMSG: usize = 20;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `…_EGRESS`
/// and 0, the root.
const HOOKS: [(&str, u32); 3] = [("ingress", 0xffff_fff2), ("egress", 0xffff_fff3), ("root", 0)];

fn sockets(ipv6: bool) -> Request {
    let words: Vec<String> = TUNNEL_PORTS.iter().map(|port| format!(":{port:04X} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = if ipv6 { "udp6" } else { "udp" };
    Request::lines(Source::Datapath, Root::Procfs, format!("thread-self/net/{name}"), &words)
}

fn ipvs() -> Request {
    Request::file(Source::Datapath, Root::Procfs, "thread-self/net/ip_vs")
}

fn filters(link: &Link, hook: (&str, u32)) -> Request {
    let mut body = vec![0; TCMSG];
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    body[12..16].copy_from_slice(&hook.1.to_ne_bytes());
    let name = format!("route/filters-{}-{}", link.name, hook.0);
    Request::netlink(Source::Datapath, &name, NetlinkFamily::Route, RTM_GETTFILTER, true, body)
}

/// Devices that may have filters where packets come in: those with a `clsact` or an `ingress` queueing discipline.
pub fn classifying(node: &mut Node<'_>) -> Reading<BTreeSet<u32>> {
    let request =
        Request::netlink(Source::Datapath, "route/qdiscs", NetlinkFamily::Route, RTM_GETQDISC, true, vec![0; TCMSG]);
    let found = node.try_dump(&request, |message| {
        let kind = Attributes::after(message.body, TCMSG, "TCA")?.string(TCA_KIND)?;
        let classifies = matches!(kind.as_deref(), Some("clsact" | "ingress"));
        Ok(classifies.then_some(u32::from_ne_bytes(array(message.body, 4, "tcmsg")?)))
    });
    // A capture from before it was asked for is as whole as it was: none is assumed.
    match found.failure().is_some_and(Failure::is_not_captured) {
        true => Reading::Ok(BTreeSet::new()),
        false => node.note(&request, found).map(|indices| indices.into_iter().collect()),
    }
}

/// Filters of traffic control on a device.
pub fn filters_of(node: &mut Node<'_>, link: &Link) -> Reading<Vec<Filter>> {
    const EOPNOTSUPP: i32 = 95;
    const EINVAL: i32 = 22;
    let mut all = Vec::new();
    for hook in HOOKS {
        let request = filters(link, hook);
        let found = node.try_dump(&request, |message| {
            let attributes = Attributes::after(message.body, TCMSG, "TCA")?;
            let Some(kind) = attributes.string(TCA_KIND)? else { return Ok(None) };
            let marks = filters::may_mark(&kind, attributes.get(TCA_OPTIONS).unwrap_or_default());
            let (what, marks_incoming) = (format!("{kind} on {}", hook.0), hook.0 == "ingress" && marks);
            Ok(Some(Filter { what, marks_incoming }))
        });
        let found = match found.failure().and_then(Failure::refused) {
            Some(EOPNOTSUPP | EINVAL) => Reading::Ok(Vec::new()), // a kernel without classifiers
            None if hook.0 == "root" && found.failure().is_some_and(Failure::is_not_captured) => continue,
            _ => found,
        };
        match node.note(&request, found) {
            Reading::Ok(found) => all.extend(found),
            other => return other,
        }
    }
    all.dedup();
    Reading::Ok(all)
}

/// BPF programs that are attached to devices without `tc`: hook by name and `enum bpf_attach_type`. Of `BPF_TCX_*` all devices
/// are asked, of `BPF_NETKIT_*` those of that kind, which answer for both ends.
const TCX_INGRESS: (&str, u32) = ("tcx-ingress", 46);
const TCX_EGRESS: (&str, u32) = ("tcx-egress", 47);
const NETKIT: [(&str, u32); 2] = [("netkit-primary", 54), ("netkit-peer", 55)];

/// How many programs each of these devices has at a hook, by index, as far as it has the hook.
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

/// How many programs these devices have where packets come in, and those that are `crossed` where they leave, by index.
/// Nothing is notified of; a query takes some microseconds.
pub fn programs(node: &mut Node<'_>, entered: &[&Link], crossed: &[&Link]) -> Reading<Programs> {
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
                        // It is gone, or the other end of a netkit device tells.
                        None => drop(found.remove(device)),
                    }
                }
            }
            Reading::Denied(why) => return Reading::Ok(Programs::Unseen(why)),
            Reading::Failed(failure) if failure.is_not_captured() => {
                return Reading::Ok(Programs::Unseen(failure.to_string()));
            }
            // A kernel without this hook, which a sandbox's refusal does not say.
            Reading::Absent(_) => devices.into_iter().for_each(|device| *found.entry(device).or_default() += 0),
            failed @ Reading::Failed(_) => return failed.map(|_| Programs::Counted(found)),
        }
    }
    Reading::Ok(Programs::Counted(found))
}

/// Services of IPVS. Absent: it is not loaded.
pub fn ipvs_services(node: &mut Node<'_>) -> Reading<u64> {
    node.text(&ipvs()).map(|text| {
        let is_service = |line: &&str| ["TCP ", "UDP ", "SCTP", "FWM "].iter().any(|start| line.starts_with(start));
        text.lines().filter(is_service).count() as u64
    })
}

/// Whether frames that cross bridges pass the rules of IPv4, of IPv6: `br_nf_pre_routing`. Absent: br_netfilter is not loaded.
pub fn bridges_call_rules(node: &mut Node<'_>) -> [Reading<bool>; 2] {
    ["iptables", "ip6tables"].map(|rules| {
        let name = format!("sys/net/bridge/bridge-nf-call-{rules}");
        let request = Request::file(Source::Datapath, Root::Procfs, &name);
        let read = node.try_number(&request).map(|number| number != 0);
        node.note(&request, read)
    })
}

/// Sockets of tunnels, by their port. Of IPv6: absent, it is off.
pub fn tunnel_sockets(node: &mut Node<'_>) -> Reading<TunnelSockets> {
    let mut found = TunnelSockets::new();
    for ipv6 in [false, true] {
        match node.text(&sockets(ipv6)) {
            Reading::Ok(text) => {
                for port in text.lines().filter_map(local_port).filter(|port| TUNNEL_PORTS.contains(port)) {
                    found.entry(port).or_default()[usize::from(ipv6)] = true;
                }
            }
            Reading::Absent(_) if ipv6 => {}
            other => return other.map(|_| TunnelSockets::new()),
        }
    }
    Reading::Ok(found)
}

/// `  123: 00000000:2118 00000000:0000 07 …`: the port of a socket that is connected to nobody, as tunnels' are not.
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
        let ipv4 = |text: &str| Answers::from([(sockets(false).name.as_str(), text), (&sockets(true).name, "")]);
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
        proptest::proptest!(|(bytes: Vec<u8>)| { let _ = answering(&bytes, |node| filters_of(node, &device)); });
    }
}
