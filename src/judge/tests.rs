//! The contract's rule for verdicts, and each condition at its limits.

use super::*;
use crate::advisory::Test;
use crate::capture::archive::testing::recorded_node;
use crate::facts::{Source, SourceState, SourceStatus};
use crate::read::{Collectors, replay, testing};

/// Never set: these judgements run to their end.
static GO_ON: AtomicBool = AtomicBool::new(false);

fn judge(catalogue: &Catalogue, facts: &Facts, options: &Options) -> Report {
    super::judge(catalogue, facts, options, &GO_ON)
}

/// A node whose facts are all unknown, to be filled in.
pub(super) fn blank() -> Facts {
    let mut blank = replay(&testing::capture(), &Collectors::default());
    blank.conntrack.entries = Reading::Ok(0);
    blank.conntrack.entries_limit = Reading::Ok(1000);
    blank.conntrack.buckets = Reading::Ok(1000);
    blank
}

fn state(facts: &Facts, test: &Test) -> ConditionState {
    let derived = Derived::default();
    let context = Context::new(facts, &[], None, &GO_ON, &derived);
    conditions::evaluate(&context, test, None).state
}

fn condition(kind: ConditionKind, state: ConditionState) -> ConditionFinding {
    ConditionFinding { id: "x".into(), kind, state, detail: String::new(), commands: Vec::new() }
}

#[test]
fn conditions_combine_as_the_contract_says() {
    use ConditionKind::{Ingredient as I, Safeguard as S};
    use ConditionState::{Fails, Holds, Unknown};
    let combined = |list: &[(ConditionKind, ConditionState)]| {
        combine(&list.iter().map(|(kind, state)| condition(*kind, *state)).collect::<Vec<_>>())
    };
    assert_eq!(combined(&[(I, Holds), (S, Holds)]), State::Exposed);
    assert_eq!(combined(&[(I, Fails), (S, Fails)]), State::NotAffected);
    assert_eq!(combined(&[(I, Fails), (I, Unknown), (S, Unknown)]), State::NotAffected);
    assert_eq!(combined(&[(I, Holds), (S, Fails), (S, Unknown)]), State::Mitigated);
    assert_eq!(combined(&[(I, Unknown), (S, Fails)]), State::Mitigated);
    assert_eq!(combined(&[(I, Holds), (S, Unknown)]), State::Unknown);
    assert_eq!(combined(&[(I, Unknown), (S, Holds)]), State::Unknown);
}

#[test]
fn a_severity_that_depends_on_a_defect_is_the_higher_one_unless_that_is_absent() {
    let severity = |word: Option<DefectState>| {
        let kernel_defects = word.map(|word| ("nat-port-rover".to_owned(), word)).into_iter().collect();
        let report = judge(Catalogue::built_in(), &blank(), &Options { kernel_defects, ..Options::default() });
        report.advisories.iter().find(|finding| finding.id == "snat-port-race").unwrap().severity
    };
    assert_eq!(severity(Some(DefectState::Absent)), Severity::Info);
    assert_eq!(severity(Some(DefectState::Present)), Severity::Warning);
    assert_eq!(severity(None), Severity::Warning, "nothing is known of this kernel");
}

#[test]
fn states_are_ordered_from_good_to_bad() {
    assert!(State::Exposed > State::Unknown && State::Unknown > State::Mitigated);
    assert!(State::Mitigated > State::NotAffected);
}

#[test]
fn the_table_is_nearly_full_from_95_percent_on() {
    let test = Test::ConntrackTableFilled(0.95);
    let mut node = blank();
    for (entries, expected) in
        [(949, ConditionState::Fails), (950, ConditionState::Holds), (1001, ConditionState::Holds)]
    {
        node.conntrack.entries = Reading::Ok(entries);
        assert_eq!(state(&node, &test), expected, "{entries}");
    }
    node.conntrack.entries_limit = Reading::Ok(0);
    assert_eq!(state(&node, &test), ConditionState::Fails, "0 is no limit");
    node.conntrack.entries_limit = Reading::Denied("no".into());
    assert_eq!(state(&node, &test), ConditionState::Unknown);
}

