//! What judging costs grows with the rules and no faster. Instructions are counted, not time, by valgrind's callgrind: in this
//! very binary, which compilers and their options change. So no count is recorded, but how counts of one run compare: of a set
//! of rules, of twice and of four times as many. The second step has twice as many rules as the first and may cost `GROWTH` times
//! as much; whatever is done once does not count. A cost that grows with the square of the rules makes it 4.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use natwatch::advisory::Catalogue;
use natwatch::capture::archive;
use natwatch::facts::{Collector, Facts};
use natwatch::judge::{self, ConditionState, Options, Report};
use natwatch::read::{self, Collectors};

use crate::support::capture::CaptureDir;
use crate::support::netns::{Netns, veth_within};
use crate::support::rules::load;
use crate::support::tools::{expect_success, require};

/// What the step from twice to four times the rules may cost, of that from once to twice; 2 is what is in proportion.
const GROWTH: f64 = 3.0;

/// Name in benches/scale.py, and how many.
const SETS: &[(&str, u32)] = &[("calico-and-services", 40), ("neutron", 24), ("own-marks", 400)];

/// A node with a tunnel and these rules, as it was recorded.
fn recorded(name: &str, count: u32) -> CaptureDir {
    let ns = Netns::new();
    veth_within(&ns, "eth0", "peer0");
    ns.address("eth0", "192.168.0.1/16");
    ns.cmd("ip link add flannel.1 type vxlan id 1 dev eth0 local 192.168.0.1 dstport 8472 nolearning");
    ns.address("flannel.1", "10.244.0.0/32");
    ns.up("flannel.1");
    ns.cmd("bridge fdb append 02:00:00:00:00:01 dst 192.168.0.2 dev flannel.1 self permanent");
    ns.cmd("ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink");
    ns.sysctl("net.ipv4.ip_forward", 1);
    let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scale.py");
    let rules = expect_success(Command::new("python3").arg(generator).args(["--rules", name, &count.to_string()]));
    load(&ns, &["iptables-nft-restore", "-w"], &rules);
    CaptureDir::of(&ns, &[])
}

/// Instructions that judging takes in [`a_recorded_node`].
fn counted(capture: &CaptureDir) -> f64 {
    let program = env::current_exe().expect("this binary");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    valgrind.arg("--toggle-collect=*judged_under_valgrind*").arg(program);
    valgrind.args(["--exact", "scale::a_recorded_node", "--ignored", "--test-threads=1"]);
    let output = valgrind.env("NATWATCH_SCALE", capture.path()).output().expect("valgrind starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    let count = errors.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    let count: f64 = count.unwrap_or_else(|| panic!("no count of instructions: {errors}"));
    assert!(count > 1e5, "the function was not found by its name: {errors}");
    count
}

#[inline(never)]
fn judged_under_valgrind(facts: &Facts) -> Report {
    judge::judge(Catalogue::built_in(), facts, &Options::default(), &AtomicBool::new(false))
}

/// What runs under valgrind.
#[test]
#[ignore = "costs_grow_with_the_rules runs it"]
fn a_recorded_node() {
    let path = env::var_os("NATWATCH_SCALE").expect("the directory of a capture");
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let facts = read::replay(&archive::load(Path::new(&path)).expect("a capture"), &collectors);
    let report = judged_under_valgrind(&facts);
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

#[test]
fn costs_grow_with_the_rules() {
    require("valgrind");
    let mut wrong = Vec::new();
    for (name, count) in SETS {
        let judged = [1, 2, 4].map(|times| counted(&recorded(name, times * count)));
        let growth = (judged[2] - judged[1]) / (judged[1] - judged[0]);
        let found =
            format!("{name}, {count} and more: {judged:?} instructions, which grow by {growth:.2} (at most {GROWTH})");
        println!("{found}");
        if growth > GROWTH {
            wrong.push(found);
        }
    }
    assert!(wrong.is_empty(), "judging has become dearer: {wrong:#?}");
}
