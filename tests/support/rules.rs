//! Source-NAT rules as printed by `iptables-save` and `nft`, and as reported by natwatch, for comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::exposition::Exposition;
use super::netns::Netns;
use super::report::{Report, check_here};
use super::tools::{checked, require};

/// A source-NAT rule in the words of natwatch's report, without its owner, which the standard tools do not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNat {
    pub backend: String,
    pub position: u64,
    pub action: String,
    pub randomization: String,
    pub to_ports: Option<String>,
    /// Value, mask, inverted.
    pub marks: Vec<(u32, u32, bool)>,
    /// Packets and bytes.
    pub counter: Option<(u64, u64)>,
}

/// Family in natwatch's words, table, chain.
pub type ChainName = (String, String, String);

/// Source-NAT rules of each chain that has any, in order.
pub type Rules = BTreeMap<ChainName, Vec<SourceNat>>;

/// Loads a rule set with `nft -f -`, `iptables-nft-restore` or the like.
#[track_caller]
pub fn load(ns: &Netns, argv: &[&str], input: &str) {
    let output = try_load(ns, argv, input);
    checked(&format!("{argv:?} in {}: {}", ns.name(), head(input)), output);
}

/// The same, whether it succeeds or not.
pub fn try_load(ns: &Netns, argv: &[&str], input: &str) -> std::process::Output {
    require(argv[0]);
    let mut command: Command = ns.command(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{argv:?}: {e}"));
    // A program that fails early closes its end of the pipe; its status is what counts.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().unwrap_or_else(|e| panic!("{argv:?}: {e}"))
}

fn head(text: &str) -> String {
    text.chars().take(4000).collect()
}

/// Loads a file in nft's language.
#[track_caller]
pub fn nft(ns: &Netns, text: &str) {
    load(ns, &["nft", "-f", "-"], text);
}

/// What the standard tools list of chains that a nat base chain on postrouting or input leads to.
#[track_caller]
pub fn expected(ns: &Netns) -> Rules {
    let text = ns.run(&["nft", "-j", "-a", "list", "ruleset"]);
    let json: Value = serde_json::from_str(&text).expect("nft prints JSON");
    let mut tables: BTreeMap<(String, String), Table> = BTreeMap::new();
    let mut dormant = BTreeSet::new();
    for entry in json["nftables"].as_array().expect("a list") {
        let (kind, object) = entry.as_object().and_then(|entry| entry.iter().next()).expect("an object");
        let family = text_of(&object["family"]);
        if kind == "table" && !object["flags"].is_null() {
            let name = text_of(&object["name"]);
            // Not all versions have the flags in their JSON.
            let listed = ns.run(&["nft", "list", "table", &family, &name]);
            if listed.lines().any(|line| line.trim() == "flags dormant") {
                dormant.insert((family, name));
            }
            continue;
        }
        let table = tables.entry((family, text_of(&object["table"]))).or_default();
        match kind.as_str() {
            "chain" => {
                let hook = (text_of(&object["type"]), text_of(&object["hook"]));
                let base = hook.0 == "nat" && ["postrouting", "input"].contains(&hook.1.as_str());
                table.chains.insert(text_of(&object["name"]), (base, Vec::new()));
            }
            "rule" => table.chains.get_mut(&text_of(&object["chain"])).expect("a chain").1.push(object.clone()),
            "map" | "set" => drop(table.maps.insert(text_of(&object["name"]), object.clone())),
            _ => {}
        }
    }
    tables.retain(|name, _| !dormant.contains(name));
    let mut rules = Rules::new();
    for ((family, name), table) in &tables {
        let programs = BTreeMap::from([("ip", "iptables-nft-save"), ("ip6", "ip6tables-nft-save")]);
        let family_name = BTreeMap::from([("ip", "ipv4"), ("ip6", "ipv6"), ("inet", "inet")]);
        let Some(family_name) = family_name.get(family.as_str()) else { continue };
        let chains = if table.of_xtables() {
            assert_eq!(name, "nat", "only iptables-nft makes such rules");
            saved(&ns.run(&[programs[family.as_str()], "-c", "-t", "nat"]))
        } else {
            table.source_nat()
        };
        for (chain, found) in chains.into_iter().filter(|(_, found)| !found.is_empty()) {
            rules.insert((family_name.to_string(), name.clone(), chain), found);
        }
    }
    rules
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A table as `nft -j` lists it.
#[derive(Debug, Default)]
struct Table {
    /// Whether it is a nat base chain on postrouting or input, and its rules.
    chains: BTreeMap<String, (bool, Vec<Value>)>,
    maps: BTreeMap<String, Value>,
}

impl Table {
    fn of_xtables(&self) -> bool {
        let mut rules = self.chains.values().flat_map(|(_, rules)| rules);
        rules.any(|rule| expressions(rule).iter().any(|expression| !expression["xt"].is_null()))
    }

    fn source_nat(&self) -> BTreeMap<String, Vec<SourceNat>> {
        let bases = self.chains.iter().filter(|(_, (base, _))| *base).map(|(name, _)| name.clone());
        let reached = reach(bases.collect(), |chain| {
            let mut targets = Vec::new();
            for rule in self.chains.get(chain).map_or(&[][..], |(_, rules)| rules) {
                self.targets(&rule["expr"], &mut targets);
            }
            targets
        });
        let of = |chain: &String| {
            let rules = self.chains[chain].1.iter().enumerate();
            rules.filter_map(|(at, rule)| native(at as u64 + 1, expressions(rule))).collect()
        };
        reached.into_iter().map(|chain| (chain.clone(), of(&chain))).collect()
    }

    /// Chains that this expression leads to.
    fn targets(&self, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| self.targets(value, found)),
            Value::Object(object) => {
                for (key, value) in object {
                    match key.as_str() {
                        "jump" | "goto" => found.push(text_of(&value["target"])),
                        "vmap" => {
                            self.targets(value, found);
                            if let Some(name) = value["data"].as_str().and_then(|name| name.strip_prefix('@')) {
                                self.targets(&self.maps[name]["elem"], found);
                            }
                        }
                        _ => self.targets(value, found),
                    }
                }
            }
            _ => {}
        }
    }
}

