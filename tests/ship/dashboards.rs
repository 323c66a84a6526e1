//! The dashboards follow their conventions, and a real Prometheus that scrapes real nodes answers all their queries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use natwatch::inside::advisory::Catalogue;
use serde_json::{Value, json};

use crate::support::dashboard::{Known, Query, fill, lint, mapped, queries};
use crate::support::exposition::metrics_table;
use crate::support::fleet::{Fleet, Prometheus, TUNNEL};
use crate::support::linter;
use crate::support::rule_file::hasten;
use crate::support::wait::{PATIENCE, eventually, exclusive};

const NAMES: [&str; 2] = ["natwatch-fleet", "natwatch-node"];
const RULES: &str = include_str!("../../deploy/prometheus/natwatch.rules.yaml");
/// Factor by which time passes faster for the rules: windows of 5 minutes take 10 seconds.
const HASTE: u32 = 30;
const ADVISORY: &str = "vxlan-double-snat-checksum";

/// Queries that may yield nothing: panel, query, nodes, and the reason. No panel is empty because of them.
const MAY_BE_EMPTY: [(&str, &str, &[&str], &str); 5] = [
    ("Source-NAT rules by owner", "B", &["node-2", "node-3"], "no rules, or they cannot be read: query A says so"),
    ("Source-NAT rules by owner", "C", &["node-2", "node-3"], "the same"),
    ("Used source ports", "B", &["node-1", "node-2", "node-3", "old"], "only with --collector.flows.destinations"),
    ("Connection tracking: what goes wrong", "D", &["old"], "the kernel has no such counter"),
    ("Connection tracking: what goes wrong", "E", &["old"], "the kernel has no such counter"),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(format!("{name}.json"))
}

