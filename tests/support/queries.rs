//! DNS queries between the hosts of the connection lab: which servers those of one socket reach.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::connection_lab::{ConnectionLab, services};
use super::hold::Hold;

/// Port of name servers.
pub const DNS: u16 = 53;
/// Queries of each socket: all of them go to one of two random servers once in 30,000 cases.
const QUERIES: usize = 16;
/// The first source port, which no connection uses.
const CHOSEN: u16 = 50_000;

impl ConnectionLab {
    /// Sends queries to Services from every client, several at once, so that each is the first packet of its
    /// connection. Returns, for each socket with any success, its address, the address it sent to, and the servers that
    /// were chosen.
    pub fn ask(&self, hold: &Hold, families: &[bool]) -> Vec<(SocketAddr, SocketAddr, BTreeSet<IpAddr>)> {
        let servers: Vec<(IpAddr, UdpSocket)> = self.servers(families, |ip| (ip, socket(SocketAddr::new(ip, DNS))));
        self.router.run(&["conntrack", "-F"]);
        let mut asking: Vec<(UdpSocket, SocketAddr, SocketAddr, BTreeSet<IpAddr>)> = Vec::new();
        for six in families {
            for (place, own) in self.askers(*six) {
                for service in services(*six) {
                    for ip in &own {
                        let port = CHOSEN + u16::try_from(asking.len()).expect("few sockets");
                        let (own, asked) = (SocketAddr::new(*ip, port), SocketAddr::new(service, DNS));
                        asking.push((place.enter(|| socket(own)), own, asked, BTreeSet::new()));
                    }
                }
            }
        }
        for (number, (socket, _, asked, _)) in asking.iter().enumerate() {
            for _ in 0..QUERIES {
                // Queries that rules reject, or without a route, are not sent.
                let _ = socket.send_to(&u16::try_from(number).expect("few").to_be_bytes(), asked);
            }
        }
        let packets = hold.packets();
        for held in packets.iter().filter(|held| servers.iter().any(|(ip, _)| SocketAddr::new(*ip, DNS) == held.to)) {
            let number = u16::from_be_bytes(held.data[..2].try_into().expect("a number"));
            asking[usize::from(number)].3.insert(held.to.ip());
        }
        hold.release(&packets);
        let answered = asking.into_iter().filter(|(.., got)| !got.is_empty());
        answered.map(|(_, own, asked, got)| (own, asked, got)).collect()
    }
}

fn socket(own: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(own).unwrap_or_else(|e| panic!("{own}: {e}"));
    socket.set_nonblocking(true).expect("it does not wait");
    socket
}
