//! What a reading takes over is still valid: links, addresses, routes, sysctls, rules and sets change at random between
//! readings, and each reading has the same facts and verdicts as one without memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use natwatch::inside::advisory::Catalogue;
use natwatch::inside::capture::{Ask, Request, Root, Take};
use natwatch::inside::facts::{Collector, Facts, Failure, Reading, Source};
use natwatch::inside::judge::{self, Derived, Report};
use natwatch::inside::kernel::{Live, Paths, Progress};
use natwatch::inside::read::{self, Collectors, Known, Parts};
use serde_json::Value;

use crate::support::grammar::{Dice, services};
use crate::support::netns::{Netns, veth};
use crate::support::program::{HERE, NATWATCH, Run};
use crate::support::report::LEVELS;
use crate::support::rules::load;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, eventually};

/// Counts each thread's allocations.
struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "an allocator's interface is unsafe")]
// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Counts requests.
struct Counting {
    live: Live,
    asked: BTreeMap<String, usize>,
}

impl Ask for Counting {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        *self.asked.entry(request.name.clone()).or_default() += 1;
        self.live.ask(request, take)
    }

    fn epoch(&mut self) -> Option<u64> {
        self.live.epoch()
    }

    fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        self.live.watch_fdb(devices)
    }
}

/// A node read as by `serve`, on one thread.
struct Remembering {
    ask: Counting,
    known: Known,
}

fn live() -> Live {
    let paths = Paths { procfs: "/proc".into(), sysfs: "/sys".into(), rootfs: "/".into() };
    Live::new(paths, Arc::new(Progress::new(PATIENCE)))
}

/// Collectors of what changes: links and rules.
fn watched() -> Collectors {
    Collectors::from([Collector::Links, Collector::Nat])
}

fn facts(parts: Parts) -> Facts {
    let missing = Failure::not_needed("every part is there");
    parts.facts(&natwatch::inside::kernel::meta(), &watched(), &missing)
}

fn judged(facts: &Facts, derived: &mut Derived) -> Report {
    let options = judge::Options { this_namespace: true, ..judge::Options::default() };
    judge::judge_again(Catalogue::built_in(), facts, &options, &AtomicBool::new(false), derived)
}

/// All facts of these collectors.
fn told(facts: &Facts) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:#?}\n{:#?}\n{:#?}", facts.links, facts.addresses, facts.rules);
    let _ = writeln!(text, "{:#?}\n{:#?}\n{:#?}", facts.routes, facts.forwarding, facts.local_ports);
    let _ = writeln!(text, "{:#?}\n{:#?}\n{:#?}", facts.ipvs_services, facts.foreign_tunnels, facts.programs);
    let _ = writeln!(text, "{:#?}\n{:#?}\n{:#?}", facts.local_sources, facts.targets, facts.ipsec);
    let _ = writeln!(text, "{:#?}\n{:#?}\n{:#?}", facts.nftables, facts.legacy_ipv4, facts.legacy_ipv6);
    let _ = writeln!(text, "{:#?}\n{:#?}", facts.source_nat_rules, facts.sources);
    text
}

impl Remembering {
    fn new() -> Self {
        Self { ask: Counting { live: live().watching(), asked: BTreeMap::new() }, known: Known::default() }
    }

    /// One reading; links are read once more and compared if `verify`.
    fn read(&mut self, collectors: &Collectors, verify: bool) -> Parts {
        self.ask.live.begin(Arc::new(Progress::new(PATIENCE)));
        self.ask.asked.clear();
        let now = Instant::now();
        self.known.verify(now, if verify { Duration::ZERO } else { PATIENCE });
        let (parts, left) = read::all(&mut self.ask, collectors, &self.known, &mut |_| ());
        self.known = left;
        self.known.date(now);
        parts
    }

    fn asked(&self, name: &str) -> usize {
        self.ask.asked.get(name).copied().unwrap_or(0)
    }
}

/// The first line in which two texts differ.
fn first_difference(one: &str, other: &str) -> String {
    let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    format!("{differs:?}, {} and {} lines", one.lines().count(), other.lines().count())
}