#[test]
fn buckets_are_loaded_from_a_mean_chain_of_one_on() {
    let test = Test::ConntrackBucketsLoaded(1.0);
    let mut node = blank();
    for (entries, expected) in [(499, ConditionState::Fails), (500, ConditionState::Holds)] {
        node.conntrack.entries = Reading::Ok(entries);
        assert_eq!(state(&node, &test), expected, "{entries}");
    }
    node.conntrack.buckets = Reading::Ok(0);
    assert_eq!(state(&node, &test), ConditionState::Unknown);
}

#[test]
fn no_module_is_a_fact_and_no_permission_is_not() {
    let mut node = blank();
    node.conntrack.entries = Reading::Absent("no such file".into());
    assert_eq!(state(&node, &Test::ConntrackActive), ConditionState::Fails);
    node.conntrack.entries = Reading::Failed("cut off".into());
    assert_eq!(state(&node, &Test::ConntrackActive), ConditionState::Unknown);
    assert_eq!(state(&node, &Test::TunnelUp), ConditionState::Unknown, "links were not read");
}

#[test]
fn another_namespace_blinds_all_but_the_kernel() {
    let mut node = blank();
    node.network_namespace = NetworkNamespace::Other;
    let options = Options::default();
    let report = judge(Catalogue::built_in(), &node, &options);
    let state = |report: &Report, id: &str| {
        let found = report.advisories.iter().find(|finding| finding.id == id).unwrap();
        (found.state, found.cause().to_owned())
    };
    let (verdict, cause) = state(&report, "conntrack-table-full");
    assert_eq!(verdict, State::Unknown);
    assert_eq!(cause, "this is not the node's network namespace; is hostNetwork set?");
    let options = Options { this_namespace: true, ..options };
    let report = judge(Catalogue::built_in(), &node, &options);
    assert_eq!(state(&report, "conntrack-table-full").0, State::NotAffected);
    node.network_namespace = NetworkNamespace::Unknown;
    let report = judge(Catalogue::built_in(), &node, &Options::default());
    assert_eq!(state(&report, "conntrack-table-full").0, State::Unknown);
}

#[test]
fn the_operators_word_beats_everything_and_says_so() {
    let id = "conntrack-chain-limit".to_owned();
    for state in [DefectState::Present, DefectState::Absent] {
        let options = Options { kernel_defects: [(id.clone(), state)].into(), ..Options::default() };
        let report = judge(Catalogue::built_in(), &blank(), &options);
        let defect = report.defects.iter().find(|defect| defect.id == id).unwrap();
        assert_eq!((defect.state, defect.basis), (state, Basis::Operator));
    }
}

/// Operator, probe, tables: each takes precedence over the next, and a probe without a result over none.
#[test]
fn an_experiment_beats_the_tables_but_not_the_operator() {
    let id = "nat-udp-zero-checksum".to_owned();
    let mut node = blank();
    node.kernel = Reading::Ok(crate::read::release::parse("5.4.40", None, None, None).unwrap());
    node.livepatches = Reading::Absent("this kernel cannot load any".into());
    let decide = |node: &Facts, state, livepatches: Option<Vec<String>>, kernel_defects| {
        let findings = [(id.clone(), (state, "what was seen".to_owned()))].into();
        let options =
            Options { kernel_defects, probe: Probed { findings, livepatches, refused: None }, ..Options::default() };
        let report = judge(Catalogue::built_in(), node, &options);
        let defect = report.defects.iter().find(|defect| defect.id == id).unwrap().clone();
        (defect.state, defect.basis, defect.detail)
    };
    let none = || Some(Vec::new());
    let (state, basis, detail) = decide(&node, DefectState::Absent, none(), [].into());
    assert_eq!((state, basis), (DefectState::Absent, Basis::Probe), "5.4.40 has it by its number");
    assert_eq!(detail, "by experiment: what was seen");
    let (state, basis, detail) = decide(&node, DefectState::Unknown, none(), [].into());
    assert_eq!((state, basis), (DefectState::Present, Basis::UpstreamVersion));
    assert!(detail.ends_with("; the probe could not tell: what was seen"), "{detail}");
    let operator = [(id.clone(), DefectState::Present)].into();
    assert_eq!(decide(&node, DefectState::Absent, none(), operator).1, Basis::Operator);
    // A live patch that was loaded or removed since may have changed either result.
    for state in [DefectState::Present, DefectState::Absent] {
        node.livepatches = Reading::Ok(vec!["kpatch_1".into()]);
        let (_, basis, detail) = decide(&node, state, none(), [].into());
        assert_ne!(basis, Basis::Probe);
        assert!(detail.contains("live patches have changed since"), "{detail}");
        assert_eq!(decide(&node, state, Some(vec!["kpatch_1".into()]), [].into()).1, Basis::Probe);
        node.livepatches = Reading::Failed("masked".into());
        assert_ne!(decide(&node, state, None, [].into()).1, Basis::Probe, "nobody knows");
    }
}

