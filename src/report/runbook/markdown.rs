//! A runbook's Markdown as HTML. For `build.rs`, so that no program carries a parser of Markdown, and for tests.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// HTML in it is text, and a link that leads to none of the runbooks `names` is only its words: the rest of the repository is
/// not served.
pub(crate) fn to_html(text: &str, names: &[String]) -> String {
    let mut linked = Vec::new();
    let mut events = Vec::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(html) | Event::InlineHtml(html) => events.push(Event::Text(html)),
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let target = dest_url.strip_suffix(".md").filter(|name| names.iter().any(|known| known == name));
                linked.push(target.is_some());
                let target = target.map(|name| CowStr::from(name.to_owned()));
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
    let mut body = String::new();
    html::push_html(&mut body, events.into_iter());
    body
}
