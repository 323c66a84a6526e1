//! Name queries between the hosts of the connections: which servers those of one socket get to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::connection_lab::{ConnectionLab, services};

/// Where name servers listen.
pub const DNS: u16 = 53;
/// Queries of each socket: chance sends all of them to one of two servers in 30,000 cases once.
const ROUNDS: usize = 16;
/// Until the last of a round is there.
const ON_THEIR_WAY: Duration = Duration::from_millis(25);
/// The first port of sockets, which no connection has.
const CHOSEN: u16 = 50_000;

impl ConnectionLab {
    /// Asks Services from everywhere; each query is the first packet of its connection, as it is for one of two that are sent at
    /// once. Of each socket that got through: whom it asked, and which servers got that.
    pub fn ask(&self, families: &[bool]) -> Vec<(SocketAddr, SocketAddr, BTreeSet<IpAddr>)> {
        let servers: Vec<(IpAddr, UdpSocket)> = self.servers(families, |ip| (ip, socket(SocketAddr::new(ip, DNS))));
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
        for _ in 0..ROUNDS {
            for (number, (socket, _, asked, _)) in asking.iter().enumerate() {
                // What rules reject, or have no way, is not sent.
                let _ = socket.send_to(&u16::try_from(number).expect("few").to_be_bytes(), asked);
            }
            thread::sleep(ON_THEIR_WAY);
            for (ip, server) in &servers {
                let mut number = [0; 2];
                while server.recv(&mut number).is_ok() {
                    asking[usize::from(u16::from_be_bytes(number))].3.insert(*ip);
                }
            }
            self.router.run(&["conntrack", "-F"]);
        }
        let answered = asking.into_iter().filter(|(.., got)| !got.is_empty());
        answered.map(|(_, own, asked, got)| (own, asked, got)).collect()
    }
}

fn socket(own: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(own).unwrap_or_else(|e| panic!("{own}: {e}"));
    socket.set_nonblocking(true).expect("it does not wait");
    socket
}
