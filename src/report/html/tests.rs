//! The page: its contents, their order, links, and legibility.

use super::super::tests::{ordinary, report_with};
use super::*;
use crate::advisory::{Severity, State};
use crate::judge::RemedyFinding;

/// A node with an advisory of each kind.
fn sick() -> (Report, Facts) {
    let node = ordinary();
    let mut report = report_with(
        &node,
        &[
            ("conntrack-table-full", Severity::Critical, State::Exposed),
            ("conntrack-chain-limit", Severity::Warning, State::Exposed),
            ("snat-port-race", Severity::Info, State::Exposed),
            ("dns-conntrack-race", Severity::Warning, State::Unknown),
            ("tcp-invalid-reset", Severity::Warning, State::Mitigated),
        ],
    );
    let command = Some("sysctl -w a=1\nsysctl -w b=2".to_owned());
    let remedy = RemedyFinding { text: "Raise it".into(), command, survives_reboot: false };
    for finding in report.advisories.iter_mut().filter(|finding| finding.state == State::Exposed) {
        finding.remedies = vec![remedy.clone()];
    }
    (report, node)
}

fn pages() -> [String; 3] {
    let (report, node) = sick();
    [render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH), file(&report, &node), not_found("/nothing", "/metrics")]
}

/// The values of an attribute, in order.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[track_caller]
fn assert_in_order(page: &str, parts: &[&str]) {
    let mut from = 0;
    for part in parts {
        let at = page[from..].find(part).unwrap_or_else(|| panic!("{part:?} is not there, or too early:\n{page}"));
        from += at + part.len();
    }
}

#[test]
fn a_policy_that_allows_nothing_but_the_style_sheet_is_enough() {
    for page in pages() {
        assert_eq!(page.matches(&format!("<style>{STYLE}</style>")).count(), 1);
        let page = page.replace(STYLE, "").to_lowercase();
        for word in ["<style ", " style=", "<script", "<link", "<img", "<iframe", "http-equiv", " onclick=", " src="] {
            assert!(!page.contains(word), "{word}: {page}");
        }
    }
    for word in ["@import", "url(", "<", "\r"] {
        assert!(!STYLE.contains(word), "{word}");
    }
}

#[test]
fn what_to_do_stands_under_what_is_wrong_and_the_index_above() {
    let (report, node) = sick();
    assert_in_order(
        &render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH),
        &[
            "<h1>natwatch: <span class=\"critical\">exposed</span></h1>",
            "<nav ",
            "<dt class=\"critical\">Exposed, critical (1)</dt><dd><a href=\"#conntrack-table-full\">",
            "<dt class=\"warning\">Exposed, warning (1)</dt><dd><a href=\"#conntrack-chain-limit\">",
            "<dt class=\"unknown\">Unknown (1)</dt><dd><a href=\"#dns-conntrack-race\">",
            "<dt class=\"info\">For information (1)</dt><dd><a href=\"#snat-port-race\">",
            "<dt class=\"mitigated\"><a href=\"#not-exposed-now\">Not exposed now (1)</a></dt><dd><a href=\"#tcp-invalid-reset\">",
            "<dt class=\"not_affected\"><a href=\"#not-affected\">Not affected (9)</a></dt>",
            "</nav>",
            "<section id=\"conntrack-table-full\" class=\"finding critical\"><h2>Exposed: conntrack-table-full (critical)</h2><p>",
            "</p><h3>What to do</h3><ul><li>Until the next reboot: Raise it<pre><code>sysctl -w a=1</code><code>sysctl -w b=2</code></pre>",
            "<h3>Why</h3>",
            "<section id=\"conntrack-chain-limit\" class=\"finding warning\">",
            "<section class=\"finding unknown\"><h2>Unknown: ",
            "<section id=\"snat-port-race\" class=\"finding info\"><h2>For information, not counted: snat-port-race (info)</h2>",
            "<h2>Not exposed now</h2>",
            "<h2>Not affected</h2>",
            "<h2>Source NAT</h2>",
        ],
    );
}

#[test]
fn the_index_leads_to_every_advisory() {
    let (report, node) = sick();
    let page = render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH);
    let leads: Vec<&str> = attributes(&page, "href").into_iter().filter_map(|link| link.strip_prefix('#')).collect();
    let (mut ids, groups) = (attributes(&page, "id"), 2);
    ids.sort();
    ids.dedup();
    for found in [&leads, &ids] {
        assert_eq!(found.len(), report.advisories.len() + groups, "none twice: {found:?}");
    }
    assert!(leads.iter().all(|lead| ids.contains(lead)), "{leads:?} {ids:?}");
    for finding in &report.advisories {
        assert!(leads.contains(&&*finding.id), "{}: {page}", finding.id);
    }
}

/// A condition that holds is a problem, whether it is an ingredient or the lack of a safeguard.
#[test]
fn conditions_are_shown_without_their_kind_and_states_in_words_for_people() {
    let (report, node) = sick();
    let page = render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH).replace(STYLE, "");
    assert!(page.contains("<th scope=\"row\">nearly_full</th><td data-label=\"state\">"), "{page}");
    assert!(!page.contains("<th>kind</th><th>state</th>") && !page.contains(">safeguard<"), "{page}");
    assert!(!page.replace("class=\"mitigated\"", "").contains("mitigated"), "{page}");
}

