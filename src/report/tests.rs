//! Reports about source-NAT rules, rendered from facts made by hand.

use std::collections::BTreeMap;

use super::*;
use crate::advisory::{Catalogue, ConditionKind, Severity};
use crate::facts::netfilter::{
    Backend, Counter, Family, MarkTest, NatAction, Owner, PortRandomization, SourceNatKind, SourceNatRule,
    SourceNatTotal,
};
use crate::facts::{Collector, Reading};
use crate::judge::{ConditionState, judge};
use crate::metrics::{self, Families, MetricSettings, SampleValue, exposition};
use crate::read;

fn kube_proxy(family: Family) -> SourceNatRule {
    SourceNatRule {
        backend: Backend::IptablesNft,
        family,
        table: "nat".into(),
        chain: "KUBE-POSTROUTING".into(),
        position: 3,
        owner: Owner::KubeProxy,
        action: NatAction::Masquerade,
        randomization: PortRandomization::RandomFully,
        to_ports: None,
        addresses: None,
        marks: vec![MarkTest { value: 0x4000, mask: 0xFF00, inverted: true }],
        counter: Some(Counter { packets: 7, bytes: 420 }),
        fingerprint: 1,
    }
}

fn by_hand() -> SourceNatRule {
    SourceNatRule {
        backend: Backend::Nftables,
        family: Family::Inet,
        table: "my <b>table</b>".into(),
        chain: "post".into(),
        position: 1,
        owner: Owner::Other,
        action: NatAction::Snat,
        randomization: PortRandomization::None,
        to_ports: Some((1024, 65535)),
        addresses: None,
        marks: Vec::new(),
        counter: None,
        fingerprint: 2,
    }
}

fn node(rules: Reading<Vec<SourceNatRule>>) -> Facts {
    let mut node = read::replay(&read::testing::capture(), &Default::default());
    node.source_nat_totals = rules.as_ref().map(|rules| read::source_nat_totals(rules));
    node.source_nat_rules = rules;
    node
}

pub(super) fn ordinary() -> Facts {
    node(Reading::Ok(vec![by_hand(), kube_proxy(Family::Ipv4), kube_proxy(Family::Ipv6)]))
}

fn report(node: &Facts) -> Report {
    judge(Catalogue::built_in(), node, &Default::default(), &std::sync::atomic::AtomicBool::new(false))
}

/// A report in which these advisories are in these states, and no other affects the node.
pub(super) fn report_with(node: &Facts, states: &[(&str, Severity, State)]) -> Report {
    let mut report = report(node);
    for finding in &mut report.advisories {
        finding.state = State::NotAffected;
    }
    for (id, severity, state) in states {
        let finding = report.advisories.iter_mut().find(|finding| finding.id == *id).unwrap();
        (finding.severity, finding.state) = (*severity, *state);
    }
    report.verdict = report.worst(Severity::Warning);
    report
}

fn text(node: &Facts) -> String {
    text::render(&report(node), node, text::Style { colour: false })
}

fn html(node: &Facts) -> String {
    html::render(&report(node), node, "/metrics", jiff::Timestamp::UNIX_EPOCH)
}

/// The page without the column heads that each cell repeats for phones.
fn without_labels(page: &str) -> String {
    let mut parts = page.split(" data-label=\"");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |page, part| page + part.split_once('"').unwrap().1)
}

fn json(node: &Facts) -> serde_json::Value {
    serde_json::from_str(&json::render(&report(node), node)).unwrap()
}

fn families(node: &Facts, collectors: &[Collector]) -> Families {
    let collectors = collectors.iter().copied().collect();
    let settings =
        MetricSettings { max_devices: 8, per_cpu: false, flow_destinations: 0, conditions: false, collectors };
    metrics::families(&report(node), node, &BTreeMap::new(), &settings)
}

/// Labels, joined, and value of each sample of one metric.
fn samples(families: &Families, name: &str) -> Vec<(String, u64)> {
    let family = families.iter().find(|family| family.metric.name == name);
    let whole = |value: SampleValue| match value {
        SampleValue::Whole(number) => number,
        SampleValue::Real(_) => panic!("{name} is no whole number"),
    };
    let samples = family.into_iter().flat_map(|family| family.samples());
    samples.map(|(labels, value)| (labels.collect::<Vec<_>>().join(" "), whole(value))).collect()
}

