//! Documents match the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use natwatch::inside::advisory::Catalogue;
use natwatch::inside::capture::{Ask, NetlinkFamily, NetlinkRequest, Replay, Request, RequestKind, Take};
use natwatch::inside::facts::{Collector, Reading, Source};
use natwatch::inside::metrics::{METRICS, table};
use natwatch::inside::read::Known;
use natwatch::inside::report::markdown;
use serde_json::{Value, json};

use crate::support::capture::recorded_nodes;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn document(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// Replaced by a rename, as other tests read it at the same time.
fn put(name: &str, text: &str) {
    let written = path(&format!("{name}.new"));
    fs::write(&written, text).unwrap();
    fs::rename(&written, path(name)).unwrap();
}

/// Generated parts of documents are between two comments.
#[test]
fn derived_parts_are_up_to_date() {
    let catalogue = Catalogue::built_in();
    let parts = [
        ("README.md", "metrics", table()),
        ("README.md", "advisories", markdown::advisory_table(catalogue)),
        ("README.md", "series", markdown::series_budget(catalogue)),
        ("docs/runbooks/NatwatchExposed.md", "impact", markdown::impact_table(catalogue)),
    ];
    for (name, part, text) in parts {
        let document = document(name);
        let (begin, end) = (format!("<!-- {part}: written by `make golden` -->\n"), format!("<!-- end of {part} -->"));
        let (before, rest) = document.split_once(&begin).unwrap_or_else(|| panic!("{name} has no {begin}"));
        let (shown, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{name} has no {end}"));
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            put(name, &format!("{before}{begin}{text}{end}{after}"));
        } else {
            assert_eq!(shown, text, "{name}: run `make golden`");
        }
    }
}

/// Generated pages name their source.
#[test]
fn derived_pages_are_up_to_date() {
    let pages = [
        ("docs/advisories.md", markdown::advisories(Catalogue::built_in())),
        ("docs/metrics.md", markdown::metrics()),
        ("docs/owners.md", markdown::owners()),
    ];
    for (name, text) in pages {
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            put(name, &text);
        } else {
            assert_eq!(document(name), text, "{name}: run `make golden`");
        }
    }
}

/// A dashboard that maps a condition to words maps all of them, as the catalogue does.
#[test]
fn dashboards_tell_conditions_in_words() {
    fn tell(value: &mut Value, words: &Value) -> usize {
        match value {
            Value::Object(fields) => {
                let is_of_conditions = |options: &&mut Value| {
                    options.as_object().is_some_and(|options| options.keys().any(|name| words.get(name).is_some()))
                };
                match fields.get_mut("options").filter(is_of_conditions) {
                    Some(options) => {
                        options.clone_from(words);
                        1
                    }
                    None => fields.values_mut().map(|value| tell(value, words)).sum(),
                }
            }
            Value::Array(items) => items.iter_mut().map(|item| tell(item, words)).sum(),
            _ => 0,
        }
    }
    let mut words: Vec<(&str, &str)> = Vec::new();
    for condition in Catalogue::built_in().advisories.iter().flat_map(|advisory| &advisory.conditions) {
        let (id, own) = (condition.id.as_str(), condition.words.as_str());
        match words.iter().find(|(known, _)| *known == id) {
            Some((_, known)) => assert_eq!(*known, own, "{id} is told in two ways"),
            None => words.push((id, own)),
        }
    }
    let options =
        words.iter().enumerate().map(|(at, (id, text))| ((*id).to_owned(), json!({"index": at, "text": text})));
    let options = Value::Object(options.collect());
    for (name, panels) in [("dashboards/natwatch-fleet.json", 2), ("dashboards/natwatch-node.json", 1)] {
        let text = document(name);
        let mut dashboard: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(tell(&mut dashboard, &options), panels, "{name}");
        let derived = serde_json::to_string_pretty(&dashboard).unwrap() + "\n";
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            put(name, &derived);
        } else {
            assert!(text == derived, "{name}: run `make golden`");
        }
    }
}

