//! With reused results a judgement finds the same as without, whatever has changed.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::advisory::Catalogue;
use crate::capture::archive::testing::{recorded_node, recorded_nodes};
use crate::facts::netfilter::{
    Base, Chain, ChainId, ChainKind, Chosen, Comparison, Counter, DeviceProperty, Family, Field, FieldTest, Hook,
    MarkWrite, Match, Nat, NatAction, PortRandomization, Rule, Ruleset, Set, SetId, Step, TypeScope,
};
use crate::facts::{Address, Collector, Facts, Filter, Link, OuterRoute, PolicyRule, Reading, Route, Shared};
use crate::judge::{Options, Report, judge, judge_again};
use crate::read::{Collectors, replay};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn recorded(name: &str) -> Facts {
    replay(&recorded_node(name), &Collector::ALL.iter().copied().collect::<Collectors>())
}

fn again(facts: &Facts, derived: &mut Derived) -> Report {
    judge_again(Catalogue::built_in(), facts, &Options::default(), &GO_ON, derived)
}

fn fresh(facts: &Facts) -> Report {
    judge(Catalogue::built_in(), facts, &Options::default(), &GO_ON)
}

fn id(chain: &str) -> ChainId {
    ChainId { family: Family::Ipv4, table: "t".into(), chain: chain.into() }
}

fn set_id() -> SetId {
    SetId::Nftables { family: Family::Ipv4, table: "t".into(), set: "s".into() }
}

fn rule(position: u32, steps: Vec<Step>) -> Rule {
    Rule { position, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 }
}

fn test(field: Field, value: u128, mask: u128) -> Step {
    let condition = Comparison::Masked { mask, value };
    Step::Match(Match::Tests { tests: vec![FieldTest { field, condition }], inverted: false })
}

fn to(action: NatAction) -> Step {
    let randomization = PortRandomization::None;
    Step::Nat(Nat {
        action,
        addresses: Chosen::Unset,
        ports: Chosen::Unset,
        randomization,
        persistent: false,
        map: None,
    })
}

/// The base chain on this hook.
fn chain(rules: Vec<Vec<Step>>, hook: Hook, kind: ChainKind) -> Chain {
    let base = Base { hook, kind, priority: 100, drops: false, devices: Vec::new() };
    let rules = rules.into_iter().zip(1..).map(|(steps, position)| rule(position, steps)).collect();
    Chain::new(Some(base), Reading::Ok(Arc::new(rules)))
}

/// Packets are marked if their source is an address of the node, if they leave by a device of a group, or if their
/// destination is an element of a set; marked packets are translated.
fn ruleset() -> Ruleset {
    let marks = || Step::SetMark(MarkWrite::Exact { keep: !0x10, take: 0, xor: 0x10 });
    let looked_up = Step::Match(Match::Set { fields: vec![Field::Ipv4Destination], set: set_id(), inverted: false });
    let local = test(Field::SourceType(TypeScope::Any), 2, 0xff);
    let mut ruleset = Ruleset { generation: Some(1), ..Ruleset::default() };
    let chains = [
        ("marks", chain(vec![vec![looked_up, marks()]], Hook::Output, ChainKind::Filter)),
        ("local", chain(vec![vec![local, test(Field::L4Proto, 6, 0xff), marks()]], Hook::Forward, ChainKind::Filter)),
        (
            "post",
            chain(
                vec![vec![test(Field::Mark, 0x10, 0x10), to(NatAction::Masquerade)]],
                Hook::Postrouting,
                ChainKind::Nat,
            ),
        ),
        ("dns", chain(vec![vec![test(Field::L4Proto, 6, 0xff), to(NatAction::Dnat)]], Hook::Output, ChainKind::Nat)),
    ];
    for (name, chain) in chains {
        ruleset.base_chains.add(chain.base.as_ref().unwrap().hook, id(name));
        ruleset.chains.insert(id(name), chain);
    }
    ruleset.mark_writers.found.insert(0x10, (id("marks"), 1));
    ruleset.mark_writers.tested = 0x10;
    let set = Set {
        name: "s".into(),
        kind: "4 bytes".into(),
        stable: false,
        members: [].into(),
        elements: Reading::Ok(vec![vec![(0x0101_0101, 0x0101_0101)]]),
        verdicts: Vec::new(),
        data: Vec::new(),
        family: None,
        sets: Vec::new(),
    };
    ruleset.sets.insert(set_id(), set);
    ruleset
}

