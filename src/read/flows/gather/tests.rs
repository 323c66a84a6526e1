use std::time::Duration;

use super::super::PortRange;
use super::*;

const NODE: &str = "198.18.0.254";
const SERVER: &str = "198.18.0.1";

fn at(address: &str, port: u16) -> (IpAddr, u16) {
    (address.parse().unwrap(), port)
}

fn flow(
    protocol: u8,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    target: (IpAddr, u16),
    given: (IpAddr, u16),
) -> FlowEntry {
    let ends = |source, destination| FlowEnds { source, destination, zone: None };
    let nat = |differs, bit| if differs { bit } else { 0 };
    let status = nat(from != given, IPS_SRC_NAT) | nat(to != target, IPS_DST_NAT);
    FlowEntry {
        protocol,
        original: ends(from, to),
        reply: ends(target, given),
        zone: 0,
        status,
        timeout: 30,
        tcp_state: None,
    }
}

/// A client's connection to the server, masqueraded to this port of the node.
fn masqueraded(client: &str, port: u16) -> FlowEntry {
    flow(TCP, at(client, port), at(SERVER, 443), at(SERVER, 443), at(NODE, port))
}

fn wanted(ports: &[(u16, u16)]) -> Wanted {
    let range = |ports: &(u16, u16)| PortRange { ports: *ports, addresses: None };
    Wanted { ranges: ports.iter().map(range).collect(), tunnel_ports: [8472].into(), ..Wanted::default() }
}

#[test]
fn ports_count_by_where_they_lead_and_from_which_range() {
    let wanted = wanted(&[(2000, 2127), (1024, 65535)]);
    let mut ports = PortCounts::new(&wanted);
    for port in 2000..2100 {
        ports.add(&masqueraded("10.1.0.1", port));
    }
    ports.add(&masqueraded("10.1.0.2", 3000));
    // The node's own connection uses a port as well; one of its connections elsewhere has another destination; an
    // untranslated one has an address that is not the node's.
    ports.add(&flow(TCP, at(NODE, 2120), at(SERVER, 443), at(SERVER, 443), at(NODE, 2120)));
    ports.add(&flow(TCP, at(NODE, 2121), at(SERVER, 80), at(SERVER, 80), at(NODE, 2121)));
    ports.add(&flow(TCP, at("10.1.0.3", 2122), at(SERVER, 443), at(SERVER, 443), at("10.1.0.3", 2122)));
    ports.add(&FlowEntry { tcp_state: Some(7), ..masqueraded("10.1.0.2", 2110) });
    let found = ports.end(0, true);
    let fullest = &found.used[0];
    assert_eq!((fullest.key.range, fullest.key.port, fullest.used), ((2000, 2127), 443, 102));
    assert_eq!((fullest.time_wait, fullest.error), (1, None));
    assert_eq!(fullest.clients[0], (at("10.1.0.1", 0).0, 100));
    let wide = found.used.iter().find(|used| used.key.range == (1024, 65535) && used.key.port == 443);
    assert_eq!(wide.map(|used| used.used), Some(103));
    assert!(found.used.iter().all(|used| used.key.source == at(NODE, 0).0));
}

#[test]
fn rules_with_one_range_count_an_entry_once() {
    let node = at(NODE, 0).0;
    let ranges = [None, Some((node, node))].map(|addresses| PortRange { ports: (2000, 2127), addresses });
    let wanted = Wanted { ranges: ranges.to_vec(), ..Wanted::default() };
    let mut ports = PortCounts::new(&wanted);
    ports.add(&masqueraded("10.1.0.1", 2000));
    ports.add(&masqueraded("10.1.0.2", 600)); // of neither, and low
    let found = ports.end(0, true);
    assert_eq!((found.used.len(), found.used[0].used, found.low), (1, 1, 1));
}