/// All chains that can be reached from these, themselves included.
fn reach(from: Vec<String>, next: impl Fn(&str) -> Vec<String>) -> BTreeSet<String> {
    let (mut open, mut seen) = (from, BTreeSet::new());
    while let Some(chain) = open.pop() {
        if seen.insert(chain.clone()) {
            open.extend(next(&chain));
        }
    }
    seen
}

fn expressions(rule: &Value) -> &[Value] {
    rule["expr"].as_array().map_or(&[], Vec::as_slice)
}

/// A rule of nft, if it translates sources.
fn native(position: u64, expressions: &[Value]) -> Option<SourceNat> {
    let named = |name: &str| expressions.iter().find_map(|expression| expression.get(name));
    let (action, nat) = match (named("masquerade"), named("snat")) {
        (Some(nat), _) => ("masquerade", nat),
        (None, Some(nat)) => ("snat", nat),
        (None, None) => return None,
    };
    let flags: Vec<&str> = match &nat["flags"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    };
    let ports = match (&nat["port"], nat["port"]["range"].as_array()) {
        (Value::Number(port), _) => Some(format!("{port}-{port}")),
        (_, Some(range)) => Some(format!("{}-{}", range[0], range[1])),
        _ => None,
    };
    // A named counter is not the rule's own; of several counters the last one counts what is translated.
    let mut counters = expressions.iter().rev().filter_map(|expression| expression.get("counter"));
    let counter = counters.find(|counter| !counter["packets"].is_null());
    Some(SourceNat {
        backend: "nftables".into(),
        position,
        action: if flags.contains(&"netmap") { "netmap" } else { action }.into(),
        randomization: match (flags.contains(&"fully-random"), flags.contains(&"random")) {
            (true, _) => "random_fully",
            (_, true) => "random",
            _ => "none",
        }
        .into(),
        to_ports: ports,
        marks: expressions.iter().filter_map(native_mark).collect(),
        counter: counter.map(|counter| (number(&counter["packets"]), number(&counter["bytes"]))),
    })
}

