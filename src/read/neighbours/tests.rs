use std::time::{Duration, Instant};

use super::*;
use crate::capture::{Ask, hand_out};
use crate::facts::Collector;
use crate::netfilter::netlink::{NLMSG_DONE, frame, put};
use crate::read::testing::{Answers, played_after, read_with};
use crate::read::{Collectors, Known, testing::answering};

/// A response as to `ip ntable`: a table, then the parameters of a device.
fn tables(family: Family, entries: u32, limit: u32, refused: u64) -> Vec<u8> {
    const RTM_NEWNEIGHTBL: u16 = 64;
    let mut config = vec![0; 32];
    config[4..8].copy_from_slice(&entries.to_ne_bytes());
    let mut stats = vec![0; 88];
    stats[80..].copy_from_slice(&refused.to_ne_bytes());
    let mut body = vec![family.nfproto(), 0, 0, 0];
    put(&mut body, NDTA_NAME, b"arp_cache\0");
    put(&mut body, NDTA_THRESH3, &limit.to_ne_bytes());
    put(&mut body, NDTA_CONFIG, &config);
    put(&mut body, NDTA_STATS, &stats);
    let mut device = vec![family.nfproto(), 0, 0, 0];
    put(&mut device, NDTA_NAME, b"arp_cache\0");
    [frame(RTM_NEWNEIGHTBL, 2, &body), frame(RTM_NEWNEIGHTBL, 2, &device), done()].concat()
}

fn done() -> Vec<u8> {
    frame(NLMSG_DONE, 2, &[0; 4])
}

fn entry(family: Family, state: u16, flags: u8) -> Vec<u8> {
    let [low, high] = state.to_ne_bytes();
    frame(28, 2, &[family.nfproto(), 0, 0, 0, 1, 0, 0, 0, low, high, flags, 1])
}

fn ok(table: &Reading<NeighbourTable>) -> &NeighbourTable {
    table.ok().unwrap_or_else(|| panic!("{table:?}"))
}

#[test]
fn tables_are_read_and_entries_where_they_are_near_the_limit() {
    let [ipv4, ipv6] = [tables(Family::Ipv4, 1000, 1024, 3), tables(Family::Ipv6, 5, 1024, 0)];
    let entries_of_ipv4 = [
        entry(Family::Ipv4, 0x80, 0),
        entry(Family::Ipv4, 2, 0x10),
        entry(Family::Ipv4, 2, 0),
        entry(Family::Ipv6, 2, 0),
        done(),
    ]
    .concat();
    let answers: Answers = [
        (&table(Family::Ipv4), Reading::Ok(&ipv4[..])),
        (&table(Family::Ipv6), Reading::Ok(&ipv6[..])),
        (&entries(Family::Ipv4), Reading::Ok(&entries_of_ipv4[..])),
    ]
    .into();
    let (found, sources) = read_with(&answers, read);
    assert!(sources.is_whole());
    assert_eq!(ok(&found.0[0]).own, Reading::Ok(OwnNeighbours { counted: 1, exempt: 2 }));
    let NeighbourTable { entries, limit, refused, refused_since, own } = ok(&found.0[1]);
    assert_eq!((*entries, *limit, *refused, *refused_since), (5, 1024, Some(0), None));
    assert!(matches!(own, Reading::Failed(Failure::NotNeeded(_))), "{own:?}");
}

#[test]
fn a_kernel_without_a_family_says_so_and_one_that_was_cut_off_does_not() {
    let (absent, cut) = (done(), tables(Family::Ipv6, 5, 1024, 0));
    let found = answering(&absent, read);
    assert!(matches!(found.0, [Reading::Failed(_), Reading::Absent(_)]), "every kernel has IPv4's: {found:?}");
    for length in 0..cut.len().min(120) {
        let found = answering(&cut[..length], read);
        assert!(matches!(found.0[1], Reading::Failed(_)), "{length}: {found:?}");
    }
    let (found, sources) = read_with(&Answers::default(), read);
    assert!(matches!(found.0, [Reading::Failed(_), Reading::Failed(_)]), "{found:?}");
    assert!(!sources.is_whole());
}

#[test]
fn refusals_are_counted_from_the_reading_before() {
    let refused = |known: &Known, refused: u64| {
        let answer = tables(Family::Ipv4, 5, 1024, refused);
        let (found, _, left) = played_after(known, |_| Reading::Ok(answer.clone()), read);
        (ok(&found.0[0]).refused_since, left)
    };
    let (first, left) = refused(&Known::default(), 7);
    assert_eq!(first, None);
    let (second, left) = refused(&left, 7);
    assert_eq!(second, Some(0));
    assert_eq!(refused(&left, 9).0, Some(2));
}

/// A node that can tell whether something has changed.
struct Telling {
    epochs: (u64, u64),
    entries: u32,
    asked: Vec<String>,
}

impl Ask for Telling {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        self.asked.push(request.name.clone());
        let answer = match request.name.strip_prefix("netlink/route/") {
            Some("neighbours-ipv4") => [entry(Family::Ipv4, 0x80, 0).repeat(900), done()].concat(),
            Some("neighbour-table-ipv4") => tables(Family::Ipv4, self.entries, 1000, 0),
            _ => tables(Family::Ipv6, 5, 1000, 0),
        };
        hand_out(&Reading::Ok(answer), request, take)
    }

    fn epoch(&mut self) -> Option<u64> {
        Some(self.epochs.1)
    }

    fn neighbours_epoch(&mut self) -> Option<u64> {
        Some(self.epochs.0)
    }
}

#[test]
fn entries_are_not_read_again_while_nothing_is_notified_of_and_the_others_fit() {
    let mut node = Telling { epochs: (1, 1), entries: 950, asked: Vec::new() };
    let mut known = Known::default();
    for (entries, epochs, is_read) in [
        (950, (1, 1), true),
        (950, (1, 1), false),
        (1799, (1, 1), false),
        (1800, (1, 1), true), // 900 that may count
        (899, (1, 1), false), // far from the limit
        (950, (1, 1), false),
        (950, (2, 1), true),
        (950, (2, 2), true),
        (950, (2, 2), false),
    ] {
        (node.entries, node.epochs) = (entries, epochs);
        node.asked.clear();
        let collectors = Collectors::from([Collector::Neighbours]);
        let mut reading = Node::new(&mut node, &collectors, &known);
        let found = read(&mut reading);
        known = reading.left;
        assert!(known.unnotified.is_empty());
        let own = ok(&found.0[0]).own.ok();
        assert_eq!(own.map(|own| own.exempt), (entries != 899).then_some(900), "{entries}");
        let asked = node.asked.iter().any(|name| name == "netlink/route/neighbours-ipv4");
        assert_eq!(asked, is_read, "{entries}, {epochs:?}");
    }
    let now = Instant::now();
    known.date(now);
    known.verify(now + Duration::from_secs(600), Duration::from_secs(600));
    known.neighbours[0].as_mut().expect("known").own.exempt = 901;
    let collectors = Collectors::from([Collector::Neighbours]);
    let mut reading = Node::new(&mut node, &collectors, &known);
    read(&mut reading);
    assert_eq!(reading.left.unnotified, ["neighbours that are exempt from the limit of their table"]);
}

#[test]
fn any_bytes_are_an_answer_or_an_error() {
    let whole = tables(Family::Ipv4, 1000, 1024, 3);
    proptest::proptest!(|(bytes: Vec<u8>, at in 0..whole.len(), byte: u8)| {
        let _ = answering(&bytes, read);
        let mut broken = whole.clone();
        broken[at] = byte;
        let _ = answering(&broken, read);
    });
}