/// More kinds than get series, each with `rules` rules and `counted`.
fn many_kinds(rules: u64, counted: Option<Counter>) -> BTreeMap<SourceNatKind, SourceNatTotal> {
    let kind = |owner: &Owner| SourceNatKind { owner: *owner, ..by_hand().kind() };
    Owner::ALL.iter().map(|owner| (kind(owner), SourceNatTotal { rules, uncounted: 0, counted })).collect()
}

#[test]
fn the_text_says_who_translates_in_a_line_per_kind() {
    let text = text(&ordinary());
    let section = "\nSource NAT: 3 rules\n  - kube-proxy: 2 masquerade, ports random-fully (iptables_nft, ipv4+ipv6)\n  \
                   - other: 1 snat, ports not random (nftables, inet)\n";
    assert!(text.ends_with(section), "{text}");
}

#[test]
fn one_rule_is_no_rules() {
    assert!(text(&node(Reading::Ok(vec![by_hand()]))).contains("\nSource NAT: 1 rule\n"));
}

#[test]
fn the_text_says_why_there_are_no_rules() {
    for (rules, words) in [
        (Reading::Ok(Vec::new()), "Source NAT: none"),
        (Reading::Denied("CAP_NET_ADMIN is missing".into()), "Source NAT rules: not read: CAP_NET_ADMIN is missing"),
        (Reading::Failed("cut off".into()), "Source NAT rules: not read: cut off"),
    ] {
        let node = node(rules);
        assert!(text(&node).ends_with(&format!("\n\n{words}\n")), "{}", text(&node));
        assert!(html(&node).contains(&format!("<h2>Source NAT</h2><p>{words}</p></section>")), "{}", html(&node));
    }
}

#[test]
fn a_missing_privilege_hides_the_rules_and_is_said_although_no_verdict_needs_them() {
    let mut node = node(Reading::Denied("CAP_NET_ADMIN is missing".into()));
    let detail = "CAP_NET_ADMIN is missing".into();
    node.sources = vec![SourceStatus { source: Source::Nftables, state: SourceState::Denied, detail }];
    let hint = missing_privilege(&report(&node), &node).unwrap();
    assert!(hint.ends_with("NAT rules (nftables): CAP_NET_ADMIN is missing."), "{hint}");
    assert!(text(&node).contains("more privilege. NAT rules"));
}

#[test]
fn the_page_lists_kinds_and_rules_and_escapes_what_others_named() {
    let page = html(&ordinary());
    for row in [
        ["kube-proxy", "masquerade", "ports random-fully", "iptables_nft", "ipv4", "1", "0", "7", "420"].as_slice(),
        &[
            "post",
            "my &lt;b&gt;table&lt;/b&gt;",
            "inet",
            "nftables",
            "1",
            "other",
            "snat",
            "ports not random, 1024-65535",
            "",
            "-",
            "-",
        ],
        &[
            "KUBE-POSTROUTING",
            "nat",
            "ipv4",
            "iptables_nft",
            "3",
            "kube-proxy",
            "masquerade",
            "ports random-fully",
            "! 0x4000/0xff00",
            "7",
            "420",
        ],
    ] {
        let cells: Vec<String> = row[1..].iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let expected = format!("<tr><th scope=\"row\">{}</th>{}</tr>", row[0], cells.concat());
        assert!(without_labels(&page).contains(&expected), "{expected}\n{page}");
    }
    assert!(!page.contains("<b>"));
}

#[test]
fn the_page_shows_two_hundred_rules_and_says_how_many_more_there_are() {
    let rows = |node: &Facts| html(node).matches("<th scope=\"row\">KUBE-POSTROUTING</th>").count();
    let (all, more) = (node(Reading::Ok(vec![kube_proxy(Family::Ipv4); 200])), "see this report as JSON");
    assert_eq!((rows(&all), html(&all).contains(more)), (200, false));
    let cut = node(Reading::Ok(vec![kube_proxy(Family::Ipv4); 201]));
    assert_eq!(rows(&cut), 200);
    assert!(html(&cut).contains("and 1 rule more: see this report as JSON"));
}

