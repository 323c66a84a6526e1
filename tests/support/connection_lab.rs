//! Hosts on both sides of a router, and connections between all of them: which are reset after an out-of-window
//! segment, and by whom.
//!
//! ```text
//! servers, clients ──── lan0 router wan0 ──── servers, clients
//! ```
//!
//! All hosts of a side share a link but send everything to the router. Each has addresses of its own side's network, of
//! the other side's, and of neither, so that packets occur for everything that rules distinguish.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::netns::Netns;
use super::segment::send_out_of_window;
use super::wait::{PATIENCE, eventually};

/// The side of the router on which a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Lan,
    Wan,
}

pub const SIDES: [Side; 2] = [Side::Lan, Side::Wan];

impl Side {
    /// The router's device on this side.
    pub fn device(self) -> &'static str {
        ["lan0", "wan0"][self as usize]
    }

    fn number(self) -> u16 {
        self as u16 + 1
    }

    fn other(self) -> Self {
        SIDES[1 - self as usize]
    }

    /// The network of this side's hosts.
    pub fn network(self, six: bool) -> String {
        let number = self.number();
        if six { format!("fd77:{number}::/64") } else { format!("10.77.{number}.0/24") }
    }

    /// An address of that network. Addresses from [`STRANGERS`] on belong to hosts of the other side.
    pub fn near(self, six: bool, host: u16) -> IpAddr {
        address(six, 77, self.number(), host)
    }

    /// The router's own address on this side.
    pub fn router(self, six: bool) -> IpAddr {
        self.near(six, 1)
    }

    /// An address of a host on this side that is in neither side's network.
    pub fn far(self, six: bool, host: u16) -> IpAddr {
        address(six, 78, self.number(), host)
    }

    /// A host's three addresses: in this side's network, in the other's, and in neither.
    fn all(self, six: bool, host: u16) -> [IpAddr; 3] {
        [self.near(six, host), self.other().near(six, STRANGERS + host), self.far(six, host)]
    }
}

/// First host number of a network's upper half.
const STRANGERS: u16 = 128;
/// Last parts of the hosts' addresses. Servers have two; so do clients of Services, and clients of servers.
const SERVERS: [u16; 2] = [2, 3];
const OF_SERVICES: [u16; 2] = [12, 15];
const OF_SERVERS: [u16; 2] = [13, 14];
/// Ports on which servers and the router listen, below those that clients choose. Services use the first, the router's
/// own addresses the third, real servers the last.
pub const PORTS: [u16; 4] = [80, 81, 808, 777];
/// Lowest source port of clients; each connection uses another one.
const CHOSEN: u16 = 20_000;

fn address(six: bool, net: u16, side: u16, host: u16) -> IpAddr {
    let byte = |part: u16| u8::try_from(part).expect("a byte");
    match six {
        false => Ipv4Addr::new(10, byte(net), byte(side), byte(host)).into(),
        true => {
            let written = |part: u16| u16::from_str_radix(&part.to_string(), 16).expect("digits");
            let upper = if net == 77 && host > STRANGERS { 0x8000 } else { 0 };
            Ipv6Addr::new(0xfd00 + written(net), side, 0, 0, upper, 0, 0, host).into()
        }
    }
}

/// An address of the router's that is on none of the links.
pub fn router_alone(six: bool) -> IpAddr {
    address(six, 79, 0, 1)
}

/// Addresses of two Services; no host has them.
pub fn services(six: bool) -> [IpAddr; 2] {
    [address(six, 96, 0, 1), address(six, 96, 1, 1)]
}

/// The hosts of one side.
#[derive(Debug)]
struct Hosts {
    servers: Netns,
    clients: Netns,
}

#[derive(Debug)]
pub struct ConnectionLab {
    pub router: Netns,
    sides: [Hosts; 2],
    outward: Option<Side>,
}

/// What happened to the connections.
#[derive(Debug, Default)]
pub struct Outcome {
    /// After a segment outside their window.
    pub ends: Ends,
    /// After their conntrack entries were flushed: seen when the client sends its next segment.
    pub lost: Ends,
    /// Whether any source port was changed.
    pub draws: bool,
    /// One line for each connection, for people.
    pub told: Vec<String>,
}