#[test]
fn a_sample_stands_for_the_table_and_says_how_surely() {
    let wanted = wanted(&[(1024, 65535)]);
    let (mut ports, mut composition) = (PortCounts::new(&wanted), Composition::default());
    for at in 0..1000 {
        let flow = if at < 100 { masqueraded("10.1.0.1", 2000 + at) } else { other(at) };
        ports.add(&flow);
        composition.add(&flow);
    }
    let found = ports.end(100_000, false);
    let fullest = &found.used[0];
    assert_eq!(fullest.used, 10_000);
    let error = fullest.error.unwrap();
    assert!((error - (0.1f64 * 0.9 / 1000.0).sqrt() * 100_000.0).abs() < 1e-6, "{error}");
    let sample = composition.end(100_000, false);
    assert_eq!((sample.sampled, sample.entries, sample.evictable), (1000, 100_000, 1000));
    assert_eq!(sample.ratio(), 0.01);
}

/// A connection that is neither translated nor TCP.
fn other(number: u16) -> FlowEntry {
    let from = at("10.2.0.1", number);
    flow(UDP, from, at("10.3.0.1", 53), at("10.3.0.1", 53), from)
}

#[test]
fn entries_are_told_apart_by_protocol_and_state() {
    let mut composition = Composition::default();
    for (state, status) in [(3, IPS_ASSURED), (3, 0), (7, IPS_ASSURED | IPS_OFFLOAD)] {
        composition.add(&FlowEntry { tcp_state: Some(state), status, ..masqueraded("10.1.0.1", 2000) });
    }
    composition.add(&FlowEntry { status: IPS_SEEN_REPLY, ..other(1) });
    composition.add(&other(2));
    let sample = composition.end(5, true);
    let count =
        |protocol, state| sample.composition.get(&(protocol, state)).map(|count| (count.entries, count.assured));
    assert_eq!(count(FlowProtocol::Tcp, FlowState::Established), Some((2, 1)));
    assert_eq!(count(FlowProtocol::Tcp, FlowState::TimeWait), Some((1, 1)));
    assert_eq!(count(FlowProtocol::Udp, FlowState::TwoWay), Some((1, 0)));
    assert_eq!(count(FlowProtocol::Udp, FlowState::OneWay), Some((1, 0)));
    assert_eq!(sample.evictable, 3);
}

#[test]
fn flows_of_tunnels_that_keep_their_port_are_well() {
    let wanted = wanted(&[]);
    let mut tunnels = Tunnels::new(&wanted, Some([at(NODE, 0).0].into()));
    let outer = |from, port, given| {
        flow(UDP, at(from, port), at("192.168.0.2", 8472), at("192.168.0.2", 8472), at(from, given))
    };
    tunnels.add(&outer(NODE, 50_000, 50_000));
    tunnels.add(&outer(NODE, 50_001, 1234));
    tunnels.add(&outer("10.9.9.9", 50_002, 1235)); // forwarded for somebody else
    tunnels.add(&FlowEntry { protocol: TCP, ..outer(NODE, 50_003, 1236) });
    let found = tunnels.end();
    assert_eq!(found.count, 1);
    assert_eq!((found.first[0].port, found.first[0].rewritten_port), (50_001, 1234));
}

#[test]
fn an_entry_that_was_seen_before_was_refilled_or_not() {
    let sent = |timeout| {
        let flow = flow(UDP, at("10.1.0.1", 9), at("10.96.0.1", 53), at("10.1.0.7", 53), at("10.1.0.1", 9));
        FlowEntry { timeout, ..flow }
    };
    let mut first = Translations::new(None);
    first.add(&sent(30));
    first.add(&FlowEntry { status: IPS_DST_NAT | IPS_EXPECTED, ..sent(30) });
    let first = first.end();
    assert_eq!((first.each.len(), first.each[0].entries, first.each[0].clients[0].refilled), (1, 1, None));
    for (timeout, refilled) in [(28, false), (29, true), (30, true), (25, false)] {
        let mut second = Translations::new(Some((&first, Duration::from_secs(2))));
        second.add(&sent(timeout));
        assert_eq!(second.end().each[0].clients[0].refilled, Some(refilled), "{timeout}");
    }
    // A client that was seen before is reported, however many others there are.
    let mut crowd = Translations::new(Some((&first, Duration::from_secs(30))));
    for port in 100..200 {
        let mut other = sent(30);
        other.original.source.1 = port;
        crowd.add(&other);
    }
    crowd.add(&sent(30));
    let crowd = crowd.end();
    assert_eq!(crowd.each[0].entries, 101);
    assert_eq!(crowd.each[0].clients.iter().filter(|client| client.refilled == Some(true)).count(), 1);
}
