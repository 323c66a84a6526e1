//! The report as a single HTML page without scripts and external resources. Links are relative, so it works below any
//! prefix of a proxy; as a file it works without the other endpoints.

mod facts;
mod verdicts;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::facts::Facts;
use crate::judge::Report;

use super::{left_out, missing_privilege, printable};

/// Contents of the style element of every page, whose hash the Content-Security-Policy allows.
pub(crate) const STYLE: &str = include_str!("html/page.css");

/// Number of slashes in a path that count for the relative link to the root; browsers stop at the root anyway.
const MAX_DEPTH: usize = 64;
/// Number of characters of a path that are shown.
const MAX_PATH: usize = 200;

/// A page that is served, with links to the other endpoints; `telemetry_path` is that of the metrics. Shows the
/// report's age at `now`.
pub(crate) fn render(report: &Report, facts: &Facts, telemetry_path: &str, now: Timestamp) -> String {
    report_page(report, facts, Some(telemetry_path), Some(now))
}

/// A page that is saved as a file, without links to endpoints.
pub(crate) fn file(report: &Report, facts: &Facts) -> String {
    report_page(report, facts, None, None)
}

/// The endpoints and what they are for.
pub(crate) fn places(telemetry_path: &str) -> [(&str, &'static str); 6] {
    [
        ("/", "the report of this node"),
        (telemetry_path, "its metrics, for Prometheus"),
        ("/report.json", "the report as JSON"),
        ("/runbooks/", "what to do about its alerts"),
        ("/-/healthy", "whether natwatch runs"),
        ("/-/ready", "whether natwatch has looked at the node"),
    ]
}

/// The page for an unknown path: says so and lists the endpoints. `path` is the requested one, as received.
pub(crate) fn not_found(path: &str, telemetry_path: &str) -> String {
    // A proxy may have removed a prefix, so the way to the root follows from the depth.
    let depth = path.matches('/').count().saturating_sub(1).min(MAX_DEPTH);
    let root = if depth == 0 { "./".to_owned() } else { "../".repeat(depth) };
    let shown: String = path.chars().take(MAX_PATH).collect();
    let cut = if shown.len() < path.len() { "…" } else { "" };
    let body = html! {
        h1 { "natwatch: there is nothing here" }
        p { "No page is called " code { (shown) (cut) } ". There are:" }
        ul {
            @for (place, what) in places(telemetry_path) {
                li { a href={ (root) (place.trim_start_matches('/')) } { (place) } ": " (what) }
            }
        }
    };
    page("natwatch: there is nothing here", body)
}

/// Escapes untrusted text: maud escapes HTML, and unprintable characters are shown as `\xNN`.
fn page(title: &str, body: Markup) -> String {
    document(title, PreEscaped(printable(&body.into_string())))
}

/// The HTML document around a body.
pub(super) fn document(title: &str, body: Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (printable(title)) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
    .into_string()
}

fn report_page(report: &Report, facts: &Facts, telemetry_path: Option<&str>, now: Option<Timestamp>) -> String {
    let verdict = super::verdict(report);
    let release = facts.kernel.ok().map_or("of unknown release", |kernel| &kernel.release);
    let body = html! {
        h1 {
            "natwatch: " span class=(verdicts::tone_of_verdict(report)) { (verdict) }
            @if let Some(count) = left_out(report) { " (" (count) ")" }
        }
        p {
            (facts.hostname) ", kernel " (release) ", read at " time { (facts.captured_at) }
            @if let Some(age) = now.and_then(|now| age(&facts.captured_at, now)) { ", " (age) " ago when this page was made" }
        }
        @if let Some(telemetry_path) = telemetry_path { (links(telemetry_path)) }
        (verdicts::index(report))
        @if let Some(hint) = missing_privilege(report, facts) { p { (hint) } }
        @if let Some(why) = &report.probe_refused { p { "Note: " (why) "." } }
        (verdicts::all(report))
        (facts::all(report, facts))
        section { p { "natwatch " (env!("CARGO_PKG_VERSION")) } }
    };
    page(&format!("natwatch: {verdict} ({})", facts.hostname), body)
}

/// Links to the endpoints, relative to the page.
fn links(telemetry_path: &str) -> Markup {
    html! {
        p {
            a href="./" { "Refresh" } " · "
            a href={ "." (telemetry_path) } { "Metrics" } " · "
            a href="./report.json" { "This report as JSON" } " · "
            a href="./runbooks/" { "Runbooks" }
        }
    }
}

/// "12 s", "3 min"; `None` if `now` is before the reading.
fn age(captured_at: &str, now: Timestamp) -> Option<String> {
    let seconds = now.as_second().checked_sub(captured_at.parse::<Timestamp>().ok()?.as_second())?;
    match seconds {
        ..0 => None,
        0..120 => Some(format!("{seconds} s")),
        120..7200 => Some(format!("{} min", seconds / 60)),
        7200..172_800 => Some(format!("{} h", seconds / 3600)),
        _ => Some(format!("{} days", seconds / 86_400)),
    }
}

/// A table that small screens show as cards. The first column names the row.
fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Markup {
    html! {
        div class="wide" {
            table {
                thead { tr { @for head in heads { th { (head) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (at, (head, cell)) in heads.iter().zip(row).enumerate() {
                                @if at == 0 { th scope="row" { (cell) } } @else { td data-label=(head) { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
