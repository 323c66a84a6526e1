use super::*;
use crate::decode::release;
use crate::snapshot::{Kernel, Numbering};
use proptest::prelude::*;

/// The columns of the big table.
const IDS: [&str; 6] = [
    "nat-udp-zero-checksum",
    "nat-udp-lco-checksum",
    "nat-port-rover",
    "udp-clash-drop",
    "conntrack-chain-limit",
    "vmxnet3-tunnel-any-port",
];

/// Beside it: the others.
const HASH: &str = "nat-random-port-hash";

fn defect(id: &str) -> &'static Defect {
    all().iter().find(|defect| defect.id == id).unwrap_or_else(|| panic!("{id} is missing: {:?}", lint()))
}

/// A release, or a release and one more text: `uname -v` if it begins with `#`, else the signature.
fn kernel(text: &str) -> Kernel {
    let (release, more) = text.split_once(' ').map_or((text, None), |(r, m)| (r, Some(m)));
    let version = more.filter(|m| m.starts_with('#'));
    let signature = more.filter(|m| m.starts_with("Ubuntu"));
    release::parse(release, version, None, signature).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn decide(id: &str, text: &str) -> Decision {
    defect(id).decide(&kernel(text), Some(&[]))
}

fn letter(state: DefectState) -> char {
    match state {
        DefectState::Present => 'P',
        DefectState::Absent => 'A',
        DefectState::Unknown => '?',
    }
}

#[test]
fn the_files_are_clean_and_complete() {
    assert_eq!(lint(), Vec::<String>::new());
    let mut wanted = [&IDS[..], &[HASH]].concat();
    wanted.sort_unstable();
    let found: Vec<&str> = all().iter().map(|d| d.id.as_str()).collect();
    assert_eq!(found, wanted);
}

/// A kernel with the rover has the hash too; one without it has not always lost the hash.
#[test]
fn releases_and_what_random_means_there() {
    for (release, state) in [
        ("3.10.108", '?'),
        ("4.4.1", 'P'),
        ("4.4.302", '?'),
        ("4.9.299", 'P'),
        ("4.9.337", '?'),
        ("4.14.264", 'P'),
        ("4.14.265", '?'),
        ("4.19.227", 'P'),
        ("4.19.228", '?'),
        ("4.20.0", 'P'),
        ("4.20.17", '?'),
        ("5.0.1", 'A'),
        ("6.18.44", 'A'),
        ("4.18.0-553.el8_10.x86_64", '?'),
        ("4.18.0-80.11.2.el8_0.x86_64", '?'),
        ("5.14.0-362.13.1.el9_3.x86_64", 'A'),
        ("4.15.0-107-generic", '?'),
        ("6.8.0-31-generic Ubuntu 6.8.0-31.31-generic 6.8.1", 'A'),
    ] {
        assert_eq!(letter(decide(HASH, release).state), state, "{release}");
        let rover = decide("nat-port-rover", release).state;
        assert!(state != 'A' || rover == DefectState::Absent, "{release}");
    }
}

#[test]
fn releases_and_what_they_imply() {
    // P present, A absent, ? unknown; order of IDS: zero, lco, rover, clash, chain, vmxnet3.
    #[rustfmt::skip]
    let rows = [
        // before the stable branches that matter
        ("2.6.19", "?A?PAA"),
        ("2.6.39", "PAPPAA"),
        ("3.10.108", "PAPPAA"),
        ("3.16.85", "?AP?AA"),
        ("4.4.1", "PAPPAA"),
        ("4.4.300", "?AP??A"),
        ("4.4.302", "?A???A"),
        ("4.5.7", "PAPPAA"),
        ("4.6.0", "PPPPAA"),
        ("4.9.299", "PPP??A"),
        ("4.9.337", "PPA??A"),
        ("4.13.9", "PPPPAA"),
        // each fix, on both sides, and the branches after it
        ("4.14.180", "PPP?AA"),
        ("4.14.181", "APP?AA"),
        ("4.14.264", "APP??A"),
        ("4.14.265", "APA??A"),
        ("4.15.18", "PPPPAA"),
        ("4.18.20", "PPPPAA"),
        ("4.19.80", "PPPPAA"),
        ("4.19.122", "PPP?AA"),
        ("4.19.123", "APP?AA"),
        ("4.19.227", "APP??A"),
        ("4.19.228", "APA??A"),
        ("4.20.0", "PPPPAA"),
        ("4.20.17", "PP?PAA"),
        ("5.0.0", "PPAPAA"),
        ("5.3.18", "PPAPAA"),
        ("5.4.6", "PPAPAA"),
        ("5.4.40", "PPA?AA"),
        ("5.4.41", "APA?AA"),
        ("5.4.302", "APA??A"),
        ("5.5.0", "PPAPAA"),
        ("5.5.19", "PPA?AA"),
        ("5.6.12", "PPAAAA"),
        ("5.6.13", "APAAAA"),
        ("5.7.0", "APAAAA"),
        ("5.8.0", "APAAAP"),
        ("5.10.52", "APAA?P"),
        ("5.10.53", "APAA?A"),
        ("5.11.22", "APAAAP"),
        ("5.12.19", "APAAA?"),
        ("5.13.4", "APAAAP"),
        ("5.13.5", "APAAAA"),
        ("5.14.2", "APAAAA"),
        ("5.14.21", "APAA?A"),
        ("5.15.0", "APAAPA"),
        ("5.15.100", "APAAPA"),
        ("5.15.102", "APAAPA"),
        ("5.15.103", "APAAAA"),
        ("6.0.19", "APAAPA"),
        ("6.1.15", "APAAPA"),
        ("6.1.19", "APAA?A"),
        ("6.1.20", "APAAAA"),
        ("6.2.6", "APAAPA"),
        ("6.2.7", "APAAAA"),
        ("6.3.0", "APAAAA"),
        ("6.18.44-fc-v669", "APAAAA"),
        ("7.1.5", "APAAAA"),
        ("7.2.13", "APAAAA"),
        ("7.2.14", "A?AAAA"),
        ("8.0.0", "A?AAAA"),
        // release candidates: decided where the neighbours agree
        ("5.4.41-rc1", "?PA?AA"),
        ("5.0.0-rc1", "PP?PAA"),
        ("5.6.0-rc7", "PPA?AA"),
        ("5.7.0-rc1", "?PAAAA"),
        ("5.15.0-rc1", "APAA?A"),
        ("6.3.0-rc2", "APAA?A"),
        ("6.18.0-rc3", "APAAAA"),
        ("8.0.0-rc1", "??????"), // the release before 8.0 is not known
        // Red Hat: tables
        ("3.10.0-514.el7.x86_64", "PAPPAA"),
        ("3.10.0-514.26.2.el7.x86_64", "P?PPAA"),
        ("3.10.0-862.14.4.el7.x86_64", "P?PPAA"),
        ("3.10.0-957.99.1.el7.x86_64", "??????"), // an update of 2023
        ("3.10.0-1062.12.1.el7.x86_64", "P??PAA"),
        ("3.10.0-1127.el7.x86_64", "PP?PAA"),
        ("3.10.0-1127.8.2.el7.x86_64", "PP??A?"),
        ("3.10.0-1127.19.1.el7.x86_64", "?P????"),
        ("3.10.0-1160.el7.x86_64", "APAPA?"),
        ("3.10.0-1160.119.1.el7.x86_64", "APA???"),
        ("4.18.0-80.11.2.el8_0.x86_64", "PP?PAA"),
        ("4.18.0-147.5.1.el8_1.x86_64", "PP?PAA"),
        ("4.18.0-193.el8.x86_64", "?P??AA"),
        ("4.18.0-193.rt13.51.el8.x86_64", "?P??AA"),
        ("4.18.0-240.el8.x86_64", "APAAAP"),
        ("4.18.0-553.el8_10.x86_64", "APAA??"),
        // Red Hat without a table: the base speaks
        ("2.6.32-754.el6.x86_64", "??????"),
        ("5.14.0-362.13.1.el9_3.x86_64", "APAA?A"),
        ("6.12.0-55.9.1.el10_0.x86_64", "APAAAA"),
        ("5.4.278-1.el7.elrepo.x86_64", "APA??A"),
        ("4.13.18-300.el7.x86_64", "PPPPAA"),
        // Ubuntu
        ("4.15.0-42-generic", "PPPP??"),
        ("4.15.0-96-generic", "PP????"),
        ("4.15.0-107-generic", "?P????"),
        ("4.15.0-107-generic Ubuntu 4.15.0-107.108-generic 4.15.18", "?P????"),
        ("4.15.0-1064-gke", "?P????"), // another counter: no table
        ("5.3.0-39-generic", "?PA???"),
        ("5.4.0-26-generic", "PPA???"),
        ("5.4.0-42-generic", "?PA???"),
        ("5.4.0-42-generic Ubuntu 5.4.0-42.46-generic 5.4.44", "APA?AA"),
        ("5.4.0-31-generic Ubuntu 5.4.0-31.35-generic 5.4.34", "PPA?AA"), // the signature, not the table
        ("5.15.0-107-generic", "APAA?A"),
        ("5.15.0-107-generic Ubuntu 5.15.0-107.117-generic 5.15.149", "APAAAA"),
        ("5.15.0-60-generic Ubuntu 5.15.0-60.66-generic 5.15.78", "APAAPA"),
        ("5.8.0-63-generic Ubuntu 5.8.0-63.71-generic 5.8.18", "APAA??"),
        ("6.8.0-31-generic Ubuntu 6.8.0-31.31-generic 6.8.1", "APAAAA"),
        ("4.12.17-040917-generic", "PPPPAA"),
        // Debian
        ("4.19.0-9-amd64", "PPP???"),
        ("4.19.0-10-amd64", "APP???"),
        ("4.19.0-20-amd64", "AP????"),
        ("4.19.0-0.bpo.9-amd64", "?P????"),
        ("4.19.0-9-amd64 #1 SMP Debian 4.19.118-2 (2020-04-29)", "PPP?AA"),
        ("4.19.0-10-amd64 #1 SMP Debian 4.19.132-1 (2020-07-24)", "APP?AA"),
        ("4.9.0-19-amd64 #1 SMP Debian 4.9.320-2 (2022-06-30)", "PPA??A"),
        ("6.1.0-23-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.99-1 (2024-07-15)", "APAAAA"),
        ("6.1.0-23-amd64", "APAA?A"),
        // frozen without tables
        ("5.4.17-2136.310.7.1.el8uek.x86_64", "?PA???"),
        ("4.12.14-122.23-default", "?P????"),
        ("5.14.21-150400.24.33-default", "APAA?A"),
        ("5.3.18-59.37-default", "?PA???"),
        ("5.10.0-60.18.0.50.r966_40.hce2.x86_64", "APAA??"),
        ("5.4.106-1-pve", "APA???"), // repaired before the base: 5.5 does not undo it
        ("6.8.0-custom", "APAAAA"),
        // upstream numbers of other vendors
        ("4.14.137+", "PPPPAA"),
        ("4.14.193-149.317.amzn2.x86_64", "APP?AA"),
        ("5.15.167.4-microsoft-standard-WSL2", "APAAAA"),
        ("6.12.102-flatcar", "APAAAA"),
        ("5.4.40-custom", "PPA?AA"),
    ];
    let mut wrong = Vec::new();
    for (text, wanted) in rows {
        let found: String = IDS.iter().map(|id| letter(decide(id, text).state)).collect();
        if found != wanted {
            wrong.push(format!("{text}: wanted {wanted}, found {found}"));
        }
    }
    assert!(rows.len() > 100);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn decisions_name_release_range_basis_and_doubt() {
    let present = decide("nat-udp-zero-checksum", "5.5.19");
    assert_eq!((present.state, present.basis), (DefectState::Present, Basis::UpstreamVersion));
    for part in ["5.5.19", "by its version number", "from 5.5.0 to before 5.6.13", "5.6.4 was read"] {
        assert!(present.detail.contains(part), "{part:?} in {}", present.detail);
    }
    let table = decide("nat-udp-zero-checksum", "3.10.0-1160.119.1.el7.x86_64");
    assert_eq!((table.state, table.basis), (DefectState::Absent, Basis::VendorTable));
    assert!(table.detail.contains("rhel build 1160.119.1 of 3.10.0"), "{}", table.detail);
    assert!(table.detail.contains("from 1160 on"), "{}", table.detail);
    let unknown = decide("nat-udp-zero-checksum", "4.18.0-193.el8.x86_64");
    assert_eq!((unknown.state, unknown.basis), (DefectState::Unknown, Basis::None));
    assert!(unknown.detail.contains("not known ("), "{}", unknown.detail);
}

#[test]
fn a_livepatch_puts_present_in_doubt_and_nothing_else() {
    let names = |n: usize| (0..n).map(|i| format!("kpatch_{i}")).collect::<Vec<_>>();
    let zero = defect("nat-udp-zero-checksum");
    for text in ["5.4.40", "3.10.0-514.el7.x86_64"] {
        let patched = zero.decide(&kernel(text), Some(&names(1)));
        assert_eq!((patched.state, patched.basis), (DefectState::Unknown, Basis::None));
        assert!(patched.detail.contains("livepatch is loaded") && patched.detail.contains("kpatch_0"));
        assert_eq!(zero.decide(&kernel(text), None).state, DefectState::Unknown);
        assert_eq!(zero.decide(&kernel(text), Some(&[])).state, DefectState::Present);
    }
    let many = zero.decide(&kernel("5.4.40"), Some(&names(9))).detail;
    assert!(many.contains("kpatch_2 and 6 more") && !many.contains("kpatch_3"), "{many}");
    let odd = zero.decide(&kernel("5.4.40"), Some(&["a\nb".to_owned()])).detail;
    assert!(!odd.contains('\n'), "{odd}");
    for livepatches in [None, Some(&names(1)[..]), Some(&[])] {
        let fixed = zero.decide(&kernel("5.4.41"), livepatches);
        assert_eq!((fixed.state, fixed.basis), (DefectState::Absent, Basis::UpstreamVersion));
        assert!(!fixed.detail.contains("livepatch"));
    }
}

const GOOD: &str = r#"
id = "good"
title = "t"
references = ["r"]
[[upstream]]
from = "0"
state = "present"
source = "s"
[[upstream]]
from = "5.7"
state = "absent"
source = "s"
[[vendor]]
name = "rhel"
series = "4.18"
builds = [{ from = "0", state = "present", source = "s" }, { from = "240", state = "absent", source = "s" }]
"#;

#[test]
fn the_linter_catches_each_planted_error() {
    assert_eq!(lint_file("good", GOOD), Vec::<String>::new());
    let table = GOOD.split_once("[[vendor]]").unwrap().1;
    let twice = format!("{GOOD}[[vendor]]{table}");
    #[rustfmt::skip]
    let planted = [
        ("id = \"good\"", "id = \"other\"", "does not fit the file name"),
        ("id = \"good\"", "id = \"Good!\"", "is not made of a-z"),
        ("title = \"t\"", "title = \" \"", "the title is not one line"),
        ("[\"r\"]", "[]", "no references"),
        ("[\"r\"]", "[\"\"]", "a reference is empty"),
        ("title", "titel", "unknown field `titel`"),
        ("source = \"s\"", "sauce = \"s\"", "unknown field `sauce`"),
        ("series", "serie", "unknown field `serie`"),
        ("state = \"absent\"", "state = \"fixed\"", "none of present"),
        ("from = \"0\"\n", "from = \"2.6\"\n", "not from 0"),
        ("from = \"5.7\"", "from = \"0\"", "from 0 is not above"),
        ("from = \"5.7\"", "from = \"5.7.0.1\"", "more than three numbers"),
        ("from = \"5.7\"\nstate = \"absent\"", "from = \"5.7\"\nstate = \"present\"", "say the same"),
        ("source = \"s\"", "source = \" \"", "the source is empty"),
        ("source = \"s\"", "source = \"s\\ns\"", "the source has several lines"),
        ("\"rhel\"", "\"rhell\"", "unknown vendor \"rhell\""),
        ("\"4.18\"", "\"4.18.0\"", "is not x.y"),
        ("\"4.18\"", "\"x\"", "is not x.y"),
        ("from = \"240\"", "from = \"240-1\"", "build \"240-1\" is not numbers"),
        ("from = \"240\"", "from = \"\"", "build \"\" is not numbers"),
        ("builds = [", "builds = [] #", "rhel 4.18: no ranges"),
        (GOOD, &twice, "two tables for rhel 4.18.0"),
        ("[[upstream]]", "[[upstream]", "good: "),
    ];
    for (old, new, wanted) in planted {
        assert!(GOOD.contains(old), "{old}");
        let errors = lint_file("good", &GOOD.replacen(old, new, 1));
        assert!(errors.iter().any(|e| e.contains(wanted)), "{new:?}: {errors:?}");
        assert!(errors.iter().all(|e| e.starts_with("good: ")), "{errors:?}");
    }
}

#[test]
fn the_linter_reports_all_errors_at_once() {
    let bad = GOOD
        .replace("[\"r\"]", "[]")
        .replace("\"good\"", "\"bad\"")
        .replace("\"rhel\"", "\"rhell\"")
        .replace("from = \"0\"", "from = \"1\"")
        .replace("source = \"s\"", "source = \"\"");
    let errors = lint_file("good", &bad);
    // id, references, vendor, two first ranges, four sources
    assert_eq!(errors.len(), 9, "{errors:#?}");
}

#[test]
fn tables_of_one_vendor_may_share_a_series_if_their_flavours_differ() {
    let table = GOOD.split_once("[[vendor]]").unwrap().1;
    let one = format!("{}[[vendor]]\nflavours = [\"a\"]{table}", GOOD.split_once("[[vendor]]").unwrap().0);
    let two = format!("{one}[[vendor]]\nflavours = [\"b\"]{table}");
    let clash = format!("{one}[[vendor]]\nflavours = [\"b\", \"a\"]{table}");
    assert!(lint_file("good", &two).is_empty());
    assert_eq!(lint_file("good", &clash).len(), 1);
}

proptest! {
    #[test]
    fn every_kernel_gets_a_consistent_decision(
        release in "[2-8]\\.[0-9]{1,2}(\\.[0-9]{1,3})?(-(rc)?[0-9]{1,4}(\\.[0-9]{1,3})?(\\.el[789]|-generic|-amd64|-default)?)?",
    ) {
        if let Ok(kernel) = release::parse(&release, None, None, None) {
            for defect in all() {
                let decision = defect.decide(&kernel, Some(&[]));
                prop_assert_eq!(decision.state == DefectState::Unknown, decision.basis == Basis::None);
                prop_assert!(decision.detail.contains(&release) && !decision.detail.contains('\n'));
            }
        }
    }

    /// What a lower bound decides must hold for every release it may stand for on its own line.
    #[test]
    fn a_frozen_kernel_is_never_surer_than_upstream(x in 3u16..8, y in 0u16..20, z in 0u16..250) {
        let base = KernelVersion::new(x, y, z);
        let mut kernel = kernel("8.0.0");
        kernel.base = base;
        for defect in all() {
            let exact = defect.decide(&kernel, Some(&[])).state;
            kernel.numbering = Numbering::Frozen;
            let frozen = defect.decide(&kernel, Some(&[])).state;
            kernel.numbering = Numbering::Upstream;
            prop_assert!(frozen == exact || frozen == DefectState::Unknown);
        }
    }
}
