//! docs/report.schema.json matches the reports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use natwatch::inside::advisory::{Severity, State};
use natwatch::inside::facts::SourceState;
use serde_json::Value;

use crate::support::tools::expect_success;

/// Validates documents with a schema and prints the errors. Properties that the schema does not name are errors.
const VALIDATE: &str = r#"
import json, sys
import jsonschema

def close(node):
    if isinstance(node, dict):
        if "properties" in node and "additionalProperties" not in node:
            node["additionalProperties"] = False
        for value in node.values():
            close(value)
    elif isinstance(node, list):
        for value in node:
            close(value)

schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
close(schema)
validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
for path in sys.argv[2:]:
    document = json.loads(open(path).read().split("exit code")[0])
    for error in validator.iter_errors(document):
        print(path, "/".join(map(str, error.absolute_path)), error.message)
"#;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn validated(documents: &[PathBuf]) -> String {
    let schema = root("docs/report.schema.json");
    expect_success(Command::new("/usr/bin/python3").args(["-c", VALIDATE]).arg(schema).args(documents))
}

fn reports() -> Vec<PathBuf> {
    let files = fs::read_dir(root("tests/golden")).expect("goldens").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
}

#[test]
fn every_golden_report_is_as_the_schema_says() {
    let reports = reports();
    assert!(reports.len() > 15);
    assert_eq!(validated(&reports), "");
}

/// The check can fail: for a value, a missing property, and an unknown one.
#[test]
fn another_document_is_told() {
    let report = fs::read_to_string(&reports()[0]).expect("a report");
    let report: Value = serde_json::from_str(report.split("exit code").next().expect("a document")).expect("JSON");
    let temporary = tempfile::tempdir().expect("a directory");
    let path = temporary.path().join("report.json");
    let told = |change: &dyn Fn(&mut Value)| {
        let mut changed = report.clone();
        change(&mut changed);
        fs::write(&path, changed.to_string()).expect("written");
        validated(std::slice::from_ref(&path))
    };
    assert_eq!(told(&|_| ()), "");
    assert!(told(&|report| report["verdict"] = "fine".into()).contains("verdict"));
    assert!(told(&|report| report["tunnels"] = 0.into()).contains("tunnels"));
    assert!(
        told(&|report| drop(report["node"].as_object_mut().expect("an object").remove("distro"))).contains("distro")
    );
    assert!(told(&|report| report["advisories"][0]["weight"] = 1.into()).contains("weight"));
}

#[test]
fn the_schema_has_the_words_of_the_program() {
    let schema = fs::read_to_string(root("docs/report.schema.json")).expect("a schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let at = |path: &str| -> BTreeSet<String> {
        let words = schema.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("nothing at {path}"));
        words.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    let names = |all: Vec<&str>| -> BTreeSet<String> { all.into_iter().map(str::to_owned).collect() };
    let states = names(State::ALL.iter().map(|state| state.name()).collect());
    assert_eq!(at("/properties/verdict/enum"), states);
    let advisory = "/properties/advisories/items/properties";
    assert_eq!(at(&format!("{advisory}/state/enum")), states);
    let severities = names(Severity::ALL.iter().map(|severity| severity.name()).collect());
    assert_eq!(at(&format!("{advisory}/severity/enum")), severities);
    let sources = names(SourceState::ALL.iter().map(|state| state.name()).collect());
    assert_eq!(at("/properties/sources/items/properties/state/enum"), sources);
}
