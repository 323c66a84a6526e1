//! The alerts of `deploy/prometheus`: promtool's checks, names in expressions, runbooks, and two defects end to end,
//! from lost packets to the notification.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use natwatch::inside::advisory::Catalogue;
use natwatch::inside::facts::Source;
use natwatch::inside::metrics::METRICS;
use natwatch::inside::report::runbook;
use serde_json::Value;

use crate::support::counters::{conntrack_stats, nstat};
use crate::support::netns::Netns;
use crate::support::process::free_port;
use crate::support::program::{HERE, NATWATCH};
use crate::support::prometheus::{Alertmanager, Prometheus, Webhook};
use crate::support::race::{Limits, Race, race};
use crate::support::router::{Backend, NatRule, Ports, Proto, Router};
use crate::support::rule_file::{Selector, Wanted, durations, hasten, wanted};
use crate::support::server::Server;
use crate::support::tools::{expect_success, require};
use crate::support::vxlan::Vxlan;
use crate::support::wait::{PATIENCE, eventually, exclusive};

const RULES: &str = "deploy/prometheus/natwatch.rules.yaml";
/// Rules for information only, which users load in addition if they want them.
const INFO: &str = "deploy/prometheus/natwatch-info.rules.yaml";
/// Sections of a runbook, in this order.
const SECTIONS: [&str; 5] = ["Meaning", "Impact", "Confirm", "Fix", "Verify"];
/// This alert is about no target, so no target serves its runbook.
const ABOUT_NO_TARGET: &str = "NatwatchAbsent";
/// Labels that every target has, or may have.
const TARGET: [&str; 3] = ["cluster", "job", "instance"];
/// Factor by which time passes faster in the tests below: windows of 5 minutes take 10 seconds.
const HASTE: u32 = 30;
/// An alert that waits for ten minutes arrives after half a minute; a busy machine takes longer.
const DELIVERY: Duration = Duration::from_secs(180);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory}");
    files
}

/// One rule as Prometheus has parsed it.
struct Rule(Value);

impl Rule {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {}", self.0))
    }

    fn name(&self) -> &str {
        self.text("/name")
    }

    fn is_alert(&self) -> bool {
        self.text("/type") == "alerting"
    }

    fn wanted(&self) -> Wanted {
        wanted(self.text("/query"))
    }

    /// Its annotations, with unexpanded templates.
    fn annotations(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.0["annotations"].clone()).expect("texts")
    }
}

/// The rules of both files, as one file.
fn shipped() -> String {
    let info = read(INFO);
    read(RULES) + info.split_once("groups:\n").expect("groups").1
}

/// Parsed by Prometheus, so that the test sees what Prometheus understands.
fn rules() -> Vec<Rule> {
    let ns = Netns::new();
    let prometheus = Prometheus::start(&ns, &[], &shipped(), None);
    let rules = eventually(PATIENCE, || Some(prometheus.rules()).filter(|rules| !rules.is_empty()));
    rules.into_iter().map(Rule).collect()
}

#[test]
fn promtool_accepts_the_rules() {
    require("promtool");
    for file in [RULES, INFO] {
        let said = expect_success(Command::new("promtool").args(["check", "rules", "--lint=all"]).arg(path(file)));
        let is_rule = |line: &&str| line.contains("- alert: ") || line.contains("- record: ");
        let number = read(file).lines().filter(is_rule).count();
        assert!(said.contains(&format!("SUCCESS: {number} rules found")), "{said}");
    }
}

/// Firing, not firing, recovery, and what is in between.
#[test]
fn promtool_passes_the_unit_tests() {
    require("promtool");
    expect_success(Command::new("promtool").args(["test", "rules"]).args(files("deploy/prometheus/tests", "yaml")));
    let tests: String =
        files("deploy/prometheus/tests", "yaml").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for line in shipped().lines() {
        if let Some((_, alert)) = line.split_once("- alert: ") {
            let head = format!("alertname: {alert}\n");
            let firing = tests.split(&head).skip(1);
            let firing =
                firing.filter(|test| test.split("- alertname").next().unwrap().contains("exp_alerts:")).count();
            assert!(firing > 0, "no test has {alert} firing with its texts");
        }
    }
}

