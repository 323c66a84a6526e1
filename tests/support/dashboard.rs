//! Grafana dashboards: conventions for all of them, and extraction of their queries.

use std::collections::{BTreeMap, BTreeSet};

use natwatch::inside::report::runbook;
use serde_json::Value;

use super::exposition::Row;

/// Labels that Prometheus adds to whatever it scrapes.
const TARGET_LABELS: [&str; 3] = ["cluster", "job", "instance"];
/// Grafana's names of the units in use.
const UNITS: [&str; 7] = ["none", "short", "percentunit", "cps", "pps", "s", "bytes"];
/// Panels that show data, and which the preview can draw.
const DATA: [&str; 4] = ["timeseries", "stat", "bargauge", "table"];
/// Variables that Grafana itself gives a value.
const BUILT_IN: [&str; 4] = ["__rate_interval", "__range", "__url_time_range", "__data"];
/// Where links may lead outside of Grafana: the page of the node itself, and the runbooks that a node serves.
const OUTSIDE: &str = "http://${instance}/";
/// What names a node that serves runbooks.
const SERVE_RUNBOOKS: [&str; 3] = ["${instance}", "${any_node}", "${__data.fields.Node}"];
/// Counters of rules in large legacy tables are read every 30 s: over less than that they stand still, and then jump.
const SHORTEST_RATE_OF_RULES: u64 = 120;
/// Columns of the grid.
const COLUMNS: u64 = 24;

/// One query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    pub panel: String,
    pub kind: String,
    pub id: String,
    pub expr: String,
}

/// All queries of a dashboard.
pub fn queries(dashboard: &Value) -> Vec<Query> {
    let mut found = Vec::new();
    for panel in list(dashboard, "panels") {
        for target in list(panel, "targets") {
            found.push(Query {
                panel: text(panel, "title"),
                kind: text(panel, "type"),
                id: text(target, "refId"),
                expr: text(target, "expr"),
            });
        }
    }
    found
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// What the lint knows beside the dashboard.
#[derive(Clone, Debug)]
pub struct Known {
    /// `natwatch metrics`.
    pub metrics: BTreeMap<String, Row>,
    /// What rules record.
    pub recorded: BTreeSet<String>,
    /// The uids of all dashboards.
    pub uids: BTreeSet<String>,
}

/// Everything that is wrong with a dashboard.
pub fn lint(dashboard: &Value, known: &Known) -> Vec<String> {
    let mut problems = Problems::default();
    head(dashboard, known, &mut problems);
    let variables: BTreeSet<String> = list(&dashboard["templating"], "list").iter().map(|v| text(v, "name")).collect();
    panels(dashboard, &mut problems);
    for query in queries(dashboard) {
        let place = format!("{}, query {}", query.panel, query.id);
        for problem in query_problems(&query.expr, known) {
            problems.say(&place, problem);
        }
    }
    // A dashboard of all nodes; what it draws over time was recorded.
    let of_all = variable(dashboard, "instance").is_null();
    let instance = (!of_all).then_some("instance=\"$instance\"");
    for query in queries(dashboard) {
        for selector in selectors(&query.expr) {
            problems.unless(
                !of_all || query.kind != "timeseries" || selector.metric.starts_with("cluster:"),
                &query.panel,
                format!("{} is a series a node over time", selector.metric),
            );
            for wanted in ["cluster=~\"$cluster\"", "job=~\"$job\""].into_iter().chain(instance) {
                problems.unless(
                    selector.matchers.contains(wanted),
                    &query.panel,
                    format!("{} without {wanted}", selector.metric),
                );
            }
        }
    }
    links(dashboard, &variables, known, &mut problems);
    for name in used(&dashboard.to_string()) {
        let built_in = BUILT_IN.contains(&name.as_str()) || name.chars().all(|c| c.is_ascii_digit());
        problems.unless(built_in || variables.contains(&name), "variables", format!("${name} is not one of them"));
    }
    problems.0
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn say(&mut self, place: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{place}: {what}"));
    }

    fn unless(&mut self, fine: bool, place: &str, what: impl std::fmt::Display) {
        if !fine {
            self.say(place, what);
        }
    }
}

pub(super) fn variable<'a>(dashboard: &'a Value, name: &str) -> &'a Value {
    list(&dashboard["templating"], "list").iter().find(|v| v["name"] == name).unwrap_or(&Value::Null)
}