/// Numbers of opened connections that were reset and that live, by whether source and destination were translated.
pub type Ends = BTreeMap<(bool, bool), [u64; 2]>;

/// Index of the router among the places with listeners.
const ROUTER: usize = 2;

struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Index of the place whose listener accepted it.
    at: usize,
    number: u16,
    /// The client, the client as the server sees it, the address it connected to, and the server's address.
    ends: [SocketAddr; 4],
}

impl ConnectionLab {
    /// The hosts, and a router without rules whose default routes lead to `outward`. Hosts on that side reach Services
    /// and the router's own addresses but no server, as the verdict assumes.
    pub fn new(outward: Option<Side>) -> Self {
        let hosts = |_| Hosts { servers: Netns::new(), clients: Netns::new() };
        let lab = Self { router: Netns::new(), sides: SIDES.map(hosts), outward };
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            lab.router.sysctl(key, 1);
        }
        lab.router.sysctl("net.ipv4.conf.all.send_redirects", 0);
        lab.router.sysctl("net.ipv4.conf.default.send_redirects", 0);
        let mut router = String::new();
        for side in SIDES {
            let servers = &lab.sides[side as usize].servers;
            let (device, at) = (side.device(), side.number());
            let _ = writeln!(
                router,
                "link add {device} address 02:00:00:00:0{at}:01 type veth peer name eth0 address 02:00:00:00:0{at}:02 netns {}\nlink set {device} up",
                servers.name()
            );
        }
        batch(&lab.router, &router);
        for side in SIDES {
            let Hosts { servers, clients } = &lab.sides[side as usize];
            // Frames for its own address are delivered to it, all others to the servers.
            batch(
                servers,
                &format!(
                    "link set eth0 up\nlink add link eth0 name m0 address 02:00:00:00:0{}:03 netns {} type macvlan mode private",
                    side.number(),
                    clients.name()
                ),
            );
        }
        for side in SIDES {
            lab.address_hosts(side);
        }
        lab.address_router();
        lab
    }

    fn address_hosts(&self, side: Side) {
        let Hosts { servers, clients } = &self.sides[side as usize];
        let of_clients = [OF_SERVICES, OF_SERVERS].concat();
        for (host, device, numbers) in [(servers, "eth0", &SERVERS[..]), (clients, "m0", &of_clients)] {
            for key in ["net.ipv4.conf.all.accept_redirects", "net.ipv6.conf.all.accept_redirects"] {
                host.sysctl(key, 0);
            }
            host.sysctl(&format!("net/ipv4/conf/{device}/accept_redirects"), 0);
            host.sysctl(&format!("net/ipv6/conf/{device}/accept_redirects"), 0);
            for six in [false, true] {
                let mut text = format!("link set {device} up\n");
                for number in numbers {
                    for ip in side.all(six, *number) {
                        let _ = writeln!(text, "addr add {} dev {device}{}", alone(ip), nodad(ip));
                    }
                }
                let (router, number) = (side.router(six), side.number());
                let _ = writeln!(
                    text,
                    "neigh replace {router} lladdr 02:00:00:00:0{number}:01 dev {device} nud permanent\nroute add {router} dev {device}"
                );
                let default = if six { "::/0" } else { "0.0.0.0/0" };
                let via = format!("via {router} dev {device} onlink");
                let _ = writeln!(text, "route add {default} {via}");
                if device == "m0" && self.outward == Some(side) {
                    for ip in OF_SERVICES.into_iter().flat_map(|number| side.all(six, number)) {
                        let _ = writeln!(text, "rule add from {} lookup 100", alone(ip));
                    }
                    let own = SIDES.map(|side| side.router(six));
                    for ip in own.into_iter().chain([router_alone(six)]).chain(services(six)) {
                        let _ = writeln!(text, "route add {} {via} table 100", alone(ip));
                    }
                    let _ = writeln!(text, "route add unreachable {default} table 100");
                }
                batch(host, &text);
            }
        }
    }

    fn address_router(&self) {
        for six in [false, true] {
            let mut text = String::new();
            let alone_here = router_alone(six);
            let _ = writeln!(text, "addr add {} dev lo{}", alone(alone_here), nodad(alone_here));
            for side in SIDES {
                let (device, ip) = (side.device(), side.router(six));
                let length = if six { 64 } else { 24 };
                let _ = writeln!(text, "addr add {ip}/{length} dev {device}{}", nodad(ip));
                let (at, other) = (side.number(), side.other().number());
                let (strangers, far) = if six {
                    (format!("fd77:{other}:0:0:8000::/65"), format!("fd78:{at}::/64"))
                } else {
                    (format!("10.77.{other}.128/25"), format!("10.78.{at}.0/24"))
                };
                let _ = writeln!(text, "route add {strangers} dev {device}\nroute add {far} dev {device}");
                let clients = [OF_SERVICES, OF_SERVERS].into_iter().flatten();
                for (number, owner) in SERVERS.map(|n| (n, 2)).into_iter().chain(clients.map(|n| (n, 3))) {
                    for ip in side.all(six, number) {
                        let _ = writeln!(
                            text,
                            "neigh replace {ip} lladdr 02:00:00:00:0{at}:0{owner} dev {device} nud permanent"
                        );
                    }
                }
            }
            // Route of what nobody translates; the server there drops it.
            let nowhere = if six { "fd96::/16" } else { "10.96.0.0/15" };
            let _ = writeln!(text, "route add {nowhere} via {} dev wan0", Side::Wan.near(six, SERVERS[0]));
            if let Some(side) = self.outward {
                let default = if six { "::/0" } else { "0.0.0.0/0" };
                let _ = writeln!(text, "route add {default} via {} dev {}", side.near(six, SERVERS[0]), side.device());
            }
            batch(&self.router, &text);
        }
    }

    /// The namespaces with listeners.
    fn places(&self) -> [&Netns; 3] {
        [&self.sides[0].servers, &self.sides[1].servers, &self.router]
    }

    /// All listeners, each with the index of its place.
    pub(super) fn listeners(&self, families: &[bool]) -> Vec<(usize, TcpListener)> {
        let places = self.places();
        let all = places.iter().enumerate();
        all.flat_map(|(at, place)| place.enter(|| listen(families)).into_iter().map(move |one| (at, one))).collect()
    }

    /// Opens two connections between every client and every server. In one of each two it sends a segment outside the
    /// window; of the others it flushes the entries in the router. Returns how they end.
    pub fn play(&self, families: &[bool]) -> Outcome {
        let (places, listeners) = (self.places(), self.listeners(families));
        let mut pending = BTreeMap::new();
        let mut next = 0u16;
        for six in families {
            for (place, from, to) in self.probes(*six) {
                let opened: Vec<_> = place.enter(|| {
                    let each = from.iter().flat_map(|from| to.iter().flat_map(|to| [(*from, *to); 2]));
                    each.zip(next..).filter_map(|((from, to), number)| begin(from, to, number)).collect()
                });
                next += u16::try_from(2 * from.len() * to.len()).expect("few connections");
                pending.extend(opened);
            }
        }
        let open = establish(&listeners, pending);
        let draws =
            open.iter().any(|one| one.at < ROUTER && one.translated().0 && one.ends[0].port() != one.ends[1].port());
        // One of two equal connections loses its entry.
        let (mut open, losing): (Vec<Connection>, Vec<Connection>) =
            open.into_iter().partition(|one| one.number % 2 == 0);
        for (at, place) in places.iter().enumerate().take(2) {
            place.enter(|| open.iter().filter(|one| one.at == at).for_each(|one| send_out_of_window(&one.server)));
        }
        let mut reset = vec![false; open.len()];
        // The response to that segment precedes those to later ones, as it takes the same path.
        for _ in 0..4 {
            for (one, reset) in open.iter_mut().zip(&mut reset) {
                *reset = *reset || !one.goes_on();
            }
            thread::sleep(Duration::from_millis(15));
        }
        let mut outcome = Outcome { draws, ..Outcome::default() };
        for (one, reset) in open.into_iter().zip(reset) {
            *outcome.ends.entry(one.translated()).or_default().get_mut(usize::from(!reset)).expect("two") += 1;
            outcome.told.push(format!("{}: {}", one.tell(), if reset { "reset" } else { "lives" }));
        }
        // The router's connections to itself leave by no device.
        let losing: Vec<Connection> = losing.into_iter().filter(|one| one.at < ROUTER).collect();
        // Time for packets in flight to arrive.
        thread::sleep(Duration::from_millis(120));
        self.router.run(&["conntrack", "-F"]);
        for (one, lives) in outlive(losing) {
            *outcome.lost.entry(one.translated()).or_default().get_mut(usize::from(lives)).expect("two") += 1;
            outcome.told.push(format!("{}: {}", one.tell(), if lives { "without its entry: lives" } else { "lost" }));
        }
        outcome
    }

    /// Calls `make` for each server address, in that server's namespace.
    pub fn servers<T: Send>(&self, families: &[bool], make: impl Fn(IpAddr) -> T + Sync) -> Vec<T> {
        let (mut all, make) = (Vec::new(), &make);
        for side in SIDES {
            let addresses = families.iter().flat_map(|six| SERVERS.map(|number| side.all(*six, number))).flatten();
            all.extend(self.sides[side as usize].servers.enter(|| addresses.map(make).collect::<Vec<T>>()));
        }
        all
    }

    /// Clients of Services, with their addresses.
    pub fn askers(&self, six: bool) -> Vec<(&Netns, Vec<IpAddr>)> {
        let clients = SIDES.map(|side| (&self.sides[side as usize].clients, side.all(six, OF_SERVICES[0]).to_vec()));
        let own = SIDES.iter().map(|side| side.router(six)).chain([router_alone(six)]).collect();
        clients.into_iter().chain([(&self.router, own)]).collect()
    }

    /// Clients, their addresses, and where they connect to.
    pub(super) fn probes(&self, six: bool) -> Vec<(&Netns, Vec<IpAddr>, Vec<SocketAddr>)> {
        let own: Vec<IpAddr> = SIDES.iter().map(|side| side.router(six)).chain([router_alone(six)]).collect();
        let every = |addresses: &[IpAddr]| -> Vec<SocketAddr> {
            addresses.iter().flat_map(|ip| PORTS.map(|port| SocketAddr::new(*ip, port))).collect()
        };
        let services = every(&[&services(six)[..], &own].concat());
        let servers: Vec<IpAddr> = SIDES
            .iter()
            .flat_map(|side| [&side.all(six, SERVERS[0])[..], &[side.near(six, SERVERS[1])]].concat())
            .collect();
        let servers = every(&servers);
        let mut all = vec![(&self.router, own.clone(), services.clone()), (&self.router, own, servers.clone())];
        for side in SIDES {
            let clients = &self.sides[side as usize].clients;
            // Two addresses of each network.
            let both = |[one, other]: [u16; 2]| [&side.all(six, one)[..], &side.all(six, other)[..2]].concat();
            all.push((clients, both(OF_SERVICES), services.clone()));
            all.push((clients, both(OF_SERVERS), servers.clone()));
        }
        all
    }
}