/// Metrics, labels and their values are natwatch's, and joins use the labels that identify targets.
#[test]
fn expressions_ask_for_what_natwatch_has() {
    let rules = rules();
    let recorded: BTreeSet<&str> = rules.iter().filter(|rule| !rule.is_alert()).map(Rule::name).collect();
    for name in &recorded {
        assert_eq!(name.split(':').count() - 1, name.matches(':').count());
        let level = name.split(':').next().unwrap();
        assert!(
            ["instance", "cluster"].contains(&level) && name.contains(":natwatch_"),
            "{name}: level:metric:operations"
        );
    }
    let mut used = BTreeSet::new();
    for rule in &rules {
        let Wanted { selectors, label_lists } = rule.wanted();
        assert!(!selectors.is_empty(), "{}", rule.name());
        for selector in &selectors {
            let metric = METRICS.iter().find(|metric| metric.name == selector.metric);
            let known = metric.is_some() || selector.metric == "up" || recorded.contains(selector.metric.as_str());
            assert!(known, "{}: there is no metric {}", rule.name(), selector.metric);
            used.insert(selector.metric.clone());
            let own = metric.map_or(&[][..], |metric| metric.labels);
            for (label, ..) in &selector.matchers {
                let known = own.contains(&label.as_str()) || TARGET.contains(&label.as_str()) || metric.is_none();
                assert!(known, "{}: {} has no label {label}", rule.name(), selector.metric);
            }
            known_values(selector);
        }
        for list in &label_lists {
            let labels: Vec<&str> = list[1..].iter().map(String::as_str).filter(|label| !label.is_empty()).collect();
            match list[0].as_str() {
                "on" => assert!(labels.is_empty() || labels.starts_with(&TARGET) || labels == TARGET[..2], "{list:?}"),
                "by" => assert!(labels.starts_with(&TARGET[..2]), "{list:?}"),
                _ => assert!(labels.iter().all(|label| !TARGET.contains(label)), "{list:?}"),
            }
        }
        let texts = rule.0["annotations"].to_string();
        for part in texts.split("natwatch_").skip(1) {
            let name =
                format!("natwatch_{}", part.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next().unwrap());
            assert!(METRICS.iter().any(|metric| metric.name == name), "{}: {name} in an annotation", rule.name());
        }
    }
    let dashboards: String = files("dashboards", "json").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for name in recorded {
        assert!(used.contains(name) || dashboards.contains(&format!("{name}{{")), "nothing uses {name}");
    }
}

/// Values of labels whose values are closed sets.
fn known_values(selector: &Selector) {
    let catalogue = Catalogue::built_in();
    let advisories: Vec<&str> = catalogue.advisories.iter().map(|advisory| advisory.id.as_str()).collect();
    let conditions = conditions();
    let sources: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
    let states = match selector.metric.as_str() {
        "natwatch_source_info" => &["ok", "absent", "denied", "failed"][..],
        "natwatch_kernel_defect_info" => &["present", "absent", "unknown"],
        _ => &["exposed", "mitigated", "not_affected", "unknown"],
    };
    let known = |label: &str, known: &[&str]| {
        for value in selector.values(label) {
            assert!(known.contains(&value), "{selector:?}: {label} is never {value}");
        }
    };
    known("advisory", &advisories);
    known("condition", &conditions.iter().map(String::as_str).collect::<Vec<_>>());
    known("source", &sources);
    known("state", states);
    known("severity", &["critical", "warning", "info"]);
}

fn conditions() -> BTreeSet<String> {
    let advisories = &Catalogue::built_in().advisories;
    advisories.iter().flat_map(|advisory| &advisory.conditions).map(|condition| condition.id.to_string()).collect()
}