/// The facts of a node with a tunnel over one device.
fn tunnel_over(device: Link, port: u16, entry_port: Option<u16>) -> Facts {
    use crate::facts::{FdbEntry, Tunnel, TunnelKind, UdpChecksum};
    let fdb = FdbEntry { remote: None, via: None, port: entry_port, nexthop_group: None };
    let tunnel = Tunnel {
        id: Some(1),
        port: Some(port),
        udp_checksum: UdpChecksum::On,
        fdb: Reading::Ok(vec![fdb]),
        underlay: Reading::Ok(vec![device.index]),
        ..Tunnel::new(TunnelKind::Vxlan)
    };
    let virtual_device = Reading::Absent("a virtual device".into());
    let vxlan =
        Link { index: 9, name: "vx".into(), kind: Some("vxlan".into()), tunnel: Some(tunnel), ..device.clone() };
    let vxlan = Link { driver: virtual_device, ..vxlan };
    let mut node = blank();
    node.links = Reading::Ok(vec![device, vxlan]);
    node
}

fn device(kind: Option<&str>, driver: Reading<String>) -> Link {
    Link { kind: kind.map(str::to_owned), driver, ..Link::new(1, "eth0") }
}

fn vmxnet3(node: &Facts, port_limit: DefectState) -> State {
    let kernel_defects = [("vmxnet3-tunnel-any-port".to_owned(), port_limit)].into();
    let advisories = vec!["vmxnet3-tunnel-offload".to_owned()];
    let report = judge(Catalogue::built_in(), node, &Options { kernel_defects, advisories, ..Options::default() });
    report.advisories[0].state
}

#[test]
fn a_device_that_hides_what_is_below_it_decides_nothing() {
    let absent = || Reading::Absent("a virtual device".into());
    for (kind, driver, expected) in [
        (None, Reading::Ok("virtio_net".to_owned()), State::NotAffected),
        (Some("dummy"), absent(), State::NotAffected),
        (Some("wireguard"), absent(), State::NotAffected),
        (Some("veth"), absent(), State::Unknown),
        (Some("openvswitch"), absent(), State::Unknown),
        (Some("tun"), absent(), State::Unknown),
        (None, Reading::Failed("sysfs is of another namespace".into()), State::Unknown),
    ] {
        let node = tunnel_over(device(kind, driver), 8472, None);
        assert_eq!(vmxnet3(&node, DefectState::Present), expected, "{kind:?}");
    }
}

#[test]
fn every_port_a_tunnel_sends_to_counts() {
    let card = || device(None, Reading::Ok("vmxnet3".to_owned()));
    for (port, entry_port, limit, expected) in [
        (9999, None, DefectState::Absent, State::Mitigated),
        (8472, None, DefectState::Absent, State::Unknown),
        (9999, Some(8472), DefectState::Absent, State::Unknown),
        (9999, None, DefectState::Unknown, State::Unknown),
        (9999, None, DefectState::Present, State::Unknown), // the card's features are not known
    ] {
        let node = tunnel_over(card(), port, entry_port);
        assert_eq!(vmxnet3(&node, limit), expected, "{port} {entry_port:?} {limit}");
    }
}