/// nft prints 64-bit numbers as signed ones.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)).unwrap_or_else(|| panic!("no number: {value}"))
}

/// `meta mark VALUE`, `meta mark & MASK == VALUE`, and their negations.
fn native_mark(expression: &Value) -> Option<(u32, u32, bool)> {
    let test = expression.get("match")?;
    let word = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    let value = word(&test["right"])?;
    let is_mark = |value: &Value| value["meta"]["key"] == "mark";
    let operation = |sign: &str| is_mark(&test["left"][sign][0]).then(|| word(&test["left"][sign][1])).flatten();
    let (value, mask) = match (operation("&"), operation("|"), operation("^")) {
        (Some(mask), ..) => (value, mask),
        (_, Some(ones), _) => (value & !ones, !ones),
        (_, _, Some(turned)) => (value ^ turned, u32::MAX),
        _ if is_mark(&test["left"]) => (value, u32::MAX),
        _ => return None,
    };
    match test["op"].as_str()? {
        "==" => Some((value, mask, false)),
        "!=" => Some((value, mask, true)),
        _ => None,
    }
}

/// Parses the output of `iptables-save -c -t nat`.
pub fn saved(text: &str) -> BTreeMap<String, Vec<SourceNat>> {
    assert!(!text.contains("incompatible"), "{text}");
    let mut chains: BTreeMap<String, Vec<Saved>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('[')) {
        let (counts, rule) = line[1..].split_once("] -A ").unwrap_or_else(|| panic!("no rule: {line}"));
        let (packets, bytes) = counts.split_once(':').expect("two counts");
        let counter = (packets.parse().expect("packets"), bytes.parse().expect("bytes"));
        let mut words = words(rule);
        let chain = words.remove(0);
        let rules = chains.entry(chain).or_default();
        rules.push(Saved::parse(rules.len() as u64 + 1, counter, &words));
    }
    let reached = reach(vec!["POSTROUTING".into(), "INPUT".into()], |chain| {
        let rules = chains.get(chain).map_or(&[][..], Vec::as_slice);
        rules.iter().map(|rule| rule.target.clone()).filter(|target| chains.contains_key(target)).collect()
    });
    chains.retain(|chain, _| reached.contains(chain));
    chains.into_iter().map(|(chain, rules)| (chain, rules.into_iter().filter_map(|rule| rule.nat).collect())).collect()
}

/// A rule of `iptables-save`.
struct Saved {
    target: String,
    nat: Option<SourceNat>,
}

impl Saved {
    fn parse(position: u64, counter: (u64, u64), words: &[String]) -> Self {
        let (mut target, mut marks, mut to_ports) = (String::new(), Vec::new(), None);
        let (mut random, mut fully, mut matching, mut inverted) = (false, false, String::new(), false);
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let mut value = || rest.next().expect("a value").to_owned();
            match word {
                "!" => {
                    inverted = true;
                    continue;
                }
                "--comment" => drop(value()),
                "-m" => matching = value(),
                "-j" | "-g" => target = value(),
                "--mark" if matching == "mark" => {
                    let text = value();
                    let (value, mask) = text.split_once('/').unwrap_or((&text, "0xffffffff"));
                    marks.push((hexadecimal(value), hexadecimal(mask), inverted));
                }
                "--random" => random = true,
                "--random-fully" => fully = true,
                "--to-ports" => to_ports = Some(range(&value())),
                "--to-source" => {
                    let text = value();
                    let ports = match text.split_once("]:") {
                        Some((_, ports)) => Some(ports),
                        None if text.contains('.') => text.split_once(':').map(|(_, ports)| ports),
                        None => None,
                    };
                    to_ports = ports.map(range);
                }
                _ => {}
            }
            inverted = false;
        }
        let action = match target.as_str() {
            "MASQUERADE" => Some("masquerade"),
            "SNAT" => Some("snat"),
            "NETMAP" => Some("netmap"),
            _ => None,
        };
        let nat = action.map(|action| SourceNat {
            backend: "iptables_nft".into(),
            position,
            action: action.into(),
            randomization: if fully { "random_fully" } else { ["none", "random"][usize::from(random)] }.into(),
            to_ports,
            marks,
            counter: Some(counter),
        });
        Self { target, nat }
    }
}