fn rules(facts: &mut Facts) -> &mut Ruleset {
    let Reading::Ok(rules) = &mut facts.nftables else { panic!("they were read") };
    Arc::make_mut(rules)
}

fn rules_of<'s>(facts: &'s mut Facts, name: &str) -> &'s mut Vec<Rule> {
    let chain = rules(facts).chains.get_mut(&id(name)).unwrap();
    let Reading::Ok(rules) = &mut chain.rules else { panic!("they were read") };
    Arc::make_mut(rules)
}

fn links(facts: &mut Facts) -> &mut Vec<Link> {
    let Reading::Ok(links) = &mut facts.links else { panic!("they were read") };
    links
}

fn tunnel(facts: &mut Facts) -> &mut Link {
    links(facts).iter_mut().find(|link| link.tunnel.is_some()).unwrap()
}

fn routes(facts: &mut Facts) -> &mut Vec<Route> {
    let Reading::Ok(routes) = &mut facts.routes else { panic!("they were read") };
    routes
}

fn route(table: u32, destination: IpAddr, kind: u8, device: u32) -> Route {
    let length = if kind == 1 { 24 } else { 32 };
    Route::to(table, &format!("{destination}/{length}"), kind, device)
}

fn remote(facts: &mut Facts) -> IpAddr {
    let link = tunnel(facts);
    link.tunnel.as_ref().unwrap().remotes()[0]
}

