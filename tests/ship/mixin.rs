//! The jsonnet mixin renders the shipped files, and applies its configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::rule_file::wanted;
use crate::support::tools::{expect_success, require};

const RULES: [&str; 2] = ["natwatch.rules.yaml", "natwatch-info.rules.yaml"];
const DASHBOARDS: [&str; 2] = ["natwatch-fleet.json", "natwatch-node.json"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// One field of the mixin with this configuration.
fn render(config: &Value, field: &str) -> Value {
    require("jsonnet");
    let program = format!("((import 'mixin.libsonnet') + {{ _config+:: {config} }}).{field}");
    let mut command = Command::new("jsonnet");
    let said = expect_success(command.arg("--jpath").arg(path("mixin")).args(["--exec", &program]));
    serde_json::from_str(&said).expect("JSON")
}

fn rules(groups: &Value) -> Vec<Value> {
    let groups = groups.as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn without_a_configuration_it_is_what_is_shipped() {
    let rendered = render(&json!({}), "files");
    let read = |name: &str| fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for name in RULES {
        let shipped: Value = serde_saphyr::from_str(&read(&format!("deploy/prometheus/{name}"))).expect("YAML");
        assert_eq!(rendered[name], shipped, "{name}: run `make golden`");
    }
    for name in DASHBOARDS {
        let shipped: Value = serde_json::from_str(&read(&format!("dashboards/{name}"))).expect("JSON");
        assert_eq!(rendered[name], shipped, "{name}");
    }
    let names: BTreeSet<&str> = rendered.as_object().expect("files").keys().map(String::as_str).collect();
    assert_eq!(names, RULES.into_iter().chain(DASHBOARDS).collect());
    // The mixin's parts have every rule once.
    let [alerts, records] =
        ["prometheusAlerts.groups", "prometheusRules.groups"].map(|field| rules(&render(&json!({}), field)));
    assert!(
        alerts.iter().all(|rule| rule["alert"].is_string()) && records.iter().all(|rule| rule["record"].is_string())
    );
    let whole = RULES.map(|name| rules(&rendered[name]["groups"]).len());
    assert_eq!(alerts.len() + records.len(), whole.iter().sum::<usize>());
}

#[test]
fn the_configuration_is_in_every_rule_and_query() {
    let config = json!({
        "selector": "env=\"prod\"",
        "jobSelector": "job=\"nat\"",
        "clusterLabel": "region",
        "runbookBase": "https://wiki.example/natwatch",
        "disabledAlerts": ["NatwatchDown", "NatwatchExposed.info"],
        "alertLabels": { "team": "net" },
    });
    let rendered = render(&config, "files");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rendered[RULES[0]].to_string()).expect("a file");
    require("promtool");
    expect_success(Command::new("promtool").args(["check", "rules", "--lint=all"]).arg(&file));

    let found = rules(&rendered[RULES[0]]["groups"]);
    let shipped = rules(&render(&json!({}), "files")[RULES[0]]["groups"]);
    assert_eq!(found.len(), shipped.len() - 1, "NatwatchDown alone");
    assert_eq!(rules(&rendered[RULES[1]]["groups"]), [] as [Value; 0]);
    for rule in &found {
        let wanted = wanted(rule["expr"].as_str().expect("an expression"));
        for selector in wanted.selectors.iter().filter(|selector| selector.metric.starts_with("natwatch_")) {
            assert_eq!(selector.values("env"), ["prod"], "{rule}");
        }
        assert!(!wanted.label_lists.iter().flatten().any(|label| label == "cluster"), "{rule}");
        let Some(alert) = rule["alert"].as_str() else { continue };
        assert_eq!(rule["annotations"]["runbook_url"], format!("https://wiki.example/natwatch/{alert}"));
        assert_eq!(rule["labels"]["team"], "net");
    }
    let absent = found.iter().find(|rule| rule["alert"] == "NatwatchAbsent").expect("an alert");
    assert!(absent["expr"].as_str().expect("an expression").contains("up{job=\"nat\"}"), "{absent}");
    for name in DASHBOARDS {
        let board = &rendered[name];
        let variables = board["templating"]["list"].as_array().expect("variables").iter();
        assert!(variables.clone().any(|variable| variable["name"] == "region"), "{name}");
        let queries = variables.map(|variable| &variable["query"]["query"]);
        let targets = board["panels"].as_array().expect("panels").iter();
        let targets = targets.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let queries: Vec<&str> =
            queries.chain(targets.map(|target| &target["expr"])).filter_map(Value::as_str).collect();
        assert!(queries.len() > 20, "{queries:?}");
        for query in queries {
            // Names of recorded series begin like this.
            let rest = query.replace("cluster:natwatch_", "");
            assert!(!rest.contains("cluster"), "{name}: {query}");
            assert!(
                !rest.contains("natwatch_") || rest.contains("env=\"prod\"") || rest.contains("instance:"),
                "{query}"
            );
        }
    }
}