#[test]
fn the_json_has_each_rule_with_its_own_numbers() {
    let json = json(&ordinary());
    let expected = serde_json::json!([
        {"backend": "nftables", "family": "inet", "table": "my <b>table</b>", "chain": "post", "position": 1,
         "owner": "other", "action": "snat", "port_randomization": "none", "to_ports": "1024-65535", "mark": [],
         "packets": null, "bytes": null},
        {"backend": "iptables_nft", "family": "ipv4", "table": "nat", "chain": "KUBE-POSTROUTING", "position": 3,
         "owner": "kube-proxy", "action": "masquerade", "port_randomization": "random_fully", "to_ports": null,
         "mark": [{"value": "0x4000", "mask": "0xff00", "inverted": true}], "packets": 7, "bytes": 420},
    ]);
    assert_eq!(json["source_nat_rules"].as_array().unwrap()[..2], expected.as_array().unwrap()[..]);
    assert_eq!(json["source_nat_rules_omitted"], 0);
}

#[test]
fn rules_that_were_not_read_are_null_and_none_are_none() {
    let unread = json(&node(Reading::Denied("no".into())));
    assert!(unread["source_nat_rules"].is_null() && unread["source_nat_rules_omitted"].is_null());
    let none = json(&node(Reading::Ok(Vec::new())));
    assert_eq!(none["source_nat_rules"], serde_json::json!([]));
}

#[test]
fn the_json_ends_after_ten_thousand_rules_and_counts_the_rest() {
    let json = json(&node(Reading::Ok(vec![by_hand(); 10_003])));
    assert_eq!(json["source_nat_rules"].as_array().map(Vec::len), Some(10_000));
    assert_eq!(json["source_nat_rules_omitted"], 3);
}

#[test]
fn kinds_have_series_and_counters_only_where_a_rule_ever_had_one() {
    let families = families(&ordinary(), &[Collector::Nat]);
    let (v4, v6) = ("iptables_nft ipv4 kube-proxy masquerade random_fully", "nftables inet other snat none");
    let rules = samples(&families, "natwatch_source_nat_rules");
    assert_eq!(rules.iter().map(|(_, value)| value).collect::<Vec<_>>(), [&1, &1, &1]);
    assert_eq!((rules[0].0.as_str(), rules[2].0.as_str()), (v4, v6));
    let uncounted = samples(&families, "natwatch_source_nat_rules_uncounted");
    assert_eq!(uncounted.iter().map(|(_, value)| value).collect::<Vec<_>>(), [&0, &0, &1]);
    let packets = samples(&families, "natwatch_source_nat_rule_packets_total");
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0], (v4.to_owned(), 7));
    assert_eq!(samples(&families, "natwatch_source_nat_rule_bytes_total")[0], (v4.to_owned(), 420));
    assert_eq!(samples(&families, "natwatch_series_omitted"), [(String::new(), 0)]);
}

#[test]
fn a_kind_without_rules_keeps_its_series() {
    let mut node = node(Reading::Ok(Vec::new()));
    let counted = Some(Counter { packets: 5, bytes: 300 });
    let left = SourceNatTotal { rules: 0, uncounted: 0, counted };
    node.source_nat_totals = Reading::Ok([(by_hand().kind(), left)].into());
    let families = families(&node, &[Collector::Nat]);
    assert_eq!(samples(&families, "natwatch_source_nat_rules")[0].1, 0);
    assert_eq!(samples(&families, "natwatch_source_nat_rule_packets_total")[0].1, 5);
    assert!(text(&node).contains("Source NAT: none\n"), "nothing is listed that is not there");
}