fn head(dashboard: &Value, known: &Known, problems: &mut Problems) {
    for key in ["__inputs", "__requires", "__elements", "id"] {
        problems.unless(dashboard.get(key).is_none(), "dashboard", format!("has {key}, which ties it to one Grafana"));
    }
    for key in ["title", "description"] {
        problems.unless(!text(dashboard, key).is_empty(), "dashboard", format!("no {key}"));
    }
    problems.unless(known.uids.contains(&text(dashboard, "uid")), "dashboard", "its uid is not its file's name");
    let source = variable(dashboard, "datasource");
    problems.unless(
        source["type"] == "datasource" && source["query"] == "prometheus",
        "dashboard",
        "no data source variable",
    );
    let cluster = variable(dashboard, "cluster");
    problems.unless(
        cluster["includeAll"] == true && cluster["allValue"] == ".*",
        "cluster",
        "All leaves out nodes without the label",
    );
    // `.*` would count the targets of every other job, too.
    let job = variable(dashboard, "job");
    problems.unless(
        job["includeAll"] == true && job.get("allValue").is_none(),
        "job",
        "All must be the jobs of natwatch",
    );
    for variable in list(&dashboard["templating"], "list").iter().filter(|variable| variable["type"] == "query") {
        problems.unless(variable["refresh"] == 2, &text(variable, "name"), "is not asked for anew with the time range");
    }
    problems.unless(dashboard["editable"] == false, "dashboard", "it is editable, and the next version undoes that");
}

fn panels(dashboard: &Value, problems: &mut Problems) {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(dashboard, "panels") {
        let (title, kind) = (text(panel, "title"), text(panel, "type"));
        // A text says itself what it is.
        problems.unless(!title.is_empty() || kind == "text", "panel", "no title");
        problems.unless(ids.insert(panel["id"].as_u64()), &title, "no id of its own");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or(u64::MAX / 4);
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        if x + w > COLUMNS || w == 0 || h == 0 || h > 40 {
            problems.say(&title, "stands outside of the grid");
            continue;
        }
        let area = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        problems.unless(area.filter(|cell| !cells.insert(*cell)).count() == 0, &title, "lies over another panel");
        if kind == "row" {
            continue;
        }
        if kind == "text" {
            problems.unless(text(&panel["options"], "content").len() > 20, &title, "says nothing");
            continue;
        }
        problems.unless(DATA.contains(&kind.as_str()), &title, format!("a panel of type {kind}"));
        let description = text(panel, "description");
        problems.unless(description.len() > 20 && description.ends_with('.'), &title, "no description");
        let defaults = &panel["fieldConfig"]["defaults"];
        problems.unless(UNITS.contains(&text(defaults, "unit").as_str()), &title, format!("unit {}", defaults["unit"]));
        problems.unless(!list(&defaults["thresholds"], "steps").is_empty(), &title, "no thresholds");
        problems.unless(!list(panel, "targets").is_empty(), &title, "no query");
        let targets = list(panel, "targets").iter().map(|target| &target["datasource"]["uid"]);
        for uid in targets.chain([&panel["datasource"]["uid"]]) {
            problems.unless(uid == "${datasource}", &title, format!("data source {uid}"));
        }
        for target in list(panel, "targets") {
            let of_rules = text(target, "expr").contains("natwatch_source_nat_rule_");
            let window = 4 * seconds(&text(target, "interval"));
            problems.unless(
                !of_rules || window >= SHORTEST_RATE_OF_RULES,
                &title,
                format!("rates of rule counters over {window} s: their min step must be 30s or more"),
            );
            problems.unless(
                (target["format"] == "table") == (kind == "table"),
                &title,
                "tables, and only they, ask for a table",
            );
            problems.unless(
                target["range"] != target["instant"] || kind == "timeseries",
                &title,
                "neither instant nor range",
            );
        }
    }
}

/// Of a min step such as `30s` or `1m`. Grafana's $__rate_interval is at least four of them; 0 if there is none.
fn seconds(step: &str) -> u64 {
    let unit = if step.ends_with('m') { 60 } else { 1 };
    step.trim_end_matches(['s', 'm']).parse().map_or(0, |number: u64| number * unit)
}

/// A metric in a query, and what it is restricted to.
#[derive(Debug)]
pub(super) struct Selector {
    pub metric: String,
    pub matchers: String,
    /// What stands before and behind it.
    pub around: (String, String),
}

/// All `name{…}` of a query.
pub(super) fn selectors(expr: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    for (open, _) in expr.match_indices('{') {
        let before = expr[..open].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        let close = open + expr[open..].find('}').unwrap_or(expr.len() - open);
        found.push(Selector {
            metric: expr[before.len()..open].to_owned(),
            matchers: expr[open + 1..close].to_owned(),
            around: (before.to_owned(), expr[(close + 1).min(expr.len())..].to_owned()),
        });
    }
    found
}

fn query_problems(expr: &str, known: &Known) -> Vec<String> {
    let mut problems = Vec::new();
    let found = selectors(expr);
    if found.is_empty() {
        problems.push("asks for no metric".to_owned());
    }
    for Selector { metric, matchers, around: (before, behind) } in &found {
        let elsewhere = metric == "up" || metric.starts_with("scrape_") || known.recorded.contains(metric);
        let Some(row) = known.metrics.get(metric) else {
            if !elsewhere {
                problems.push(format!("there is no metric {metric}"));
            }
            continue;
        };
        for matcher in matchers.split(", ") {
            let label = matcher.split(['=', '!']).next().unwrap_or_default();
            if !TARGET_LABELS.contains(&label) && !row.labels.contains(label) {
                problems.push(format!("{metric} has no label {label}"));
            }
        }
        let range = behind.strip_prefix('[').and_then(|rest| rest.split(']').next());
        match (row.kind.as_str(), range) {
            ("counter", Some("$__rate_interval" | "$__range")) if before.ends_with("rate(") => {}
            ("gauge", None) => {}
            (kind, range) => problems.push(format!("{metric} is a {kind}, and its range {range:?}")),
        }
    }
    // Without the selectors and what is quoted no metric may be left.
    let mut rest = expr.to_owned();
    for selector in &found {
        rest = rest.replace(&format!("{}{{{}}}", selector.metric, selector.matchers), "");
    }
    let rest: String = rest.split('"').step_by(2).collect();
    for word in rest.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | ':')) {
        if word == "up" || word.starts_with("natwatch_") || word.starts_with("process_") || word.starts_with("scrape_")
        {
            problems.push(format!("{word} stands without variables"));
        }
    }
    problems
}

