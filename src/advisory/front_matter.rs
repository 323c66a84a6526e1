//! Splits an advisory's file into front matter and prose. Shared with `build.rs`.

/// Front matter between `+++` lines, and the prose after it.
///
/// # Errors
/// What is missing.
pub(crate) fn split(text: &str) -> Result<(&str, &str), &'static str> {
    let rest = text.strip_prefix("+++\n").ok_or("the first line is not +++")?;
    let (front, prose) = rest.split_once("\n+++\n").ok_or("the front matter has no closing +++")?;
    Ok((front, prose.trim()))
}
