//! A small fleet scraped by one Prometheus: a busy, exposed node, its healthy peer, one where natwatch lacks
//! permissions, and one that does not answer.
//!
//! ```text
//! node-3 ──── node-1 ════ node-2        node-4 is an address where nothing listens
//! client      router vx0   server vx0    Prometheus runs beside node-1
//! ```

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::links::offload;
use super::process::Daemon;
use super::program::{HERE, NATWATCH, PublicCopy, command_as};
use super::prometheus::{self, url_encoded};
use super::router::{CLIENTS, Proto, ROUTER_WAN, Router, TARGET, WAN};
use super::rules::{load, nft};
use super::traffic::exhaust;
use super::wait::{PATIENCE, eventually};

/// The tunnel's device on node-1 and node-2.
pub const TUNNEL: &str = "flannel.1";
/// Port of every natwatch, on the address by which the others reach the node.
const PORT: u16 = 10077;
/// Flows that compete for ten ports in each burst of traffic.
const FLOWS: u16 = 50;
/// Rules as old kube-proxy wrote them: the mark survives encapsulation, and the outer packet is translated too.
const OLD_KUBE_PROXY: &str = "*nat\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
    -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n-A OUTPUT -d 10.88.0.2/32 -j KUBE-MARK-MASQ\n\
    -A POSTROUTING -j KUBE-POSTROUTING\n\
    -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully\nCOMMIT\n";

/// The three namespaces.
#[derive(Debug)]
pub struct Fleet {
    pub net: Router,
    copy: PublicCopy,
}

