//! Client, router and server in a row; the router does source NAT.
//!
//! ```text
//! client eth0 ──── lan0 router wan0 ──── eth0 server
//! 10.77.1.11,.12    .1.1       .2.1       10.77.2.2
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value;

use super::netns::{Netns, fixed_neighbour, veth};
use super::wait::{PATIENCE, eventually};

/// The client's two addresses: a source-port race needs two sources.
pub const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 11), Ipv4Addr::new(10, 77, 1, 12)];
/// The router's address on the server's side: what sources are translated to.
pub const ROUTER_WAN: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
/// Destination of all traffic. Nothing listens: TCP is refused at once unless the server sinks it.
pub const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 2), 7777);
/// The device the router's source NAT is bound to.
pub const WAN: &str = "wan0";

/// The transport protocol of test traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    /// The name that iptables, nft and conntrack use.
    pub fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// The program, and thereby the kernel interface, that a rule is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    IptablesLegacy,
    IptablesNft,
    Nft,
}

/// How the rule chooses the translated source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The sender's port if it is free.
    Kept,
    Random,
    RandomFully,
    /// Only `low..=high`, and only for one protocol, as such rules must name one.
    Range {
        proto: Proto,
        low: u16,
        high: u16,
    },
}

/// Where the translated source address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The address of the outgoing device (`masquerade`).
    Device,
    /// A given address (`snat`).
    Address(Ipv4Addr),
}

/// One source-NAT rule for what leaves by [`WAN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRule {
    pub backend: Backend,
    pub source: Source,
    pub ports: Ports,
}

impl NatRule {
    /// A masquerade rule.
    pub fn masquerade(backend: Backend, ports: Ports) -> Self {
        Self { backend, source: Source::Device, ports }
    }

    /// The same rule with a fixed source address.
    pub fn to_source(mut self, address: Ipv4Addr) -> Self {
        self.source = Source::Address(address);
        self
    }

    /// Adds the rule in `ns` for what leaves by `device`.
    pub fn apply(&self, ns: &Netns, device: &str) {
        match self.backend {
            Backend::IptablesLegacy => self.apply_iptables(ns, device, "iptables-legacy"),
            Backend::IptablesNft => self.apply_iptables(ns, device, "iptables-nft"),
            Backend::Nft => self.apply_nft(ns, device),
        }
    }

    fn apply_iptables(&self, ns: &Netns, device: &str, program: &str) {
        let (matches, range) = match self.ports {
            Ports::Range { proto, low, high } => (format!("-p {}", proto.name()), Some(format!("{low}-{high}"))),
            _ => (String::new(), None),
        };
        let action = match (self.source, range) {
            (Source::Device, None) => "MASQUERADE".to_owned(),
            (Source::Device, Some(range)) => format!("MASQUERADE --to-ports {range}"),
            (Source::Address(ip), None) => format!("SNAT --to-source {ip}"),
            (Source::Address(ip), Some(range)) => format!("SNAT --to-source {ip}:{range}"),
        };
        let flag = self.flag("--random", "--random-fully");
        ns.cmd(&format!("{program} -w -t nat -A POSTROUTING -o {device} {matches} -j {action} {flag}"));
    }

    fn apply_nft(&self, ns: &Netns, device: &str) {
        let (matches, range) = match self.ports {
            Ports::Range { proto, low, high } => {
                (format!("meta l4proto {}", proto.name()), Some(format!(":{low}-{high}")))
            }
            _ => (String::new(), None),
        };
        let action = match (self.source, range) {
            (Source::Device, None) => "masquerade".to_owned(),
            (Source::Device, Some(range)) => format!("masquerade to {range}"),
            (Source::Address(ip), range) => format!("snat to {ip}{}", range.unwrap_or_default()),
        };
        let flag = self.flag("random", "fully-random");
        let rule = format!("add rule ip nat post oifname {device} {matches} {action} {flag}");
        let chain = "add chain ip nat post { type nat hook postrouting priority 100; }";
        ns.run(&["nft", &format!("add table ip nat; {chain}; {rule}")]);
    }

