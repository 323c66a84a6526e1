//! Parses the data of `src/advisory` and of `src/read/release` once: the program would else spend most of a short run on TOML.
//! It reads JSON instead, an array of `[file name without extension, value]` for each directory.

#[path = "src/advisory/front_matter.rs"]
mod front_matter;

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
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
        fs::write(Path::new(&out).join(name).with_extension("json"), serde_json::to_vec(&values)?)?;
    }
    Ok(())
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