impl Fleet {
    /// Node-1 translates what node-3 sends, from ten ports; nothing is exposed yet.
    pub fn new() -> Self {
        let fleet = Self { net: Router::plain(), copy: PublicCopy::new() };
        let net = &fleet.net;
        nft(
            &net.router,
            "table ip leaving { chain post { type nat hook postrouting priority 100; \
             ip saddr 10.77.1.0/24 oifname wan0 meta l4proto udp counter masquerade to :4001-4010\n}\n}",
        );
        nft(
            &net.server,
            "table ip sink { chain pre { type filter hook prerouting priority -300; udp dport 7777 drop\n}\n\
             chain in { type filter hook input priority 0; ct state invalid counter\n}\n}",
        );
        net.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 600);
        fleet
    }

    /// Builds a tunnel from node-1 to node-2, and the rules that break its checksums.
    pub fn expose(&self) {
        let [a, b] = [&self.net.router, &self.net.server];
        // Otherwise a checksum left to the "hardware" is never verified.
        for (ns, device) in [(a, WAN), (b, "eth0")] {
            offload(ns, device, "tx", false);
            offload(ns, device, "rx", false);
        }
        let peers = [(a, 1, ROUTER_WAN, *TARGET.ip(), WAN), (b, 2, *TARGET.ip(), ROUTER_WAN, "eth0")];
        for (ns, number, local, remote, device) in peers {
            let (mac, other) = (format!("02:00:00:00:58:0{number}"), 3 - number);
            let peer = format!("02:00:00:00:58:0{other}");
            ns.cmd(&format!(
                "ip link add {TUNNEL} address {mac} type vxlan id 1 local {local} dev {device} dstport 8472 nolearning"
            ));
            ns.address(TUNNEL, &format!("10.88.0.{number}/24"));
            ns.up(TUNNEL);
            ns.cmd(&format!("bridge fdb append {peer} dev {TUNNEL} dst {remote}"));
            ns.cmd(&format!("ip neigh replace 10.88.0.{other} lladdr {peer} dev {TUNNEL} nud permanent"));
        }
        load(a, &["iptables-legacy-restore"], OLD_KUBE_PROXY);
    }

    /// Flows that compete for ports on node-1, and datagrams through the tunnel, if there is one.
    pub fn traffic(&self) {
        exhaust(&self.net, Proto::Udp, FLOWS);
        self.net.router.enter(|| {
            for _ in 0..8 {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                // Until the tunnel exists nobody has the address.
                let _ = socket.send_to(b"x", (Ipv4Addr::new(10, 88, 0, 2), 9000));
            }
        });
    }

    /// natwatch on all three nodes; node-3 runs it without any privilege.
    pub fn serve(&self) -> [Daemon; 3] {
        let copy = self.copy.path();
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copy.to_str().expect("UTF-8")];
        let net = &self.net;
        let nodes = [
            (&net.router, Ipv4Addr::LOCALHOST, vec![NATWATCH]),
            (&net.server, *TARGET.ip(), vec![NATWATCH]),
            (&net.client, CLIENTS[0], nobody.to_vec()),
        ];
        nodes.map(|(ns, address, words)| {
            let mut command = command_as(ns, &words);
            command.args(["--web.listen-address", &format!("{address}:{PORT}")]).args(HERE);
            let mut daemon = Daemon::start(command);
            let address = SocketAddr::from(SocketAddrV4::new(address, PORT));
            eventually(PATIENCE, || {
                assert_eq!(daemon.status(), None, "it has ended: {}", daemon.stderr());
                ns.enter(|| http::try_get(address, "/-/healthy", &[]))
            });
            daemon
        })
    }

    /// The scrape configuration, with timeouts that suit a busy machine. Job `natwatch` has the whole fleet, without a
    /// label `cluster`; job `fine` has node-2 alone; job `old` has node-1 as a kernel before 5.10 would show it, in
    /// cluster `east`.
    fn scrapes() -> String {
        let target = |node: usize, address: Ipv4Addr, more: &str| {
            format!("{{targets: ['{address}:{PORT}'], labels: {{instance: node-{node}{more}}}}}")
        };
        let [one, two, three] = [Ipv4Addr::LOCALHOST, *TARGET.ip(), CLIENTS[0]];
        let fleet = [target(1, one, ""), target(2, two, ""), target(3, three, ""), target(4, CLIENTS[1], "")];
        let (fine, old) = (target(2, two, ""), target(1, one, ", cluster: east"));
        format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 2s}}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n\
             - {{job_name: natwatch, static_configs: [{}]}}\n\
             - {{job_name: fine, static_configs: [{fine}]}}\n\
             - {{job_name: old, static_configs: [{old}], metric_relabel_configs: [{{source_labels: [__name__], \
             regex: natwatch_conntrack_(clash_resolve|chaintoolong)_total, action: drop}}]}}\n",
            fleet.join(", ")
        )
    }
}

/// A Prometheus in node-1's namespace.
pub struct Prometheus<'a>(pub prometheus::Prometheus<'a>);

impl<'a> Prometheus<'a> {
    /// Starts it with these recording rules.
    pub fn start(fleet: &'a Fleet, rules: &str) -> Self {
        Self(prometheus::Prometheus::with_config(&fleet.net.router, &Fleet::scrapes(), rules))
    }

    /// Series that an instant query yields, or Prometheus's error.
    pub fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        self.ask(&format!("/api/v1/query?query={}", url_encoded(query)))
    }

    /// The same for a range of time.
    pub fn query_range(&self, query: &str, start: f64, end: f64) -> Result<Vec<Value>, String> {
        self.ask(&format!("/api/v1/query_range?query={}&start={start}&end={end}&step=1", url_encoded(query)))
    }

    fn ask(&self, path: &str) -> Result<Vec<Value>, String> {
        Ok(self.0.ask(path)?["result"].as_array().cloned().unwrap_or_default())
    }

    /// Runs `work` and the query until the query yields something.
    pub fn wait(&self, query: &str, mut work: impl FnMut()) {
        eventually(2 * PATIENCE, || {
            work();
            thread::sleep(Duration::from_millis(200));
            let found = self.query(query)?;
            if found.is_empty() { Err(format!("nothing yet: {query}")) } else { Ok(()) }
        });
    }
}