#[test]
fn every_alert_has_a_severity_and_texts() {
    let mut seen = BTreeSet::new();
    for rule in rules().iter().filter(|rule| rule.is_alert()) {
        let name = rule.name();
        let severity = rule.text("/labels/severity");
        assert!(name.starts_with("Natwatch") && name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        assert_eq!(rule.0["labels"].as_object().unwrap().len(), 1, "{name}");
        assert!(seen.insert((name.to_owned(), severity.to_owned())), "{name} {severity} is there twice");
        let annotations = rule.annotations();
        let about_one_target = name != ABOUT_NO_TARGET;
        let link = about_one_target.then(|| format!("http://{{{{ $labels.instance }}}}/runbooks/{name}"));
        assert_eq!(annotations.get("runbook_url"), link.as_ref(), "{name}");
        assert!(runbook::text(name).is_some(), "{name}");
        assert_eq!(annotations["summary"].contains("$labels.instance"), about_one_target, "{name}");
        // It would run for each alert at each evaluation.
        assert!(
            !rule.0["annotations"].to_string().contains("query \\\"")
                && !rule.0["annotations"].to_string().contains("| query"),
            "{name} asks a query for its texts"
        );
        assert_eq!(annotations.len(), 2 + usize::from(about_one_target), "{name}: {annotations:?}");
        assert!(annotations["description"].ends_with(['.', '}']), "{name}");
        assert!(rule.0["duration"].as_f64().unwrap() >= 60.0, "{name}: one bad scrape is no alert");
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let rules = rules();
    let mut severities: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_alert()) {
        severities.entry(rule.name()).or_default().push(rule.text("/labels/severity"));
    }
    let index = read("docs/runbooks/README.md");
    let mut books = files("docs/runbooks", "md");
    books.retain(|book| !book.ends_with("README.md"));
    let names: Vec<&str> = books.iter().map(|book| book.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, severities.keys().copied().collect::<Vec<_>>());
    for (name, book) in names.iter().zip(&books) {
        assert!(index.contains(&format!("| [{name}]({name}.md) |")), "{name} is not in the index");
        let text = fs::read_to_string(book).unwrap();
        let mut parts = text.split("\n## ");
        let head = parts.next().unwrap();
        assert!(head.starts_with(&format!("# {name}\n\nSeverity: ")), "{name}");
        assert!(severities[name].iter().all(|severity| head.contains(severity)), "{name}");
        let sections: Vec<(&str, &str)> = parts.map(|part| part.split_once('\n').unwrap()).collect();
        assert_eq!(sections.iter().map(|(title, _)| *title).collect::<Vec<_>>(), SECTIONS, "{name}");
        assert!(sections.iter().all(|(_, text)| text.trim().len() > 20), "{name}");
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(path("docs/runbooks").join(target).exists(), "{name} points to {target}");
        }
        for script in text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            expect_success(Command::new("sh").args(["-n", "-c", script]));
        }
        for part in text.split("natwatch_").skip(1) {
            let word = part.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next().unwrap();
            let known = METRICS.iter().any(|metric| metric.name == format!("natwatch_{word}"));
            assert!(known, "{name}: natwatch_{word}");
        }
    }
}

/// The command in the rule file's comment redirects every link to a runbook, and changes nothing else.
#[test]
fn links_to_runbooks_can_be_led_elsewhere() {
    let shipped = shipped();
    let command = shipped.split("\n#   sed -E '").nth(1).expect("a command").split('\'').next().expect("a script");
    let mut sed = Command::new("sed");
    let moved = expect_success(sed.args(["-E", command]).args([path(RULES), path(INFO)]));
    let original = read(RULES) + &read(INFO);
    let mut alert = "";
    let mut links = 0;
    assert_eq!(moved.lines().count(), original.lines().count());
    for (before, after) in original.lines().zip(moved.lines()) {
        alert = before.split_once("- alert: ").map_or(alert, |(_, name)| name);
        if before.contains(" runbook_url: ") {
            assert_eq!(after.trim(), format!("runbook_url: https://wiki.example/natwatch/{alert}"));
            links += 1;
        } else {
            // The line with the command is changed by itself, and is no rule.
            assert!(before == after || before.starts_with('#'), "{before}: {after}");
        }
    }
    assert!(links > 12, "{links}");
}