type Change = (&'static str, fn(&mut Facts));

/// Each is made on top of those before it.
const CHANGES: &[Change] = &[
    ("nothing", |_| {}),
    ("an element of a set", |node| {
        let remote = crate::facts::netfilter::address_key(remote(node));
        rules(node).sets.get_mut(&set_id()).unwrap().elements = Reading::Ok(vec![vec![(remote, remote)]]);
    }),
    ("elements that were not read", |node| {
        rules(node).sets.get_mut(&set_id()).unwrap().elements = Reading::Failed("no answer".into());
    }),
    ("a set without elements", |node| {
        rules(node).sets.get_mut(&set_id()).unwrap().elements = Reading::Ok(Vec::new());
    }),
    ("a member of a set", |node| {
        let remote = crate::facts::netfilter::address_key(remote(node));
        let set = rules(node);
        let set = set.sets.get_mut(&set_id()).unwrap();
        set.elements = Reading::Failed("too many".into());
        set.members.insert(vec![remote], Reading::Ok(true));
    }),
    ("the same that is none", |node| {
        let remote = crate::facts::netfilter::address_key(remote(node));
        rules(node).sets.get_mut(&set_id()).unwrap().members.insert(vec![remote], Reading::Ok(false));
    }),
    ("a rule that marks all", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        rules_of(node, "marks").push(rule(2, vec![write]));
    }),
    ("one that drops invalid segments", |node| {
        let invalid = test(Field::ConnectionState, 1, 1);
        rules_of(node, "local")
            .insert(0, rule(1, vec![invalid, Step::Verdict(crate::facts::netfilter::Verdict::Drop)]));
    }),
    ("a policy", |node| {
        rules(node).chains.get_mut(&id("local")).unwrap().base.as_mut().unwrap().drops = true;
    }),
    ("a destination", |node| {
        let nat = |last: u8| {
            let address = IpAddr::from([10, 0, 0, last]);
            let Step::Nat(nat) = to(NatAction::Dnat) else { unreachable!() };
            Step::Nat(Nat { addresses: Chosen::Range(address, address), ..nat })
        };
        let often = || Step::Match(Match::NonDeterministic("statistic".into()));
        *rules_of(node, "dns") = vec![rule(1, vec![often(), nat(1)]), rule(2, vec![nat(2)])];
    }),
    ("ports that are random", |node| {
        let Step::Nat(nat) = to(NatAction::Masquerade) else { unreachable!() };
        let nat = Nat { randomization: PortRandomization::RandomFully, ..nat };
        rules_of(node, "post")[0].steps[1] = Step::Nat(nat);
    }),
    ("a chain that was not read", |node| {
        rules(node).chains.get_mut(&id("marks")).unwrap().rules = Reading::Failed("no answer".into());
    }),
    ("it was", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let first = test(Field::OutputName, crate::facts::netfilter::name_key("eth0").unwrap(), u128::MAX);
        rules(node).chains.insert(id("marks"), chain(vec![vec![first, write]], Hook::Output, ChainKind::Filter));
    }),
    ("what only UDP meets", |node| {
        let mut chain = chain(Vec::new(), Hook::Output, ChainKind::Nat);
        chain.udp_rules = Some(Arc::new(vec![rule(1, vec![to(NatAction::Redirect)])]));
        chain.rules = Reading::Failed(crate::facts::Failure::not_needed("searched"));
        rules(node).chains.insert(id("dns"), chain);
    }),
    ("an address of the node's", |node| {
        routes(node).push(route(255, IpAddr::from([192, 0, 2, 77]), 2, 2));
    }),
    ("it is gone", |node| drop(routes(node).pop())),
    ("a route into the tunnel", |node| {
        let index = tunnel(node).index;
        routes(node).push(route(254, IpAddr::from([10, 99, 0, 0]), 1, index));
    }),
    ("a default route elsewhere", |node| {
        let Route { table, .. } = route(100, IpAddr::from([10, 99, 0, 0]), 1, 77);
        routes(node).push(Route { table, destination: None, prefix_length: 0, ..route(100, [0; 4].into(), 1, 77) });
    }),
    ("a next-hop object", |node| {
        routes(node).push(Route { devices: Vec::new(), nexthop: Some(3), ..route(254, [10, 98, 0, 0].into(), 1, 1) });
    }),
    ("it is gone", |node| drop(routes(node).pop())),
    ("a policy rule", |node| {
        let Reading::Ok(rules) = &mut node.rules else { panic!("they were read") };
        rules.push(PolicyRule {
            family: crate::facts::netfilter::Family::Ipv4,
            priority: 7,
            table: 100,
            action: 1,
            fwmark: Some((0x10, 0x10)),
            inverted: false,
            source: None,
            destination: None,
            input: None,
            other: Vec::new(),
        });
    }),
    ("no policy rules", |node| node.rules = Reading::Ok(Vec::new())),
    ("forwarding", |node| node.forwarding[0] = Reading::Ok(false)),
    ("forwarding that was not read", |node| node.forwarding[0] = Reading::Denied("no".into())),
    ("forwarding once more", |node| node.forwarding = [Reading::Ok(true), Reading::Ok(true)]),
    ("a rule about IPsec", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let steps = vec![test(Field::Ipsec { outgoing: true }, 0, 1), write];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Output, ChainKind::Filter));
    }),
    ("no IPsec", |node| node.ipsec = Reading::Ok(false)),
    ("IPsec", |node| node.ipsec = Reading::Ok(true)),
    ("IPsec that was not read", |node| node.ipsec = Reading::Denied("no".into())),
    ("a device that is down", |node| links(node).iter_mut().for_each(|link| link.up &= link.name != "eth0")),
    ("it is up", |node| links(node).iter_mut().for_each(|link| link.up = true)),
    ("addresses that were not read", |node| {
        let Reading::Ok(_) = std::mem::replace(&mut node.addresses, Reading::Failed("no answer".into())) else {
            panic!("they were read")
        };
    }),
    ("none", |node| node.addresses = Reading::Ok(Vec::new())),
    ("an address that sources get", |node| {
        node.local_sources = Reading::Ok([(IpAddr::from([192, 0, 2, 9]), true)].into());
    }),
    ("it is not this host's", |node| {
        node.local_sources = Reading::Ok([(IpAddr::from([192, 0, 2, 9]), false)].into());
    }),
    ("services of IPVS", |node| node.ipvs_services = Reading::Ok(3)),
    ("services of IPVS that were not read", |node| node.ipvs_services = Reading::Denied("no".into())),
    ("no services of IPVS", |node| node.ipvs_services = Reading::Absent("not loaded".into())),
    ("ports of the node's", |node| node.local_ports = Reading::Ok((1, 2))),
    ("a kernel", |node| {
        let Reading::Ok(kernel) = &mut node.kernel else { panic!("it was read") };
        kernel.base = crate::facts::KernelVersion::new(4, 19, 0);
    }),
    ("a kernel that was not read", |node| node.kernel = Reading::Failed("no answer".into())),
    ("the tunnel's name", |node| tunnel(node).name = "other0".into()),
    ("a rule about it", |node| {
        let name = crate::facts::netfilter::name_key("other0").unwrap();
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let steps = vec![test(Field::OutputName, name, u128::MAX), write];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Postrouting, ChainKind::Filter));
    }),
    ("another name", |node| tunnel(node).name = "third0".into()),
    ("a rule about devices by their index", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let steps = vec![test(Field::OutputIndex, 2, u32::MAX.into()), write];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Output, ChainKind::Filter));
    }),
    ("another index", |node| links(node).iter_mut().for_each(|link| link.index += 1)),
    ("the first again", |node| links(node).iter_mut().for_each(|link| link.index -= 1)),
    ("a rule about a group", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let steps =
            vec![test(Field::Device { outgoing: true, property: DeviceProperty::Group }, 5, u32::MAX.into()), write];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Output, ChainKind::Filter));
    }),
    ("a group", |node| links(node).iter_mut().for_each(|link| link.group = Some(5))),
    ("a rule about a kind", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let kind = crate::facts::netfilter::name_key("veth").unwrap();
        let steps =
            vec![test(Field::Device { outgoing: true, property: DeviceProperty::Kind }, kind, u128::MAX), write];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Output, ChainKind::Filter));
    }),
    ("a kind", |node| links(node).iter_mut().for_each(|link| link.kind = Some("veth".into()))),
    ("a rule about a type", |node| {
        let write = Step::SetMark(MarkWrite::Exact { keep: u32::MAX, take: 0, xor: 0x10 });
        let steps = vec![
            test(Field::Device { outgoing: true, property: DeviceProperty::HardwareType }, 1, u16::MAX.into()),
            write,
        ];
        rules(node).chains.insert(id("marks"), chain(vec![steps], Hook::Output, ChainKind::Filter));
    }),
    ("a type", |node| links(node).iter_mut().for_each(|link| link.hardware_type = 512)),
    ("a bridge", |node| tunnel(node).master = Some(1)),
    ("no bridge", |node| tunnel(node).master = None),
    ("the way of outer packets", |node| {
        let remote = remote(node);
        tunnel(node).tunnel.as_mut().unwrap().outer = Reading::Ok(vec![OuterRoute {
            mark: 0,
            remotes: vec![remote],
            devices: vec![1],
            gateway: None,
            source: Some(IpAddr::from([127, 0, 0, 1])),
        }]);
    }),
    ("an address to masquerade with", |node| {
        let Reading::Ok(addresses) = &mut node.addresses else { panic!("they were read") };
        let address = IpAddr::from([10, 1, 2, 3]);
        addresses.insert(
            0,
            Address {
                link: 1,
                address,
                prefix_length: 24,
                scope: 0,
                peer: address,
                unpreferred: false,
                secondary: false,
            },
        );
    }),
    ("a way that was not read", |node| {
        tunnel(node).tunnel.as_mut().unwrap().outer = Reading::Failed("no answer".into());
    }),
    ("a port", |node| tunnel(node).tunnel.as_mut().unwrap().port = Some(53)),
    ("forwarding entries that were not read", |node| {
        tunnel(node).tunnel.as_mut().unwrap().fdb = Reading::Denied("no".into());
    }),
    ("a filter", |node| {
        tunnel(node).filters =
            Reading::Ok(vec![Filter { kind: "bpf".into(), place: "egress".into(), marks_incoming: false }]);
    }),
    ("a program", |node| tunnel(node).xdp = true),
    ("a tunnel that is down", |node| tunnel(node).up = false),
    ("one that is up", |node| tunnel(node).up = true),
    ("addresses that were not read", |node| node.addresses = Reading::Denied("no".into())),
    ("routes that were not read", |node| node.routes = Reading::Denied("no".into())),
    ("links that were not read", |node| node.links = Reading::Denied("no".into())),
    ("a hook whose chains were not read", |node| {
        rules(node).base_chains.lose(Family::Ipv4, Hook::Postrouting, &Reading::<()>::Denied("no".into()));
    }),
    ("who sets marks", |node| rules(node).mark_writers.given_up = 0x20),
    ("tracking", |node| rules(node).tracks = [Family::Ipv6].into()),
    ("tracking that was not told", |node| {
        rules(node).tracking_unread.insert(Family::Ipv6, "too many".into());
    }),
    ("legacy rules", |node| node.legacy_ipv4 = Reading::Ok(Arc::new(ruleset()))),
    ("those of the other family", |node| {
        std::mem::swap(&mut node.legacy_ipv4, &mut node.legacy_ipv6);
    }),
    ("rules that were not read", |node| node.legacy_ipv4 = Reading::Failed("no answer".into())),
    ("no rules", |node| {
        node.legacy_ipv4 = Reading::Absent("none".into());
        node.legacy_ipv6 = Reading::Absent("none".into());
        node.nftables = Reading::Absent("none".into());
    }),
];

