//! Parses the data of `src/advisory` and of `src/read/release` once: the program would else spend most of a short run on TOML.
//! It reads JSON instead, an array of `[file name without extension, value]` for each directory. Runbooks become HTML.

#[path = "src/advisory/front_matter.rs"]
mod front_matter;
#[path = "src/report/runbook/markdown.rs"]
mod markdown;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    for (source, value) in [
        ("src/advisory/catalogue", advisory as fn(&str) -> Result<_, _>),
        ("src/advisory/defects", toml),
        ("src/read/release/vendors", toml),
    ] {
        let source = Path::new(source);
        println!("cargo::rerun-if-changed={}", source.display());
        let mut values = Vec::new();
        for entry in fs::read_dir(source)? {
            let path = entry?.path();
            let value = value(&fs::read_to_string(&path)?);
            let value = value.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            values.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), value));
        }
        values.sort_by(|(one, _), (other, _)| one.cmp(other));
        let name = source.file_name().unwrap_or_default();
        fs::write(out.join(name).with_extension("json"), serde_json::to_vec(&values)?)?;
    }
    if packs_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    fs::write(out.join("runbooks.rs"), runbooks(Path::new("docs/runbooks"))?)
}

/// Whether it is a static program that can relocate itself by packed relocations (`DT_RELR`, 0.3 MiB less): the C library that
/// goes into it knows them since glibc 2.36. Of that of another machine no version can be told.
#[allow(clippy::disallowed_types, reason = "this is not natwatch")]
fn packs_relocations() -> bool {
    let is = |name, value: &str| env::var(name).is_ok_and(|found| found.split(',').any(|found| found == value));
    let native = env::var_os("HOST") == env::var_os("TARGET");
    let is_static = is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_FEATURE", "crt-static");
    if !(native && is_static && is("CARGO_CFG_TARGET_ARCH", "x86_64")) {
        return false;
    }
    let version = std::process::Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let minor = version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 36)
}

/// A slice of `(name, Markdown, HTML)`, sorted by name.
fn runbooks(source: &Path) -> io::Result<String> {
    println!("cargo::rerun-if-changed={}", source.display());
    let mut texts = Vec::new();
    for entry in fs::read_dir(source)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, fs::read_to_string(&path)?));
        }
    }
    texts.sort();
    let names: Vec<String> = texts.iter().map(|(name, _)| name.clone()).collect();
    let pages =
        texts.iter().map(|(name, text)| format!("({name:?}, {text:?}, {:?}),\n", markdown::to_html(text, &names)));
    Ok(format!("&[\n{}]\n", pages.collect::<String>()))
}

fn toml(text: &str) -> Result<serde_json::Value, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn advisory(text: &str) -> Result<serde_json::Value, String> {
    let (front, prose) = front_matter::split(text)?;
    let mut advisory = toml(front)?;
    advisory["prose"] = prose.into();
    Ok(advisory)
}