/// The tests below use the shipped rules with shorter durations and no other change.
#[test]
fn rules_in_a_hurry_differ_in_durations_only() {
    let shipped = read(RULES);
    let hurried = hasten(&shipped, HASTE);
    let (before, after) = (durations(&shipped), durations(&hurried));
    assert!(before.len() > 40, "{}", before.len());
    assert_eq!(before.len(), after.len());
    for ((text, duration), (same_text, shorter)) in before.iter().zip(&after) {
        assert_eq!(text, same_text);
        assert_eq!(duration.map(|duration| duration / HASTE), *shorter);
    }
    assert_eq!(
        hasten("x:rate5m > 0.1[5m] for: 1d, 3 m 4.19.228m", 30),
        "x:rate5m > 0.1[10000ms] for: 2880000ms, 3 m 4.19.228m"
    );
    let wanted = wanted("a{b=~\"c|d\",e!=\"f\"} * on (g, h) group_left (i) rate(j[5m] offset 1h) > 2.5 and x:y:z5m");
    let names: Vec<&str> = wanted.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(names, ["a", "j", "x:y:z5m"]);
    assert_eq!(wanted.selectors[0].values("b"), ["c", "d"]);
    assert_eq!(wanted.label_lists, [vec!["on", "g", "h"], vec!["group_left", "i"]]);
}

/// Prometheus with the accelerated rules, an Alertmanager, and a webhook as receiver.
struct Alerting<'a> {
    prometheus: Prometheus<'a>,
    _alertmanager: Alertmanager,
    webhook: Webhook,
}

impl<'a> Alerting<'a> {
    /// Returns when every target has been scraped often enough for a rate.
    fn start(ns: &'a Netns, targets: &[String]) -> Self {
        let webhook = Webhook::start(ns);
        let alertmanager = Alertmanager::start(ns, &webhook);
        let prometheus = Prometheus::start(ns, targets, &hasten(&read(RULES), HASTE), Some(&alertmanager));
        let alerting = Self { prometheus, _alertmanager: alertmanager, webhook };
        eventually(DELIVERY, || {
            let known = alerting.prometheus.query("rate(natwatch_conntrack_insert_failed_total[10s])");
            if known.len() == targets.len() { Ok(()) } else { Err(format!("{known:?}")) }
        });
        alerting
    }

    fn has_not_come(&self, alert: &str, instance: &str) {
        let alerts = self.webhook.alerts();
        let is_it = |found: &Value| found["labels"]["alertname"] == alert && found["labels"]["instance"] == instance;
        assert!(!alerts.iter().any(is_it), "{alert} about {instance}: {alerts:#?}");
    }
}

/// Two packets on two CPUs, one lost; natwatch counts it, Prometheus notices, the Alertmanager notifies.
#[test]
fn a_real_race_is_told() {
    let _machine = exclusive();
    let lab = Router::with(NatRule::masquerade(Backend::IptablesNft, Ports::Kept));
    lab.sink(Proto::Udp);
    let server = Server::start(&lab.router, &HERE);
    let instance = server.address().to_string();
    let alerting = Alerting::start(&lab.router, std::slice::from_ref(&instance));
    alerting.has_not_come("NatwatchInsertFailedSpike", &instance);

    let labels = |alert, severity| [("alertname", alert), ("severity", severity), ("instance", instance.as_str())];
    let mut races = 0;
    let [spike, page] = eventually(DELIVERY, || {
        // Connections of the last race would be known, and nothing would compete.
        lab.router.cmd("conntrack -F");
        let report = race(&lab, Race::Ports(Proto::Udp), Limits { rounds: 200, time: Duration::from_secs(2) });
        races += report.rounds;
        let spike = alerting.webhook.firing(&labels("NatwatchInsertFailedSpike", "warning"))?;
        Ok::<_, String>([spike, alerting.webhook.firing(&labels("NatwatchRaceInProgress", "critical"))?])
    });

    let lost = conntrack_stats(&lab.router).total("insert_failed");
    println!("{lost} packets lost in {races} rounds");
    assert!(lost > 0);
    let description = |alert: &Value| alert["annotations"]["description"].as_str().expect("a text").to_owned();
    assert!(description(&spike).contains("packets a second could not be entered"), "{spike}");
    assert_eq!(page["labels"]["advisory"], "snat-port-race");
    assert!(description(&page).contains("port_not_random being the last"), "{page}");
    for alert in [&spike, &page] {
        let name = alert["labels"]["alertname"].as_str().expect("a name");
        assert_eq!(alert["annotations"]["runbook_url"], format!("http://{instance}/runbooks/{name}"));
    }
    for alert in ["NatwatchConntrackDropping", "NatwatchTunnelChecksumErrors", "NatwatchDown"] {
        alerting.has_not_come(alert, &instance);
    }
}

