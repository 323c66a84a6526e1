//! Checks of the test labs: what live tests provoke is also seen by standard tools.
//!
//! No natwatch code runs here. If one of these fails, failures of other live tests say nothing about natwatch.

use std::time::Duration;

use crate::support::counters::{CtStats, conntrack_stats, proc_conntrack_stats, proc_netstat};
use crate::support::race::{Limits, Race, race};
use crate::support::router::{Backend, NatRule, Ports, Proto, ROUTER_WAN, Router};
use crate::support::traffic::{conntrack_count, conntrack_limit, exhaust, fill_assured, fill_unassured};
use crate::support::wait::exclusive;

/// Enough for hundreds of collisions; the time is only used up on a very busy machine.
const RACE: Limits = Limits { rounds: 400, time: Duration::from_secs(10) };

/// More failures than `--random-fully` can have in [`RACE`]: measured 8 in 257092 rounds, so
/// that 400 rounds have 0.013 on average, and a fourth one comes once in some 10^9 runs.
const RANDOM_FAILURES: u64 = 3;

const ALL_BACKENDS: [Backend; 3] = [Backend::IptablesLegacy, Backend::IptablesNft, Backend::Nft];

fn masquerade(backend: Backend, ports: Ports) -> Router {
    Router::with(NatRule::masquerade(backend, ports))
}

/// The procfs file, which natwatch reads first, must agree with netlink.
fn assert_procfs_agrees(lab: &Router, stats: &CtStats) {
    let procfs = proc_conntrack_stats(&lab.router);
    let names = [
        ("insert_failed", "insert_failed"),
        ("drop", "drop"),
        ("early_drop", "early_drop"),
        ("clash_resolve", "clashres"),
    ];
    for (netlink, proc) in names {
        assert_eq!(stats.total(netlink), procfs.total(proc), "{netlink}");
    }
}

#[test]
fn plain_masquerade_loses_races_and_each_loss_is_a_slow_connect() {
    let _machine = exclusive();
    let lab = masquerade(Backend::IptablesLegacy, Ports::Kept);
    let report = race(&lab, Race::Ports(Proto::Tcp), RACE);
    let stats = conntrack_stats(&lab.router);
    let failed = stats.total("insert_failed");
    println!("{report:?}, insert_failed {failed}");
    assert!(failed > 0, "no race was lost: {report:?} {stats:?}");
    assert_eq!(stats.total("drop"), failed);
    assert_eq!(report.slow, failed, "{report:?}");
    assert_eq!(proc_netstat(&lab.client)["TcpExtTCPSynRetrans"], failed);
    assert_procfs_agrees(&lab, &stats);
}

#[test]
fn every_backend_loses_datagrams_without_port_randomization() {
    let _machine = exclusive();
    for backend in ALL_BACKENDS {
        let lab = masquerade(backend, Ports::Kept);
        lab.sink(Proto::Udp);
        let report = race(&lab, Race::Ports(Proto::Udp), RACE);
        let delivered = lab.settle(report.sent);
        let stats = conntrack_stats(&lab.router);
        let failed = stats.total("insert_failed");
        println!("{backend:?}: {report:?}, insert_failed {failed}");
        assert!(failed > 0, "{backend:?}: {report:?} {stats:?}");
        assert_eq!(stats.total("drop"), failed, "{backend:?}");
        assert_eq!(report.sent - delivered, failed, "{backend:?}");
    }
}

#[test]
fn random_fully_hardly_ever_loses_a_race() {
    let _machine = exclusive();
    for backend in ALL_BACKENDS {
        let lab = masquerade(backend, Ports::RandomFully);
        lab.sink(Proto::Udp);
        let report = race(&lab, Race::Ports(Proto::Udp), RACE);
        lab.settle(report.sent);
        let failed = conntrack_stats(&lab.router).total("insert_failed");
        println!("{backend:?}: {report:?}, insert_failed {failed}");
        assert!(report.rounds > 0);
        assert!(failed <= RANDOM_FAILURES, "{backend:?}: {failed} {report:?}");
    }
}