#[test]
fn sixteen_kinds_have_series_and_the_rest_is_counted() {
    let mut node = ordinary();
    let left_out = Owner::ALL.len() as u64 - 16;
    for (counted, each) in [(None, 2), (Some(Counter::default()), 4)] {
        node.source_nat_totals = Reading::Ok(many_kinds(1, counted));
        let families = families(&node, &[Collector::Nat]);
        assert_eq!(samples(&families, "natwatch_source_nat_rules").len(), 16);
        assert_eq!(samples(&families, "natwatch_series_omitted"), [(String::new(), left_out * each)]);
    }
}

#[test]
fn which_kinds_have_series_does_not_depend_on_how_many_rules_they_have() {
    let mut node = ordinary();
    let shown = |node: &Facts| -> Vec<String> {
        let samples = samples(&families(node, &[Collector::Nat]), "natwatch_source_nat_rules");
        samples.into_iter().map(|(labels, _)| labels).collect()
    };
    let mut kinds = many_kinds(1, None);
    node.source_nat_totals = Reading::Ok(kinds.clone());
    let before = shown(&node);
    kinds.last_entry().unwrap().get_mut().rules = 1000;
    node.source_nat_totals = Reading::Ok(kinds.clone());
    assert_eq!(shown(&node), before);
    // Only a kind without rules loses its series to a kind with rules.
    kinds.first_entry().unwrap().get_mut().rules = 0;
    node.source_nat_totals = Reading::Ok(kinds);
    assert_eq!(shown(&node)[..15], before[1..]);
}

#[test]
fn series_left_out_are_counted_with_either_collector_and_with_no_other() {
    let mut node = ordinary();
    node.source_nat_totals = Reading::Ok(many_kinds(1, None));
    for (on, shown) in [
        (&[Collector::Nat, Collector::Links][..], true),
        (&[Collector::Nat], true),
        (&[Collector::Links], true),
        (&[Collector::Kernel], false),
    ] {
        let number = samples(&families(&node, on), "natwatch_series_omitted");
        assert_eq!(number.len(), usize::from(shown), "{on:?}");
        let mut chosen = families(&node, Collector::ALL);
        chosen.retain(on);
        assert_eq!(samples(&chosen, "natwatch_series_omitted").len(), usize::from(shown), "chosen: {on:?}");
    }
}

#[test]
fn bytes_are_typed_as_such_in_both_formats() {
    let families = families(&ordinary(), &[Collector::Nat]);
    let open = exposition::openmetrics(families.clone()).unwrap();
    assert!(open.contains("# UNIT natwatch_source_nat_rule_bytes bytes\n"), "{open}");
    let labels = "backend=\"iptables_nft\",family=\"ipv4\",owner=\"kube-proxy\",action=\"masquerade\",\
                  port_randomization=\"random_fully\"";
    for text in [open, exposition::prometheus(&families)] {
        assert!(text.contains(&format!("natwatch_source_nat_rule_bytes_total{{{labels}}} 420\n")), "{text}");
    }
}

/// Every severity and state has its own colour; green claims nothing about what is not counted.
#[test]
fn information_has_its_own_colour_and_line_below_a_good_verdict() {
    let node = ordinary();
    let informed = report_with(&node, &[("snat-port-race", Severity::Info, State::Exposed)]);
    let text = text::render(&informed, &node, text::Style { colour: true });
    assert!(text.starts_with("natwatch: \x1b[1;32mnothing exposed of at least warning\x1b[0m\n"), "{text}");
    assert!(
        text.contains("\n\x1b[1;94mFor information, not counted in the verdict\x1b[0m: snat-port-race\n"),
        "{text}"
    );
    assert!(text.contains("\n\x1b[1;94mINFO  snat-port-race (exposed)\x1b[0m\n"), "{text}");
    assert!(!text.contains("EXPOSED") && !text.contains("\x1b[1;31m"), "{text}");
    assert!(text.ends_with("`natwatch explain ID` tells how it works and where that is known from.\n"), "{text}");
}

