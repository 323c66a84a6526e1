//! Tests on ipset.

use super::*;
use crate::facts::Unanswered;
use crate::netfilter::netlink::{put, put_nested};

/// Plays a kernel with the ipset `nodes`.
pub(crate) fn nodes(name: &str) -> Vec<u8> {
    hex(match name.rsplit_once("ipset/").map(|(_, what)| what) {
        Some("protocol") => PROTOCOL,
        Some("0-name") => NAME,
        Some("0-header") => HEADER,
        Some("0-size") => SIZE,
        Some("0-test-s-0") => IN,
        Some("0-test-s-1") => OUT,
        _ => panic!("nobody should ask {name}"),
    })
}

#[test]
fn an_ipset_is_asked_for_its_name_its_type_and_then_value_by_value() {
    let rules = ruleset(&[in_ipset(0, &[End::Source]), in_ipset(0, &[End::Destination])]);
    let values = values(&["192.0.2.1"], &["2001:db8::9", "198.51.100.1"]);
    let seen = read(&rules, &values, nodes);
    let found = &seen.sets[&SetId::Ipset(0)];
    assert_eq!((found.name.as_str(), found.kind.as_str()), ("nodes", "hash:net"));
    let expected = [
        (key("192.0.2.1"), Reading::Ok(true)),
        (key("198.51.100.1"), Reading::Ok(false)),
        (key("2001:db8::9"), Reading::Ok(false)),
    ];
    assert_eq!(found.members, expected.into(), "an IPv6 packet is in no IPv4 set, and that is not asked");
    assert!(matches!(found.elements.failure(), Some(Failure::TooLarge { .. })), "{:?}", found.elements);
    assert_eq!(seen.failure(Source::Ipset), "");
}

/// The kernel's response about set `nodes` of this type and family.
fn header_of(kind: &[u8], family: u8) -> Vec<u8> {
    let mut body = vec![2, 0, 0, 0];
    put(&mut body, 1, &[7]);
    put(&mut body, 2, b"nodes\0");
    put(&mut body, 3, kind);
    put(&mut body, 5, &[family]);
    [framed(0x60c, &body), hex(HEADER).split_off(0x48)].concat()
}

/// Name, type, whether it is a dump, whether an acknowledgement is requested, and the body.
#[test]
fn requests_have_the_bytes_that_kernels_understand() {
    let bodies = |ends: &[End], kind: &'static [u8], family, own: &str, peer: &str| -> Vec<String> {
        let seen = read(&ruleset(&[in_ipset(0, ends)]), &values(&[own], &[peer]), |name| match name {
            name if name.ends_with("-header") => header_of(kind, family),
            name if name.contains("-test-") => hex(IN),
            name => nodes(name),
        });
        let body = |request: &Request| match &request.kind {
            Asked::Netlink(asked) => {
                let bytes: String = asked.body.iter().map(|byte| format!("{byte:02x}")).collect();
                let (_, name) = request.name.rsplit_once('/').unwrap();
                format!("{name} {:#x} {} {} {bytes}", asked.kind, asked.dump, asked.ack)
            }
            _ => panic!("{}", request.name),
        };
        seen.requests.iter().map(body).collect()
    };
    use End::{Destination as D, Source as S};
    let expected = [
        "protocol 0x601 false true 020000000500010007000000",
        "0-name 0x60f false true 02000000050001000700000006000b0000000000",
        "0-header 0x60c false true 0200000005000100070000000a0002006e6f646573000000",
        "0-size 0x607 true false 0200000005000100070000000a0002006e6f6465730000000800064000000004",
        "0-list 0x607 true false 0200000005000100070000000a0002006e6f646573000000",
        "0-test-s-0 0x60b false true 0200000005000100070000000a0002006e6f646573000000100007800c00018008000140c0000201",
        "0-test-s-1 0x60b false true 0200000005000100070000000a0002006e6f646573000000100007800c00018008000140c0000209",
    ];
    assert_eq!(bodies(&[S], b"hash:net\0", 2, "192.0.2.1", "192.0.2.9"), expected);
    let tests = |ends: &[End], kind, family, own, peer| bodies(ends, kind, family, own, peer).split_off(5);
    let expected = [
        "0-test-sdd-0 0x60b false true 0a00000005000100070000000a0002006e6f64657300000044000780180001801400024020010db800000000000000000000000106000440211800000500070011000000180014801400024020010db8000000000000000000000009",
    ];
    assert_eq!(tests(&[S, D, D], b"hash:ip,port,ip\0", 10, "2001:db8::1", "2001:db8::9"), expected);
    let expected =
        ["0-test-d-0 0x60b false true 0000000005000100070000000a0002006e6f6465730000000c0007800600044021180000"];
    assert_eq!(tests(&[D], b"bitmap:port\0", 0, "192.0.2.1", "192.0.2.9"), expected);
}

