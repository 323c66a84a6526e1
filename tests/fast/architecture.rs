//! The rules of ARCHITECTURE.md that a machine can hold.

use std::fs;
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Modules that compute and do nothing else.
const PURE: &[&str] = &[
    "netfilter",
    "capture",
    "facts",
    "read",
    "accumulate",
    "symbolic",
    "advisory",
    "judge",
    "render",
    "redact",
    "web_config",
];

/// What each module may name of ours. Shell modules that are not listed may name anything.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("facts", &["facts"]),
    ("netfilter", &["netfilter"]),
    ("capture", &["capture", "facts", "netfilter"]),
    ("read", &["read", "capture", "facts", "netfilter"]),
    ("accumulate", &["accumulate", "facts"]),
    ("memory", &["memory", "accumulate", "read", "judge", "facts"]),
    ("redact", &["redact", "capture", "facts", "netfilter"]),
    ("advisory", &["advisory", "facts"]),
    ("symbolic", &["symbolic", "facts"]),
    ("judge", &["judge", "advisory", "symbolic", "facts"]),
    ("render", &["render", "judge", "advisory", "facts", "read"]),
    ("kernel", &["kernel", "capture", "facts", "netfilter"]),
    ("web_config", &["web_config"]),
    ("archive", &["archive", "capture", "facts"]),
    ("probe", &["probe", "kernel", "read", "capture", "facts", "netfilter", "advisory", "bounded"]),
];

/// Modules that may ask the operating system through `kernel`.
const MAY_ASK: &[&str] = &["kernel", "cli", "commands", "server", "reading", "refresh", "probe", "main", "lib"];

/// The parts of `probe` that compute and do nothing else.
const PURE_IN_PROBE: &[&str] = &["datagram", "legacy", "messages", "needs", "outcome"];

fn sources() -> Vec<(String, PathBuf, String)> {
    let mut open = vec![PathBuf::from(SRC)];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(SRC).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
            let module = first.strip_suffix(".rs").unwrap_or(first).to_owned();
            let text = fs::read_to_string(&path).unwrap();
            files.push((module, path, text));
        }
    }
    assert!(files.len() > 30, "the sources were not found");
    files
}

/// The code of a file without comments and without its unit tests.
fn code(path: &Path, text: &str) -> String {
    if path.ends_with("tests.rs") || path.to_string_lossy().ends_with("_tests.rs") {
        return String::new();
    }
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn arrows_point_one_way() {
    for (module, path, text) in sources() {
        let code = code(&path, &text);
        for named in code.split("crate::").skip(1) {
            let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == module) {
                assert!(named.is_empty() || allowed.contains(&named.as_str()), "{}: names {named}", path.display());
            }
            assert!(named != "kernel" || MAY_ASK.contains(&module.as_str()), "{}: names kernel", path.display());
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
    let pure = |(module, path, _): &(String, PathBuf, String)| {
        let part = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        PURE.contains(&module.as_str()) || (module == "probe" && PURE_IN_PROBE.contains(&part))
    };
    for (module, path, text) in sources().into_iter().filter(pure) {
        let code = code(&path, &text).replace("std::env::consts::ARCH", "").replace("neli::consts::", "");
        for word in FORBIDDEN {
            assert!(!code.contains(word), "{} ({module}): names {word}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_island() {
    for (module, path, text) in sources() {
        let code = code(&path, &text);
        for (at, _) in code.match_indices("unsafe {") {
            assert_eq!(module, "kernel", "{}", path.display());
            let line = code[..at].lines().count();
            let before: Vec<&str> = text.lines().take(line).collect();
            let explained = before.iter().rev().take(4).any(|line| line.trim_start().starts_with("// SAFETY:"));
            assert!(explained, "{}: unsafe without SAFETY", path.display());
        }
    }
}

#[test]
fn files_that_decide_stay_short() {
    for (_, path, text) in sources() {
        let lines = code(&path, &text).lines().count();
        assert!(lines <= 420, "{}: {lines} lines", path.display());
    }
}