fn dashboard(name: &str) -> Value {
    let text = fs::read_to_string(path(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn known() -> Known {
    Known { metrics: metrics_table(), recorded: recorded(), uids: NAMES.map(str::to_owned).into() }
}

/// Names that the shipped rules record.
fn recorded() -> BTreeSet<String> {
    let names = RULES.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned);
    names.collect()
}

#[test]
fn dashboards_keep_the_conventions() {
    let listed = fs::read_dir(path("x").parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<PathBuf> = listed.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(files, NAMES.map(path).into(), "NAMES has all of them");
    for name in NAMES {
        let value = dashboard(name);
        let problems = lint(&value, &known());
        assert!(problems.is_empty(), "{name}:\n{}", problems.join("\n"));
        assert_eq!(value["uid"], name);
        let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
        assert_eq!(fs::read_to_string(path(name)).unwrap(), text, "{name} is not laid out as `jq .` does");
    }
}

/// The rules of Grafana's dashboard-linter hold, except for exclusions in dashboards/.lint, each with a reason and
/// needed.
#[test]
fn the_rules_of_dashboard_linter_hold() {
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(path("x").with_file_name(".lint")).unwrap()).unwrap();
    let excluded = file["exclusions"].as_object().expect("rules");
    assert!(excluded.values().all(|rule| rule["reason"].as_str().is_some_and(|reason| reason.len() > 40)), "{file}");
    let broken: BTreeSet<&str> = NAMES.iter().flat_map(|name| linter::broken(&dashboard(name))).collect();
    assert_eq!(broken, excluded.keys().map(String::as_str).collect());
    let changes = [
        ("/editable", json!(true), "uneditable-dashboard"),
        ("/templating/list/0/label", json!(""), "template-datasource-rule"),
        ("/templating/list/1/refresh", json!(1), "template-on-time-change-reload-rule"),
        ("/panels/1/description", json!(""), "panel-title-description-rule"),
        ("/panels/1/datasource/uid", json!("P123"), "panel-datasource-rule"),
        ("/panels/1/fieldConfig/defaults/unit", json!(""), "panel-units-rule"),
        ("/panels/1/targets", json!([]), "panel-no-targets-rule"),
        ("/panels/1/targets/0/expr", json!("rate(natwatch_x_total{job=~\"$job\"}[5m])"), "target-rate-interval-rule"),
        ("/panels/1/targets/0/expr", json!("natwatch_x_total{job=~\"$job\"}"), "target-counter-agg-rule"),
        ("/panels/1/targets/0/expr", json!("natwatch_x{}"), "target-job-rule"),
    ];
    for (pointer, value, rule) in changes {
        let mut changed = dashboard("natwatch-fleet");
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(linter::broken(&changed).contains(rule), "{pointer}: {rule}");
    }
}

/// Each change breaks one convention, and the lint names it.
#[test]
fn every_convention_is_held() {
    let expr = |expr: &str| json!(expr);
    let all = r#"cluster=~"$cluster", job=~"$job""#;
    let changes: [(&str, Value, &str); 26] = [
        ("/__inputs", json!([]), "ties it to one Grafana"),
        ("/uid", json!("other"), "uid"),
        ("/description", json!(""), "no description"),
        ("/templating/list/1/allValue", Value::Null, "All leaves out nodes"),
        ("/templating/list/2/allValue", json!(".*"), "All must be the jobs"),
        ("/templating/list/0/type", json!("query"), "no data source variable"),
        ("/panels/1/id", json!(1), "no id of its own"),
        ("/panels/1/gridPos/x", json!(1), "lies over another"),
        ("/panels/1/gridPos/w", json!(22), "outside of the grid"),
        ("/panels/1/description", json!("short"), "no description"),
        ("/panels/1/title", json!(""), "no title"),
        ("/panels/1/type", json!("piechart"), "of type piechart"),
        ("/panels/1/fieldConfig/defaults/unit", json!("furlong"), "unit"),
        ("/panels/1/fieldConfig/defaults/thresholds", json!({}), "no thresholds"),
        ("/panels/1/datasource/uid", json!("P123"), "data source"),
        ("/panels/1/targets/0/format", json!("table"), "ask for a table"),
        ("/panels/1/targets/0/expr", expr("vector(1)"), "asks for no metric"),
        ("/panels/1/targets/0/expr", expr(&format!("natwatch_exposures{{{all}}}")), "no metric natwatch_exposures"),
        ("/panels/1/targets/0/expr", expr(&format!("natwatch_exposure{{{all}, node=\"1\"}}")), "no label node"),
        ("/panels/1/targets/0/expr", expr(&format!("natwatch_conntrack_drop_total{{{all}}}")), "is a counter"),
        (
            "/panels/1/targets/0/expr",
            expr(&format!("rate(natwatch_conntrack_drop_total{{{all}}}[5m])")),
            "is a counter",
        ),
        ("/panels/1/targets/0/expr", expr("natwatch_exposure{job=~\"$job\"}"), "without cluster"),
        ("/panels/1/targets/0/expr", expr(&format!("up{{{all}}} and natwatch_exposure")), "stands without variables"),
        ("/panels/10/targets/0/expr", expr(&format!("natwatch_tunnels{{{all}}}")), "a series a node over time"),
        ("/editable", json!(true), "editable"),
        ("/links/0/url", json!("/d/natwatch-nowhere/x"), "no dashboard natwatch-nowhere"),
    ];
    for (pointer, value, said) in changes {
        let mut changed = dashboard("natwatch-fleet");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        let problems = lint(&changed, &known());
        assert!(problems.iter().any(|problem| problem.contains(said)), "{pointer}, {said}: {problems:?}");
    }
    let nodes = dashboard("natwatch-node");
    let of_rules = |target: &Value| target["expr"].as_str().is_some_and(|e| e.contains("natwatch_source_nat_rule_"));
    let mut found = 0;
    for (panel, value) in nodes["panels"].as_array().unwrap().iter().enumerate() {
        for (target, _) in value["targets"].as_array().into_iter().flatten().enumerate().filter(|(_, t)| of_rules(t)) {
            for step in [Value::Null, json!("15s"), json!("29s")] {
                let mut changed = nodes.clone();
                changed["panels"][panel]["targets"][target]["interval"] = step.clone();
                let problems = lint(&changed, &known()).join("\n");
                assert!(problems.contains("rates of rule counters over"), "{step}: {problems}");
            }
            found += 1;
        }
    }
    assert!(found > 1, "{found} queries for rates of rule counters");
    for wrong in
        ["https://wiki.example/natwatch", "http://${any_node}/runbooks/Nothing", "http://${job}/runbooks/README"]
    {
        let mut changed = dashboard("natwatch-fleet");
        changed["links"][0]["url"] = json!(wrong);
        let problems = lint(&changed, &known()).join("\n");
        assert!(problems.contains(&format!("leads to {wrong}")), "{problems}");
    }
    let mut changed = dashboard("natwatch-fleet").to_string();
    changed = changed.replace("${__data.fields.link}", "${__data.fields.links}").replace("&var-instance", "&var-node");
    let problems = lint(&serde_json::from_str(&changed).unwrap(), &known()).join("\n");
    assert!(problems.contains("no column links") && problems.contains("sets node"), "{problems}");
}

/// Every condition of the catalogue is shown as its meaning.
#[test]
fn conditions_are_told_in_words() {
    let advisories = &Catalogue::built_in().advisories;
    let words: BTreeSet<String> = advisories.iter().flat_map(|a| a.conditions.iter().map(|c| c.id.clone())).collect();
    assert!(words.len() > 20);
    for (name, column) in [
        ("natwatch-fleet", "What decides"),
        ("natwatch-fleet", "Cannot be told whether"),
        ("natwatch-node", "Decided by whether"),
    ] {
        let texts = mapped(&dashboard(name), column);
        assert_eq!(texts.keys().cloned().collect::<BTreeSet<_>>(), words, "{name}, {column}");
        assert!(texts.values().all(|text| text.contains(' ')), "{texts:?}");
    }
}

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Labels and value of each series.
fn rows(found: &[Value]) -> Vec<(BTreeMap<String, String>, f64)> {
    let row = |series: &Value| {
        let labels = series["metric"].as_object().expect("labels").iter();
        let labels = labels.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned())).collect();
        (labels, series["value"][1].as_str().and_then(|text| text.parse().ok()).expect("a number"))
    };
    found.iter().map(row).collect()
}

