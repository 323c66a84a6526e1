//! No import circles: of two modules in one folder, each with everything below it, at most one uses the other.
//!
//! Determined from paths in the code, in `use` and elsewhere. A name re-exported by a parent counts as that of the
//! child which defines it. A parent and everything below it are one unit: it may define what they share, and call them.

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::{File, code, declared, sources};

/// Circles that are accepted: the folder, its modules, and the reason.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    ("netfilter", &["nftables", "visit"], "a visitor is handed expressions, and an expression takes a visitor"),
    ("netfilter/nftables", &["expr", "expression"], "the expression `dynset` holds expressions"),
];

type Path = Vec<String>;

/// A module of src.
#[derive(Default)]
struct Module {
    declared: BTreeSet<String>,
    /// Imported paths as written, by the name that `use` gives them.
    imported: BTreeMap<String, Path>,
    /// Modules imported with `*`.
    globs: Vec<Path>,
    /// All paths as written, except for re-exports of other modules' items.
    paths: BTreeSet<Path>,
}

/// Paths are written from the crate's root once they are known to be in it.
struct Crate(BTreeMap<Path, Module>);

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The paths of a `use`, each with its name: `a::{b, c as d}`.
fn flatten(before: &[String], tree: &str, found: &mut Vec<(Path, String)>) {
    let (path, group) = tree.split_once('{').map_or((tree, None), |(path, group)| (path, Some(group)));
    let (path, renamed) = path.split_once(" as ").map_or((path, None), |(path, name)| (path, Some(name.trim())));
    let mut path: Path = before.iter().cloned().chain(path.split("::").map(|part| part.trim().to_owned())).collect();
    path.retain(|part| !part.is_empty());
    let Some(group) = group else {
        path.pop_if(|last| last == "self");
        let name = renamed.map(str::to_owned).or_else(|| path.last().cloned());
        return found.extend(name.map(|name| (path, name)));
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&path, group[start..at].trim(), found);
                start = at + 1;
            }
            _ => {}
        }
    }
}

impl Module {
    fn of(code: &str) -> Self {
        let mut module = Self::default();
        let (mut before, mut rest) = ("", String::new());
        let mut lines = code.lines().map(str::trim).filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            let public = line.starts_with("pub");
            let visible = line.strip_prefix("pub").map(|rest| rest.split_once(") ").map_or(rest, |(_, rest)| rest));
            if let Some(first) = visible.unwrap_or(line).trim_start().strip_prefix("use ") {
                let mut tree = first.to_owned();
                while !tree.ends_with(';') {
                    tree.push_str(lines.next().expect("a use ends"));
                }
                let mut found = Vec::new();
                flatten(&[], tree.trim_end_matches(';'), &mut found);
                for (mut path, name) in found {
                    if name == "*" {
                        path.pop();
                        module.globs.push(path.clone());
                    } else {
                        module.imported.insert(name, path.clone());
                    }
                    if !public {
                        module.paths.insert(path);
                    }
                }
            } else {
                let words = ["fn ", "trait ", "type ", "const ", "static "];
                let named = words.iter().find_map(|word| line.split_once(word)?.1.split(|c| !is_word(c)).next());
                module.declared.extend(declared(before, line).or(named).map(str::to_owned));
                rest.push_str(line);
                rest.push('\n');
            }
            before = line;
        }
        for path in rest.split(|letter| !is_word(letter) && letter != ':') {
            let path: Path = path.split("::").map(str::to_owned).collect();
            if path.len() > 1 && path.iter().all(|part| !part.is_empty() && !part.contains(':')) {
                module.paths.insert(path);
            }
        }
        module
    }
}

impl Crate {
    fn read() -> Self {
        let module = |file: &File| {
            file.name.split('/').filter(|part| !matches!(*part, "mod" | "lib")).map(str::to_owned).collect::<Path>()
        };
        let files = sources().into_iter().map(|file| (module(&file), Module::of(&code(&file.path, &file.text))));
        Self(files.filter(|(module, _)| module.last().is_none_or(|name| name != "testing" && name != "main")).collect())
    }

