//! Hosts that choose the same source port for one destination at the same time, held until all have: which leave with
//! equal tuples.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, send, socket_with, sockopt};

use super::connection_lab::ConnectionLab;
use super::counters::conntrack_stats;
use super::hold::{Held, Hold};

/// The first port that is chosen; each destination has one of its own.
const CHOSEN: u16 = 40_000;
/// Where name servers listen.
const QUERIES: u16 = 53;
/// More destinations than there are.
const MOST: u16 = 100;
/// Senders are told apart by their TTL: of each other one, as one is taken off on the way.
const TTL: u8 = 64;

/// What became of first packets with the same ports.
#[derive(Debug, Default)]
pub struct SamePorts {
    /// Two senders were given one address, and kept their ports.
    pub collide: bool,
    /// Packets that were lost since their connection could not be entered (`insert_failed`).
    pub lost: u64,
    /// Those that left as the same, for people.
    pub told: BTreeSet<String>,
}

impl ConnectionLab {
    /// Has all hosts send to all at once; none of the connections is there before all have been translated.
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
                        // The router itself asks Services, and servers.
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

/// A socket that has sent the first packet of a connection. `None`: there is no way.
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
        // What rules drop here is an error.
        let _ = send(&socket, b"x", SendFlags::empty());
    }
    Some(socket)
}