/// A scraped fleet with traffic, in which node-1 becomes exposed during the test.
struct Scene<'a> {
    fleet: &'a Fleet,
    prometheus: Prometheus<'a>,
}

impl<'a> Scene<'a> {
    fn start(fleet: &'a Fleet) -> Self {
        let scene = Self { fleet, prometheus: Prometheus::start(fleet, &hasten(RULES, HASTE)) };
        scene.wait("count(count_over_time(natwatch_build_info[1m]) >= 3) == 5");
        scene.wait("instance:natwatch_conntrack_insert_lost:rate5m{instance=\"node-1\"}");
        scene.wait("count(count by (job) (cluster:natwatch_advisory_info:count)) == 3");
        // Fifty flows for ten ports: most of them try all ten in vain.
        scene.wait(
            "instance:natwatch_conntrack_found_per_source_nat_rule_packets:ratio_rate5m{instance=\"node-1\", job=\"natwatch\"} > 7",
        );
        scene
    }

    fn expose(&self) {
        self.fleet.expose();
        self.wait(&format!("natwatch_exposure{{advisory=\"{ADVISORY}\", job=\"natwatch\"}} == 1"));
        self.wait("cluster:natwatch_netstat_udp_in_csum_errors:topk10_rate5m{instance=\"node-2\"}");
        self.wait("cluster:natwatch_advisory_info:count{state=\"exposed\", severity=\"critical\"}");
    }

    fn wait(&self, query: &str) {
        self.prometheus.wait(query, || self.fleet.traffic());
    }

    /// What a query yields now. Panics if Prometheus rejects it.
    fn ask(&self, query: &Query, expr: &str) -> Vec<Value> {
        let place = format!("{}, query {}: {expr}", query.panel, query.id);
        let found = match query.kind.as_str() {
            "timeseries" => {
                let now = now();
                self.prometheus.query_range(expr, now - 10.0, now)
            }
            _ => self.prometheus.query(expr),
        };
        found.unwrap_or_else(|error| panic!("{place}: {error}"))
    }

    /// The rows of a panel's query A.
    fn panel(&self, board: &str, title: &str, job: &str, instance: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let query = queries(&dashboard(board)).into_iter().find(|query| query.panel == title).expect(title);
        let expr = fill(&query.expr, job, instance, "20s", "60s");
        let found = self.prometheus.query(&expr);
        rows(&found.unwrap_or_else(|error| panic!("{title}: {error}")))
    }
}

fn label<'a>(row: &'a (BTreeMap<String, String>, f64), name: &str) -> &'a str {
    row.0.get(name).map_or("", String::as_str)
}

#[test]
fn a_real_prometheus_answers_every_query() {
    let _machine = exclusive();
    let fleet = Fleet::new();
    let _daemons = fleet.serve();
    let scene = Scene::start(&fleet);
    let healthy = no_panel_is_empty(&scene, &[("fine", "node-2")]);
    a_healthy_node_says_so(&scene);
    scene.expose();
    let nodes = [("natwatch", "node-1"), ("natwatch", "node-3"), ("old", "node-1")];
    let used: BTreeSet<usize> = no_panel_is_empty(&scene, &nodes).union(&healthy).copied().collect();
    assert_eq!(used.len(), MAY_BE_EMPTY.len(), "only {used:?} of the excuses are needed");
    the_fleet_shows_who_is_exposed_and_why(&scene);
    the_node_shows_its_verdicts(&scene);
    what_changed_is_listed(&scene);
}