fn range(text: &str) -> String {
    if text.contains('-') { text.to_owned() } else { format!("{text}-{text}") }
}

/// `0x1f`
fn hexadecimal(text: &str) -> u32 {
    let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("not hexadecimal: {text}"));
    u32::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The words of a line; `"a \"b\""` is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => (quoted, begun) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Rules that `iptables-legacy-save` and `ip6tables-legacy-save` list, of existing tables only: listing others creates
/// them.
#[track_caller]
pub fn expected_legacy(ns: &Netns) -> Rules {
    let mut rules = Rules::new();
    for (family, program, names) in
        [("ipv4", "iptables-legacy-save", "ip_tables_names"), ("ipv6", "ip6tables-legacy-save", "ip6_tables_names")]
    {
        if !ns.proc_net(names).lines().any(|name| name == "nat") {
            continue;
        }
        let chains = saved(&ns.run(&[program, "-c", "-t", "nat"]));
        for (chain, mut found) in chains.into_iter().filter(|(_, found)| !found.is_empty()) {
            found.iter_mut().for_each(|rule| rule.backend = "legacy".into());
            rules.insert((family.to_owned(), "nat".to_owned(), chain), found);
        }
    }
    rules
}

/// The rules of nf_tables in natwatch's report; None where it says null.
#[track_caller]
pub fn reported(report: &Report) -> Option<Rules> {
    reported_of(report, false)
}

/// The same of legacy tables, or of nf_tables.
#[track_caller]
pub fn reported_of(report: &Report, legacy: bool) -> Option<Rules> {
    let list = report.json["source_nat_rules"].as_array()?;
    let mut rules = Rules::new();
    let mut last = None;
    for rule in list.iter().filter(|rule| (rule["backend"] == "legacy") == legacy) {
        let chain = (text_of(&rule["family"]), text_of(&rule["table"]), text_of(&rule["chain"]));
        assert!(last.as_ref() == Some(&chain) || !rules.contains_key(&chain), "{chain:?} in two places: {list:?}");
        last = Some(chain.clone());
        let marks = rule["mark"].as_array().expect("a list of mark tests").iter().map(|mark| {
            let hex = |key: &str| hexadecimal(mark[key].as_str().expect("text"));
            (hex("value"), hex("mask"), mark["inverted"].as_bool().expect("a truth"))
        });
        let counter = rule["packets"].as_u64().zip(rule["bytes"].as_u64());
        assert!(counter.is_some() || (rule["packets"].is_null() && rule["bytes"].is_null()), "{rule}");
        rules.entry(chain).or_default().push(SourceNat {
            backend: text_of(&rule["backend"]),
            position: number(&rule["position"]),
            action: text_of(&rule["action"]),
            randomization: text_of(&rule["port_randomization"]),
            to_ports: rule["to_ports"].as_str().map(str::to_owned),
            marks: marks.collect(),
            counter,
        });
    }
    Some(rules)
}

/// Asserts that natwatch reports exactly the rules that the standard tools list; returns its report.
#[track_caller]
pub fn assert_rules(ns: &Netns) -> Report {
    let wanted = expected(ns);
    let legacy = expected_legacy(ns);
    let report = check_here(ns, &[]);
    assert_same(&wanted, &report);
    assert_same_legacy(&legacy, &report);
    report
}

