//! Prometheus rule files: selectors in their expressions, and the same rules with shortened times.

use std::time::Duration;

/// Words that are no metrics although no `(` follows them.
const WORDS: [&str; 16] = [
    "and",
    "or",
    "unless",
    "offset",
    "bool",
    "sum",
    "max",
    "min",
    "avg",
    "count",
    "count_values",
    "group",
    "topk",
    "Inf",
    "NaN",
    "inf",
];
/// Words that a list of labels follows.
const LABEL_LISTS: [&str; 6] = ["on", "ignoring", "by", "without", "group_left", "group_right"];

/// The metrics and labels of one expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub selectors: Vec<Selector>,
    /// Each list of labels after `on`, `by` and the like, with that word first.
    pub label_lists: Vec<Vec<String>>,
}

/// A metric and its label matchers.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    /// Label, operator and value.
    pub matchers: Vec<(String, String, String)>,
}

impl Selector {
    /// The values that a label's matcher lists, separated by `|`.
    pub fn values(&self, label: &str) -> Vec<&str> {
        let own = self.matchers.iter().filter(|(name, ..)| name == label);
        own.flat_map(|(.., value)| value.split('|')).collect()
    }
}

/// Parses an expression that Prometheus has accepted.
pub fn wanted(expression: &str) -> Wanted {
    let mut wanted = Wanted::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = &rest[1 + rest[1..].find('"').expect("a closing quote") + 1..];
        } else if first == '[' {
            rest = &rest[rest.find(']').expect("a closing bracket") + 1..];
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = rest[end..].trim_start();
            if LABEL_LISTS.contains(&word) {
                let (list, after) = rest[1..].split_once(')').expect("a list of labels");
                let labels = list.split(',').map(|label| label.trim().to_owned());
                wanted.label_lists.push([word.to_owned()].into_iter().chain(labels).collect());
                rest = after;
            } else if !WORDS.contains(&word) && !rest.starts_with('(') {
                let (matchers, after) = match rest.strip_prefix('{') {
                    Some(rest) => rest.split_once('}').expect("a closing brace"),
                    None => ("", rest),
                };
                wanted.selectors.push(Selector { metric: word.to_owned(), matchers: matchers_of(matchers) });
                rest = after;
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    wanted
}

/// `a="b",c=~"d|e"`; none of our values contains a comma.
fn matchers_of(text: &str) -> Vec<(String, String, String)> {
    let matcher = |text: &str| {
        let (left, value) = text.split_once('"').unwrap_or_else(|| panic!("no value in {text}"));
        let label = left.trim_end_matches(['=', '~', '!']);
        (label.trim().to_owned(), left[label.len()..].to_owned(), value.trim_end_matches('"').to_owned())
    };
    text.split(',').filter(|text| !text.is_empty()).map(matcher).collect()
}

/// Every duration of a rule file, such as `5m`, with the text before it; the rest comes last, with no duration.
pub fn durations(text: &str) -> Vec<(&str, Option<Duration>)> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let (digits, unit) = number(&text[at..]);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        if !digits.is_empty() && milliseconds > 0 {
            let count: u64 = digits.parse().expect("a number");
            parts.push((&text[start..at], Some(Duration::from_millis(count * milliseconds))));
            start = at + digits.len() + unit.len();
        }
        at += if digits.is_empty() && unit.is_empty() {
            text[at..].chars().next().map_or(1, char::len_utf8)
        } else {
            digits.len() + unit.len()
        };
    }
    parts.push((&text[start..], None));
    parts
}

/// The digits at the start of a text, and the letters that follow them; a word without digits is all letters, so that
/// `rate5m` has none.
fn number(text: &str) -> (&str, &str) {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == ':');
    let whole = &text[..text.find(word).unwrap_or(text.len())];
    let digits = whole.find(|c: char| !c.is_ascii_digit()).unwrap_or(whole.len());
    (&whole[..digits], &whole[digits..])
}

/// The same rules `factor` times as fast: every window, offset and delay is that much shorter, and nothing else
/// changes.
pub fn hasten(text: &str, factor: u32) -> String {
    let shortened = |(before, duration): (&str, Option<Duration>)| match duration {
        Some(duration) => format!("{before}{}ms", (duration / factor).as_millis()),
        None => before.to_owned(),
    };
    durations(text).into_iter().map(shortened).collect()
}
