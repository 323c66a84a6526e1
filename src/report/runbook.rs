//! The runbooks of docs/runbooks, embedded in the program, so that links in alerts always work.

use maud::{PreEscaped, html};

use super::html::document;

#[cfg(test)]
mod markdown;

/// The name of each, its Markdown, and that as HTML, sorted by name: what `build.rs` has made of the files.
static RUNBOOKS: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// Name of the page that lists the others.
pub const INDEX: &str = "README";

/// Names of all runbooks, sorted: those of their alerts, and [`INDEX`].
pub fn names() -> impl Iterator<Item = &'static str> {
    RUNBOOKS.iter().map(|(name, ..)| *name)
}

/// The Markdown source of a runbook; `None` if there is none of this name.
pub fn text(name: &str) -> Option<&'static str> {
    RUNBOOKS.iter().find(|(known, ..)| *known == name).map(|(_, text, _)| *text)
}

/// A runbook as HTML. Its links are relative, to be served at `runbooks/NAME` below the node's report.
pub fn page(name: &str) -> Option<String> {
    let (_, text, body) = RUNBOOKS.iter().find(|(known, ..)| *known == name)?;
    let title = text.lines().next()?.trim_start_matches(['#', ' ']);
    let body = html! {
        (PreEscaped(body))
        section { p { a href=(INDEX) { "Runbooks" } " · " a href="../" { "Report of this node" } } }
    };
    Some(document(&format!("natwatch: {title}"), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runbook_is_a_page_whose_links_lead_to_pages() {
        let names: Vec<&str> = names().collect();
        assert!(names.len() > 10 && names.contains(&INDEX) && names.contains(&"NatwatchExposed"), "{names:?}");
        for name in &names {
            let page = page(name).expect("a page");
            assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<h1>"), "{name}");
            assert_eq!(page.matches("<style>").count(), 1, "{name}");
            for link in page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default()) {
                assert!(link == "../" || names.contains(&link), "{name} links to {link}");
            }
            assert!(text(name).expect("a text").starts_with("# "), "{name}");
        }
        let index = page(INDEX).expect("a page");
        assert!(index.contains("<table>") && index.contains("href=\"NatwatchDown\""), "{index}");
        assert!(index.contains("natwatch.rules.yaml"), "the words of a link to elsewhere stay");
    }

    #[test]
    fn other_names_have_no_page() {
        for name in ["", "Natwatch", "NatwatchExposed.md", "../advisories", "./README", "/etc/passwd", "README/"] {
            assert_eq!((page(name), text(name)), (None, None), "{name}");
        }
    }

    #[test]
    fn what_is_no_markdown_is_escaped() {
        let text = "a <b onclick=\"x\">c</b> `<d>` [e](javascript:f) [g](NatwatchDown.md)\n\n<script>h()</script>\n";
        let shown = markdown::to_html(text, &["NatwatchDown".to_owned()]);
        for raw in ["<b", "<script", "<d>", "javascript:"] {
            assert!(!shown.contains(raw), "{raw}: {shown}");
        }
        assert!(shown.contains("&lt;script&gt;") && shown.contains("<a href=\"NatwatchDown\">g</a>"), "{shown}");
    }
}