/// jsonnet reads JSON.
#[test]
fn the_mixin_has_the_rules() {
    for name in ["natwatch", "natwatch-info"] {
        let rules: serde_json::Value =
            serde_saphyr::from_str(&document(&format!("deploy/prometheus/{name}.rules.yaml"))).unwrap();
        let text = serde_json::to_string_pretty(&rules).unwrap() + "\n";
        let copy = format!("mixin/{name}.rules.json");
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            put(&copy, &text);
        } else {
            assert_eq!(document(&copy), text, "{copy}: run `make golden`");
        }
    }
}

/// Every metric named in shipped files is in the table; every metric in the table is on a dashboard, in a rule, or, for
/// a reason, in the reference only.
#[test]
fn names_of_metrics_are_the_same_everywhere() {
    /// For ad-hoc queries, not for a panel or an alert.
    const REFERENCE_ONLY: &[&str] = &[
        "natwatch_advisory_condition",
        "natwatch_conntrack_invalid_total",
        "natwatch_conntrack_insert_total",
        "natwatch_conntrack_error_total",
        "natwatch_conntrack_search_restart_total",
        "natwatch_conntrack_expect_new_total",
        "natwatch_conntrack_expect_create_total",
        "natwatch_conntrack_expect_delete_total",
        "natwatch_conntrack_cpu_insert_failed_total",
        "natwatch_conntrack_cpu_drop_total",
        "natwatch_source_nat_rule_bytes_total",
        "natwatch_neighbour_entries",
        "natwatch_neighbour_entries_limit",
        "natwatch_http_connections",
        "natwatch_log_lines_dropped_total",
        "natwatch_web_config_last_reload_successful",
    ];
    let mut shipped = vec![(path("README.md"), document("README.md"))];
    let mut open = vec![path("docs"), path("dashboards"), path("deploy")];
    while let Some(entry) = open.pop() {
        if entry.is_dir() {
            open.extend(fs::read_dir(&entry).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&entry) {
            shipped.push((entry, text));
        }
    }
    let mut used = BTreeSet::new();
    for (file, text) in &shipped {
        // Recorded series have colons in their names.
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
        for word in words.filter(|word| word.starts_with("natwatch_") && !word.contains(':')) {
            let known = METRICS.iter().find(|metric| {
                metric.name == word || ["_bucket", "_sum"].iter().any(|end| word.strip_suffix(end) == Some(metric.name))
            });
            let family = METRICS.iter().any(|metric| metric.name.starts_with(word)) && word.ends_with('_');
            let known = known.map(|metric| metric.name);
            assert!(known.is_some() || family || NOT_METRICS.contains(&word), "{}: {word}", file.display());
            let shows = file.starts_with(path("dashboards")) || file.starts_with(path("deploy/prometheus"));
            used.extend(known.filter(|_| shows));
        }
    }
    let own = METRICS.iter().map(|metric| metric.name).filter(|name| name.starts_with("natwatch_"));
    let unused: Vec<&str> = own.filter(|name| !used.contains(name)).collect();
    assert_eq!(unused, REFERENCE_ONLY, "on no dashboard and in no rule");
}

/// Words that begin like metrics and are none.
const NOT_METRICS: &[&str] = &["natwatch_version"];

#[test]
fn the_readme_shows_a_real_report() {
    let readme = document("README.md");
    let sample = readme.split("$ natwatch check\n").nth(1).unwrap().split("```").next().unwrap();
    let report = document("tests/golden/table-full.text");
    assert!(report.starts_with(sample), "the sample is not the beginning of tests/golden/table-full.text:\n{report}");
}

#[test]
fn the_platform_page_knows_every_source_and_every_request() {
    let platform = document("PLATFORM.md");
    for source in Source::ALL {
        assert!(platform.contains(&format!("| {source} |")) || platform.contains(&format!("{source},")), "{source}");
    }
    let listed = listed_files(&platform);
    let mut files = BTreeSet::new();
    // That one was recorded by a version that requested other files.
    for node in recorded_nodes().iter().filter(|node| !node.ends_with("one-cpu.txt")) {
        files.extend(natwatch::inside::capture::archive::load(node).unwrap().answers.into_keys());
    }
    let roots = [("procfs/", "/proc/"), ("sysfs/", "/sys/"), ("rootfs/", "/")];
    let paths = files.iter().filter_map(|file| {
        roots.iter().find_map(|(root, path)| Some(format!("{path}{}", file.strip_prefix(root)?.replace(".list", "/"))))
    });
    let paths: Vec<String> = paths.collect();
    assert!(paths.len() > 25, "{paths:?}");
    for path in paths {
        assert!(listed.iter().any(|pattern| is_of(pattern, &path)), "{path} is not in the table of files");
    }
}

/// The platform page's name of a request. `None`: it has none yet.
fn name_in_the_page(request: &NetlinkRequest) -> Option<&'static str> {
    const CTRL: u16 = 16;
    let command = request.body.first().copied();
    Some(match (request.family, request.kind.to_be_bytes()) {
        (NetlinkFamily::Route, _) => match request.kind {
            18 => "RTM_GETLINK",
            22 => "RTM_GETADDR",
            26 => "RTM_GETROUTE",
            30 => "RTM_GETNEIGH",
            34 => "RTM_GETRULE",
            38 => "RTM_GETQDISC",
            46 => "RTM_GETTFILTER",
            66 => "RTM_GETNEIGHTBL",
            82 => "RTM_GETNETCONF",
            _ => return None,
        },
        (NetlinkFamily::Netfilter, [1, 1]) => "IPCTNL_MSG_CT_GET",
        (NetlinkFamily::Netfilter, [1, 4]) => "IPCTNL_MSG_CT_GET_STATS_CPU",
        (NetlinkFamily::Netfilter, [6, 1]) => "IPSET_CMD_PROTOCOL",
        (NetlinkFamily::Netfilter, [6, 7]) => "_LIST",
        (NetlinkFamily::Netfilter, [6, 11]) => "_TEST",
        (NetlinkFamily::Netfilter, [6, 12]) => "_HEADER",
        (NetlinkFamily::Netfilter, [6, 15]) => "_GET_BYINDEX",
        (NetlinkFamily::Netfilter, [10, 1]) => "NFT_MSG_GETTABLE",
        (NetlinkFamily::Netfilter, [10, 4]) => "NFT_MSG_GETCHAIN",
        (NetlinkFamily::Netfilter, [10, 7]) => "NFT_MSG_GETRULE",
        (NetlinkFamily::Netfilter, [10, 10]) => "NFT_MSG_GETSET",
        (NetlinkFamily::Netfilter, [10, 13]) => "NFT_MSG_GETSETELEM",
        (NetlinkFamily::Netfilter, [10, 16]) => "NFT_MSG_GETGEN",
        (NetlinkFamily::Generic, _) if request.kind == CTRL => "CTRL_CMD_GETFAMILY",
        (NetlinkFamily::Generic, _) if command == Some(1) => "ETHTOOL_MSG_STRSET_GET",
        (NetlinkFamily::Generic, _) if command == Some(11) => "ETHTOOL_MSG_FEATURES_GET",
        (NetlinkFamily::Xfrm, [0, 0x23]) => "XFRM_MSG_GETSADINFO",
        (NetlinkFamily::Xfrm, [0, 0x25]) => "XFRM_MSG_GETSPDINFO",
        _ => return None,
    })
}

