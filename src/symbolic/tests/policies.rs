//! Policies of many pods by source and by destination: results that a few devices show, and those that only all devices
//! show.

use super::bypass::{devices, own, routed};
use super::language::{effort, rules};
use super::race::address;
use super::unread::word;
use crate::symbolic::network::Network;
use crate::symbolic::{Happens, ReachedSourceNats, SourceNatReplies, reached, source_nat_replies};

const PODS: usize = 24;
const MASQUERADE: &str = "ip nat P: nat postrouting 100\n src 10.0.0.0/8, !dst 10.0.0.0/8 => masquerade\n";

/// Ten policies for each pod and direction; a packet that matches none is dropped.
fn policies(source: impl Fn(usize, usize) -> String) -> String {
    let mut text = "ip f F: filter forward 0
         iif pod+ => jump sources
         oif pod+ => jump targets
        "
    .to_owned();
    for (direction, side, end) in [("sources", "iif", "src"), ("targets", "oif", "dst")] {
        text += &format!("ip f {direction}:\n");
        text.extend((0..PODS).map(|pod| format!("{side} pod{pod} => goto {direction}{pod}\n")));
        for pod in 0..PODS {
            text += &format!("ip f {direction}{pod}:\n => clear 3\n");
            for policy in 0..10 {
                let from = if end == "src" { source(pod, policy) } else { format!("10.{policy}.{pod}.0/24") };
                text += &format!("{end} {from}, dport {} => or 1\n mark 1/1 => return\n", 1000 + 10 * pod + policy);
            }
            text += " => drop\n";
        }
    }
    text
}

fn of_each(pod: usize, policy: usize) -> String {
    format!("10.{pod}.{policy}.0/24")
}

/// Calls `ask` with the network of a node with [`PODS`] pods.
fn asked<T>(text: &str, ask: impl Fn(&Network<'_>) -> T) -> T {
    let names: Vec<&'static str> = (0..PODS).map(|pod| &*format!("pod{pod}").leak()).collect();
    let written = rules(text);
    let mut network = written.network();
    network.own = own();
    (network.host, network.devices) = (routed(), devices(&[&["lo", "eth0"], &names[..]].concat()));
    network.host.addresses = Ok(vec![address((2, "192.0.2.1", 0))]);
    ask(&network)
}

fn raced(text: &str) -> ReachedSourceNats {
    asked(text, |network| reached(network, &effort()))
}

fn replies(text: &str) -> SourceNatReplies {
    asked(text, |network| source_nat_replies(network, &effort()))
}

fn surely(found: &ReachedSourceNats) -> usize {
    found.rules.iter().filter(|rule| rule.happens == Happens::Must).count()
}

#[test]
fn a_few_devices_show_what_policies_let_pass() {
    let text = MASQUERADE.to_owned() + &policies(of_each);
    let work = asked(&text, |network| {
        let effort = effort();
        let (found, raced) = effort.measure(|| reached(network, &effort));
        assert_eq!((surely(&found), &found.gave_up), (1, &None));
        let (found, answered) = effort.measure(|| source_nat_replies(network, &effort));
        assert_eq!([&found.translated, &found.arrive].map(|found| word(&found.happens)), ["yes", "yes"]);
        [raced, answered]
    });
    assert!(work.iter().all(|work| *work < 1_000_000), "{work:?}");
}

#[test]
fn what_only_one_device_does_is_found() {
    let every = policies(of_each);
    let one = format!("ip nat P: nat postrouting 100\n oif pod20, src 10.0.0.0/8 => masquerade\n{every}");
    assert_eq!((surely(&raced(&one)), word(&replies(&one).translated.happens)), (1, "yes"));
    // All that other pods send is dropped.
    let one = format!("{MASQUERADE}ip m F: filter forward -150 drop\n iif pod20, oif eth0 => accept\n{every}");
    assert_eq!((surely(&raced(&one)), word(&replies(&one).translated.happens)), (1, "yes"));
    let none = format!("{MASQUERADE}ip m F: filter forward -150 drop\n iif pod30 => accept\n{every}");
    assert_eq!((surely(&raced(&none)), word(&replies(&none).translated.happens)), (0, "no"));
}

#[test]
fn sources_that_only_others_have_compete() {
    let last = |network: &'static str| {
        policies(move |pod, policy| if pod == PODS - 1 && policy == 0 { network.into() } else { "10.0.0.9/32".into() })
    };
    let nat = "ip nat P: nat postrouting 100\n src 10.0.0.0/8, oif eth0 => snat to 192.0.2.1
         ip m F: filter forward -150\n iif eth0 => drop\n";
    let one = raced(&(nat.to_owned() + &last("10.0.0.9/32")));
    assert_eq!((surely(&one), one.one_to_one.is_some()), (0, true));
    assert_eq!(surely(&raced(&(nat.to_owned() + &last("10.0.0.8/31")))), 1);
}

#[test]
fn ports_that_only_others_draw_are_found() {
    let nat = "ip nat P: nat postrouting 100
         iif pod20, src 10.0.0.0/8, oif eth0 => masquerade random-fully
         src 10.0.0.0/8, oif eth0 => masquerade\n";
    let found = replies(&(nat.to_owned() + &policies(of_each)));
    assert_eq!([&found.idle.translated, &found.idle.random].map(|found| word(&found.happens)), ["yes", "yes"]);
    let nat = "ip nat P: nat postrouting 100\n src 10.0.0.0/8, oif eth0 => masquerade random-fully\n";
    let timeout = "ip raw P: filter prerouting -300\n iif pod20 => timeout\n";
    let found = replies(&(nat.to_owned() + timeout + &policies(of_each)));
    assert_eq!(word(&found.idle.own_timeout.happens), "yes", "given before forward");
    let timeout = "ip raw F: filter forward -300\n iif pod20 => timeout\n";
    let found = replies(&(nat.to_owned() + timeout + &policies(of_each)));
    assert_eq!(word(&found.idle.own_timeout.happens), "yes");
}