/// A change of the node, as a shell command. Many fail, and change nothing.
fn change(dice: &mut Dice) -> String {
    let n = dice.below(3);
    let device = dice.of(&["d0", "d1", "d2", "p0", "br0", "vx0", "vx1", "vl0"]).to_owned();
    let tunnel = dice.of(&["vx0", "vx1"]).to_owned();
    let mac = format!("02:00:00:00:00:0{}", dice.below(4));
    let peer = format!("192.0.2.{}", 10 + dice.below(6));
    let net = format!("198.51.100.{}/30", 4 * dice.below(4));
    let net6 = format!("2001:db8:{}::/64", dice.below(4));
    let verb = dice.of(&["add", "del"]).to_owned();
    let toggle = dice.of(&["on", "off"]).to_owned();
    match dice.below(30) {
        0 => format!("ip link add d{n} type veth peer name p{n}"),
        1 => format!("ip link del d{n}"),
        2 | 3 => format!("ip link set {device} up"),
        4 => format!("ip link set {device} down"),
        5 => format!("ip link set {device} mtu {}", 1280 + dice.below(3)),
        6 => format!("ip link set {device} down; ip link set {device} name other; ip link set other name {device}"),
        7 => format!(
            "ip link add vx{} type vxlan id {n} dstport {} {}",
            n % 2,
            4789 + n,
            dice.of(&["", "dev d0", "remote 192.0.2.9"])
        ),
        8 => format!("ip link set {tunnel} type vxlan ttl {}", 1 + dice.below(3)),
        9 => format!("ip link del {tunnel}"),
        10 | 11 => format!("bridge fdb append {mac} dst {peer} dev {tunnel}"),
        12 => format!("bridge fdb del {mac} dst {peer} dev {tunnel}"),
        13 => format!("ip addr {verb} 192.0.2.{}/24 dev {device}", 1 + n),
        14 => format!("ip -6 addr {verb} 2001:db8:{n}::1/64 dev {device} nodad"),
        15 => format!("ip addr flush dev {device}"),
        16 => format!("ip route {verb} {net} dev {device}"),
        17 => format!("ip route replace {net} via 192.0.2.{} onlink dev {device}", 50 + n),
        18 => format!("ip -6 route {verb} {net6} dev {device}"),
        19 => format!("ip route {verb} {} {net}", dice.of(&["blackhole", "unreachable", "local"])),
        20 => format!("ip rule {verb} fwmark {n} table {} pref 100{n}", 10 + n),
        21 => format!("ip -6 rule {verb} from {net6} table {} pref 100{n}", 10 + n),
        22 => format!("ip nexthop {verb} id {} via 192.0.2.60 dev {device} onlink", 1 + n),
        23 => format!("ip route replace {net} nhid {}", 1 + n),
        24 => format!("ip link add br0 type bridge; ip link set {device} master br0"),
        25 => format!("ip link set {device} nomaster"),
        26 => format!("ip link add link d0 name vl0 type vlan id {}", 5 + n),
        27 => format!("tc qdisc {verb} dev {device} clsact; tc filter add dev {device} egress matchall action pass"),
        28 => format!("ethtool -K {device} tx {toggle}"),
        _ => match dice.below(15) {
            0 => format!("sysctl -qw net.ipv4.conf.{device}.forwarding={}", n % 2),
            1 => format!("sysctl -qw net.ipv6.conf.all.forwarding={}", n % 2),
            2 => format!("sysctl -qw net.ipv4.ip_local_port_range='{} 50000'", 10_000 + n),
            3 => "nft add table ip t; nft add chain ip t post '{ type nat hook postrouting priority 100; }'; \
                  nft add set ip t peers '{ type ipv4_addr; flags timeout; }'"
                .into(),
            4 => format!("nft add rule ip t post ip daddr @peers ip saddr {net} masquerade random"),
            5 => format!("nft add element ip t peers '{{ {peer} timeout 1h }}'"),
            6 => "nft delete table ip t".into(),
            7 => format!("nft delete element ip t peers '{{ {peer} }}'"),
            8 => "nft add table ip t; nft add chain ip t out '{ type filter hook output priority 0; }'; \
                  nft add rule ip t out ip daddr @peers meta mark set 0x10; \
                  nft add rule ip t post meta mark 0x10 masquerade"
                .into(),
            9 => "ipset create nets hash:net; iptables-legacy -w -t nat -A POSTROUTING -m set --match-set nets dst -j MASQUERADE"
                .into(),
            10 | 11 => format!("ipset {verb} nets {net}"),
            12 => format!(
                "iptables-legacy -w -t nat -A PREROUTING -s {net} -p tcp -j DNAT --to-destination 198.51.100.{}",
                1 + 4 * n
            ),
            13 => format!("iptables-legacy -w -t nat -A POSTROUTING -s {net} -j SNAT --to-source 198.51.100.{}", 1 + 4 * n),
            _ => format!("iptables-legacy -w -t nat -A POSTROUTING -d {net} -j MASQUERADE --random-fully"),
        },
    }
}