    /// The spelling of the randomization flag, empty if there is none.
    fn flag(&self, random: &'static str, fully: &'static str) -> &'static str {
        match self.ports {
            Ports::Random => random,
            Ports::RandomFully => fully,
            Ports::Kept | Ports::Range { .. } => "",
        }
    }
}

/// The three namespaces, connected and forwarding.
#[derive(Debug)]
pub struct Router {
    pub client: Netns,
    pub router: Netns,
    pub server: Netns,
}

impl Router {
    /// The topology with one source-NAT rule.
    pub fn with(rule: NatRule) -> Self {
        let lab = Self::plain();
        rule.apply(&lab.router, WAN);
        lab
    }

    /// The topology without NAT and without connection tracking.
    pub fn plain() -> Self {
        let lab = Self { client: Netns::new(), router: Netns::new(), server: Netns::new() };
        lab.connect_client();
        lab.connect_server();
        lab.router.sysctl("net.ipv4.ip_forward", 1);
        lab
    }

    fn connect_client(&self) {
        let (client, router) = (&self.client, &self.router);
        veth(client, "eth0", router, "lan0");
        router.address("lan0", "10.77.1.1/24");
        for ip in CLIENTS {
            client.address("eth0", &format!("{ip}/24"));
            fixed_neighbour(router, "lan0", &ip.to_string(), (client, "eth0"));
        }
        fixed_neighbour(client, "eth0", "10.77.1.1", (router, "lan0"));
        client.route("default via 10.77.1.1");
    }

    fn connect_server(&self) {
        let (router, server) = (&self.router, &self.server);
        veth(server, "eth0", router, WAN);
        router.address(WAN, &format!("{ROUTER_WAN}/24"));
        server.address("eth0", &format!("{}/24", TARGET.ip()));
        fixed_neighbour(router, WAN, &TARGET.ip().to_string(), (server, "eth0"));
        fixed_neighbour(server, "eth0", &ROUTER_WAN.to_string(), (router, WAN));
        server.route("default via 10.77.2.1");
    }

    /// Makes the router track connections although nothing is translated.
    pub fn track_without_nat(&self) {
        let chain = "add chain ip track forward { type filter hook forward priority 0; }";
        let rule = "add rule ip track forward ct state new accept";
        let script = format!("add table ip track; {chain}; {rule}");
        self.router.run(&["nft", &script]);
    }

    /// Makes the server count and swallow the protocol: without replies, flows stay unreplied.
    pub fn sink(&self, proto: Proto) {
        let chain = "add chain ip sink pre { type filter hook prerouting priority -300; }";
        let proto = proto.name();
        let rule = format!("add rule ip sink pre meta l4proto {proto} counter name got drop");
        let script = format!("add table ip sink; add counter ip sink got; {chain}; {rule}");
        self.server.run(&["nft", &script]);
    }

    /// Packets that the sink has swallowed so far.
    pub fn delivered(&self) -> u64 {
        let text = self.server.cmd("nft -j list counter ip sink got");
        let json: Value = serde_json::from_str(&text).expect("nft prints JSON");
        let entries = json["nftables"].as_array().expect("a list");
        let counter = entries.iter().find_map(|entry| entry.get("counter"));
        counter.and_then(|c| c["packets"].as_u64()).unwrap_or_else(|| panic!("no counter in {text}"))
    }

    /// `settle` for an overfull table: each of `sent` flows has an entry, was evicted, or was dropped.
    pub fn settle_evicting(&self, sent: u64) {
        eventually(PATIENCE, || {
            let stats = super::counters::conntrack_stats(&self.router);
            let count = super::traffic::conntrack_count(&self.router);
            let known = count + stats.total("early_drop") + stats.total("drop");
            if known == sent { Ok(()) } else { Err(format!("sent {sent}, {count} entries, {stats:?}")) }
        });
    }

    /// Waits until each of `sent` packets has either reached the sink or been dropped by the
    /// router's conntrack, then returns how many reached it.
    pub fn settle(&self, sent: u64) -> u64 {
        eventually(PATIENCE, || {
            let dropped = super::counters::conntrack_stats(&self.router).total("drop");
            let delivered = self.delivered();
            if delivered + dropped == sent {
                return Ok(delivered);
            }
            Err(format!("sent {sent}, delivered {delivered}, dropped {dropped}"))
        })
    }
}