#[test]
fn a_judgement_that_remembers_finds_what_one_finds_that_does_not() {
    let mut node = recorded("flannel");
    node.nftables = Reading::Ok(Arc::new(ruleset()));
    node.legacy_ipv4 = Reading::Absent("none".into());
    let mut derived = Derived::default();
    let (mut last, mut different) = (fresh(&node), 0);
    assert_eq!(again(&node, &mut derived), last);
    for (what, change) in CHANGES {
        change(&mut node);
        let wanted = fresh(&node);
        assert_eq!(again(&node, &mut derived), wanted, "{what}");
        assert_eq!(again(&node, &mut derived), wanted, "{what}, once more");
        if wanted == last {
            println!("{what}: the report does not tell");
        }
        different += usize::from(wanted != last);
        last = wanted;
    }
    // The others change what another change hides.
    assert!(different >= 25, "{different} changes are told by the report");
}

/// One `Derived` is used for one node after the other.
#[test]
fn nodes_are_not_taken_for_each_other() {
    let names = recorded_nodes();
    assert!(names.len() > 10, "{names:?}");
    let mut derived = Derived::default();
    for name in names.iter().chain(names.iter().rev()) {
        let node = recorded(name);
        assert_eq!(again(&node, &mut derived), fresh(&node), "{name}");
    }
}