/// A node with the rules of an old kube-proxy corrupts its tunnel's packets; its peer counts them. Alerts fire for
/// both, each for its own part, and the runbook's commands end it.
#[test]
fn spoilt_tunnel_packets_are_told_and_the_runbook_helps() {
    let pair = Vxlan::default().build();
    pair.old_kube_postrouting("iptables-legacy");
    let servers: Vec<Server> = pair.nodes.iter().map(on_all_addresses).collect();
    let instances: Vec<String> =
        servers.iter().enumerate().map(|(node, server)| format!("{}:{}", pair.spec.node(node), server.port)).collect();
    let (culprit, victim) = (instances[0].as_str(), instances[1].as_str());
    let alerting = Alerting::start(&pair.nodes[1], &instances);

    let [exposed, page, rewritten] = eventually(DELIVERY, || {
        pair.connect();
        let labels = |alert, severity, instance| [("alertname", alert), ("severity", severity), ("instance", instance)];
        let firing = |labels: [_; 3]| alerting.webhook.firing(&labels);
        let exposed = firing(labels("NatwatchExposed", "critical", culprit))?;
        firing(labels("NatwatchTunnelChecksumErrors", "warning", victim))?;
        let page = firing(labels("NatwatchTunnelChecksumErrors", "critical", victim))?;
        Ok::<_, String>([exposed, page, firing(labels("NatwatchTunnelFlowsRewritten", "critical", culprit))?])
    });

    assert_eq!(exposed["labels"]["advisory"], "vxlan-double-snat-checksum");
    let description = |alert: &Value| alert["annotations"]["description"].as_str().expect("a text").to_owned();
    assert!(description(&exposed).contains("outer_rewritten"), "{exposed}");
    assert!(description(&page).contains("exposed to vxlan-double-snat-checksum"), "{page}");
    assert!(!description(&rewritten).contains("and 0 flows"), "{rewritten}");
    alerting.has_not_come("NatwatchTunnelFlowsRewritten", victim);
    alerting.has_not_come("NatwatchTunnelChecksumErrors", culprit);
    alerting.has_not_come("NatwatchExposed", victim);
    alerting.has_not_come("NatwatchInsertFailedSpike", culprit);

    let book = read("docs/runbooks/NatwatchTunnelChecksumErrors.md");
    let fix = book.split("## Fix").nth(1).unwrap().split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    pair.nodes[0].run(&["sh", "-c", fix]);
    let errors = || nstat(&pair.nodes[1])["UdpInCsumErrors"];
    let before = errors();
    assert!(before > 0);
    pair.connect();
    assert_eq!(errors(), before);
    eventually(PATIENCE, || {
        let exposure = format!("natwatch_exposure{{instance=\"{culprit}\",advisory=\"vxlan-double-snat-checksum\"}}");
        alerting.prometheus.query(&exposure).first().filter(|(_, value)| *value == 0.0).map(|_| ())
    });
}

/// A natwatch that the other node can reach.
fn on_all_addresses(ns: &Netns) -> Server<'_> {
    let port = free_port();
    let mut command = ns.command(NATWATCH);
    command.args(["--web.listen-address", &format!("0.0.0.0:{port}")]).args(HERE);
    Server::from_command(ns, command, port)
}