#[test]
fn dimensions_are_taken_from_the_ends_that_the_rule_names() {
    let values = values(&["192.0.2.1"], &["192.0.2.9"]);
    let ask = |kind: &'static [u8], ends: &[End]| {
        let rules = ruleset(&[in_ipset(0, ends)]);
        let seen = read(&rules, &values, |name| match name.contains("-test-") {
            true => hex(IN),
            false if name.ends_with("header") => header_of(kind, 2),
            false => nodes(name),
        });
        seen.sets[&SetId::Ipset(0)].members.keys().cloned().collect::<Vec<_>>()
    };
    use End::{Destination as D, Source as S};
    let [own, peer] = ["192.0.2.1", "192.0.2.9"].map(|address| address_key(ip(address)));
    let port = values::port_key(17, 8472);
    assert_eq!(ask(b"hash:ip,port\0", &[S, D]), [[own, port], [peer, port]]);
    assert_eq!(ask(b"hash:ip,port\0", &[S, S]), [[0u128; 2]; 0], "a source port is anything");
    assert_eq!(ask(b"hash:ip,port,ip\0", &[D, D, S]), [[peer, port, own]]);
    assert_eq!(ask(b"bitmap:port\0", &[D]), [[port]]);
    assert_eq!(ask(b"hash:ip,port\0", &[S]), [[0u128; 2]; 0], "fewer dimensions than the type has");
    assert_eq!(ask(b"list:set\0", &[S]), [[0u128; 1]; 0]);
    assert_eq!(ask(b"hash:mac\0", &[S]), [[0u128; 1]; 0]);
}

#[test]
fn an_ipset_of_an_old_kernel_or_without_a_module_says_why() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.1"], &[]);
    let mut old = hex(PROTOCOL);
    old[24] = 6;
    let seen = read(&rules, &values, |_| old.clone());
    assert_eq!(seen.all_names(), ["ipset/protocol"]);
    let unread = |sets: &BTreeMap<SetId, Set>| {
        sets.len() == 1 && sets.values().all(|set| set.members.is_empty() && set.elements.ok().is_none())
    };
    assert!(unread(&seen.sets) && seen.failure(Source::Ipset).contains("speaks version 6"));

    let missing = read_with(&rules, &values, |request| match request.name.as_str() {
        "procfs/modules" | "procfs/sys/kernel/osrelease" | "procfs/kallsyms" => Reading::Ok(Vec::new()),
        "procfs/version" => Reading::Ok(b"Linux version 6.18.0\n".to_vec()),
        "sysfs/module/ip_set.list" | "rootfs/lib/modules//modules.builtin" => Reading::Absent("ENOENT".into()),
        name => panic!("asking ipset would load it: {name}"),
    });
    assert!(unread(&missing.sets) && missing.requests.is_empty());
    assert_eq!(missing.states[&Source::Ipset].0, SourceState::Absent);
}

#[test]
fn what_ipset_refuses_is_not_called_a_stranger() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.1"], &[]);
    for (errno, what) in [(2, "errno 2"), (4097, "errno 4097")] {
        let seen = read(&rules, &values, |name| if name.contains("test") { refusal(errno) } else { nodes(name) });
        let members = &seen.sets[&SetId::Ipset(0)].members;
        assert!(!members.is_empty() && members.values().all(|found| matches!(found, Reading::Failed(_))));
        assert!(seen.failure(Source::Ipset).contains(what));
    }
    let seen = read(&rules, &values, |name| if name.contains("0-name") { hex(NO_NAME) } else { nodes(name) });
    assert!(seen.sets.values().all(|set| set.elements.failure().and_then(Failure::refused) == Some(2)));
    assert!(seen.failure(Source::Ipset).contains("errno 2"));
}

