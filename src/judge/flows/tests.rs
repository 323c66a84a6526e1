use super::*;
use crate::facts::netfilter::{
    Base, Chain, ChainId, ChainKind, Family, Hook, Nat, PortRandomization, Rule, Ruleset, Step, Verdict,
};

fn nat(action: NatAction, ports: Chosen<u16>) -> Step {
    let randomization = PortRandomization::None;
    Step::Nat(Nat { action, addresses: Chosen::Unset, ports, randomization, persistent: false, map: None })
}

fn chain(hook: Option<Hook>, rules: Reading<Vec<Vec<Step>>>) -> Chain {
    let base = hook.map(|hook| Base { hook, kind: ChainKind::Nat, priority: 100, drops: false, devices: vec![] });
    let rule =
        |steps| Rule { position: 1, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 };
    Chain::new(base, rules.map(|rules| Arc::new(rules.into_iter().map(rule).collect())))
}

/// Three chains on hooks: two translate sources, one destinations; the first calls one of 11 ports.
fn node(called: Reading<Vec<Vec<Step>>>) -> Facts {
    let mut ruleset = Ruleset::default();
    let mut add = |name: &str, hook: Option<Hook>, rules| {
        let id = ChainId { family: Family::Ipv4, table: "nat".into(), chain: name.into() };
        ruleset.chains.insert(id.clone(), chain(hook, rules));
        if let Some(hook) = hook {
            ruleset.base_chains.add(hook, id);
        }
    };
    add("CALLED", None, called);
    let sources =
        vec![vec![Step::Verdict(Verdict::Jump("CALLED".into()))], vec![nat(NatAction::Masquerade, Chosen::Unset)]];
    add("POSTROUTING", Some(Hook::Postrouting), Reading::Ok(sources));
    let to_port_53 = vec![vec![nat(NatAction::Dnat, Chosen::Range(53, 53))]];
    add("PREROUTING", Some(Hook::Prerouting), Reading::Ok(to_port_53));
    let absent = || Reading::Absent("not loaded".into());
    Facts {
        nftables: Reading::Ok(Arc::new(ruleset)),
        legacy_ipv4: absent(),
        legacy_ipv6: absent(),
        ..crate::judge::tests::blank()
    }
}

#[test]
fn a_walk_that_gave_up_leaves_the_smallest_range_of_all_rules() {
    let eleven = vec![vec![nat(NatAction::Snat, Chosen::Range(1000, 1010))]];
    let whole = ReachedSourceNats::default();
    let gave_up = ReachedSourceNats { gave_up: Some("too many".into()), ..ReachedSourceNats::default() };
    let smallest = |reached, called| smallest_range(&node(called), reached, &[DEFAULT_PORTS]);
    assert_eq!(smallest(&whole, Reading::Ok(eleven.clone())), Ok(Some(DEFAULT_PORTS)));
    assert_eq!(smallest(&gave_up, Reading::Ok(eleven)), Ok(Some((1000, 1010))), "ports of destinations do not count");
    let by_map = vec![vec![nat(NatAction::Snat, Chosen::ByPacket)]];
    assert_eq!(smallest(&gave_up, Reading::Ok(by_map)), Ok(Some((1, 1))), "what a map holds is not known");
    assert_eq!(smallest(&gave_up, Reading::Ok(Vec::new())), Ok(Some(LOW_PORTS[0])));
    assert!(smallest(&gave_up, Reading::Failed("no answer".into())).is_err(), "what was not read may have fewer");
}