/// The headline agrees with the exit code.
#[test]
fn what_counts_goes_by_the_least_severity() {
    let node = ordinary();
    let report = |severity, least| {
        let mut report = report_with(&node, &[("snat-port-race", severity, State::Exposed)]);
        report.min_severity = least;
        report
    };
    let first = |report: &Report| text::render(report, &node, text::Style { colour: true });
    let informed = first(&report(Severity::Info, Severity::Info));
    assert!(informed.starts_with("natwatch: \x1b[1;94mexposed\x1b[0m\n"), "{informed}");
    assert!(informed.contains("EXPOSED  snat-port-race (info)") && !informed.contains("not counted"), "{informed}");
    let below = first(&report(Severity::Warning, Severity::Critical));
    assert!(below.starts_with("natwatch: \x1b[1;32mnothing exposed of at least critical\x1b[0m\n"), "{below}");
    assert!(below.contains("Below --min-severity, not counted in the verdict\x1b[0m: snat-port-race\n"), "{below}");
    assert!(below.contains("\x1b[1;94mNOT COUNTED  snat-port-race (warning, exposed)"), "{below}");
    let page = html::file(&report(Severity::Warning, Severity::Critical), &node);
    assert!(
        page.contains("nothing exposed of at least critical") && page.contains("Below --min-severity, not counted")
    );
}

#[test]
fn a_verdict_has_the_colour_of_what_decided_it() {
    let node = ordinary();
    let first = |severity, state| {
        let report = report_with(&node, &[("snat-port-race", severity, state)]);
        let text = text::render(&report, &node, text::Style { colour: true });
        text.lines().next().unwrap().to_owned()
    };
    for (severity, state, expected) in [
        (Severity::Critical, State::Exposed, "\x1b[1;31mexposed"),
        (Severity::Warning, State::Exposed, "\x1b[1;38;5;208mexposed"),
        (Severity::Warning, State::Unknown, "\x1b[1;33munknown"),
        (Severity::Info, State::Unknown, "\x1b[1;32mnothing exposed of at least warning"),
        (Severity::Critical, State::Mitigated, "\x1b[1;32mnothing exposed"),
        (Severity::Critical, State::NotAffected, "\x1b[1;32mnothing exposed"),
    ] {
        assert_eq!(first(severity, state), format!("natwatch: {expected}\x1b[0m"), "{severity} {state}");
    }
}

#[test]
fn what_counts_comes_before_what_is_unknown_and_that_before_information() {
    let node = ordinary();
    let report = report_with(
        &node,
        &[
            ("snat-port-race", Severity::Info, State::Exposed),
            ("conntrack-chain-limit", Severity::Warning, State::Exposed),
            ("dns-conntrack-race", Severity::Warning, State::Unknown),
            ("tunnel-offload-needlessly-off", Severity::Info, State::Unknown),
            ("conntrack-table-full", Severity::Critical, State::Exposed),
        ],
    );
    let text = text::render(&report, &node, text::Style { colour: false });
    let order = [
        "natwatch: exposed\n",
        "\nFor information, not counted in the verdict: snat-port-race\n",
        "\nEXPOSED  conntrack-table-full (critical)\n",
        "\nEXPOSED  conntrack-chain-limit (warning)\n",
        "\nUNKNOWN\n",
        "\nINFO  snat-port-race (exposed)\n",
        "\nNot affected: ",
    ];
    let places: Vec<_> = order.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"))).collect();
    assert!(places.is_sorted(), "{places:?}\n{text}");
    assert!(text.contains("tunnel-offload-needlessly-off (info)"), "{text}");
}

