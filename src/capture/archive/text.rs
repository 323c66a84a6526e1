//! A capture as one text file, as the tests' recorded nodes are stored, so that changes show in a diff.
//!
//! Contains the files of the capture directory, each after a line with its name, like Go's txtar. Binary contents are
//! hexadecimal, as their name's line says. Text before the first such line is a comment:
//! ```text
//! -- procfs/sys/kernel/osrelease --
//! 6.18.44
//! -- netlink/route/links hex --
//! 940500001000020001000000
//! ```
//! `tests/nodes/archive.py` packs and unpacks.

/// The files in `text`, by name, in order.
///
/// # Errors
/// The line that belongs to no file.
pub(super) fn files(text: &str) -> Result<Vec<(&str, Vec<u8>)>, String> {
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut is_hex = false;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let plain = line.trim_end_matches('\n');
        if let Some(name) = plain.strip_prefix("-- ").and_then(|line| line.strip_suffix(" --")) {
            let hex = name.strip_suffix(" hex");
            is_hex = hex.is_some();
            files.push((hex.unwrap_or(name), Vec::new()));
        } else if let Some((name, bytes)) = files.last_mut() {
            if is_hex {
                let digits = digits(plain)
                    .ok_or_else(|| format!("line {} of {name}: not pairs of hexadecimal digits", index + 1))?;
                bytes.extend(digits);
            } else {
                bytes.extend(line.as_bytes());
            }
        }
    }
    Ok(files)
}

fn digits(line: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(value(high)? << 4 | value(low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_bytes_come_back() {
        let text = "a comment\n-- a/b --\none\n\n-- two\n-- a/c hex --\n00ff\n7a\n-- empty --\n";
        let files = files(text).unwrap();
        assert_eq!(files[0], ("a/b", b"one\n\n-- two\n".to_vec()));
        assert_eq!(files[1], ("a/c", vec![0, 0xff, 0x7a]));
        assert_eq!(files[2], ("empty", Vec::new()));
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn half_a_byte_is_refused() {
        for line in ["0", "0g", "00 11", "é0"] {
            let error = files(&format!("-- a hex --\n{line}\n")).unwrap_err();
            assert_eq!(error, "line 2 of a: not pairs of hexadecimal digits", "{line}");
        }
    }
}
