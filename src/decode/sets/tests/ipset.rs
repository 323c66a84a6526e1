//! The ipset half.

use super::*;

/// Plays a kernel with the ipset `nodes`.
pub fn nodes(name: &str) -> Vec<u8> {
    hex(match name.rsplit_once("ipset/").map(|(_, what)| what) {
        Some("protocol") => PROTOCOL,
        Some("0-name") => NAME,
        Some("0-header") => HEADER,
        Some("0-test-s-0") => IN,
        Some("0-test-s-1") => OUT,
        _ => panic!("nobody should ask {name}"),
    })
}

#[test]
fn an_ipset_is_asked_for_its_name_its_type_and_then_value_by_value() {
    let rules = ruleset(&[in_ipset(0, &[End::Source]), in_ipset(0, &[End::Destination])]);
    let values = values(&["192.0.2.1"], &["2001:db8::9", "198.51.100.1"]);
    let capture = converse(&rules, &values, nodes);
    let (sets, problems) = read(&capture, &rules, &values);
    let found = &sets[&SetId::Ipset(0)];
    assert_eq!((found.name.as_str(), found.kind.as_str()), ("nodes", "hash:net"));
    let expected = [
        (key("192.0.2.1"), Reading::Ok(true)),
        (key("198.51.100.1"), Reading::Ok(false)),
        (key("2001:db8::9"), Reading::Ok(false)),
    ];
    assert_eq!(found.members, expected.into(), "an IPv6 packet is in no IPv4 set, and that is not asked");
    assert_eq!(failure(&problems, Source::Ipset), "");
}

#[test]
fn dimensions_are_taken_from_the_ends_that_the_rule_names() {
    let with_type = |kind: &[u8], name: &str| {
        let mut bytes = hex(HEADER);
        let mut rest = Vec::new();
        wire::put(&mut rest, 1, &[7]);
        wire::put(&mut rest, 2, b"nodes\0");
        wire::put(&mut rest, 3, kind);
        wire::put(&mut rest, 5, &[2]);
        let ack = bytes.split_off(0x48);
        bytes.truncate(20);
        bytes.extend(rest);
        let length = u32::try_from(bytes.len()).unwrap().to_ne_bytes();
        bytes[..4].copy_from_slice(&length);
        if name.ends_with("header") { [bytes, ack].concat() } else { Vec::new() }
    };
    let values = values(&["192.0.2.1"], &["192.0.2.9"]);
    let ask = |kind: &'static [u8], ends: &[End]| {
        let rules = ruleset(&[in_ipset(0, ends)]);
        let capture = converse(&rules, &values, |name| match name.contains("-test-") {
            true => hex(IN),
            false if name.ends_with("header") => with_type(kind, name),
            false => nodes(name),
        });
        read(&capture, &rules, &values).0[&SetId::Ipset(0)].members.keys().cloned().collect::<Vec<_>>()
    };
    use End::{Destination as D, Source as S};
    let [own, peer] = ["192.0.2.1", "192.0.2.9"].map(|address| crate::snapshot::netfilter::address_key(ip(address)));
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
    let capture = converse(&rules, &values, |_| old.clone());
    assert_eq!(names(&capture), ["netfilter/ipset/protocol"]);
    let (sets, problems) = read(&capture, &rules, &values);
    assert!(sets.is_empty() && failure(&problems, Source::Ipset).contains("speaks version 6"));

    let mut missing = test_capture();
    let signs = ["procfs/modules", "procfs/sys/kernel/osrelease", "procfs/kallsyms"];
    missing.answers.extend(signs.map(|name| (name.to_owned(), Reading::Ok(Vec::new()))));
    for name in ["sysfs/module/ip_set.list", "rootfs/lib/modules//modules.builtin"] {
        missing.answers.insert(name.into(), Reading::Absent("ENOENT".into()));
    }
    let asked = requests(&missing, "nft-1", &rules, &values);
    assert!(asked.iter().all(|request| missing.has(request)), "asking ipset would load it: {asked:?}");
    let (_, problems) = read(&missing, &rules, &values);
    assert_eq!(problems.set[&Source::Ipset].0, SourceState::Absent);
}

#[test]
fn what_ipset_refuses_is_not_called_a_stranger() {
    let rules = ruleset(&[in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.1"], &[]);
    for (errno, what) in [(2, "errno 2"), (4097, "errno 4097")] {
        let capture =
            converse(&rules, &values, |name| if name.contains("test") { refusal(errno) } else { nodes(name) });
        let (sets, problems) = read(&capture, &rules, &values);
        assert!(sets[&SetId::Ipset(0)].members.values().all(|found| matches!(found, Reading::Failed(_))));
        assert!(failure(&problems, Source::Ipset).contains(what));
    }
    let capture = converse(&rules, &values, |name| if name.contains("0-name") { hex(NO_NAME) } else { nodes(name) });
    assert!(read(&capture, &rules, &values).0.is_empty());
}