#[test]
fn nobody_is_told_that_a_table_that_is_not_full_is_mitigated() {
    let node = ordinary();
    let report = report_with(&node, &[("conntrack-table-full", Severity::Critical, State::Mitigated)]);
    let text = text::render(&report, &node, text::Style { colour: false });
    assert!(text.contains("\nNot exposed now: conntrack-table-full\n"), "{text}");
    assert!(!text.to_lowercase().contains("mitigated"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&json::render(&report, &node)).unwrap();
    assert_eq!(json["verdict"], "mitigated", "the names for programs stay");
}

#[test]
fn the_lack_of_a_safeguard_is_called_so() {
    for advisory in &Catalogue::built_in().advisories {
        let text = text::explain(advisory);
        for condition in &advisory.conditions {
            let expected = match condition.kind {
                ConditionKind::Ingredient => "ingredient",
                ConditionKind::Safeguard => "lack of a safeguard",
            };
            assert!(text.contains(&format!("\n  - {} ({expected})\n", condition.id)), "{text}");
        }
    }
    assert!(!markdown::advisories(Catalogue::built_in()).contains("| safeguard |"));
}

#[test]
fn lines_for_monitors_count_only_from_the_severity_on_and_name_the_rest() {
    let node = ordinary();
    let informed = report_with(&node, &[("snat-port-race", Severity::Info, State::Exposed)]);
    let words = "nothing exposed of at least warning; not counted: snat-port-race (info)";
    assert_eq!(line::npd(&informed, Severity::Warning), words);
    let nagios = line::nagios(&informed, &node, Severity::Warning);
    assert!(nagios.starts_with(&format!("NATWATCH OK - {words} | exposed=0 unknown=0")), "{nagios}");
    let nagios = line::nagios(&informed, &node, Severity::Info);
    assert!(nagios.starts_with("NATWATCH WARNING - exposed: snat-port-race | exposed=1 unknown=0"), "{nagios}");
    let calm = report_with(&node, &[]);
    let all = format!("nothing exposed ({} advisories judged)", calm.advisories.len());
    assert_eq!(line::npd(&calm, Severity::Warning), all);
}

#[test]
fn what_does_not_print_is_shown_in_the_text() {
    let mut node = ordinary();
    node.hostname = "a\nb\x1b[2J\u{9b}\u{202e}c\u{e9}".into();
    let text = text(&node);
    assert!(text.contains("\na\\x0ab\\x1b[2J\\xc2\\x9b\\xe2\\x80\\xaec\u{e9}, kernel"), "{text}");
}

#[test]
fn the_time_of_the_look_is_a_metric_unless_a_capture_says_nonsense() {
    let at = |captured_at: &str| {
        let node = Facts { captured_at: captured_at.into(), ..ordinary() };
        samples(&families(&node, &[]), "natwatch_report_timestamp_seconds")
    };
    assert_eq!(at("2026-01-01T00:00:00Z"), [(String::new(), 1_767_225_600)]);
    for nonsense in ["", "yesterday", "1900-01-01T00:00:00Z", "2026-01-01"] {
        assert_eq!(at(nonsense), [], "{nonsense}");
    }
}

/// One series has the whole verdict; a boolean that is unknown has none; conditions only if requested.
#[test]
fn a_verdict_is_one_series() {
    let node = ordinary();
    let mut report = report_with(&node, &[("snat-port-race", Severity::Warning, State::Unknown)]);
    let race = report.advisories.iter_mut().find(|finding| finding.id == "snat-port-race").unwrap();
    race.unseen = true;
    for (condition, state) in
        race.conditions.iter_mut().zip([ConditionState::Holds, ConditionState::Unknown, ConditionState::Fails])
    {
        condition.state = state;
    }
    let of_race = |conditions: bool, name: &str| {
        let collectors = [Collector::Verdict].into_iter().collect();
        let settings = MetricSettings { max_devices: 8, per_cpu: false, flow_destinations: 0, conditions, collectors };
        let families = metrics::families(&report, &node, &BTreeMap::new(), &settings);
        let all = samples(&families, name);
        all.into_iter().filter(|(labels, _)| labels.starts_with("snat-port-race")).collect::<Vec<_>>()
    };
    let info = "snat-port-race warning unknown several_cpus".to_owned();
    assert_eq!(of_race(false, "natwatch_advisory_info"), [(info, 1)]);
    assert_eq!(of_race(false, "natwatch_advisory_unseen"), [("snat-port-race warning".to_owned(), 1)]);
    assert_eq!(of_race(false, "natwatch_exposure"), []);
    assert_eq!(of_race(false, "natwatch_advisory_condition"), []);
    let conditions = [("source_nat_reachable", 1), ("port_not_random", 0)];
    let conditions = conditions.map(|(id, value)| (format!("snat-port-race {id}"), value));
    assert_eq!(of_race(true, "natwatch_advisory_condition"), conditions);
}