    /// The module that defines what this path, written in `module`, names; `None`: it is another crate's, or no path.
    fn home(&self, module: &[String], path: &[String], seen: &mut BTreeSet<(Path, String)>) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        let mut found = match first.as_str() {
            "crate" => Path::new(),
            "self" => module.to_vec(),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                return self.below(module[..module.len().checked_sub(up)?].to_vec(), &path[up..], seen);
            }
            name => {
                if let Some(imported) =
                    self.0[module].imported.get(name).filter(|imported| imported.first() != Some(first))
                {
                    return self.home(module, &[imported, rest].concat(), seen);
                }
                module.to_vec()
            }
        };
        if !matches!(first.as_str(), "crate" | "self") {
            found.push(first.clone());
            self.0.get(&found)?;
        }
        self.below(found, rest, seen)
    }

    /// The same for a path relative to a module.
    fn below(&self, mut module: Path, path: &[String], seen: &mut BTreeSet<(Path, String)>) -> Option<Path> {
        for (at, part) in path.iter().enumerate() {
            module.push(part.clone());
            if self.0.contains_key(&module) {
                continue;
            }
            module.pop();
            if !seen.insert((module.clone(), part.clone())) {
                break;
            }
            if let Some(imported) = self.0[&module].imported.get(part) {
                return self.home(&module, &[imported, &path[at + 1..]].concat(), seen);
            }
            let globs = self.0[&module].globs.iter().filter_map(|of| self.home(&module, of, &mut BTreeSet::new()));
            let has = |of: &Path| self.0[of].declared.contains(part);
            return globs.into_iter().find(has).or(Some(module));
        }
        Some(module)
    }

    /// Dependencies between the modules of each folder.
    fn arrows(&self) -> BTreeMap<Path, BTreeSet<(String, String)>> {
        let mut arrows: BTreeMap<Path, BTreeSet<(String, String)>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for to in module.paths.iter().filter_map(|path| self.home(from, path, &mut BTreeSet::new())) {
                let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                if let (Some(one), Some(other)) = (from.get(shared), to.get(shared)) {
                    arrows.entry(from[..shared].to_vec()).or_default().insert((one.clone(), other.clone()));
                }
            }
        }
        arrows
    }
}

/// Sets of modules that reach each other.
fn circles(arrows: &BTreeSet<(String, String)>) -> BTreeSet<BTreeSet<&str>> {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, _) in arrows {
        let (mut open, mut seen) = (vec![from.as_str()], BTreeSet::new());
        while let Some(next) = open.pop() {
            let further = arrows.iter().filter(|(one, _)| one == next).map(|(_, other)| other.as_str());
            open.extend(further.filter(|other| seen.insert(*other)));
        }
        reached.insert(from, seen);
    }
    let back = |one: &str, other: &str| reached.get(other).is_some_and(|seen| seen.contains(one));
    let groups = reached.iter().map(|(one, seen)| seen.iter().copied().filter(|other| back(one, other)).collect());
    groups.filter(|group: &BTreeSet<&str>| !group.is_empty()).collect()
}

#[test]
fn modules_import_no_circle() {
    let modules = Crate::read();
    let arrows = modules.arrows();
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 300, "paths were not found");
    let mut found = Vec::new();
    for (folder, arrows) in &arrows {
        found.extend(circles(arrows).into_iter().map(|circle| (folder.join("/"), circle)));
    }
    let stay = CIRCLES.iter().map(|(folder, modules, _)| ((*folder).to_owned(), modules.iter().copied().collect()));
    assert_eq!(found, stay.collect::<Vec<(String, BTreeSet<&str>)>>());
}

#[test]
fn a_circle_is_found_however_a_path_is_written() {
    let circle = |a: &str, b: &str, parent: &str| {
        let files =
            [("", ""), ("p", parent), ("p/a", a), ("p/b", b), ("p/b/c", "use super::super::a::{self, X as Y};")];
        let path = |name: &str| name.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Path>();
        let modules = Crate(files.map(|(name, code)| (path(name), Module::of(code))).into());
        let arrows = modules.arrows();
        arrows.get(&path("p")).is_some_and(|arrows| !circles(arrows).is_empty())
    };
    assert!(!circle("pub struct X;", "", "pub use a::X;"));
    assert!(circle("use super::b;", "", ""));
    assert!(circle("use crate::p::{\nb::Z,\n};", "", ""));
    assert!(circle("fn f() { super::b::c::g() }", "", ""));
    assert!(circle("use super::Z;", "pub struct Z;", "pub use b::Z;"), "what a parent hands on is the child's");
    assert!(circle("use crate::p::Z;", "pub struct Z;", "pub use self::b::*;"));
    assert!(circle("use super::q;\nfn f() { q::Z }", "pub struct Z;", "use self::b as q;"));
    assert!(!circle("use super::Z;", "", "pub struct Z;\nuse b::c;"), "a parent holds what its children share");
}