/// Number of changes; each is followed by three readings.
const CHANGES: u64 = 1000;

#[test]
fn after_random_changes_a_reading_finds_what_one_finds_that_remembers_nothing() {
    const SEED: u64 = 7;
    let ns = Netns::new();
    ns.enter(|| {
        for line in ["ip link add d0 type veth peer name p0", "ip link set d0 up", "ip link set p0 up"] {
            ns.cmd(line);
        }
        let (mut node, mut dice, mut done, mut tried, mut took_over) = (Remembering::new(), Dice(SEED), 0, 0, 0);
        let (mut derived, mut verdicts, mut last) = (Derived::default(), 0, None);
        node.read(&watched(), false);
        while done < CHANGES {
            let line = change(&mut dice);
            let status = Command::new("sh").args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            tried += 1;
            assert!(tried < 10 * CHANGES, "{done} of {tried} changes were made");
            if !status.expect("a shell").success() {
                continue;
            }
            done += 1;
            // The kernel may continue (carriers, addresses) for a moment, and notify only then.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let remembered = facts(node.read(&watched(), false));
                took_over += u64::from(node.asked("netlink/route/links") == 0);
                let (fresh, _) = read::all(&mut live(), &watched(), &Known::default(), &mut |_| ());
                let fresh = facts(fresh);
                let report = judged(&remembered, &mut derived);
                let (remembered, told) = (told(&remembered), told(&fresh));
                if remembered == told {
                    let wanted = judged(&fresh, &mut Derived::default());
                    assert_eq!(report, wanted, "seed {SEED}, change {done}, {line}");
                    verdicts += u64::from(last.replace(wanted) != Some(report));
                    break;
                }
                let difference = first_difference(&remembered, &told);
                assert!(Instant::now() < deadline, "seed {SEED}, change {done}, {line}: {difference}");
            }
            node.read(&watched(), true);
            let unnotified = node.known.take_unnotified();
            assert!(unnotified.is_empty(), "seed {SEED}, change {done}, {line}: {unnotified:?}");
        }
        println!("{tried} changes tried, {done} made; {took_over} readings took links over, {verdicts} other reports");
        // Rules, sets and sysctls do not change links.
        assert!(took_over > CHANGES / 20, "{took_over} readings took links over");
        assert!(verdicts > CHANGES / 20, "{verdicts} reports were not as before");
    });
}

/// A reading without a change allocates next to nothing, however large the rule set is.
#[test]
fn an_unchanged_reading_allocates_little() {
    /// Files, counters, features of two devices, the counters of a chain; 900 of them when this was written.
    const MOST: usize = 1200;
    let ns = Netns::new();
    veth(&ns, "eth0", &ns, "eth1");
    ns.address("eth0", "192.0.2.1/24");
    ns.cmd("ip link add vx0 type vxlan id 1 dstport 4789 remote 192.0.2.2 dev eth0");
    ns.up("vx0");
    load(&ns, &["iptables-nft-restore", "-w"], &services(2000));
    ns.enter(|| {
        let mut node = Remembering::new();
        // The kernel continues for a moment after devices are up (carriers, addresses).
        eventually(PATIENCE, || {
            let before = ALLOCATIONS.with(Cell::get);
            node.read(&Collector::ALL.iter().copied().collect(), false);
            let allocations = ALLOCATIONS.with(Cell::get) - before;
            println!("{allocations} allocations");
            (allocations < MOST).then_some(())
        });
    });
}