fn reached(derived: &Derived) -> Arc<ReachedSourceNats> {
    Arc::clone(derived.reached.found.borrow().as_ref().unwrap())
}

#[test]
fn what_has_not_changed_is_not_walked_again() {
    let mut node = recorded("flannel");
    node.nftables = Reading::Ok(Arc::new(ruleset()));
    let mut derived = Derived::default();
    again(&node, &mut derived);
    let first = reached(&derived);
    let outer = Arc::clone(derived.outer.borrow()[0].1.found.borrow().as_ref().unwrap());
    again(&node, &mut derived);
    // The same rules in another generation, with advanced counters.
    rules_of(&mut node, "post")[0].counter = Some(Counter { packets: 7, bytes: 420 });
    let read = Ruleset { generation: Some(2), ..rules(&mut node).clone() };
    let chains: std::collections::BTreeMap<ChainId, Chain> =
        read.chains.iter().map(|(id, it)| (id.clone(), it.clone())).collect();
    node.nftables = Reading::Ok(Arc::new(Ruleset { chains: Shared::from(chains), ..read }));
    again(&node, &mut derived);
    assert!(Arc::ptr_eq(&first, &reached(&derived)));
    let kept = derived.network.borrow();
    let Some(kept) = kept.as_ref() else { panic!("a network") };
    assert!(format!("{kept:?}").contains("packets: 7"), "older rules are not kept alive");
    assert!(Arc::ptr_eq(&outer, derived.outer.borrow()[0].1.found.borrow().as_ref().unwrap()));
}