/// Only vmxnet3 devices of version 4 and later (virtual hardware 14) list the offload among the features that can be
/// changed.
#[test]
fn a_card_that_cannot_offload_tunnels_is_not_affected() {
    use crate::facts::{Feature, FeatureState, Features};
    let state = |enabled, fixed| FeatureState { enabled, wanted: enabled, fixed };
    let card = |segmentation: Option<FeatureState>, csum: Option<FeatureState>| {
        let tunnels = [(Feature::TxUdpTnlSegmentation, segmentation), (Feature::TxUdpTnlCsumSegmentation, csum)];
        let tunnels = tunnels.into_iter().filter_map(|(name, state)| Some((name, state?)));
        let features: Features = tunnels.chain([(Feature::TxChecksumIpGeneric, state(true, false))]).collect();
        Link { features: Reading::Ok(features), ..device(None, Reading::Ok("vmxnet3".to_owned())) }
    };
    let (never, off, on) = (Some(state(false, true)), Some(state(false, false)), Some(state(true, false)));
    for (segmentation, csum, expected) in [
        (never, never, State::NotAffected),
        (never, None, State::NotAffected),
        (off, off, State::Mitigated),
        (never, off, State::Mitigated),
        (on, on, State::Exposed),
        (never, on, State::Exposed),
        (Some(state(true, true)), never, State::Exposed),
        (None, None, State::Unknown), // this kernel does not tell
    ] {
        let node = tunnel_over(card(segmentation, csum), 8472, None);
        assert_eq!(vmxnet3(&node, DefectState::Present), expected, "{segmentation:?} {csum:?}");
    }
    // It does not help if another device, which may carry the tunnel, is not known.
    let mut node = tunnel_over(card(never, never), 8472, None);
    let mut links = node.links.ok().unwrap().clone();
    links.push(Link { index: 2, ..device(None, Reading::Failed("sysfs is of another namespace".into())) });
    links[1].tunnel.as_mut().unwrap().underlay = Reading::Ok(vec![1, 2]);
    node.links = Reading::Ok(links);
    assert_eq!(vmxnet3(&node, DefectState::Present), State::Unknown);
}

#[test]
fn only_warnings_and_worse_make_the_verdict() {
    let finding = |severity, state| Finding {
        id: "x".into(),
        title: String::new(),
        severity,
        state,
        unseen: false,
        subject: None,
        summary: String::new(),
        conditions: Vec::new(),
        evidence: Vec::new(),
        remedies: Vec::new(),
        references: Vec::new(),
        accepted: None,
    };
    let advisories = vec![finding(Severity::Info, State::Exposed), finding(Severity::Warning, State::Mitigated)];
    let report = Report {
        min_severity: Severity::Warning,
        verdict: State::NotAffected,
        advisories,
        defects: Vec::new(),
        probe_refused: None,
        stale_translations: None,
        hide_flow_addresses: false,
        was_stopped: false,
    };
    assert_eq!(report.worst(Severity::Info), State::Exposed);
    assert_eq!(report.worst(Severity::Warning), State::Mitigated);
    assert_eq!(report.worst(Severity::Critical), State::NotAffected);
}

#[test]
fn a_known_risk_counts_again_when_it_is_critical() {
    let judged = |critical| {
        let acceptance = Acceptance { critical, reason: "known".into() };
        // Nothing was read: all are unknown.
        let ids = ["conntrack-table-full", "dns-conntrack-race"];
        let options = Options {
            advisories: ids.map(str::to_owned).into(),
            accepted: ids.map(|id| (id.to_owned(), acceptance.clone())).into(),
            ..Options::default()
        };
        let mut node = blank();
        node.network_namespace = NetworkNamespace::Other;
        judge(Catalogue::built_in(), &node, &options)
    };
    let reasons =
        |report: &Report| report.advisories.iter().map(|finding| finding.accepted.clone()).collect::<Vec<_>>();
    let known = || Some("known".to_owned());
    let (some, all) = (judged(false), judged(true));
    assert!(some.advisories.iter().all(|finding| finding.state == State::Unknown));
    assert_eq!((reasons(&some), some.left_out(), some.verdict), (vec![None, known()], 1, State::Unknown));
    assert_eq!((reasons(&all), all.left_out(), all.verdict), (vec![known(), known()], 2, State::NotAffected));
    assert!(some.advisories[0].summary.ends_with("It is accepted only while it is not critical."));
}