/// An underlay device, a tunnel, and rules: made with the same names and indices, but other properties.
const MADE: [&str; 3] = [
    "ip link add d0 index 100 type veth peer name p0 index 101; ip addr add 192.0.2.1/24 dev d0
     ip link set d0 up; ip link set p0 up
     ip link add vx0 index 102 type vxlan id 1 dstport 4789 remote 192.0.2.2 dev d0; ip link set vx0 up
     nft add table ip t; nft add chain ip t post '{ type nat hook postrouting priority 100; }'
     nft add rule ip t post masquerade",
    "ip link add d0 index 100 type bridge; ip addr add 198.51.100.1/24 dev d0; ip link set d0 up
     ip link add vx0 index 102 type vxlan id 2 dstport 8472 remote 198.51.100.2 dev d0 noudpcsum; ip link set vx0 up
     iptables-legacy -w -t nat -A POSTROUTING -d 198.51.100.0/24 -j MASQUERADE --random-fully",
    "ip link add d0 index 100 type veth peer name p0 index 101; ip addr add 203.0.113.1/24 dev d0
     ip link set d0 up; ip link set p0 up
     ip link add vx0 index 102 type vxlan id 3 dstport 4790 remote 203.0.113.2; ip link set vx0 up
     ethtool -K vx0 tx off
     nft add table ip t; nft add chain ip t post '{ type nat hook postrouting priority 100; }'
     nft add rule ip t post oifname d0 masquerade random",
];
const REMOVED: &str =
    "ip link del vx0; ip link del d0; nft delete table ip t 2>/dev/null || iptables-legacy -w -t nat -F";

/// After devices and rules were removed and made again, a running natwatch reports the same as a new one, and so it
/// does in between.
#[test]
fn what_is_removed_and_made_again_between_two_scrapes_is_reported_as_by_a_new_process() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    let as_json = |text: &str| {
        let mut report: Value = serde_json::from_str(text).expect("JSON");
        // The times, and what the scrapes themselves count.
        report["node"]["captured_at"].take();
        report["conntrack"].take();
        // Entries are read every 30 s at most, and reported with their age.
        report["flows"].take();
        report["sources"].as_array_mut().expect("a list").retain(|source| source["name"] != "ctnetlink_entries");
        // The fill levels of tables change from reading to reading.
        let advisories = report["advisories"].as_array_mut().expect("advisories");
        advisories.retain(|advisory| LEVELS.iter().all(|id| advisory["id"] != *id));
        advisories.iter_mut().for_each(|advisory| drop(advisory["evidence"].take()));
        report
    };
    let report = || as_json(&server.ok("/report.json"));
    let fresh = || as_json(&Run::of(ns.command(NATWATCH).args(["check", "--format", "json"]).args(HERE)).stdout);
    let mut before = report();
    for made in MADE {
        for script in [made, REMOVED] {
            ns.run(&["sh", "-ec", script]);
            // The kernel continues for a moment after devices are up (carriers, addresses).
            let now = eventually(PATIENCE, || {
                let (served, fresh) = (report(), fresh());
                let difference = || first_difference(&format!("{served:#}"), &format!("{fresh:#}"));
                if served == fresh { Ok(served) } else { Err(format!("{script}: {}", difference())) }
            });
            assert_ne!(now, before, "it has changed nothing: {script}");
            before = now;
        }
    }
    server.stop();
}

/// Sysctls of a device are added and removed like those of a module, by `register_net_sysctl` and
/// `unregister_net_sysctl_table`.
#[test]
fn a_sysctl_that_is_gone_and_there_again_is_read_by_a_new_descriptor() {
    let ns = Netns::new();
    ns.enter(|| {
        let mut live = live();
        let request = Request::file(Source::Routing, Root::Procfs, "sys/net/ipv4/conf/d0/tag");
        let mut read = || {
            let mut value = Vec::new();
            let answer = live.ask(&request, &mut |part| {
                value.extend_from_slice(part);
                Take::More
            });
            answer.map(|()| String::from_utf8(value).expect("a number"))
        };
        for value in ["3\n", "5\n"] {
            assert!(matches!(read(), Reading::Absent(_)), "{:?}", read());
            ns.cmd("ip link add d0 type veth peer name p0");
            ns.sysctl("net.ipv4.conf.d0.tag", value.trim());
            for _ in 0..2 {
                assert_eq!(read(), Reading::Ok(value.to_owned()));
            }
            ns.cmd("ip link del d0");
        }
    });
}
