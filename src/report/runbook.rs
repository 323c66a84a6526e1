//! The runbooks of docs/runbooks, which are part of the program: alerts link to where they are surely found.

use include_dir::{Dir, include_dir};
use maud::{PreEscaped, html};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};

use super::html::document;

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/docs/runbooks");

/// The name of the page that lists the others.
pub const INDEX: &str = "README";

/// The name of each runbook, in order: that of its alert, and [`INDEX`].
pub fn names() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<&str> = FILES.files().filter_map(|file| file.path().to_str()?.strip_suffix(".md")).collect();
    names.sort_unstable();
    names.into_iter()
}

/// A runbook as it was written, in Markdown; `None` if there is none of that name.
pub fn text(name: &str) -> Option<&'static str> {
    FILES.get_file(format!("{name}.md"))?.contents_utf8()
}

/// A runbook as a web page. Its links are relative: it is to be served at `runbooks/NAME` below the report of the node.
pub fn page(name: &str) -> Option<String> {
    let text = text(name)?;
    let title = text.lines().next()?.trim_start_matches(['#', ' ']);
    let mut body = String::new();
    pulldown_cmark::html::push_html(&mut body, events(text).into_iter());
    let body = html! {
        (PreEscaped(body))
        section { p { a href=(INDEX) { "Runbooks" } " · " a href="../" { "Report of this node" } } }
    };
    Some(document(&format!("natwatch: {title}"), body))
}

/// What the Markdown holds. HTML in it is text, and a link that leads to no runbook is only its words: the rest of the
/// repository is not served.
fn events(text: &str) -> Vec<Event<'_>> {
    let mut linked = Vec::new();
    let mut events = Vec::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(html) | Event::InlineHtml(html) => events.push(Event::Text(html)),
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let target = target(&dest_url);
                linked.push(target.is_some());
                events.extend(target.map(|dest_url| Event::Start(Tag::Link { link_type, dest_url, title, id })));
            }
            Event::End(TagEnd::Link) => {
                if linked.pop() == Some(true) {
                    events.push(Event::End(TagEnd::Link));
                }
            }
            event => events.push(event),
        }
    }
    events
}

/// Where a link of a runbook leads among the pages that are served.
fn target(url: &str) -> Option<CowStr<'static>> {
    let name = url.strip_suffix(".md")?;
    names().find(|known| *known == name).map(CowStr::from)
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
        let mut shown = String::new();
        let text = "a <b onclick=\"x\">c</b> `<d>` [e](javascript:f) [g](NatwatchDown.md)\n\n<script>h()</script>\n";
        pulldown_cmark::html::push_html(&mut shown, events(text).into_iter());
        for raw in ["<b", "<script", "<d>", "javascript:"] {
            assert!(!shown.contains(raw), "{raw}: {shown}");
        }
        assert!(shown.contains("&lt;script&gt;") && shown.contains("<a href=\"NatwatchDown\">g</a>"), "{shown}");
    }
}