#[test]
fn ports_that_were_not_read_may_be_any() {
    let mut node = tunnel_over(device(None, Reading::Ok("vmxnet3".to_owned())), 9999, None);
    assert_eq!(vmxnet3(&node, DefectState::Absent), State::Mitigated);
    let mut links = node.links.ok().unwrap().clone();
    links[1].tunnel.as_mut().unwrap().fdb = Reading::Failed("no answer".into());
    node.links = Reading::Ok(links);
    assert_eq!(vmxnet3(&node, DefectState::Absent), State::Unknown);
}

#[test]
fn a_device_that_is_not_among_the_links_may_be_any() {
    let mut node = tunnel_over(device(None, Reading::Ok("virtio_net".to_owned())), 8472, None);
    assert_eq!(vmxnet3(&node, DefectState::Present), State::NotAffected);
    let mut links = node.links.ok().unwrap().clone();
    links[1].tunnel.as_mut().unwrap().underlay = Reading::Ok(vec![1, 77]);
    node.links = Reading::Ok(links.clone());
    assert_eq!(vmxnet3(&node, DefectState::Present), State::Unknown);
    links[1].tunnel.as_mut().unwrap().underlay = Reading::Ok(vec![1]);
    (links[0].kind, links[0].link_netnsid) = (Some("vlan".into()), Some(3));
    node.links = Reading::Ok(links);
    assert_eq!(vmxnet3(&node, DefectState::Present), State::Unknown, "what is below it is elsewhere");
}

#[test]
fn tunnels_elsewhere_count_where_they_could_not_be_seen() {
    let mut node = tunnel_over(device(None, Reading::Ok("virtio_net".to_owned())), 8472, None);
    for (ports, expected) in [
        (Reading::Ok([].into()), State::NotAffected),
        (Reading::Absent("no sockets".into()), State::NotAffected),
        (Reading::Failed("no answer".into()), State::NotAffected), // no device of this namespace is driven by it
    ] {
        node.foreign_tunnels = ports;
        assert_eq!(vmxnet3(&node, DefectState::Present), expected);
    }
    let mut down = node.links.ok().unwrap().clone();
    down[1].up = false;
    node.links = Reading::Ok(down);
    let checksum = |node: &Facts| {
        let advisories = vec!["vxlan-double-snat-checksum".to_owned()];
        judge(Catalogue::built_in(), node, &Options { advisories, ..Options::default() }).advisories[0].state
    };
    node.foreign_tunnels = Reading::Ok([].into());
    assert_eq!(checksum(&node), State::NotAffected);
    node.foreign_tunnels = Reading::Failed("no answer".into());
    assert_eq!(checksum(&node), State::Unknown);
}

#[test]
fn a_judgement_that_is_stopped_says_so_and_promises_nothing() {
    let node = blank();
    let stopped = super::judge(Catalogue::built_in(), &node, &Options::default(), &AtomicBool::new(true));
    assert!(stopped.was_stopped && !judge(Catalogue::built_in(), &node, &Options::default()).was_stopped);
    for finding in &stopped.advisories {
        assert_eq!(finding.state, State::Unknown, "{}", finding.id);
        assert_eq!(finding.cause(), "judging was stopped before its end: the time given was too short");
    }
}

