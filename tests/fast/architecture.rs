//! The rules of ARCHITECTURE.md that can be checked automatically.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// What computes and does nothing else: modules, and files of others.
const PURE: &[&str] = &[
    "netfilter",
    "capture",
    "facts",
    "read",
    "monotonic",
    "symbolic",
    "advisory",
    "judge",
    "report",
    "metrics",
    "redact",
    "serve/http/web_config",
    "probe/datagram",
    "probe/legacy",
    "probe/messages",
    "probe/needs",
    "probe/outcome",
];

/// What in them reads and writes files nevertheless: captures as directories.
const NOT_PURE: &[&str] = &["capture/archive"];

/// What each module, or a file of it, may name of ours. Modules of the shell that are not listed may name anything.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("facts", &["facts"]),
    ("netfilter", &["netfilter"]),
    ("capture", &["capture", "facts", "netfilter"]),
    ("read", &["read", "capture", "facts", "netfilter"]),
    ("monotonic", &["monotonic", "facts"]),
    ("serve/memory", &["monotonic", "read", "judge", "facts"]),
    ("redact", &["redact", "capture", "facts", "netfilter"]),
    ("advisory", &["advisory", "facts"]),
    ("symbolic", &["symbolic", "facts"]),
    ("judge", &["judge", "advisory", "symbolic", "facts"]),
    ("metrics", &["metrics", "judge", "advisory", "facts", "read"]),
    ("report", &["report", "metrics", "judge", "advisory", "facts"]),
    ("kernel", &["kernel", "capture", "facts", "netfilter"]),
    ("serve/http/web_config", &[]),
    ("probe", &["probe", "kernel", "read", "capture", "facts", "netfilter", "advisory"]),
];

/// Modules that may ask the operating system through `kernel`.
const MAY_ASK: &[&str] = &["kernel", "inside", "cli", "commands", "serve", "probe"];

pub struct File {
    /// Below `src`, without its ending: `symbolic/machine/mod`.
    pub name: String,
    pub path: PathBuf,
    pub text: String,
}

impl File {
    fn module(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    fn is_in(&self, part: &str) -> bool {
        self.name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

pub fn sources() -> Vec<File> {
    let mut open = vec![PathBuf::from(SRC)];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(SRC).unwrap().with_extension("").to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            files.push(File { name, path, text });
        }
    }
    assert!(files.len() > 30, "the sources were not found");
    files
}

/// The code of a file without comments and without its unit tests.
pub fn code(path: &Path, text: &str) -> String {
    let name = path.to_string_lossy();
    if name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/") {
        return String::new();
    }
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn arrows_point_one_way() {
    for file in sources() {
        let code = code(&file.path, &file.text);
        for named in code.split("crate::").skip(1) {
            let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some((_, allowed)) = MAY_NAME.iter().find(|(part, _)| file.is_in(part)) {
                assert!(named.is_empty() || allowed.contains(&named.as_str()), "{}: names {named}", file.name);
            }
            assert!(named != "kernel" || MAY_ASK.contains(&file.module()), "{}: names kernel", file.name);
        }
    }
}

#[test]
fn pure_modules_touch_nothing_outside() {
    const FORBIDDEN: &[&str] = &[
        "std::fs",
        "std::env::",
        "std::process",
        "std::net::Tcp",
        "std::net::Udp",
        "std::os",
        "std::io",
        "Instant::now",
        "SystemTime",
        "tokio",
        "axum",
        "neli",
        "libc",
        "rustix",
        "tracing",
        "procfs::",
        "println!",
        "eprintln!",
        "dbg!",
    ];
    for file in sources() {
        let is_in = |parts: &[&str]| parts.iter().any(|part| file.is_in(part));
        if !is_in(PURE) || is_in(NOT_PURE) {
            continue;
        }
        let code = code(&file.path, &file.text).replace("std::env::consts::ARCH", "").replace("neli::consts::", "");
        for word in FORBIDDEN {
            assert!(!code.contains(word), "{}: names {word}", file.name);
        }
    }
}

#[test]
fn unsafe_code_stays_in_kernel() {
    for file in sources() {
        let code = code(&file.path, &file.text);
        for (at, _) in code.match_indices("unsafe {") {
            assert_eq!(file.module(), "kernel", "{}", file.name);
            let line = code[..at].lines().count();
            let before: Vec<&str> = file.text.lines().take(line).collect();
            let explained = before.iter().rev().take(4).any(|line| line.trim_start().starts_with("// SAFETY:"));
            assert!(explained, "{}: unsafe without SAFETY", file.name);
        }
    }
}

#[test]
fn files_that_decide_stay_short() {
    for file in sources() {
        let lines = code(&file.path, &file.text).lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 380, "{}: {lines} lines of code", file.name);
    }
}

/// The types, traits and aliases that a file declares for others, with any visibility that begins with `pub`. Those that
/// a macro makes, such as the messages of nf_tables, are named as the kernel names them, below their module.
fn public_types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub")?;
        let rest = if rest.starts_with('(') { rest.split_once(')')?.1 } else { rest };
        let rest = rest.strip_prefix(' ')?;
        let rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
        let named =
            ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|kind| rest.strip_prefix(kind))?;
        named.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
    })
}

