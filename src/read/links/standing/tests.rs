//! Tests on a recorded node that can tell whether something has changed.

use super::*;
use crate::capture::archive::testing::recorded_node;
use crate::capture::{Ask, Capture, Request, Response, Take, hand_out};
use crate::facts::{Collector, Failure};
use crate::netfilter::netlink::rtnl::{IFLA_XDP, IFLA_XDP_ATTACHED};
use crate::netfilter::netlink::{self, Message};
use crate::read::links::LinkFacts;
use crate::read::{Collectors, Known, links};

struct Telling {
    capture: Capture,
    epoch: Option<u64>,
    can_watch: bool,
    watched: Vec<u32>,
    asked: Vec<String>,
}

impl Ask for Telling {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        self.asked.push(request.name.clone());
        let again = request.name.strip_prefix("netlink/route/link-");
        let answer = match again {
            Some(name) => self.link(name),
            // Requested by newer versions than the recording one: no queueing disciplines, and a kernel without hooks
            // for programs.
            None if request.name == "netlink/route/qdiscs" || request.name.ends_with("-root") => {
                Reading::Ok(netlink::frame(netlink::NLMSG_DONE, 0, &[0; 4]))
            }
            None if request.name.starts_with("bpf/") => Reading::Absent("no such hook".into()),
            None => self.capture.answers[&request.name].clone(),
        };
        hand_out(&answer, request, take)
    }

    fn epoch(&mut self) -> Option<u64> {
        self.epoch
    }

    fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        devices.clone_into(&mut self.watched);
        self.can_watch
    }
}

impl Telling {
    fn links(&self) -> impl Iterator<Item = Message<'_>> {
        netlink::messages(self.capture.answers["netlink/route/links"].ok().unwrap()).map(Result::unwrap)
    }

    /// The message about one link, taken from the dump; without NLM_F_MULTI it is a whole response.
    fn link(&self, name: &str) -> Response {
        let found = self.links().find(|message| is_about(message, name));
        found.map_or(Reading::Failed(Failure::Refused(19)), |message| {
            Reading::Ok(netlink::frame(message.kind, 0, message.body))
        })
    }

    fn read(&mut self, known: &Known) -> (LinkFacts, Known) {
        self.asked.clear();
        let collectors = Collectors::from([Collector::Links]);
        let mut node = Node::new(self, &collectors, known);
        let facts = links::read(&mut node);
        assert!(node.sources.is_whole(), "{:?}", node.sources);
        (facts, node.left)
    }

    fn dumped(&self) -> bool {
        self.asked.iter().any(|name| name == "netlink/route/links")
    }

    /// Attaches an XDP program to a link.
    fn attach(&mut self, device: &str) {
        let answer = self.links().flat_map(|message| {
            let mut body = message.body.to_vec();
            if is_about(&message, device) {
                netlink::put_nested(&mut body, IFLA_XDP, |xdp| netlink::put(xdp, IFLA_XDP_ATTACHED, &[1]));
            }
            netlink::frame(message.kind, message.flags, &body)
        });
        let answer = answer.collect();
        self.capture.answers.insert("netlink/route/links".into(), Reading::Ok(answer));
    }
}

fn is_about(message: &Message<'_>, device: &str) -> bool {
    !message.is_control() && decode_link(message.body).unwrap().name == device
}

fn flannel() -> Telling {
    Telling {
        capture: recorded_node("flannel"),
        epoch: Some(1),
        can_watch: true,
        watched: Vec::new(),
        asked: Vec::new(),
    }
}

fn index(facts: &LinkFacts, name: &str) -> u32 {
    facts.known().iter().find(|link| link.name == name).unwrap().index
}

#[test]
fn what_stands_is_asked_once() {
    let mut node = flannel();
    let (first, known) = node.read(&Known::default());
    assert!(node.dumped());
    assert_eq!(node.watched, [index(&first, "flannel.1")], "its forwarding database");
    let (second, known) = node.read(&known);
    let again: Vec<&str> = node.asked.iter().filter_map(|name| name.strip_prefix("netlink/route/")).collect();
    assert_eq!(again, ["link-eth0", "link-flannel.1"], "only whether they have programs");
    assert_eq!((&first.links, first.local_ports), (&second.links, second.local_ports));
    assert!(Arc::ptr_eq(&first.standing, &second.standing));
    let unchanging = ["procfs/sys/net/ipv4/ip_local_port_range", "netlink/ethtool/features-eth0"];
    assert!(unchanging.iter().all(|name| node.asked.iter().any(|asked| asked == name)), "{:?}", node.asked);
    node.epoch = Some(2);
    let (_, known) = node.read(&known);
    assert!(node.dumped(), "something has changed");
    node.epoch = None;
    node.read(&known);
    assert!(node.dumped(), "it cannot be told");
}

#[test]
fn what_could_not_be_watched_is_not_remembered() {
    let mut node = flannel();
    node.can_watch = false;
    let (_, known) = node.read(&Known::default());
    assert!(known.links.is_none());
    node.read(&known);
    assert!(node.dumped());
}

#[test]
fn what_failed_is_asked_again() {
    let mut node = flannel();
    let collectors = Collectors::from([Collector::Links]);
    let failed = |name: &str, node: &mut Telling| {
        node.capture = flannel().capture;
        node.capture.answers.insert(name.into(), Reading::Failed(Failure::Refused(12)));
        let known = Known::default();
        let mut reader = Node::new(node, &collectors, &known);
        links::read(&mut reader);
        reader.left.links.is_none()
    };
    let standing = ["links", "fdb-flannel.1", "addresses", "rules-ipv4", "routes-ipv6", "forwarding-ipv4"];
    for name in standing.into_iter().chain(["get-flannel.1-0", "filters-eth0-egress"]) {
        assert!(failed(&format!("netlink/route/{name}"), &mut node), "{name}");
    }
    assert!(!failed("netlink/ethtool/features-eth0", &mut node), "that is asked each time");
}

#[test]
fn programs_come_and_go_without_a_word() {
    let mut node = flannel();
    let (before, known) = node.read(&Known::default());
    node.attach("eth0");
    let (after, known) = node.read(&known);
    assert!(!node.dumped());
    let programs = |facts: &LinkFacts| -> Vec<String> {
        facts.known().iter().filter(|link| link.xdp).map(|link| link.name.clone()).collect()
    };
    assert_eq!((programs(&before), programs(&after)), (vec![], vec!["eth0".to_owned()]));
    node.capture = flannel().capture;
    assert_eq!(programs(&node.read(&known).0), [""; 0], "it is gone again");
}

#[test]
fn a_change_that_was_not_notified_of_is_found_and_told() {
    let mut node = flannel();
    let (_, mut known) = node.read(&Known::default());
    let later = std::time::Instant::now();
    known.date(later);
    known.verify(later, std::time::Duration::ZERO);
    let (_, mut left) = node.read(&known);
    assert!(node.dumped());
    assert_eq!(left.take_unnotified(), [""; 0], "nothing has changed");
    node.capture
        .answers
        .insert("netlink/route/rules-ipv4".into(), node.capture.answers["netlink/route/rules-ipv6"].clone());
    let (_, mut left) = node.read(&known);
    assert_eq!(left.take_unnotified(), ["policy rules"]);
    assert!(!left.links.unwrap().verify, "what was found now holds");
}