#[test]
fn without_translation_nothing_is_lost() {
    let _machine = exclusive();
    let lab = Router::plain();
    lab.track_without_nat();
    lab.sink(Proto::Udp);
    let report = race(&lab, Race::Ports(Proto::Udp), RACE);
    assert_eq!(lab.settle(report.sent), report.sent);
    assert_eq!(conntrack_count(&lab.router), report.sent);
    assert_eq!(conntrack_stats(&lab.router).total("insert_failed"), 0);
}

#[test]
fn two_threads_on_one_socket_clash_without_loss() {
    let _machine = exclusive();
    let lab = masquerade(Backend::IptablesLegacy, Ports::Kept);
    lab.sink(Proto::Udp);
    let report = race(&lab, Race::SameSocket, RACE);
    assert_eq!(lab.settle(report.sent), report.sent);
    let stats = conntrack_stats(&lab.router);
    println!("{report:?}, clash_resolve {}", stats.total("clash_resolve"));
    assert!(stats.total("clash_resolve") > 0, "{report:?} {stats:?}");
    assert_eq!(stats.total("insert_failed"), 0, "{stats:?}");
    assert_procfs_agrees(&lab, &stats);
}

#[test]
fn exhausted_ports_lose_exactly_the_rest() {
    for (backend, proto) in [
        (Backend::IptablesLegacy, Proto::Udp),
        (Backend::IptablesNft, Proto::Tcp),
        (Backend::Nft, Proto::Udp),
        (Backend::Nft, Proto::Tcp),
    ] {
        let range = Ports::Range { proto, low: 4001, high: 4010 };
        let lab = masquerade(backend, range);
        lab.sink(proto);
        let sent = exhaust(&lab, proto, 50);
        assert_eq!(lab.settle(sent), 10, "{backend:?} {proto:?}");
        let stats = conntrack_stats(&lab.router);
        assert_eq!(stats.total("insert_failed"), 40, "{backend:?} {proto:?}");
        assert_eq!(stats.total("early_drop"), 0, "{backend:?} {proto:?}");
        assert_eq!(conntrack_count(&lab.router), 10, "{backend:?} {proto:?}");
    }
}

#[test]
fn a_fixed_source_address_translates_like_masquerade() {
    for backend in ALL_BACKENDS {
        let rule = NatRule::masquerade(backend, Ports::Kept).to_source(ROUTER_WAN);
        let lab = Router::with(rule);
        lab.sink(Proto::Udp);
        let sent = exhaust(&lab, Proto::Udp, 5);
        assert_eq!(lab.settle(sent), 5, "{backend:?}");
        let entries = lab.router.cmd("conntrack -L -n 10.77.2.1");
        assert_eq!(entries.lines().count(), 5, "{backend:?}: {entries}");
    }
}

#[test]
fn a_full_table_evicts_unassured_entries() {
    const SURPLUS: u64 = 20_000;
    let _machine = exclusive();
    let lab = masquerade(Backend::IptablesLegacy, Ports::Kept);
    lab.sink(Proto::Udp);
    let limit = conntrack_limit(&lab.router);
    let sent = fill_unassured(&lab, limit + SURPLUS);
    lab.settle(sent);
    let stats = conntrack_stats(&lab.router);
    assert!(stats.total("early_drop") > 0, "{stats:?}");
    assert_eq!(stats.total("insert_failed"), 0, "{stats:?}");
    // One eviction can take several entries of a hash chain, so that the table ends a few
    // entries below its limit; none is lost from the books.
    let count = conntrack_count(&lab.router);
    let lost = stats.total("early_drop") + stats.total("drop");
    assert!(count <= limit && lost >= SURPLUS, "{count} {stats:?}");
    assert_eq!(count + lost, sent);
}

#[test]
fn a_table_full_of_assured_entries_drops_new_flows() {
    let _machine = exclusive();
    let lab = masquerade(Backend::IptablesLegacy, Ports::Kept);
    lab.sink(Proto::Udp);
    let limit = conntrack_limit(&lab.router);
    assert_eq!(fill_assured(&lab.router, limit + 100), limit);
    let before = conntrack_stats(&lab.router).total("drop");
    let sent = exhaust(&lab, Proto::Udp, 200);
    assert_eq!(lab.settle(sent + before), 0);
    let stats = conntrack_stats(&lab.router);
    assert_eq!(stats.total("drop") - before, 200);
    assert_eq!(stats.total("insert_failed"), 0);
    assert_eq!(stats.total("early_drop"), 0);
}