/// Both dashboards of each node, and the fleet dashboard for all nodes. Returns the exceptions that were needed.
fn no_panel_is_empty(scene: &Scene, nodes: &[(&'static str, &'static str)]) -> BTreeSet<usize> {
    let mut used = BTreeSet::new();
    let both = nodes.iter().flat_map(|(job, node)| NAMES.map(|name| (name, *job, *node)));
    for (name, job, instance) in both.chain([("natwatch-fleet", "natwatch", ".*")]) {
        let subject = if job == "old" { "old" } else { instance };
        let mut filled: BTreeMap<String, bool> = BTreeMap::new();
        for query in queries(&dashboard(name)) {
            let expr = fill(&query.expr, job, instance, "20s", "60s");
            let fits = |(panel, id, on, _): &(&str, &str, &[&str], &str)| {
                *panel == query.panel && *id == query.id && on.contains(&subject)
            };
            let excuse = MAY_BE_EMPTY.iter().position(fits);
            // One scrape may have failed on a busy machine.
            let found = eventually(PATIENCE, || match scene.ask(&query, &expr) {
                found if found.is_empty() && excuse.is_none() => {
                    Err(format!("{name}, {subject}: {}, query {} yields nothing: {expr}", query.panel, query.id))
                }
                found => Ok(found),
            });
            if found.is_empty() {
                used.extend(excuse);
            }
            *filled.entry(query.panel.clone()).or_default() |= !found.is_empty();
            for series in &found {
                assert!(!series.to_string().contains("NaN"), "{}: {series}", query.panel);
            }
        }
        let empty: Vec<&String> = filled.iter().filter(|(_, filled)| !**filled).map(|(panel, _)| panel).collect();
        assert!(empty.is_empty(), "{name}, {subject}: nothing in {empty:?}");
        assert!(filled.len() > 15, "{name} has only {} panels with queries", filled.len());
    }
    used
}

/// Without a problem panels say so, in words and zeros, instead of being empty.
fn a_healthy_node_says_so(scene: &Scene) {
    let fleet = |title: &str| scene.panel("natwatch-fleet", title, "fine", "node-2");
    let node = |title: &str| scene.panel("natwatch-node", title, "fine", "node-2");
    assert_eq!(label(&fleet("Exposed nodes, and what decides")[0], "advisory"), "nothing is exposed");
    assert_eq!(label(&fleet("Verdicts that could not be given, and why")[0], "advisory"), "no verdict is unknown");
    assert_eq!(label(&fleet("Sources that could not be read")[0], "source"), "every source was read");
    for title in ["Exposed", "Unknown", "Not scraped"] {
        assert_eq!(fleet(title)[0].1, 0.0, "{title}");
    }
    assert!(node("Verdict")[0].1 < 2.0);
    assert_eq!(label(&node("Source-NAT rules by owner")[0], "owner"), "there is no source-NAT rule");
    assert_eq!(label(&node("Tunnels")[0], "device"), "there is no tunnel");
    let features = node("Offload features");
    assert_eq!((label(&features[0], "device"), features[0].1), ("there is no tunnel", -1.0));
}

