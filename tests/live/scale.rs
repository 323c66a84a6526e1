//! The cost of decoding and judging grows with rules, peers and devices, and no faster. Instructions are counted rather
//! than time, by valgrind's callgrind in this very binary, which depends on compiler and options. So counts are not
//! recorded but compared within a run: for a set of rules, twice and four times as many. The second doubling may cost
//! `GROWTH` times the first; what is done once does not count. Quadratic cost would give 4.

use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use natwatch::inside::advisory::Catalogue;
use natwatch::inside::capture::Capture;
use natwatch::inside::capture::archive;
use natwatch::inside::facts::{Collector, Facts};
use natwatch::inside::judge::{self, ConditionState, Options, Report};
use natwatch::inside::read;

use crate::support::capture::CaptureDir;
use crate::support::netns::{Netns, veth_within};
use crate::support::rules::load;
use crate::support::tools::{expect_success, require};

/// Maximum ratio of the cost of the step from twice to four times the rules to that of the step before; 2 is
/// proportional.
const GROWTH: f64 = 3.0;

/// What a node has many of.
#[derive(Clone, Copy, Debug)]
enum Many {
    /// Rules loaded by this program; their name in benches/scale.py.
    Rules(&'static str, &'static str),
    /// Peers of a tunnel: a forwarding entry, a neighbour and a route each.
    Peers,
    /// Pairs of devices.
    Veths,
}

/// What is measured, and with how many of them.
const JUDGED: &[(Many, u32)] = &[
    (Many::Rules("iptables-nft-restore", "calico-and-services"), 40),
    (Many::Rules("iptables-nft-restore", "neutron"), 48),
    (Many::Rules("iptables-nft-restore", "own-marks"), 400),
];
const DECODED: &[(Many, u32)] = &[
    (Many::Rules("iptables-nft-restore", "calico-and-services"), 40),
    (Many::Rules("iptables-legacy-restore", "calico-and-services"), 40),
    (Many::Peers, 200),
    (Many::Veths, 50),
];

/// A recorded node with a tunnel and many of these.
fn recorded(many: Many, count: u32) -> CaptureDir {
    let ns = Netns::new();
    veth_within(&ns, "eth0", "peer0");
    ns.address("eth0", "192.168.0.1/16");
    ns.cmd("ip link add flannel.1 type vxlan id 1 dev eth0 local 192.168.0.1 dstport 8472 nolearning");
    ns.address("flannel.1", "10.244.0.0/32");
    ns.up("flannel.1");
    ns.cmd("bridge fdb append 02:00:00:00:00:01 dst 192.168.0.2 dev flannel.1 self permanent");
    ns.cmd("ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink");
    ns.sysctl("net.ipv4.ip_forward", 1);
    match many {
        Many::Rules(restore, name) => {
            let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scale.py");
            let rules =
                expect_success(Command::new("python3").arg(generator).args(["--rules", name, &count.to_string()]));
            load(&ns, &[restore, "-w"], &rules);
        }
        Many::Peers => {
            let [mut addresses, mut entries] = [String::new(), String::new()];
            for n in 2..count {
                let (high, low) = (n >> 8, n & 255);
                let (mac, network) =
                    (format!("02:00:00:00:{high:02x}:{low:02x}"), format!("10.{}.{low}.0", 245 + high));
                let _ = writeln!(addresses, "neigh add {network} lladdr {mac} dev flannel.1 nud permanent");
                let _ = writeln!(addresses, "route add {network}/24 via {network} dev flannel.1 onlink");
                let peer = format!("192.168.{}.{}", 1 + n / 250, 1 + n % 250);
                let _ = writeln!(entries, "fdb append {mac} dst {peer} dev flannel.1 self permanent");
            }
            load(&ns, &["ip", "-batch", "-"], &addresses);
            load(&ns, &["bridge", "-batch", "-"], &entries);
        }
        Many::Veths => {
            let pairs: String = (0..count).map(|n| format!("link add v{n} type veth peer name w{n}\n")).collect();
            load(&ns, &["ip", "-batch", "-"], &pairs);
        }
    }
    CaptureDir::of(&ns, &[])
}

/// Instructions that a function takes in the test that calls it.
fn counted((test, function): (&str, &str), capture: &CaptureDir) -> f64 {
    let program = env::current_exe().expect("this binary");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    valgrind.arg(format!("--toggle-collect=*{function}*")).arg(program);
    valgrind.args(["--exact", test, "--ignored", "--test-threads=1"]);
    let output = valgrind.env("NATWATCH_SCALE", capture.path()).output().expect("valgrind starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    let count = errors.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    let count: f64 = count.unwrap_or_else(|| panic!("no count of instructions: {errors}"));
    assert!(count > 1e5, "the function was not found by its name: {errors}");
    count
}

#[inline(never)]
fn decoded_under_valgrind(capture: &Capture) -> Facts {
    read::replay(capture, &Collector::ALL.iter().copied().collect())
}

#[inline(never)]
fn judged_under_valgrind(facts: &Facts) -> Report {
    judge::judge(Catalogue::built_in(), facts, &Options::default(), &AtomicBool::new(false))
}

fn capture() -> Capture {
    let path = env::var_os("NATWATCH_SCALE").expect("the directory of a capture");
    archive::load(Path::new(&path)).expect("a capture")
}

/// Runs under valgrind.
#[test]
#[ignore = "decoding_grows_with_what_is_decoded runs it"]
fn decoding() {
    decoded_under_valgrind(&capture());
}

/// Runs under valgrind.
#[test]
#[ignore = "judging_grows_with_the_rules runs it"]
fn judging() {
    let report = judged_under_valgrind(&decoded_under_valgrind(&capture()));
    let tunnel = report.advisories.iter().find(|finding| finding.id.as_str() == "vxlan-double-snat-checksum");
    let conditions = &tunnel.expect("it is judged").conditions;
    let rewritten = conditions.iter().find(|condition| condition.id.as_str() == "outer_rewritten");
    let rewritten = rewritten.expect("it is asked");
    assert_ne!(
        rewritten.state,
        ConditionState::Unknown,
        "all ways through the rules are followed: {}",
        rewritten.detail
    );
}

fn grows_in_proportion(counting: (&str, &str), sets: &[(Many, u32)]) {
    require("valgrind");
    let mut wrong = Vec::new();
    for (many, count) in sets {
        let costs = [1, 2, 4].map(|times| counted(counting, &recorded(*many, times * count)));
        let growth = (costs[2] - costs[1]) / (costs[1] - costs[0]);
        let found =
            format!("{many:?}, {count} and more: {costs:?} instructions, which grow by {growth:.2} (at most {GROWTH})");
        println!("{found}");
        if growth > GROWTH {
            wrong.push(found);
        }
    }
    assert!(wrong.is_empty(), "it has become dearer: {wrong:#?}");
}

#[test]
fn judging_grows_with_the_rules() {
    grows_in_proportion(("scale::judging", "judged_under_valgrind"), JUDGED);
}

#[test]
fn decoding_grows_with_what_is_decoded() {
    grows_in_proportion(("scale::decoding", "decoded_under_valgrind"), DECODED);
}