/// Names behind a dollar sign.
fn used(text: &str) -> BTreeSet<String> {
    let names = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    // `$__all` is a value, and a dollar sign in a regular expression stands alone.
    names.map(name).filter(|name| !name.is_empty() && name != "__all").collect()
}

/// Every address that a panel or the dashboard links to.
fn links(dashboard: &Value, variables: &BTreeSet<String>, known: &Known, problems: &mut Problems) {
    let mut found = Vec::new();
    collect_links(dashboard, "dashboard", &mut found);
    let leaves = |uid: &str| found.iter().any(|(_, url)| url.contains(&format!("/d/{uid}/")));
    for uid in known.uids.iter().filter(|uid| **uid != text(dashboard, "uid")) {
        problems.unless(leaves(uid), "links", format!("none to {uid}"));
    }
    problems.unless(found.iter().any(|(_, url)| is_runbook(url)), "links", "none to the runbooks");
    for panel in list(dashboard, "panels") {
        for rest in text(&panel["options"], "content").split("](").skip(1) {
            found.push((text(panel, "title"), rest.split(')').next().unwrap_or_default().to_owned()));
        }
    }
    for (place, url) in &found {
        let inside = url.strip_prefix("/d/").map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
        match inside {
            Some(uid) => {
                problems.unless(known.uids.contains(uid), place, format!("no dashboard {uid}"));
                for word in ["${__url_time_range}", "${datasource:queryparam}", "${job:queryparam}"] {
                    problems.unless(url.contains(word), place, format!("{url} forgets {word}"));
                }
            }
            None => problems.unless(url == OUTSIDE || is_runbook(url), place, format!("leads to {url}")),
        }
        for rest in url.split("&var-").skip(1) {
            let name = rest.split('=').next().unwrap_or_default();
            problems.unless(variables.contains(name) || name == "instance", place, format!("sets {name}"));
        }
    }
    for panel in list(dashboard, "panels") {
        let columns = columns(panel);
        for (_, url) in found.iter().filter(|(place, _)| *place == text(panel, "title")) {
            for rest in url.split("${__data.fields.").skip(1) {
                let name = rest.split('}').next().unwrap_or_default();
                problems.unless(columns.contains(name), &text(panel, "title"), format!("there is no column {name}"));
            }
        }
    }
}

/// `http://NODE/runbooks/NAME`, if there is one of that name.
fn is_runbook(url: &str) -> bool {
    let parts = url.strip_prefix("http://").and_then(|rest| rest.split_once("/runbooks/"));
    parts.is_some_and(|(node, name)| SERVE_RUNBOOKS.contains(&node) && runbook::text(name).is_some())
}

fn collect_links(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_links(item, place, found)),
        Value::Object(members) => {
            if let Some(url) = members.get("url").and_then(Value::as_str) {
                found.push((place.to_owned(), url.to_owned()));
            }
            let panel = members.contains_key("gridPos");
            let title = if panel { text(value, "title") } else { place.to_owned() };
            members.values().for_each(|member| collect_links(member, &title, found));
        }
        _ => {}
    }
}

/// Columns that a table's last step names, as they are shown.
fn columns(panel: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for step in list(panel, "transformations") {
        let options = &step["options"];
        for name in options["indexByName"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let shown = options["renameByName"][name].as_str().unwrap_or(name);
            names.insert(shown.to_owned());
        }
    }
    names
}

/// A query with its variables filled in.
pub fn fill(expr: &str, job: &str, instance: &str, interval: &str, range: &str) -> String {
    let filled = expr.replace("$__rate_interval", interval).replace("$__range", range);
    filled.replace("$cluster", ".*").replace("$job", job).replace("$instance", instance)
}

/// The texts that a table maps the values of a column to.
pub fn mapped(dashboard: &Value, column: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for panel in list(dashboard, "panels") {
        for rule in list(&panel["fieldConfig"], "overrides").iter().filter(|rule| rule["matcher"]["options"] == column)
        {
            for property in list(rule, "properties").iter().filter(|property| property["id"] == "mappings") {
                for (value, result) in list(property, "value").iter().filter_map(|m| m["options"].as_object()).flatten()
                {
                    texts.insert(value.clone(), text(result, "text"));
                }
            }
        }
    }
    texts
}