/// The whole set `nodes`: its header, then its elements.
pub(crate) fn list_of_nodes() -> Vec<u8> {
    let entry = |network: [u8; 4], length: u8| {
        let mut body = vec![2, 0, 0, 0];
        put(&mut body, 1, &[7]);
        put(&mut body, 2, b"nodes\0");
        put_nested(&mut body, 8, |all| {
            put_nested(all, 7, |data| {
                put_nested(data, 1, |address| put(address, 1, &network));
                put(data, 3, &[length]);
            });
        });
        framed(0x607, &body)
    };
    [entry([192, 0, 2, 0], 24), entry([10, 0, 0, 0], 8), framed(NLMSG_DONE, &[0; 4])].concat()
}

#[test]
fn a_small_ipset_is_read_whole_and_again_each_time() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let seen = read_with(&rules, &values(&["192.0.2.1"], &[]), |request| match request.name.as_str() {
        "sysfs/module/ip_set.list" => Reading::Ok(b"initstate\n".to_vec()),
        name if is_whole(name) => Reading::Ok(list_of_nodes()),
        name => Reading::Ok(nodes(name)),
    });
    assert_eq!(seen.all_names(), ["ipset/protocol", "ipset/0-name", "ipset/0-header", "ipset/0-size", "ipset/0-list"]);
    let [first, last] = ["192.0.2.0", "192.0.2.255"].map(|address| address_key(ip(address)));
    let [lowest, highest] = ["10.0.0.0", "10.255.255.255"].map(|address| address_key(ip(address)));
    let found = &seen.sets[&SetId::Ipset(0)];
    assert_eq!(found.elements, Reading::Ok(vec![vec![(first, last)], vec![(lowest, highest)]]));
    assert!(!found.stable && found.members.is_empty() && seen.is_all_right());
}

/// Addresses of the other family are in no set; source ports are never looked up.
#[test]
fn an_ipset_whose_list_is_cut_is_a_failure_if_there_is_no_value_to_ask_about() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let seen = |whole: Response| {
        read_with(&rules, &OuterValues::default(), move |request| match request.name.as_str() {
            "sysfs/module/ip_set.list" => Reading::Ok(b"initstate\n".to_vec()),
            name if is_whole(name) => whole.clone(),
            name => Reading::Ok(nodes(name)),
        })
    };
    let cut = seen(Reading::Ok(list_of_nodes()[..40].to_vec()));
    assert!(cut.sets[&SetId::Ipset(0)].elements.failure().is_some());
    assert!(!cut.failure(Source::Ipset).is_empty());
    assert!(seen(Reading::Failed(Failure::too_large(MAX_ELEMENTS, "bytes"))).is_all_right());
}

/// A set whose elements cannot fit is not dumped; if the kernel does not tell their number, the dump reveals it.
#[test]
fn an_ipset_is_asked_for_its_size_before_its_elements() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let seen = |size: Response| {
        read_with(&rules, &values(&["192.0.2.1"], &[]), move |request| match request.name.as_str() {
            "sysfs/module/ip_set.list" => Reading::Ok(b"initstate\n".to_vec()),
            name if name.ends_with("-size") => size.clone(),
            name if is_whole(name) => Reading::Ok(list_of_nodes()),
            name => Reading::Ok(nodes(name)),
        })
    };
    let with_count = |count: u32| {
        let mut bytes = hex(SIZE);
        let at = bytes.len() - 24;
        assert_eq!(bytes[at..at + 4], 2u32.to_be_bytes());
        bytes[at..at + 4].copy_from_slice(&count.to_be_bytes());
        bytes
    };
    let list = "ipset/0-list";
    let fits = seen(Reading::Ok(with_count(87381)));
    assert!(fits.all_names().contains(&list) && fits.is_all_right());
    let large = seen(Reading::Ok(with_count(87382)));
    assert!(!large.all_names().contains(&list) && large.is_all_right());
    let found = &large.sets[&SetId::Ipset(0)];
    assert!(matches!(found.elements.failure(), Some(Failure::TooLarge { .. })));
    assert_eq!(found.members, [(key("192.0.2.1"), Reading::Ok(true))].into());
    let untold = seen(Reading::Ok(framed(NLMSG_DONE, &[0; 4])));
    let older = seen(Reading::Failed(Failure::NotAnswered(Unanswered::NotCaptured)));
    assert!(untold.is_all_right() && older.is_all_right());
    let failed = seen(Reading::Ok(hex(SIZE)[..60].to_vec()));
    assert!(!failed.failure(Source::Ipset).is_empty());
    assert!([untold, older, failed].iter().all(|seen| seen.sets[&SetId::Ipset(0)].elements.ok().is_some()));
}
