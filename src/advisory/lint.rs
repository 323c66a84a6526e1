//! Linter of the catalogue; reports all errors at once.

use std::collections::BTreeSet;

use include_dir::{Dir, include_dir};

use super::{Advisory, ConditionKind, PLACEHOLDERS, State, Test, defects, front_matter};
use crate::facts::ConntrackCounter;

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/advisory/catalogue");

/// Required beginnings of paragraphs, after the one on how it works.
const PARTS: [&str; 2] = ["Who reported it. ", "What it is not. "];

/// File names without extension, and contents.
fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.files().filter_map(|file| Some((file.path().file_stem()?.to_str()?, file.contents_utf8()?)))
}

/// Parses a catalogue file.
fn parse(text: &str) -> Result<Advisory, String> {
    let (front, prose) = front_matter::split(text)?;
    let mut advisory: Advisory = toml::from_str(front).map_err(|error| error.to_string())?;
    prose.clone_into(&mut advisory.prose);
    Ok(advisory)
}

/// All errors in the built-in catalogue and defect tables.
fn lint() -> Vec<String> {
    let mut errors = defects::lint();
    let mut ids = BTreeSet::new();
    for (stem, text) in sources() {
        errors.extend(lint_file(stem, text));
        if !ids.insert(stem) {
            errors.push(format!("{stem}: the id is taken"));
        }
    }
    errors
}

/// All errors in a catalogue file.
fn lint_file(stem: &str, text: &str) -> Vec<String> {
    match parse(text) {
        Ok(advisory) => lint_advisory(stem, &advisory).into_iter().map(|error| format!("{stem}: {error}")).collect(),
        Err(error) => vec![format!("{stem}: {error}")],
    }
}

fn lint_advisory(stem: &str, advisory: &Advisory) -> Vec<String> {
    let mut errors = Vec::new();
    let mut check = |sound: bool, error: String| {
        if !sound {
            errors.push(error);
        }
    };
    check(advisory.id == stem, format!("the id is {:?}", advisory.id));
    let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    check(advisory.id.chars().all(kebab), "the id is not in kebab-case".into());
    check(!advisory.title.is_empty() && !advisory.title.ends_with('.'), "the title is no headline".into());
    for part in PARTS {
        let there = advisory.prose.split("\n\n").any(|paragraph| paragraph.trim_start().starts_with(part));
        check(there, format!("no paragraph of the prose begins with {part:?}"));
    }
    check(!advisory.impact.is_empty() && !advisory.impact.ends_with('.'), "there are no words about its impact".into());
    check(!advisory.references.is_empty(), "there are no references".into());
    for reference in &advisory.references {
        check(reference.starts_with("https://"), format!("{reference:?} is no https reference"));
    }
    let ingredients = advisory.conditions.iter().filter(|condition| condition.kind == ConditionKind::Ingredient);
    check(ingredients.count() > 0, "there is no ingredient: it could never be not_affected".into());
    let mut ids = BTreeSet::new();
    for condition in &advisory.conditions {
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        check(condition.id.chars().all(snake), format!("condition {:?} is not in snake_case", condition.id));
        check(ids.insert(&condition.id), format!("condition {:?} is there twice", condition.id));
        let told = condition.words.contains(' ') && !condition.words.ends_with('.');
        check(told, format!("condition {:?} is not told in words (without full stop)", condition.id));
        let named: Vec<&String> = match &condition.test {
            Test::PortNotRandom(defects) => defects.iter().collect(),
            Test::KernelDefect(defect) | Test::DriverOffloadsPort { defect, .. } => {
                vec![defect]
            }
            Test::ChecksumBreakable { on, off } | Test::OffloadNotNeeded { on, off } => vec![on, off],
            _ => Vec::new(),
        };
        check(
            named.iter().all(|id| defects::all().iter().any(|known| known.id == **id)),
            format!("condition {:?} names a defect without a table", condition.id),
        );
    }
    if let Some(worse) = &advisory.severity_with_defect {
        let known = defects::all().iter().any(|known| known.id == worse.defect);
        check(
            known && worse.severity > advisory.severity,
            "severity_with_defect is no worse one, or of no table".into(),
        );
    }
    let worse = advisory.severity_with_services.is_none_or(|worse| worse > advisory.severity);
    check(worse, "severity_with_services is no worse one".into());
    let safeguarded = advisory.conditions.iter().any(|condition| condition.kind == ConditionKind::Safeguard);
    for state in State::ALL.iter().filter(|state| safeguarded || **state != State::Mitigated) {
        let summary = advisory.summaries.get(state.name()).map_or("", String::as_str);
        check(!summary.is_empty() && !summary.ends_with('.'), format!("no summary (without full stop) for {state}"));
    }
    for name in advisory.summaries.keys() {
        check(State::from_name(name).is_some(), format!("the summary for {name:?} is for no state"));
    }
    check(!advisory.remedies.is_empty(), "there is no remedy".into());
    for command in advisory.remedies.iter().filter_map(|remedy| remedy.command.as_deref()) {
        for placeholder in placeholders(command) {
            check(PLACEHOLDERS.contains(&placeholder), format!("nothing fills in {{{placeholder}}}"));
        }
    }
    for name in advisory.remedies.iter().filter_map(|remedy| remedy.only_with.as_deref()) {
        check(PLACEHOLDERS.contains(&name), format!("only_with: nothing fills in {name:?}"));
    }
    for evidence in &advisory.evidence {
        let known = ConntrackCounter::from_name(&evidence.counter).is_some();
        check(known, format!("{:?} is no connection tracking counter", evidence.counter));
    }
    errors
}

/// Names in braces that are placeholders rather than shell or awk syntax.
fn placeholders(command: &str) -> impl Iterator<Item = &str> {
    command.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        (!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::Catalogue;

    #[test]
    fn the_built_in_data_is_sound_and_complete() {
        assert_eq!(lint(), Vec::<String>::new());
        let mut read: Vec<Advisory> = sources().map(|(_, text)| parse(text).unwrap()).collect();
        read.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(Catalogue::built_in().advisories, read, "what build.rs made of them");
        assert!(Catalogue::built_in().get("conntrack-table-full").is_some());
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let (stem, text) = sources().find(|(stem, _)| *stem == "conntrack-table-full").unwrap();
        let broken = text
            .replace("title = \"", "title = \".\" # ")
            .replace("\"https://docs", "\"http://docs")
            .replace("{entries_limit_doubled}", "{mystery}")
            .replace("counter = \"drop\"", "counter = \"dropped\"")
            .replace("unknown = ", "unheard_of = ")
            .replace("kind = \"ingredient\"", "kind = \"safeguard\"")
            .replace("Who reported it. ", "")
            .replace("What it is not. ", "");
        let errors = lint_file(stem, &broken).join("\n");
        for part in [
            "headline",
            "no https",
            "{mystery}",
            "dropped",
            "for unknown",
            "is for no state",
            "no ingredient",
            "\"Who reported",
            "\"What it is not",
        ] {
            assert!(errors.contains(part), "{part:?} is not in:\n{errors}");
        }
        for (broken, part) in [
            (text.replacen("+++", "---", 1), "first line"),
            (text.replace("severity = \"critical\"", "severity = \"awful\""), "awful"),
            (text.replace("subject = ", "flavour = "), "flavour"),
            (text.replace("test = \"conntrack_active\"", "test = \"vibes\""), "vibes"),
        ] {
            let errors = lint_file(stem, &broken).join("\n");
            assert!(errors.contains(part), "{part:?} is not in:\n{errors}");
        }
        assert!(lint_file("other", text).join("\n").contains("the id is"));
    }
}