/// Asserts that the report has exactly these rules of legacy tables.
#[track_caller]
pub fn assert_same_legacy(wanted: &Rules, report: &Report) {
    for source in ["xtables_ipv4", "xtables_ipv6"] {
        assert_eq!(report.source(source), Some(("ok", "")), "{source}");
    }
    let found = reported_of(report, true).unwrap_or_else(|| panic!("no rules were read: {}", report.json));
    assert_list(wanted, &found);
}

/// Asserts that the report has exactly these rules.
#[track_caller]
pub fn assert_same(wanted: &Rules, report: &Report) {
    let source = report.source("nftables");
    let found = reported(report).unwrap_or_else(|| panic!("no rules were read: {source:?}"));
    assert_eq!(source, Some(("ok", "")));
    assert_list(wanted, &found);
}

#[track_caller]
fn assert_list(wanted: &Rules, found: &Rules) {
    for (chain, wanted) in wanted {
        let none = Vec::new();
        let found = found.get(chain).unwrap_or(&none);
        for (wanted, found) in wanted.iter().zip(found) {
            assert_eq!(wanted, found, "the standard tools and natwatch on a rule of {chain:?}");
        }
        assert_eq!(wanted.len(), found.len(), "{chain:?}: {wanted:?} and {found:?}");
    }
    let surplus: Vec<_> = found.keys().filter(|chain| !wanted.contains_key(*chain)).collect();
    assert!(surplus.is_empty(), "the standard tools list no such rules, or nothing leads to them: {surplus:?}");
}

/// Owners of the rules of nf_tables by chain, in order.
pub fn owners(report: &Report) -> BTreeMap<ChainName, Vec<String>> {
    let mut owners: BTreeMap<ChainName, Vec<String>> = BTreeMap::new();
    for rule in report.json["source_nat_rules"].as_array().expect("rules") {
        let chain = (text_of(&rule["family"]), text_of(&rule["table"]), text_of(&rule["chain"]));
        owners.entry(chain).or_default().push(text_of(&rule["owner"]));
    }
    owners
}

/// Asserts that the series count the report's rules by kind and add up their counters.
#[track_caller]
pub fn assert_series(report: &Report, metrics: &Exposition) {
    const LABELS: [&str; 5] = ["backend", "family", "owner", "action", "port_randomization"];
    let mut kinds: BTreeMap<Vec<String>, [u64; 4]> = BTreeMap::new();
    for rule in report.json["source_nat_rules"].as_array().expect("rules") {
        let kind = kinds.entry(LABELS.map(|label| text_of(&rule[label])).into()).or_default();
        kind[0] += 1;
        kind[1] += u64::from(rule["packets"].is_null());
        kind[2] = kind[2].saturating_add(rule["packets"].as_u64().unwrap_or_default());
        kind[3] = kind[3].saturating_add(rule["bytes"].as_u64().unwrap_or_default());
    }
    let mut omitted = 0;
    for (kind, [rules, uncounted, packets, bytes]) in &kinds {
        let labels: Vec<(&str, &str)> = LABELS.into_iter().zip(kind.iter().map(String::as_str)).collect();
        let get = |name: &str| metrics.get(&format!("natwatch_source_nat_{name}"), &labels);
        let counted = (rules > uncounted).then_some((*packets as f64, *bytes as f64));
        if get("rules").is_none() {
            omitted += if counted.is_some() { 4 } else { 2 };
            continue;
        }
        assert_eq!(get("rules"), Some(*rules as f64), "{labels:?}");
        assert_eq!(get("rules_uncounted"), Some(*uncounted as f64), "{labels:?}");
        let found = get("rule_packets_total").zip(get("rule_bytes_total"));
        assert_eq!(found, counted, "{labels:?}");
    }
    assert_eq!(metrics.get("natwatch_series_omitted", &[]), Some(f64::from(omitted)), "{kinds:?}");
    assert!(omitted == 0 || kinds.len() > 16, "{kinds:?}");
}
