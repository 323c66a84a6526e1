//! Unread rules may do anything: never sure in either direction.

use super::bypass::devices;
use super::language::{effort, host, rules};
use super::tunnel::{OLD, facts, rewritten, verdict, walk_on, walk_with};
use crate::facts::netfilter::{Family, Hook};
use crate::symbolic::facts::TunnelFacts;
use crate::symbolic::network::host::HostFacts;
use crate::symbolic::{Happens, Network, dns_to_several, reached};

pub(crate) fn word(happens: &Happens) -> &'static str {
    match happens {
        Happens::Must => "yes",
        Happens::Never => "no",
        Happens::May(_) => "maybe",
    }
}

/// Whether new connections reach a rule that translates their source.
fn translated(text: &str) -> &'static str {
    let written = rules(text);
    let found = reached(&written.network(), &effort());
    let sure = found.rules.iter().any(|rule| rule.happens == Happens::Must && rule.nat.is_some());
    match (sure, found.rules.is_empty() && found.gave_up.is_none()) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "maybe",
    }
}

const MASQUERADE: &str = "ip nat P: nat postrouting 100\n oif eth0 => masquerade random-fully\n";
const MARKED: &str = "ip m O: filter output -150\n => or 0x4000\n";

#[test]
fn a_list_that_was_not_read_may_translate() {
    for (list, expected) in [
        ("unread ip postrouting", "maybe"),
        ("unread inet postrouting", "maybe"),
        ("unread legacy ip postrouting", "maybe"),
        ("unread ip output", "maybe"),
        ("unread ip6 postrouting", "no"),
        ("unread ip input", "no"),
        ("unread netdev ingress", "no"),
    ] {
        assert_eq!(rewritten(list), expected, "{list}");
    }
    assert_eq!(translated("unread ip postrouting"), "maybe");
    assert_eq!(translated("unread inet input"), "maybe");
    assert_eq!(translated("unread ip forward"), "no");
    assert_eq!(translated(""), "no");
}

#[test]
fn a_list_that_was_not_read_may_drop_before_anything_is_translated() {
    assert_eq!(rewritten(MASQUERADE), "yes");
    for (list, expected) in [
        ("unread ip postrouting", "maybe"),
        ("unread inet output", "maybe"),
        ("unread ip6 postrouting", "yes"),
        ("unread ip forward", "yes"),
        ("unread bridge forward", "yes"),
    ] {
        assert_eq!(rewritten(&[MASQUERADE, list].concat()), expected, "{list}");
    }
    assert_eq!(translated(&[MASQUERADE, "unread inet postrouting"].concat()), "maybe");
    assert_eq!(translated(&[MASQUERADE, "unread inet forward"].concat()), "yes");
}

#[test]
fn a_list_that_was_not_read_may_mark() {
    assert_eq!(rewritten(OLD), "no");
    for list in ["ip output", "inet forward", "ip6 postrouting", "netdev egress", "netdev ingress", "bridge forward"] {
        assert_eq!(rewritten(&format!("{OLD}\nunread {list}")), "maybe", "{list}");
        assert_eq!(translated(&format!("{OLD}\nunread {list}")), "maybe", "{list}");
    }
    assert_eq!(rewritten(&format!("{MARKED}{OLD}")), "yes");
}

#[test]
fn a_list_that_was_not_read_may_stop_tracking_or_start_it() {
    let text = "ip raw O: filter output -300\n dport 8472 => notrack\n";
    assert_eq!(rewritten(&[text, MASQUERADE].concat()), "no");
    assert_eq!(rewritten(&[text, MASQUERADE, "unread inet output"].concat()), "maybe", "it may write into headers");
    let tracked = |text: &str| word(&walk_with(text, &facts()).tracked);
    assert_eq!(tracked(MASQUERADE), "yes");
    assert_eq!(tracked(&[MASQUERADE, "unread ip output"].concat()), "maybe");
    assert_eq!(tracked("ip f F: filter forward 0\n => accept"), "no");
    assert_eq!(tracked("ip f F: filter forward 0\n => accept\nunread ip input"), "maybe");
    assert_eq!(tracked("ip f F: filter forward 0\n => odd"), "maybe");
}