/// Runs lines of `ip -batch` for one family.
fn batch(ns: &Netns, lines: &str) {
    let family = if lines.contains("::") { "-6" } else { "-4" };
    let mut command = ns.command("ip");
    command.args([family, "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("ip -batch: {e}"));
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("ip reads");
    let output = child.wait_with_output().expect("ip ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -batch in {}: {errors}\n{lines}", ns.name());
}

fn alone(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

fn nodad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}

fn listen(families: &[bool]) -> Vec<TcpListener> {
    let any = |six: &bool| if *six { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let all = families.iter().flat_map(|six| PORTS.map(|port| SocketAddr::new(any(six), port)));
    all.map(|address| {
        let kind = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket_with(kind, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
            .expect("a socket");
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true).expect("of IPv6 only");
        }
        // Connections of earlier listeners may still exist.
        sockopt::set_socket_reuseaddr(&socket, true).expect("the port again");
        // So may the listener itself, in a child process that has not called exec yet.
        eventually(PATIENCE, || bind(&socket, &address));
        rustix::net::listen(&socket, 1024).expect("it listens");
        TcpListener::from(socket)
    })
    .collect()
}

/// Starts to open a connection with this number. `None`: no route.
fn begin(from: IpAddr, to: SocketAddr, number: u16) -> Option<(u16, (TcpStream, SocketAddr))> {
    let kind = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket =
        socket_with(kind, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None).expect("a socket");
    let own = SocketAddr::new(from, CHOSEN + number);
    bind(&socket, &own).unwrap_or_else(|e| panic!("{own}: {e}"));
    match connect(&socket, &to) {
        Err(Errno::INPROGRESS) | Ok(()) => Some((number, (TcpStream::from(socket), to))),
        Err(_) => None,
    }
}

/// Waits until no further connection opens, long enough for one retransmission of the SYN.
fn establish(
    listeners: &[(usize, TcpListener)],
    mut pending: BTreeMap<u16, (TcpStream, SocketAddr)>,
) -> Vec<Connection> {
    const QUIET: Duration = Duration::from_millis(1300);
    let mut last = Instant::now();
    let mut accepted = Vec::new();
    let mut connected = BTreeMap::new();
    while last.elapsed() < QUIET && (!pending.is_empty() || accepted.len() < connected.len()) {
        let waiting: Vec<u16> = pending.keys().copied().collect();
        for number in waiting {
            let (stream, _) = &pending[&number];
            let ended = stream.take_error().expect("its state").is_some();
            if ended || stream.peer_addr().is_ok() {
                let (stream, to) = pending.remove(&number).expect("it was there");
                last = Instant::now();
                if !ended {
                    // Tells the server the connection's number.
                    (&stream).write_all(&number.to_be_bytes()).expect("two bytes");
                    connected.insert(number, (stream, to));
                }
            }
        }
        for (at, listener) in listeners {
            while let Ok((stream, _)) = listener.accept() {
                accepted.push((*at, stream));
                last = Instant::now();
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    let mut open = Vec::new();
    for (at, mut server) in accepted {
        let mut number = [0; 2];
        server.set_nonblocking(false).expect("it waits");
        server.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        if let Err(error) = server.read_exact(&mut number) {
            assert!(ENDED.contains(&error.kind()), "{error}");
            continue;
        }
        let number = u16::from_be_bytes(number);
        let Some((client, asked)) = connected.remove(&number) else { continue };
        client.set_nonblocking(false).expect("it waits");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
            stream.set_nodelay(true).expect("no delay");
        }
        let ends = [client.local_addr(), server.peer_addr(), server.local_addr()];
        let [Ok(from), Ok(peer), Ok(real)] = ends else { continue };
        let mut one = Connection { client, server, at, number, ends: [from, peer, asked, real] };
        if one.goes_on() {
            open.push(one);
        }
    }
    open
}

const ENDED: [ErrorKind; 3] = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];

/// Sends one more segment from each client; returns which connections live, without those of unknown fate.
fn outlive(connections: Vec<Connection>) -> Vec<(Connection, bool)> {
    const QUIET: Duration = Duration::from_millis(700);
    let mut waiting = Vec::new();
    for mut one in connections {
        for stream in [&one.client, &one.server] {
            stream.set_nonblocking(true).expect("it does not wait");
        }
        if one.client.write_all(b"c").is_ok() {
            waiting.push(one);
        }
    }
    let (mut last, mut found) = (Instant::now(), Vec::new());
    while !waiting.is_empty() && last.elapsed() < QUIET {
        for mut one in std::mem::take(&mut waiting) {
            let mut byte = [0];
            let lives = match (one.server.read(&mut byte), one.client.read(&mut byte)) {
                (Ok(1), _) => true,
                (_, Err(error)) if ENDED.contains(&error.kind()) => false,
                _ => {
                    waiting.push(one);
                    continue;
                }
            };
            last = Instant::now();
            found.push((one, lives));
        }
        thread::sleep(Duration::from_millis(2));
    }
    found
}

impl Connection {
    /// Whether its source and its destination were translated.
    fn translated(&self) -> (bool, bool) {
        let [client, peer, asked, real] = self.ends;
        (client != peer, asked != real)
    }

    fn tell(&self) -> String {
        let [client, peer, asked, real] = self.ends;
        format!("{client} ({peer}) to {asked} ({real})")
    }

    /// Sends a byte in each direction; false: the connection was reset.
    fn goes_on(&mut self) -> bool {
        let mut byte = [0];
        let there = self.client.write_all(b"a").and_then(|()| self.server.read_exact(&mut byte));
        match there.and_then(|()| self.server.write_all(b"b")).and_then(|()| self.client.read_exact(&mut byte)) {
            Ok(()) => true,
            Err(error) if ENDED.contains(&error.kind()) => false,
            Err(error) => panic!("neither an answer nor a reset: {error}"),
        }
    }
}
