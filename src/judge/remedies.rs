//! Fills in the placeholders of remedies' commands.
//!
//! Device names may be anything, such as `` `id>x`;y ``, and people paste commands into shells.

use std::collections::BTreeMap;

use super::RemedyFinding;
use crate::advisory::{PLACEHOLDERS, Remedy};
use crate::facts::quoted;

/// A remedy whose command cannot be filled in keeps its text and loses the command.
pub(crate) fn fill_in(remedy: &Remedy, values: &BTreeMap<&'static str, String>) -> RemedyFinding {
    let command = remedy.command.as_ref().and_then(|command| filled(command, values));
    RemedyFinding { text: remedy.text.clone(), command, survives_reboot: remedy.survives_reboot }
}

fn filled(command: &str, values: &BTreeMap<&'static str, String>) -> Option<String> {
    let (mut out, mut rest, mut quote) = (String::new(), command, None);
    while let Some(next) = rest.chars().next() {
        let name = PLACEHOLDERS.iter().find(|name| {
            rest.strip_prefix('{').and_then(|rest| rest.strip_prefix(**name)).is_some_and(|rest| rest.starts_with('}'))
        });
        if let Some(name) = name {
            out.push_str(&word(values.get(name)?, quote.is_some())?);
            rest = &rest[name.len() + 2..];
            continue;
        }
        if matches!(next, '\'' | '"') && quote.is_none_or(|open| open == next) {
            quote = quote.xor(Some(next));
        }
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    Some(out)
}

/// A value quoted for a shell. `None`: not safe to paste, because it looks like an option, has control characters, or
/// would be inside quotes, where another language has its own quoting.
fn word(value: &str, within_quotes: bool) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:@%+-".contains(c);
    let refused = value.starts_with('-') || within_quotes && !value.chars().all(plain);
    if refused { None } else { quoted(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::Catalogue;

    fn with(device: &str, command: &str) -> Option<String> {
        filled(command, &[("tunnel_device", device.to_owned())].into())
    }

    #[test]
    fn a_device_is_one_word_whatever_it_is_called() {
        let command = "ethtool -K {tunnel_device} tx off";
        assert_eq!(with("flannel.1", command).as_deref(), Some("ethtool -K flannel.1 tx off"));
        for name in ["`id>P`;x", "$(id)", "a'b", "a\"b", "{tunnel_device}", "a b", "a|b", "~", "*", "#", "ä", "a\\"] {
            let command = with(name, command).unwrap();
            let words: Vec<String> = shlex::split(&command).unwrap();
            assert_eq!(words, ["ethtool", "-K", name, "tx", "off"], "{command}");
            let shell = |text: &str| text.contains(['`', '$', '|', ';', '*', '#']) && !text.contains(['\'', '"']);
            assert!(!shell(&command), "{command}");
        }
        for name in ["-h", "a\x1b[2J", "a\nb", ""] {
            assert_eq!(with(name, command), None, "{name:?}");
        }
    }

    #[test]
    fn within_quotes_only_plain_names_are_filled_in() {
        let command = "echo 'KERNEL==\"{tunnel_device}\"' > {tunnel_device}.rules";
        assert_eq!(with("vxlan0", command).as_deref(), Some("echo 'KERNEL==\"vxlan0\"' > vxlan0.rules"));
        assert_eq!(with("a*", command), None);
        assert_eq!(with("a*", "echo 'x' {tunnel_device}").as_deref(), Some("echo 'x' 'a*'"));
        assert_eq!(filled("echo {tunnel_device}", &BTreeMap::new()), None, "nothing is known");
    }

    /// In a real shell, with every command of the catalogue.
    #[test]
    #[allow(clippy::disallowed_types, reason = "what a shell makes of it is what matters")]
    fn no_command_of_the_catalogue_runs_what_a_name_says() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["`touch P`", "$(touch P)", "';touch P;'", "\";touch P;\"", "a;touch P", "x&touch P", "x\\';touch P"]
        {
            let values = PLACEHOLDERS.iter().map(|placeholder| (*placeholder, name.to_owned())).collect();
            let remedies = Catalogue::built_in().advisories.iter().flat_map(|advisory| &advisory.remedies);
            for remedy in remedies.filter(|remedy| remedy.command.as_ref().is_some_and(|text| text.contains('{'))) {
                let Some(command) = fill_in(remedy, &values).command else { continue };
                let stubbed = format!("ethtool() {{ :; }}; conntrack() {{ :; }}; sysctl() {{ :; }}; {command}");
                std::process::Command::new("/bin/sh").args(["-c", &stubbed]).current_dir(&directory).output().unwrap();
                assert!(!directory.path().join("P").exists(), "{command}");
            }
        }
    }
}