/// Replies to what was translated on input traverse output, where the NAT core is active then, too.
#[test]
fn a_list_that_was_not_read_may_put_the_nat_core_on_other_hooks() {
    let written = "ip m O: filter output -150\n dst 203.0.113.0/24 => or 0x4000\n\
                   ip f F: filter forward 0\n state 1 => accept\n\
                   ip m P: filter postrouting 0\n mark 0x4000/0x4000 => write sport 5555\n";
    assert_eq!(rewritten(written), "no");
    assert_eq!(rewritten(&[written, "unread ip input"].concat()), "maybe");
    let snat = "ip n I: nat input 100\n => snat to 203.0.113.7\n";
    assert_eq!(rewritten(&[written, snat].concat()), "yes");
}

#[test]
fn a_question_about_an_unread_list_keeps_its_commands() {
    use crate::facts::Question;
    use crate::symbolic::network::Hit;
    use crate::symbolic::network::unread::BaseChainList;
    let written = rules("unread ip input");
    let list = BaseChainList { set: 0, family: Family::Ipv4, hook: Hook::Input };
    let question = written.network().question_of(&Hit::Unread(list), Question::from("why").shown_by(["ip", "rule"]));
    assert_eq!(question.commands, ["ip rule", "nft list chains ip"]);
}

#[test]
fn a_chain_that_was_not_read_may_do_anything() {
    let mark = "ip m O: filter output -150\n => jump C\nip m C:\n unread\n";
    assert_eq!(rewritten(&format!("{mark}{OLD}")), "maybe");
    assert_eq!(
        rewritten(
            &format!("{mark}{MARKED}{OLD}").replace("O: filter output -150\n => or", "Q: filter output -160\n => or")
        ),
        "maybe"
    );
    let nat = "ip nat P: nat postrouting 100\n => jump C\n => masquerade random-fully\nip nat C:\n unread";
    assert_eq!((rewritten(nat), translated(nat)), ("maybe", "maybe"));
}

#[test]
fn destinations_may_be_translated_by_what_was_not_read() {
    let several = |text: &str| word(&dns_to_several(&rules(text).network(), &effort()).happens);
    let dnat = "ip nat O: nat output -100\n dst 10.96.0.10 => dnat to 10.0.0.1\n";
    assert_eq!(several(dnat), "no");
    let rule = |rule: &str| format!("ip nat O: nat output -100\n dst 10.96.0.10 => {rule}\n");
    assert_eq!(several(&rule("dnat by-chance")), "maybe", "dnat to numgen random mod 2 map");
    assert_eq!(several(&rule("dnat of m src")), "no", "the queries of one socket get the same");
    for list in ["ip output", "inet prerouting"] {
        let text = format!("unread {list}");
        assert_eq!(several(&text), "maybe", "{list}");
    }
    let both = "ip nat O: nat output -100\n dst 10.96.0.10 => jump A\n dst 10.96.0.10 => jump B\nip nat A:\n \
                sometimes => dnat to 10.0.0.1\nip nat B:\n => dnat to 10.0.0.2\n";
    assert_eq!(several(both), "yes");
    assert_eq!(several(&format!("{both}ip raw O: filter output -300\n dst 10.96.0.10 => notrack")), "no");
    assert_eq!(several(&format!("{both}ip raw O: filter output -300\n dst 10.96.0.11 => notrack")), "yes");
    assert_eq!(several("unread ip forward"), "no");
    let random = "dst 10.96.0.10, sometimes => dnat to 10.0.0.1\n dst 10.96.0.10 => dnat to 10.0.0.2";
    assert_eq!(several(&format!("ip nat O: nat output -100\n state 8 => accept\n {random}")), "no");
    // By a device that does not exist or leads to no host.
    let by = |hook: &str, device: &str| {
        let random = random.replace("dst 10.96.0.10", &format!("{device}, dst 10.96.0.10"));
        let written = rules(&format!("ip nat O: nat {hook} -100\n {random}"));
        let network = Network { devices: devices(&["lo", "eth0", "down0"]), ..written.network() };
        word(&dns_to_several(&network, &effort()).happens)
    };
    let found = ["iif eth0", "iif eth9", "iif down0", "iif lo"].map(|device| by("prerouting", device));
    assert_eq!(found, ["yes", "no", "no", "no"]);
    assert_eq!(["oif eth0", "oif lo", "oif eth9"].map(|device| by("output", device)), ["yes", "yes", "no"]);
}

