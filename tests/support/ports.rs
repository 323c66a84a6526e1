//! Hosts that choose the same source port for one destination at the same time, held until all have: which leave with
//! equal tuples.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, send, socket_with, sockopt};

use super::connection_lab::ConnectionLab;
use super::counters::conntrack_stats;
use super::hold::{Held, Hold};

/// The first source port; each destination has another one.
const CHOSEN: u16 = 40_000;
/// Where name servers listen.
const QUERIES: u16 = 53;
/// More destinations than there are.
const MOST: u16 = 100;
/// TTL of the first sender. Each sender has its own, two apart, as the router decrements it.
const TTL: u8 = 64;

/// What happened to first packets with the same ports.
#[derive(Debug, Default)]
pub struct SamePorts {
    /// Whether two senders were given the same address and kept their ports.
    pub collide: bool,
    /// Packets lost because their connection could not be inserted (`insert_failed`).
    pub lost: u64,
    /// Packets that left with the same addresses and ports, for people.
    pub told: BTreeSet<String>,
}

impl ConnectionLab {
    /// Has all hosts send to all at once; all packets are translated before any connection is confirmed.
    pub fn same_ports(&self, hold: &Hold, families: &[bool]) -> SamePorts {
        let _listeners = self.listeners(families);
        let mut found = SamePorts::default();
        for six in families {
            for tcp in [true, false] {
                self.router.run(&["conntrack", "-F"]);
                let before = conntrack_stats(&self.router).total("insert_failed");
                let (mut senders, mut sockets) = (Vec::new(), Vec::new());
                let mut chosen = BTreeMap::new();
                for (place, from, to) in self.probes(*six) {
                    // Some rules are for queries.
                    let queries = to.iter().map(|to| SocketAddr::new(to.ip(), QUERIES)).collect::<BTreeSet<_>>();
                    let to: Vec<SocketAddr> = if tcp { to } else { to.into_iter().chain(queries).collect() };
                    for ip in from {
                        // The router itself sends to Services and to servers.
                        let sender = senders.iter().position(|known| *known == ip).unwrap_or(senders.len());
                        if sender == senders.len() {
                            senders.push(ip);
                        }
                        let ttl = TTL + 2 * u8::try_from(sender).expect("few");
                        let (chosen, sockets) = (&mut chosen, &mut sockets);
                        place.enter(|| {
                            for to in &to {
                                let port = CHOSEN + u16::try_from(chosen.len()).expect("few");
                                let port = *chosen.entry(*to).or_insert(port);
                                sockets.extend(first_packet(tcp, SocketAddr::new(ip, port), *to, ttl));
                            }
                        });
                    }
                }
                let packets = hold.packets();
                found.compare(&packets, &senders);
                hold.release(&packets);
                found.lost += conntrack_stats(&self.router).total("insert_failed") - before;
                drop(sockets);
                let late = hold.packets();
                hold.release(&late);
            }
        }
        found
    }
}

impl SamePorts {
    fn compare(&mut self, packets: &[Held], senders: &[IpAddr]) {
        let mut alike: BTreeMap<(SocketAddr, SocketAddr), BTreeSet<IpAddr>> = BTreeMap::new();
        for held in packets {
            let sender = senders[usize::from((held.ttl + 1 - TTL) / 2)];
            if held.from.ip() != sender && (CHOSEN..CHOSEN + MOST).contains(&held.from.port()) {
                alike.entry((held.from, held.to)).or_default().insert(sender);
            }
        }
        for ((from, to), senders) in alike.into_iter().filter(|(_, senders)| senders.len() > 1) {
            self.collide = true;
            self.told.insert(format!("{senders:?} as {from} to {to}"));
        }
    }
}

/// A socket that has sent the first packet of a connection. `None`: no route.
fn first_packet(tcp: bool, from: SocketAddr, to: SocketAddr, ttl: u8) -> Option<OwnedFd> {
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, kind, flags, None).expect("a socket");
    match to.is_ipv6() {
        true => sockopt::set_ipv6_unicast_hops(&socket, Some(ttl)).expect("hops"),
        false => sockopt::set_ip_ttl(&socket, ttl.into()).expect("a TTL"),
    }
    bind(&socket, &from).unwrap_or_else(|e| panic!("{from}: {e}"));
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(_) => return None,
    }
    if !tcp {
        // A packet that rules drop here is an error.
        let _ = send(&socket, b"x", SendFlags::empty());
    }
    Some(socket)
}