#[test]
fn a_judgement_that_was_stopped_leaves_nothing_behind() {
    let mut node = recorded("flannel");
    node.nftables = Reading::Ok(Arc::new(ruleset()));
    let mut derived = Derived::default();
    let stopped = AtomicBool::new(true);
    let report = judge_again(Catalogue::built_in(), &node, &Options::default(), &stopped, &mut derived);
    assert!(report.was_stopped);
    assert!(derived.reached.found.borrow().is_none() && derived.outer.borrow().is_empty());
    assert_eq!(again(&node, &mut derived), fresh(&node));
    // What was known before is kept, but a stopped judgement does not report it.
    let first = reached(&derived);
    let report = judge_again(Catalogue::built_in(), &node, &Options::default(), &stopped, &mut derived);
    assert!(
        report.was_stopped && report.advisories.iter().any(|finding| finding.state == crate::advisory::State::Unknown)
    );
    assert!(Arc::ptr_eq(&first, &reached(&derived)));
    // Of work that is stopped halfway nothing is kept, not even the part that was done.
    let once: CachedWalk<u32> = CachedWalk::default();
    let halfway = AtomicBool::new(false);
    let effort = Effort::new(&halfway);
    let cut = once.get(&effort, || {
        effort.spend(5);
        halfway.store(true, std::sync::atomic::Ordering::Relaxed);
        7
    });
    assert_eq!((*cut, once.units.get()), (7, 5));
    assert_eq!(*once.get(&effort, || 8), 7, "one judgement finds the same whenever it asks");
    assert!(!once.end(effort.ended().is_some()) && once.found.borrow().is_none());
}

/// Reused results are charged with their original work, so that a judgement ends where it would have ended without
/// them.
#[test]
fn what_is_remembered_takes_its_work() {
    let once: CachedWalk<u32> = CachedWalk::default();
    let spend = |effort: &Effort<'_>, units: usize| {
        effort.spend(units);
    };
    let effort = Effort::new(&GO_ON);
    let walk = |effort: &Effort<'_>| {
        spend(effort, 1000);
        1
    };
    once.get(&effort, || walk(&effort));
    assert!(once.end(false));
    let effort = Effort::new(&GO_ON);
    let (_, units) = effort.measure(|| once.get(&effort, || unreachable!("it is known")));
    assert_eq!(units, 1000);
    let (_, units) = effort.measure(|| once.get(&effort, || unreachable!("it is known")));
    assert_eq!(units, 0, "once in a judgement");
    once.end(false);
    // If less work than that is left, the walk is done, and ends.
    let effort = Effort::new(&GO_ON);
    let (_, all) = effort.measure(|| spend(&effort, usize::MAX));
    let effort = Effort::new(&GO_ON);
    spend(&effort, usize::try_from(all).unwrap() - 500);
    once.get(&effort, || walk(&effort));
    assert!(effort.ended().is_some() && !once.end(true));
}
