use super::super::text::split_version;
use super::*;

fn known_by(sample: &str, proc_version: &str) -> Vec<&'static str> {
    let (release, build_line) = sample.split_once(' ').unwrap_or((sample, ""));
    let (named, suffix) = split_version(release).unwrap();
    let input = Input { named, suffix, build_line, proc_version, signature: "" };
    all().iter().filter(|file| file.knows(&input)).map(|file| file.name.as_str()).collect()
}

#[test]
fn the_files_are_clean() {
    assert_eq!(read().err(), None);
    assert!(all().len() > 20);
    for VendorFile { name, title, numbers, package, follows, mark, .. } in all() {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        assert!(![Vendor::UPSTREAM, Vendor::OTHER].contains(&Vendor(name)), "{name} means something else");
        assert!(!title.trim().is_empty() && !title.contains('\n'), "{name}: the title is not one line");
        assert_eq!(package.is_empty(), *numbers != Numbers::InVersion, "{name}: package goes with in_version");
        assert_eq!(follows.is_empty(), *numbers != Numbers::InSignature, "{name}: follows goes with in_signature");
        for series in follows {
            assert!(series.parse::<KernelVersion>().is_ok_and(|version| version.patch == 0), "{name}: {series}");
        }
        for Mark { word, suffix, counter, flavour, base, version, proc_version, mute: _ } in mark {
            let lists = [word, suffix, counter, flavour, base, version, proc_version];
            assert!(lists.iter().any(|list| list.is_some()), "{name}: a mark that fits everything");
            assert!(
                lists.iter().all(|list| list.as_ref().is_none_or(|list| !list.is_empty())),
                "{name}: an empty list"
            );
            assert!(base.iter().flatten().all(|base| base.parse::<KernelVersion>().is_ok()), "{name}: {base:?}");
        }
    }
}

#[test]
fn each_sample_is_known_by_its_file_alone() {
    for file in all() {
        // A file without samples has marks in /proc/version, which samples do not contain: see below.
        let needs_more = file.mark.iter().all(|mark| mark.proc_version.is_some());
        assert_eq!(file.samples.is_empty(), needs_more, "{}: samples", file.name);
        for sample in &file.samples {
            assert_eq!(known_by(sample, ""), [file.name.as_str()], "{sample}");
        }
    }
    let chromium = "(chrome-bot@build.golo) (Chromium OS 9.0_pre361749_p20190714 clang version 9.0.0)";
    assert_eq!(known_by("4.14.137+", chromium), ["cos"]);
    assert_eq!(known_by("5.10.159-20950-g3963226d9eb4", chromium), ["chromeos"]);
    assert_eq!(known_by("4.14.137+", ""), [""; 0]);
}

#[test]
fn patterns() {
    for (pattern, text, fits) in [
        ("", "", true),
        ("", "a", false),
        ("a", "a", true),
        ("a", "ab", false),
        ("el#", "el7", true),
        ("el#", "el10", true),
        ("el#", "el", false),
        ("el#", "el7a", false),
        ("el#*", "el7a", true),
        ("#", "007", true),
        ("#.*", "24", false),
        ("#.*", "24.", true),
        ("*.fc#*", "-200.fc31.x86_64", true),
        ("*.fc#*", "-fc-v669", false),
        ("*é", "aé", true),
    ] {
        assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
    }
}
