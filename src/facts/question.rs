//! Open questions: what could not be determined, and commands that show it.

use std::borrow::Cow;
use std::fmt;

use super::Reading;

/// Something that the facts do not determine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// What could not be determined, and why.
    pub text: String,
    /// Shell commands for root that show it. Empty: none does.
    pub commands: Vec<String>,
}

impl Question {
    /// The question that a reading without a value leaves open.
    pub fn unread<T>(reading: &Reading<T>) -> Self {
        reading.why().into()
    }

    /// Adds a command, given as words. Left out if it is not safe to paste.
    pub fn shown_by<'w>(mut self, words: impl IntoIterator<Item = &'w str>) -> Self {
        // Names with unprintable bytes are shown with `\xNN`, which commands do not accept.
        let real = |word: &&str| !word.contains('\\');
        let words: Option<Vec<String>> =
            words.into_iter().map(|word| Some(word).filter(real).and_then(quoted)).collect();
        let command = words.map(|words| words.join(" ")).filter(|command| !self.commands.contains(command));
        self.commands.extend(command);
        self
    }

    /// Replaces the text.
    pub fn reword(self, reword: impl FnOnce(String) -> String) -> Self {
        Self { text: reword(self.text), ..self }
    }

    /// Joins several questions into one.
    pub fn joined(questions: impl IntoIterator<Item = Self>) -> Self {
        let (mut texts, mut commands) = (Vec::new(), Vec::new());
        for question in questions {
            texts.push(question.text);
            for command in question.commands {
                if !commands.contains(&command) {
                    commands.push(command);
                }
            }
        }
        Self { text: texts.join("; "), commands }
    }
}

impl From<String> for Question {
    fn from(text: String) -> Self {
        Self { text, commands: Vec::new() }
    }
}

impl From<&str> for Question {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Question {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<&Self> for Question {
    fn from(question: &Self) -> Self {
        question.clone()
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a shell takes the word literally.
fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || "_.:@%+-/=,".contains(c))
}

/// A word quoted for a shell. `None`: it has control characters, which a terminal does not show, so it is not safe to
/// paste.
pub(crate) fn quoted(word: &str) -> Option<String> {
    if word.is_empty() || word.chars().any(char::is_control) {
        return None;
    }
    match is_plain(word) {
        true => Some(word.to_owned()),
        false => shlex::try_quote(word).ok().map(Cow::into_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_safe_to_paste_or_is_none() {
        let shown = |name| Question::from("what").shown_by(["nft", "list", "set", name]).commands;
        assert_eq!(shown("s"), ["nft list set s"]);
        assert_eq!(shlex::split(&shown("`id`;x").concat()).unwrap(), ["nft", "list", "set", "`id`;x"]);
        for name in ["a\nb", "a\x1b[2J", "", "a\\x0a"] {
            assert_eq!(shown(name), Vec::<String>::new(), "{name:?}");
        }
        let twice =
            Question::joined([Question::from("a").shown_by(["ip", "a"]), Question::from("b").shown_by(["ip", "a"])]);
        assert_eq!((twice.text.as_str(), twice.commands), ("a; b", vec!["ip a".to_owned()]));
    }
}