#[test]
fn a_good_headline_claims_nothing_of_what_is_not_counted() {
    let node = ordinary();
    let headline = |states: &[(&str, Severity, State)]| {
        let page = render(&report_with(&node, states), &node, "/metrics", Timestamp::UNIX_EPOCH);
        page.split("</h1>").next().unwrap().rsplit("<h1>").next().unwrap().to_owned()
    };
    let info = headline(&[("snat-port-race", Severity::Info, State::Exposed)]);
    assert_eq!(info, "natwatch: <span class=\"not_affected\">nothing exposed of at least warning</span>");
    assert_eq!(headline(&[]), "natwatch: <span class=\"not_affected\">nothing exposed</span>");
    let warning = headline(&[("snat-port-race", Severity::Warning, State::Exposed)]);
    assert_eq!(warning, "natwatch: <span class=\"warning\">exposed</span>");
}

#[test]
fn links_work_under_any_prefix_and_a_file_has_none_to_endpoints() {
    let (report, node) = sick();
    let own = |page: &str| -> Vec<String> {
        let links = attributes(page, "href").into_iter().filter(|link| !link.starts_with('#'));
        links.filter(|link| !link.starts_with("https://")).map(str::to_owned).collect()
    };
    assert_eq!(
        own(&render(&report, &node, "/a/metrics", Timestamp::UNIX_EPOCH)),
        ["./", "./a/metrics", "./report.json", "./runbooks/"]
    );
    assert_eq!(own(&file(&report, &node)), Vec::<String>::new());
}

#[test]
fn a_page_that_is_not_there_leads_back_from_any_depth() {
    for (path, root) in
        [("/x", "./"), ("/", "./"), ("", "./"), ("/x/", "../"), ("/x/y", "../"), ("/x//y/z", "../../../")]
    {
        let page = not_found(path, "/a/metrics");
        let expected =
            ["", "a/metrics", "report.json", "runbooks/", "-/healthy", "-/ready"].map(|place| format!("{root}{place}"));
        assert_eq!(attributes(&page, "href"), expected, "{path}");
    }
    let page = not_found("/<b>\u{1b}\"&", "/metrics");
    assert!(page.contains("<code>/&lt;b&gt;\\x1b&quot;&amp;</code>"), "{page}");
    let long = not_found(&"/é".repeat(100_000), "/metrics");
    assert!(long.len() < 8000 && long.contains("é…</code>"), "{} bytes", long.len());
}

#[test]
fn the_age_is_told_where_it_is_known() {
    let (report, mut node) = sick();
    node.captured_at = "2026-01-01T00:00:00Z".into();
    let at = |now: &str| render(&report, &node, "/metrics", now.parse().unwrap());
    for (now, age) in [
        ("2026-01-01T00:00:00.9Z", "0 s"),
        ("2026-01-01T00:01:59Z", "119 s"),
        ("2026-01-01T00:02:00Z", "2 min"),
        ("2026-01-01T02:00:00Z", "2 h"),
        ("2026-01-03T00:00:00Z", "2 days"),
    ] {
        let page = at(now);
        assert!(
            page.contains(&format!("read at <time>2026-01-01T00:00:00Z</time>, {age} ago when this page was made<")),
            "{page}"
        );
    }
    assert!(!at("2025-01-01T00:00:00Z").contains(" ago "), "the clock was set back");
    assert!(!file(&report, &node).contains(" ago "), "a file does not know when it is read");
    node.captured_at = "yesterday".into();
    assert!(!render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH).contains(" ago "));
}

#[test]
fn nothing_that_others_named_is_markup_or_hidden() {
    let (mut report, mut node) = sick();
    let evil = "<i>\"&\n\u{1b}[2J\u{9b}\u{202e}";
    let shown = "&lt;i&gt;&quot;&amp;\\x0a\\x1b[2J\\xc2\\x9b\\xe2\\x80\\xae";
    node.hostname = evil.into();
    for finding in &mut report.advisories {
        finding.summary = evil.into();
        for condition in &mut finding.conditions {
            condition.detail = evil.into();
        }
    }
    let page = render(&report, &node, "/metrics", Timestamp::UNIX_EPOCH).replace(STYLE, "");
    assert!(page.contains(&format!("<title>natwatch: exposed ({shown})</title>")), "{page}");
    assert!(page.contains(&format!("<td data-label=\"decided by\">{shown}</td>")), "{page}");
    assert!(!page.contains("<i>") && !page.chars().any(char::is_control) && !page.contains('\u{202e}'), "{page}");
}

/// Colours of the style sheet by name, of the light scheme or of the dark one.
fn colours(dark: bool) -> impl Fn(&str) -> [f64; 3] {
    let blocks: Vec<&str> = STYLE.split(":root{").skip(1).map(|block| block.split('}').next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    let block = blocks[usize::from(dark)];
    move |name| {
        let value = block.split(&format!("--{name}:#")).nth(1).unwrap_or_else(|| panic!("no {name}"));
        let digits: String = value.chars().take_while(char::is_ascii_hexdigit).collect();
        let digits = if digits.len() == 3 { digits.chars().flat_map(|digit| [digit, digit]).collect() } else { digits };
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&digits[at..at + 2], 16).unwrap()) / 255.0)
    }
}

/// Relative luminance, as WCAG 2 defines it.
fn luminance(colour: [f64; 3]) -> f64 {
    let [r, g, b] = colour.map(|c| if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

#[test]
fn every_colour_can_be_read_in_both_schemes() {
    for dark in [false, true] {
        let colour = colours(dark);
        for text in ["text", "dim", "link", "critical", "warning", "info", "unknown", "good"] {
            for ground in ["ground", "box"] {
                let (a, b) = (luminance(colour(text)), luminance(colour(ground)));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 4.5, "{text} on {ground}, dark {dark}: {contrast:.2}");
            }
        }
    }
    assert_eq!(STYLE.matches('#').count(), 22, "a colour outside the two lists");
}