#[test]
fn what_surrounds_a_tunnel_may_be_unread() {
    let with = |text: &str, change: &dyn Fn(&mut TunnelFacts)| {
        let mut facts = facts();
        change(&mut facts);
        verdict(&walk_with(text, &facts))
    };
    let on = |text: &str, change: &dyn Fn(&mut HostFacts)| {
        let mut host = host();
        change(&mut host);
        verdict(&walk_on(text, &facts(), host))
    };
    let unread = || Err("no answer".into());
    let forwarded = format!("ip m F: filter forward 0\n => or 0x4000\n{OLD}");
    assert_eq!(with(&forwarded, &|_| {}), "yes");
    assert_eq!(on(&forwarded, &|host| host.forwards = [Ok(false), Ok(false)]), "no");
    assert_eq!(on(&forwarded, &|host| host.forwards = [unread(), unread()]), "maybe");
    let elsewhere = format!("ip m O: filter output -150\n oif lan0 => or 0x4000\n{OLD}");
    assert_eq!(on(&elsewhere, &|host| host.ipvs_in_use = Ok(true)), "yes");
    assert_eq!(on(&elsewhere, &|host| host.ipvs_in_use = unread()), "maybe");
    let post = |rule: &str| format!("ip nat P: nat postrouting 100\n {rule}");
    let from = post("sport 1-1023 => masquerade random-fully");
    assert_eq!((with(&from, &|_| {}), with(&from, &|facts| facts.source_ports = None)), ("no", "maybe"));
    let range = post("oif eth0, proto 17 => masquerade ports 1024-2048");
    assert_eq!(with(&range, &|facts| facts.source_ports = None), "maybe");
    let seen = post("iif flannel.1 => masquerade random-fully");
    assert_eq!(on(&seen, &|host| host.input_in_postrouting = Ok(false)), "no");
    assert_eq!(on(&seen, &|host| host.input_in_postrouting = unread()), "maybe");
    let to = post("dport 8472 => masquerade random-fully");
    assert_eq!((with(&to, &|_| {}), with(&to, &|facts| facts.ports = None)), ("yes", "maybe"));
}

#[test]
fn a_mark_that_cannot_be_told_may_be_the_same_for_all_packets() {
    let post = |rule: &str| format!("ip nat P: nat postrouting 100\n => any-mark\n {rule}");
    for rule in ["mark 0x1/0x1", "mark 0x0/0x1", "mark 0x5"] {
        assert_eq!(rewritten(&post(&format!("{rule} => masquerade random-fully"))), "maybe", "{rule}");
    }
    assert_eq!(rewritten(&post("=> masquerade random-fully")), "yes", "whatever the mark is");
}

#[test]
fn a_device_whose_index_is_not_known_may_be_any() {
    use crate::facts::netfilter::{Comparison, Field, FieldTest, Match, Step};
    let mut written = rules("ip nat P: nat postrouting 100\n oif eth0 => masquerade");
    let chain = written.nftables.chains.values_mut().next().unwrap();
    let condition = Comparison::Masked { mask: u32::MAX.into(), value: 2 };
    let by_index = Match::Tests { tests: vec![FieldTest { field: Field::OutputIndex, condition }], inverted: false };
    let mut changed = chain.known_rules().to_vec();
    changed[0].steps[0] = Step::Match(by_index);
    chain.rules = crate::facts::Reading::Ok(changed.into());
    let mut network = written.network();
    assert_eq!(reached(&network, &effort()).rules, [], "there is no such device");
    network.devices = None;
    assert_eq!(word(&reached(&network, &effort()).rules[0].happens), "maybe", "there may be");
}

#[test]
fn a_search_that_was_given_up_leaves_marks_possible() {
    let mut written = rules(OLD);
    written.nftables.mark_writers.given_up = 0x4000;
    let found = reached(&written.network(), &effort());
    assert_eq!(word(&found.rules[0].happens), "maybe");
}
