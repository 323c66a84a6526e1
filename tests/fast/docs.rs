//! The documents say what the program does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use natwatch::advisory::Catalogue;
use natwatch::facts::{Collector, Source};
use natwatch::metrics::{METRICS, table};
use natwatch::report::markdown;

use crate::support::capture::recorded_nodes;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn document(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// Parts of documents that are derived stand between two comments.
#[test]
fn derived_parts_are_up_to_date() {
    let catalogue = Catalogue::built_in();
    let parts = [
        ("README.md", "metrics", table()),
        ("README.md", "advisories", markdown::advisory_table(catalogue)),
        ("docs/runbooks/NatwatchExposed.md", "impact", markdown::impact_table(catalogue)),
    ];
    for (name, part, text) in parts {
        let document = document(name);
        let (begin, end) = (format!("<!-- {part}: written by `make golden` -->\n"), format!("<!-- end of {part} -->"));
        let (before, rest) = document.split_once(&begin).unwrap_or_else(|| panic!("{name} has no {begin}"));
        let (shown, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{name} has no {end}"));
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            // Renamed into place: other tests read it at the same time.
            let written = path(&format!("{name}.new"));
            fs::write(&written, format!("{before}{begin}{text}{end}{after}")).unwrap();
            fs::rename(&written, path(name)).unwrap();
        } else {
            assert_eq!(shown, text, "{name}: run `make golden`");
        }
    }
}

/// Derived pages say what they are derived from.
#[test]
fn derived_pages_are_up_to_date() {
    let pages = [
        ("docs/advisories.md", markdown::advisories(Catalogue::built_in())),
        ("docs/metrics.md", markdown::metrics()),
        ("docs/owners.md", markdown::owners()),
    ];
    for (name, text) in pages {
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            fs::write(path(name), &text).unwrap();
        } else {
            assert_eq!(document(name), text, "{name}: run `make golden`");
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
            fs::write(path(&copy), &text).unwrap();
        } else {
            assert_eq!(document(&copy), text, "{copy}: run `make golden`");
        }
    }
}

/// Every name of a metric in what is shipped is in the table; and every one in the table is on some dashboard, in some rule, or in
/// the reference alone for a reason.
#[test]
fn names_of_metrics_are_the_same_everywhere() {
    /// For a look by hand, not for a panel or an alert.
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
        // What recording rules define has colons in its name.
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
    // That one is of a version that asked for other files.
    for node in recorded_nodes().iter().filter(|node| !node.ends_with("one-cpu.txt")) {
        files.extend(natwatch::capture::archive::load(node).unwrap().answers.into_keys());
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

/// The files that the platform page's table of them names, `{a,b}` taken apart.
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

/// Whether a file is what the page lists: NAME is any name, a directory stands for what is in it, and what has no directory is in the
/// one that the row began with.
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
            // `serve` adds up to 18: its process, its connections, how long each collector took.
            // The nodes called nat-… have rules of everyone who writes some.
            let many = entry.to_string_lossy().contains("/nat-") || text.contains("\nnatwatch_tunnel_info{");
            let most = if many { 190 } else { 140 } - 18;
            assert!((70..=most).contains(&series), "{}: {series} series", entry.display());
        }
    }
}

#[test]
fn the_readme_counts_series_right() {
    let readme = document("README.md").replace('\n', " ");
    let (advisories, sources) = (Catalogue::built_in().advisories.len(), Source::ALL.len());
    for part in [format!("{advisories} advisories take {}, ", 2 * advisories), format!(", sources {sources}, ")] {
        assert!(readme.contains(&part), "{part}");
    }
}

#[test]
fn the_architecture_page_points_to_what_exists() {
    let page = document("ARCHITECTURE.md");
    for word in page.split('`').filter(|word| word.starts_with("src/") && !word.contains('*')) {
        assert!(path(word).exists() || path(&format!("{word}.rs")).exists(), "{word}");
    }
    for collector in Collector::ALL {
        assert!(document("README.md").contains(collector.name()), "{collector}");
    }
}