/// The recorded flannel node forwards nothing: only devices that the tunnel's packets cross count.
#[test]
fn programs_that_could_not_be_read_are_a_question_and_a_refusal_is_an_assumption() {
    use crate::facts::Programs;
    let all: Collectors = crate::facts::Collector::ALL.iter().copied().collect();
    let mut node = replay(&recorded_node("flannel"), &all);
    node.forwarding = [Reading::Ok(false), Reading::Ok(false)];
    let none: BTreeMap<u32, u32> = node.known_links().iter().map(|link| (link.index, 0)).collect();
    let tunnel = node.tunnels().next().unwrap().0.index;
    for (programs, expected) in [
        (Reading::Ok(Programs::Counted(none)), State::Mitigated),
        (Reading::Ok(Programs::Counted(BTreeMap::new())), State::Unknown),
        (Reading::Ok(Programs::Unseen("bpf(2) is not permitted here".into())), State::Mitigated),
        (Reading::Failed("cut off".into()), State::Unknown),
        (Reading::Ok(Programs::Counted([(tunnel, 1)].into())), State::Unknown),
    ] {
        node.programs = programs;
        let report = judge(Catalogue::built_in(), &node, &Options::default());
        let finding = report.advisories.iter().find(|finding| finding.id == "vxlan-double-snat-checksum").unwrap();
        assert_eq!(finding.state, expected, "{:?}: {}", node.programs, finding.summary);
        let assumes = finding.summary.contains("no tcx program is assumed");
        assert_eq!(assumes, matches!(node.programs, Reading::Ok(Programs::Unseen(_))), "{}", finding.summary);
    }
}

/// A device that is not the tunnel's underlay, but on which packets arrive that are forwarded into the tunnel.
#[test]
fn a_filter_that_marks_what_is_forwarded_is_a_question() {
    use crate::facts::{Filter, Programs};
    let all: Collectors = crate::facts::Collector::ALL.iter().copied().collect();
    let mut node = replay(&recorded_node("flannel"), &all);
    let none: BTreeMap<u32, u32> = node.known_links().iter().map(|link| (link.index, 0)).collect();
    node.programs = Reading::Ok(Programs::Counted(none));
    for (forwards, marks_incoming, expected) in
        [(true, false, State::Mitigated), (true, true, State::Unknown), (false, true, State::Mitigated)]
    {
        node.forwarding = [Reading::Ok(forwards), Reading::Ok(forwards)];
        let Reading::Ok(links) = &mut node.links else { panic!("links") };
        for link in links.iter_mut() {
            link.filters = Reading::Absent("none".into());
        }
        let other = links.iter_mut().find(|link| link.name == "lo").expect("a device");
        (other.up, other.filters) =
            (true, Reading::Ok(vec![Filter { kind: "u32".into(), place: "ingress".into(), marks_incoming }]));
        let report = judge(Catalogue::built_in(), &node, &Options::default());
        let finding = report.advisories.iter().find(|finding| finding.id == "vxlan-double-snat-checksum").unwrap();
        assert_eq!(finding.state, expected, "{forwards} {marks_incoming}: {}", finding.summary);
        let told = finding.summary.contains("a tc filter (u32 on ingress) of lo");
        assert_eq!(told, expected == State::Unknown, "{}", finding.summary);
    }
}

/// "Unseen" is what a permission or a repair would reveal; what nothing could reveal is only unknown.
#[test]
fn unknown_is_unseen_only_where_a_source_was_not_read() {
    let unseen = |node: &Facts, id: &str| {
        let report = judge(Catalogue::built_in(), node, &Options::default());
        let found = report.advisories.iter().find(|finding| finding.id == id).unwrap();
        assert_eq!(found.state, State::Unknown, "{id}");
        found.unseen
    };
    let mut node = blank();
    let end = |source, state| SourceStatus { source, state, detail: String::new() };
    node.conntrack.entries = Reading::Ok(950);
    node.conntrack.entries_limit = Reading::Failed("nobody asked".into());
    node.sources = vec![end(Source::Sysctl, SourceState::Ok), end(Source::Nftables, SourceState::Denied)];
    assert!(!unseen(&node, "conntrack-table-full"), "rules have nothing to do with it");
    for state in [SourceState::Denied, SourceState::Failed] {
        node.sources = vec![end(Source::Sysctl, state)];
        assert!(unseen(&node, "conntrack-table-full"), "{state}");
    }
    node.network_namespace = NetworkNamespace::Other;
    assert!(!unseen(&node, "conntrack-table-full"), "what is read there is not the node's");
    node.network_namespace = NetworkNamespace::Unknown;
    assert!(unseen(&node, "conntrack-table-full"), "/proc/sys/net could not be read");
}
