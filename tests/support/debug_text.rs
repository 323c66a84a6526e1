//! Text in Debug format, which must not get into a report.

/// Variants of our own types whose names are no terms of the field.
const VARIANTS: [&str; 9] = ["Some(", "Ok(", "Err(", "Other(", "Mark", "Failed(", "Denied(", "Opaque", "Masked"];

/// The first piece of debug text in a report: a Rust value as `{:?}` formats it, a number of the ABI instead of a name,
/// or an address in hexadecimal. `None`: there is none.
pub fn debug_text(report: &str) -> Option<String> {
    report.lines().find_map(|line| {
        let around = |at: usize| {
            let from = (0..=at.saturating_sub(30)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line[from..].chars().take(90).collect::<String>()
        };
        let words: Vec<(usize, &str)> = line
            .split(' ')
            .scan(0, |at, word| {
                let start = *at;
                *at += word.len() + 1;
                Some((start, word))
            })
            .collect();
        for (number, (at, word)) in words.iter().enumerate() {
            let next = words.get(number + 1).map_or("", |(_, next)| *next);
            let is_number =
                |word: &str| !word.is_empty() && word.trim_end_matches([',', '.', ';', ')']).parse::<u32>().is_ok();
            // `Ipv4Destination 0xa600001/0xffffffff`, `ChainId { … }`
            let name: String = word.chars().take_while(char::is_ascii_alphanumeric).collect();
            let humps =
                name.as_bytes().windows(2).filter(|two| two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase());
            let camel = name.starts_with(|first: char| first.is_ascii_uppercase()) && humps.count() > 0;
            let is_value = word[name.len()..].starts_with('(') || next.starts_with("0x") || next == "{";
            let of_rust = VARIANTS.iter().any(|variant| word.starts_with(variant)) && word != &"Marked";
            // `meta 22`, `ct 3`, `1 bytes at 8 of header 1`
            let key = matches!(*word, "meta" | "ct" | "header") && is_number(next);
            let bytes =
                is_number(word) && next == "bytes" && words.get(number + 2).is_some_and(|(_, word)| *word == "at");
            // A mask of all bits is never printed, nor is a port or an address printed in hexadecimal.
            let mask = word.contains("0x") && (word.contains("/0xffffffff") || word.contains("/0xffff,"));
            if camel && is_value || of_rust || key || bytes || mask {
                return Some(around(*at));
            }
        }
        None
    })
}