/// A recorded node that notes the netlink requests that it receives.
struct Noting<'a> {
    node: Replay<'a>,
    asked: Vec<NetlinkRequest>,
}

impl Ask for Noting<'_> {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        if let RequestKind::Netlink(netlink) = &request.kind {
            self.asked.push(netlink.clone());
        }
        self.node.ask(request, take)
    }
}

#[test]
fn the_platform_page_knows_every_netlink_request() {
    let platform = document("PLATFORM.md");
    let table = platform.split("## Netlink").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let collectors = Collector::ALL.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for node in recorded_nodes() {
        let capture = natwatch::inside::capture::archive::load(&node).unwrap();
        let mut noting = Noting { node: Replay::new(&capture), asked: Vec::new() };
        let _ = natwatch::inside::read::all(&mut noting, &collectors, &Known::default(), &mut |_| ());
        for request in noting.asked {
            let name = name_in_the_page(&request).unwrap_or_else(|| panic!("it has no name yet: {request:?}"));
            assert!(table.contains(&format!("`{name}`")), "{name} is not in the table of netlink requests");
            seen.insert(name);
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

/// The files that the platform page's table names, with `{a,b}` expanded.
fn listed_files(platform: &str) -> Vec<String> {
    let table = platform.split("## Files").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let mut open: Vec<String> = words.map(str::to_owned).collect();
    let mut listed = Vec::new();
    while let Some(word) = open.pop() {
        match word.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
            Some((before, (choices, after))) => {
                open.extend(choices.split(',').map(|choice| format!("{before}{choice}{after}")));
            }
            None => listed.push(word),
        }
    }
    listed
}

/// Whether the page's pattern covers a file: NAME is any name, a directory covers what is in it, and an entry without a
/// directory is in the directory of the row's first one.
fn is_of(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let fits = |(pattern, part): (&&str, &&str)| *pattern == "NAME" || pattern == part || pattern.is_empty();
    if pattern[0].is_empty() {
        return pattern.len() <= path.len() && pattern.iter().zip(&path).all(fits);
    }
    pattern.len() < path.len() && pattern.iter().rev().zip(path.iter().rev()).all(fits)
}

#[test]
fn every_help_text_names_where_it_is_from() {
    for metric in METRICS {
        let origin = metric.help.rsplit_once('(').map(|(_, origin)| origin);
        let named = origin.is_some() || metric.name == "natwatch_kernel_info" || metric.name == "natwatch_build_info";
        assert!(named, "{}: {}", metric.name, metric.help);
    }
}

#[test]
fn captured_nodes_stay_within_the_budget_of_series() {
    for entry in fs::read_dir(path("tests/golden")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "prometheus") {
            let text = fs::read_to_string(&entry).unwrap();
            let series = text.lines().filter(|line| line.starts_with("natwatch_")).count();
            // `serve` adds up to 18: its process, its connections, and the duration of each collector. Nodes called
            // nat-… have rules of every known owner.
            let many = entry.to_string_lossy().contains("/nat-") || text.contains("\nnatwatch_tunnel_info{");
            let most = if many { 190 } else { 140 } - 18;
            assert!((70..=most).contains(&series), "{}: {series} series", entry.display());
        }
    }
}

/// Paths in pages for contributors and operators, and in the heads of tests, exist.
#[test]
fn pages_point_to_what_exists() {
    const ROOTS: [&str; 9] =
        ["src/", "tests/", "docs/", "benches/", "deploy/", "dashboards/", "mixin/", "fuzz/", "target/"];
    let mut pages: Vec<String> =
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "PLATFORM.md", "README.md"].map(str::to_owned).into();
    let docs = fs::read_dir(path("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    pages.extend(docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")));
    let mut found = 0;
    for page in pages {
        let text = document(&page);
        // Links in Markdown are relative to the page.
        let beside = path(&page).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.contains("://") && !link.is_empty()) {
            assert!(beside.join(link).exists(), "{page}: {link}");
            found += 1;
        }
        for word in text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace) {
            let word = word.trim_end_matches(['/', ',', '.', ':']);
            let is_placeholder = |part: &str| {
                let stem = part.split('.').next().unwrap_or_default();
                stem != "README" && !stem.is_empty() && stem.chars().all(|c| c.is_ascii_uppercase())
            };
            let is_pattern = word.contains(['*', '{', '<', '$']) || word.split('/').any(is_placeholder);
            if ROOTS.iter().any(|root| word.starts_with(root)) && !word.starts_with("target/") && !is_pattern {
                assert!(path(word).exists() || path(&format!("{word}.rs")).exists(), "{page}: {word}");
                found += 1;
            }
        }
    }
    assert!(found > 150, "{found}");
}

#[test]
fn the_readme_names_every_collector() {
    for collector in Collector::ALL {
        assert!(document("README.md").contains(collector.name()), "{collector}");
    }
}

/// Each invariant names the test that checks it.
#[test]
fn there_are_ten_invariants_and_each_has_its_test() {
    let page = document("ARCHITECTURE.md");
    let rows = page.split("## Invariants").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let is_one = |row: &&str| row.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()));
    let rows: Vec<&str> = rows.lines().filter(is_one).collect();
    assert_eq!(rows.len(), 10, "{rows:#?}");
    for row in rows {
        let held = row.rsplit(" | ").next().unwrap();
        let mut directory = PathBuf::new();
        for word in held.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")) {
            let file = if word.contains('/') { path(word) } else { directory.join(word) };
            assert!(file.exists(), "{word} in {row}");
            directory = file.parent().unwrap().to_owned();
        }
    }
}