fn the_fleet_shows_who_is_exposed_and_why(scene: &Scene) {
    let fleet = |title: &str| scene.panel("natwatch-fleet", title, "natwatch", "");
    let exposed = fleet("Exposed nodes, and what decides");
    let row = exposed.iter().find(|row| label(row, "advisory") == ADVISORY).unwrap_or_else(|| panic!("{exposed:?}"));
    assert_eq!((label(row, "instance"), label(row, "condition"), row.1), ("node-1", "outer_rewritten", 3.0));
    assert_eq!(
        (label(row, "link"), label(row, "cluster")),
        ("All", ""),
        "a link needs a value where there is no cluster"
    );
    // The device under a veth cannot be seen, so that the verdict is unknown at both ends of the tunnel, too.
    for (title, value) in [("Nodes", 3.0), ("Exposed", 1.0), ("Unknown", 3.0), ("Not scraped", 1.0)] {
        eventually(PATIENCE, || match fleet(title)[0].1 {
            found if found == value => Ok(()),
            found => Err(format!("{title}: {found} and not {value}")),
        });
    }
    // The sum may have been recorded just before the awaited change.
    for title in ["Lost at insertion", "Bad checksums"] {
        eventually(PATIENCE, || if fleet(title)[0].1 > 0.0 { Ok(()) } else { Err(title) });
    }
    let receivers = fleet("Bad UDP checksums by receiving node");
    let worst = receivers.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a node");
    assert_eq!(label(worst, "instance"), "node-2", "the peer counts them: {receivers:?}");
    let denied = fleet("Sources that could not be read");
    assert!(
        denied.iter().all(|row| label(row, "instance") == "node-3" && label(row, "state") == "denied"),
        "{denied:?}"
    );
    let kernels = eventually(PATIENCE, || {
        let kernels = fleet("Kernels and their defects");
        if kernels.len() > 1 { Ok(kernels) } else { Err(format!("{kernels:?}")) }
    });
    assert!(kernels.iter().any(|row| label(row, "defect") == "(nodes)" && row.1 == 3.0), "{kernels:?}");
    assert!(kernels.iter().any(|row| label(row, "defect") == "nat-udp-lco-checksum" && row.1 == 2.0), "{kernels:?}");
}

fn the_node_shows_its_verdicts(scene: &Scene) {
    let node = |title: &str, instance: &str| scene.panel("natwatch-node", title, "natwatch", instance);
    for (instance, verdict) in [("node-1", 3.0), ("node-3", 2.0)] {
        assert_eq!(node("Verdict", instance)[0].1, verdict, "{instance}");
    }
    let verdicts = node("Verdicts", "node-1");
    assert_eq!(verdicts.len(), Catalogue::built_in().advisories.len());
    let row = verdicts.iter().find(|row| label(row, "advisory") == ADVISORY).expect("the advisory");
    assert_eq!((row.1, label(row, "severity"), label(row, "condition")), (33.0, "critical", "outer_rewritten"));
    let owners = node("Source-NAT rules by owner", "node-1");
    assert!(
        owners
            .iter()
            .any(|row| label(row, "owner") == "kube-proxy" && label(row, "port_randomization") == "random_fully")
    );
    let unread = node("Source-NAT rules by owner", "node-3");
    assert_eq!(label(&unread[0], "owner"), "rules could not be read");
    let features = node("Offload features", "node-1");
    let generic = |row: &&(BTreeMap<String, String>, f64)| {
        label(row, "device") == TUNNEL && label(row, "feature") == "tx-checksum-ip-generic"
    };
    assert_eq!(features.iter().find(generic).expect("the feature").1, 1.0, "on, and not fixed");
}

/// The list next to it is tested in deploy/prometheus/tests/fleet.yaml, in which a day passes.
fn what_changed_is_listed(scene: &Scene) {
    let day = scene.panel("natwatch-fleet", "What is different from a day ago", "natwatch", "");
    assert_eq!(day.len(), 1, "nothing was there a day ago: {day:?}");
    assert_eq!((label(&day[0], "what"), label(&day[0], "now")), ("nodes", "3"));
}

/// Draws the dashboards of such a fleet: `make dashboards-preview`. Requirements: dashboards/preview/README.md.
#[test]
#[ignore = "needs node and chromium, and downloads Grafana's rendering code"]
fn preview() {
    let _machine = exclusive();
    let directory = std::env::var("NATWATCH_PREVIEW").expect("NATWATCH_PREVIEW: the directory for the pictures");
    let seconds: u64 = std::env::var("NATWATCH_PREVIEW_SECONDS").map_or(240, |text| text.parse().expect("a number"));
    let fleet = Fleet::new();
    let _daemons = fleet.serve();
    let scene = Scene::start(&fleet);
    scene.expose();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/preview/draw.sh");
    let mut command: Command = fleet.net.router.command(script);
    command.env("PROMETHEUS", format!("http://127.0.0.1:{}", scene.prometheus.0.port)).env("OUT", directory);
    command.env("SPAN", (seconds + 60).to_string());
    let done = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                fleet.traffic();
                thread::sleep(Duration::from_millis(500));
            }
        });
        thread::sleep(Duration::from_secs(seconds));
        let status = command.status();
        done.store(true, Ordering::SeqCst);
        status.expect("draw.sh")
    });
    assert!(status.success(), "{status}");
}