#[test]
fn each_name_of_a_type_has_one_meaning() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        for name in public_types(&code(&file.path, &file.text)) {
            homes.entry(name.to_owned()).or_default().push(file.name.clone());
        }
    }
    assert!(homes.len() > 300, "{} types were found", homes.len());
    let twice: Vec<_> = homes.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "named twice: {twice:#?}");
}

/// The name of the type that a line declares, or that the macro does whose first line it is.
pub fn declared<'a>(before: &str, line: &'a str) -> Option<&'a str> {
    let kinds = ["struct ", "enum ", "union "];
    let by_macro = before.ends_with("! {") && line.starts_with(|c: char| c.is_uppercase());
    let rest = kinds.iter().find_map(|kind| Some(line.split_once(kind)?.1)).or(by_macro.then_some(line))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

/// The type whose own methods begin here: those of a trait are another matter.
fn own_methods_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = if rest.starts_with('<') { &rest[rest.find("> ")? + 1..] } else { rest };
    let named = rest.strip_prefix(' ')?.split(['<', ' ', '{']).next()?.rsplit("::").next()?;
    (!rest.contains(" for ") && named.starts_with(|c: char| c.is_uppercase())).then_some(named)
}

/// A type's methods are in the file that declares it, or in a module below it, which sees its private fields. Other
/// modules have functions of their own about it.
#[test]
fn a_type_has_its_methods_in_its_own_module() {
    let module = |name: &str| name.trim_end_matches("/mod").to_owned();
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut methods = Vec::new();
    for file in sources() {
        let code = code(&file.path, &file.text);
        let mut before = "";
        for line in code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#[")) {
            if let Some(name) = declared(before, line) {
                homes.entry(name.to_owned()).or_default().push(module(&file.name));
            }
            methods.extend(own_methods_of(line).map(|name| (name.to_owned(), module(&file.name))));
            before = line;
        }
    }
    assert!(methods.len() > 200, "{} were found", methods.len());
    for (name, file) in methods {
        let homes = homes.get(&name).map(Vec::as_slice).unwrap_or_default();
        let is_home = |home: &String| {
            file.strip_prefix(home.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        assert!(homes.iter().any(is_home), "{file}: methods of {name}, which is declared in {homes:?}");
    }
}

/// Words that this code once had for what its field calls otherwise, and the field's.
const WORDS: &[(&str, &str)] = &[
    ("aftermath", "residual effect"),
    ("balanced", "IPVS in use"),
    ("blind", "wrong network namespace"),
    ("carriers", "underlay devices"),
    ("fades", "volatile"),
    ("feeders", "upper devices"),
    ("hallmark", "owner signature"),
    ("harmless", "no effect"),
    ("journey", "tunnel scenario"),
    ("guess", "assumption"),
    ("guesses", "assumptions"),
    ("look", "scrape, or reading"),
    ("occasional", "non-deterministic"),
    ("opaque", "unsupported"),
    ("settle", "on-NAT handler, or decided"),
    ("settles", "decides"),
    ("setter", "mark writer"),
    ("setters", "mark writers"),
    ("strays", "rerouted"),
    ("torn", "generation mismatch, or interrupted"),
    ("world", "node, or network"),
];

/// Names of code are terms of the field, which its engineers can guess.
#[test]
fn names_are_words_of_the_field() {
    for file in sources() {
        let code = code(&file.path, &file.text);
        // Every second part of a line is in quotation marks: text for people.
        let outside = code.lines().flat_map(|line| line.split('"').step_by(2));
        let outside = outside.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
        for name in outside {
            let known = WORDS.iter().find(|(word, _)| name.eq_ignore_ascii_case(word));
            assert!(known.is_none(), "{}: {name} is called {}", file.name, known.unwrap().1);
        }
    }
}

/// IPv4 and IPv6 are `Family`, or `XtFamily` in code about bytes of x_tables, never a boolean.
#[test]
fn a_family_is_no_truth_value() {
    for file in sources() {
        let code = code(&file.path, &file.text);
        for line in code.lines() {
            let named = ["v4: bool", "v6: bool"].iter().find(|named| line.contains(**named));
            assert!(named.is_none() && !line.contains("[false, true].map(|ip"), "{}: {line}", file.name);
        }
    }
}

/// To others this crate is a program, the bytes of netfilter, and one door for our own tests.
#[test]
fn the_front_door_is_small() {
    let lib = fs::read_to_string(Path::new(SRC).join("lib.rs")).unwrap();
    let public: Vec<&str> = lib.lines().filter(|line| line.starts_with("pub ")).collect();
    assert_eq!(public, ["pub mod inside;", "pub mod netfilter;", "pub use cli::parse;", "pub use commands::run;"]);
    for file in sources().iter().filter(|file| file.name != "lib" && file.module() != "inside") {
        assert!(!code(&file.path, &file.text).contains("crate::inside"), "{}", file.name);
    }
}

/// Comments say what a value is; riddles began or ended like this.
#[test]
fn comments_are_no_riddles() {
    for file in sources() {
        for line in file.text.lines().filter_map(|line| Some(line.split_once("//")?.1)) {
            for word in ["Whoever", "An island", "turned round"] {
                assert!(!line.contains(word), "{}: {line}", file.name);
            }
        }
    }
}
