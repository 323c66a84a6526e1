//! Metrics in text format 0.0.4, and the table that documents them.

use std::collections::{BTreeMap, BTreeSet};

use super::netns::Netns;
use super::program::{HERE, natwatch, natwatch_in};

/// `natwatch check --format prometheus` of this namespace, with further arguments.
#[track_caller]
pub fn metrics_here(ns: &Netns, more: &[&str]) -> Exposition {
    Exposition::parse(&natwatch_in(ns, &[&["check", "--format", "prometheus"], &HERE[..], more].concat()).stdout)
}

/// Label names and values of one series.
pub type Labels = BTreeMap<String, String>;

/// Labels and value of one series.
pub type Series = (Labels, f64);

/// A parsed exposition.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Text of `# HELP` by metric.
    pub help: BTreeMap<String, String>,
    /// Word of `# TYPE` by metric.
    pub kind: BTreeMap<String, String>,
    series: BTreeMap<String, Vec<Series>>,
}

impl Exposition {
    /// Panics unless every line is help, a type or a sample, and none is there twice.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                assert!(out.help.insert(name.into(), help.into()).is_none(), "twice: {line}");
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(out.kind.insert(name.into(), kind.into()).is_none(), "twice: {line}");
            } else {
                let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
                let series = out.series.entry(name).or_default();
                assert!(series.iter().all(|(other, _)| *other != labels), "twice: {line}");
                series.push((labels, value));
            }
        }
        out
    }

    /// Names of the metrics that have samples.
    pub fn families(&self) -> BTreeSet<String> {
        self.series.keys().cloned().collect()
    }

    /// All samples, by metric.
    pub fn samples(&self) -> impl Iterator<Item = (&str, &Labels, f64)> {
        self.series.iter().flat_map(|(name, all)| all.iter().map(|(labels, value)| (name.as_str(), labels, *value)))
    }

    /// Number of series of all metrics together.
    pub fn len(&self) -> usize {
        self.series.values().map(Vec::len).sum()
    }

    /// All series of a metric.
    pub fn series(&self, name: &str) -> &[Series] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// All series of a metric that have these labels, and perhaps others.
    fn with<'a>(&'a self, name: &str, labels: &[(&str, &str)]) -> Vec<&'a Series> {
        let fits = |found: &Labels| labels.iter().all(|(key, value)| found.get(*key).is_some_and(|v| v == value));
        self.series(name).iter().filter(|(found, _)| fits(found)).collect()
    }

    /// The value of the series with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.with(name, labels).into_iter().find(|(found, _)| found.len() == labels.len());
        found.map(|(_, value)| *value)
    }

    /// The value of the one series with these labels, others ignored; panics if there are more.
    #[track_caller]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.with(name, labels);
        assert!(found.len() <= 1, "{name} {labels:?} is ambiguous");
        found.first().map(|(_, value)| *value)
    }

    /// Of a metric with a `state` label: the state whose sample is 1. Panics unless there is exactly one.
    #[track_caller]
    pub fn one_state(&self, name: &str, labels: &[(&str, &str)]) -> Option<String> {
        let all = self.with(name, labels);
        let set: Vec<_> = all.iter().filter(|(_, value)| *value == 1.0).collect();
        assert!(all.is_empty() || set.len() == 1, "{name} {labels:?}: {all:?}");
        set.first().map(|(labels, _)| labels["state"].clone())
    }

    /// The conntrack counters, by the names that `conntrack -S` gives them.
    pub fn conntrack_counters(&self) -> BTreeMap<String, u64> {
        let counters = self.series.iter().filter_map(|(name, series)| {
            let counter = name.strip_prefix("natwatch_conntrack_")?.strip_suffix("_total")?;
            let alone = series.len() == 1 && series[0].0.is_empty();
            alone.then(|| (counter.to_owned(), series[0].1 as u64))
        });
        counters.collect()
    }
}

/// Name, labels unescaped, and value.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let mut labels = Labels::new();
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    while let Some(label) = rest.strip_prefix(if labels.is_empty() { '{' } else { ',' }) {
        let (key, quoted) = label.split_once("=\"")?;
        let (value, after) = unescaped(quoted)?;
        if labels.insert(key.to_owned(), value).is_some() {
            return None;
        }
        rest = after;
    }
    if !labels.is_empty() {
        rest = rest.strip_prefix('}')?;
    }
    Some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// A label's value, and what follows its closing quote.
fn unescaped(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
}

/// One row of `natwatch metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: String,
    pub labels: BTreeSet<String>,
    pub help: String,
}

/// `natwatch metrics` by metric name.
pub fn metrics_table() -> BTreeMap<String, Row> {
    let text = natwatch(&["metrics"]).expect(0);
    let mut rows = BTreeMap::new();
    for line in text.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, _unit, help] = cells[..] else { panic!("not five cells: {line}") };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let row = Row {
            kind: kind.into(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            help: help.replace("\\|", "|"),
        };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    assert!(rows.len() > 40, "{text}");
    rows
}
