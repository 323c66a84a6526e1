use super::*;
use crate::advisory::decide::{self, Decision};
use crate::facts::{Kernel, Numbering};
use crate::read::release;
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

/// Id of the defect that is not a column of the table.
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
    decide::decide(defect(id), &kernel(text), Some(&[]))
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

/// A kernel with the rover has the hash too; one without the rover may have lost the hash.
#[test]
fn releases_and_what_random_means_there() {
    for (release, state) in [
        ("3.10.108", '?'),
        ("4.4.1", 'P'),
        ("4.4.302", 'P'),
        ("4.9.299", 'P'),
        ("4.9.337", 'P'),
        ("4.14.264", 'P'),
        ("4.14.265", 'P'),
        ("4.14.336", 'P'),
        ("4.19.227", 'P'),
        ("4.19.228", 'P'),
        ("4.19.325", 'P'),
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
        // each fix, on both sides, and the later branches
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
        // release candidates: decided where the neighbouring releases agree
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
        // Red Hat without a table: the base release decides
        ("2.6.32-754.el6.x86_64", "??????"),
        ("5.14.0-362.13.1.el9_3.x86_64", "APAA?A"),
        ("6.12.0-55.9.1.el10_0.x86_64", "APAAAA"),
        ("5.4.278-1.el7.elrepo.x86_64", "APA??A"),
        ("4.13.18-300.el7.x86_64", "?P????"), // nobody knows whose
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
        ("4.14.137+", "?P????"), // COS is known by /proc/version
        ("4.4.0-19041-Microsoft", "??????"), // WSL 1 is no Linux
        ("4.14.193-149.317.amzn2.x86_64", "APP?AA"),
        ("5.15.167.4-microsoft-standard-WSL2", "APAAAA"),
        ("6.12.102-flatcar", "APAAAA"),
        ("5.4.40-custom", "?PA???"), // repaired since, perhaps
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

/// A release and its `uname -v`, and the expected states: as above, then the hash of `random`.
#[test]
fn vendors_and_build_dates() {
    #[rustfmt::skip]
    let rows = [
        // Built before the fix was written (zero: 2020-04-21): it cannot contain it, whatever the number says.
        ("3.10.0-1062.18.1.el7.x86_64 #1 SMP Tue Mar 17 23:49:17 UTC 2020", "P??????"),
        ("3.10.0-957.el7.x86_64 #1 SMP Thu Nov 8 23:39:32 UTC 2018", "P?PPAA?"),
        ("4.18.0-147.8.1.el8_1.x86_64 #1 SMP Thu Apr 9 13:49:54 UTC 2020", "PP?????"),
        ("4.18.0-193.el8.x86_64 #1 SMP Fri Mar 27 14:35:58 UTC 2020", "PP??AA?"),
        ("4.18.0-193.el8.s390x #1 SMP Fri Mar 27 14:35:58 UTC 2020", "PP??AA?"),
        ("2.6.32-754.el6.x86_64 #1 SMP Tue Jun 19 21:26:04 UTC 2018", "P?PP???"),
        ("5.4.17-2011.0.7.el7uek.x86_64 #2 SMP Fri Mar 20 20:18:23 PDT 2020", "PPA???A"),
        ("4.14.35-1818.3.3.el7uek.x86_64 #2 SMP Mon Sep 24 14:45:01 PDT 2018", "PPPP??P"),
        ("5.4.0-1009-aws #9-Ubuntu SMP Sun Apr 12 19:46:01 UTC 2020", "PPA???A"),
        ("4.15.0-74-generic #84-Ubuntu SMP Thu Dec 19 08:06:28 UTC 2019", "PP?P???"),
        ("4.12.14-lp151.28.36-default #1 SMP Fri Dec 6 13:50:27 UTC 2019 (8f4a495)", "PP?P???"),
        ("5.6.2-1-default #1 SMP Thu Apr 2 06:31:32 UTC 2020 (c8170d6)", "PPAA??A"),
        ("4.14.105-19-0008 #1 SMP Fri Oct 11 15:02:11 CST 2019", "PP?P???"),
        ("4.19.112+ #1 SMP Sat Apr 4 06:26:23 PDT 2020", "PP?????"),
        ("5.15.89+ #1 SMP Sat Feb 18 09:39:02 UTC 2023", "APAAPAA"),
        ("5.15.63-flatcar #1 SMP Mon Sep 5 14:54:31 -00 2022", "APAAPAA"),
        ("5.15.0-60-generic #66~20.04.1-Ubuntu SMP Wed Jan 25 09:41:30 UTC 2023", "APAAPAA"),
        ("6.1.0-5-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.12-1 (2023-02-15)", "APAAPAA"),
        ("5.3.18-3-pve #1 SMP PVE 5.3.18-3 (Tue, 17 Mar 2020 16:33:19 +0100)", "PPA???A"),
        ("4.19.0+1 #1 SMP Wed Apr 8 15:40:07 CEST 2020", "PP?????"),
        ("4.19.90-2003.4.0.0036.oe1.x86_64 #1 SMP Mon Mar 23 19:10:41 UTC 2020", "PP?????"),
        ("5.4.30-custom #1 SMP Tue Apr 7 10:00:00 UTC 2020", "PPA???A"),
        ("4.4.210-custom #1 SMP Tue Jan 28 10:00:00 UTC 2020", "P??P???"),
        ("5.5.13-arch2-1 #1 SMP PREEMPT Mon, 30 Mar 2020 20:42:41 +0000", "PPA?AAA"),
        // Built after it: a vendor that keeps x.y.z may have backported the fix.
        ("4.18.0-193.6.3.el8_2.x86_64 #1 SMP Wed Jun 10 11:09:32 UTC 2020", "?P?????"),
        ("3.10.0-957.99.1.el7.x86_64 #1 SMP Tue Feb 7 12:00:00 UTC 2023", "???????"),
        ("5.4.17-2102.206.1.el8uek.x86_64 #2 SMP Wed Oct 6 16:45:58 PDT 2021", "?PA???A"),
        ("5.15.0-6.80.3.1.el9uek.x86_64 #2 SMP PREEMPT_DYNAMIC Fri Dec 23 10:00:00 PST 2022", "APAAPAA"),
        ("4.15.0-99-generic #100-Ubuntu SMP Wed Apr 22 20:32:56 UTC 2020", "?P?????"),
        ("5.3.18-lp152.106-default #1 SMP Mon Nov 22 08:38:17 UTC 2021 (52078fe)", "?PA???A"),
        ("5.3.18-57-default #1 SMP Wed Apr 28 10:54:41 UTC 2021 (ba3c2e9)", "?PA???A"),
        ("5.3.18-22-default #1 SMP Wed Jun 3 12:16:43 UTC 2020 (720aeba/lp-1a956f1)", "?PA???A"),
        ("4.14.105-19-0019 #1 SMP Thu Nov 18 15:02:11 CST 2021", "?P?????"),
        ("5.4.119-19-0009.11 #1 SMP Wed Oct 5 18:41:07 CST 2022", "APA???A"),
        ("4.4.180+ #42962 SMP Tue Feb 8 2022", "???????"),
        ("4.4.302+ #69057 SMP Fri Jan 12 17:02:28 CST 2024", "???????"),
        ("5.10.60-qnap #1 SMP Tue Jan 2 00:10:57 CST 2024", "APAA?AA"),
        ("5.15.109+ #1 SMP Sat Jul 15 09:39:02 UTC 2023", "APAAAAA"),
        ("5.4.34-1-pve #1 SMP PVE 5.4.34-2 (Thu, 07 May 2020 10:02:02 +0200)", "?PA???A"),
        ("5.4.40-custom #1 SMP Mon May 11 10:00:00 UTC 2020", "?PA???A"),
        ("4.19.91-26.al7.x86_64 #1 SMP", "?P?????"),
        // On that day, or where the time zone may make it that day: no conclusion.
        ("5.4.33-custom #1 SMP Sun Apr 19 10:00:00 CST 2020", "PPA???A"),
        ("5.4.33-custom #1 SMP Mon Apr 20 10:00:00 UTC 2020", "PPA???A"),
        ("5.4.33-custom #1 SMP Mon Apr 20 10:00:00 CEST 2020", "?PA???A"),
        // Impossible dates: before x.y.z was released, or a fixed date that a builder writes into everything.
        ("5.4.40-custom #1 SMP Mon Apr 20 10:00:00 UTC 2020", "?PA???A"),
        ("4.14.270-custom #1 SMP Mon Mar 5 12:34:56 UTC 2018", "APA????"),
        ("4.14.270-yocto-standard #1 SMP PREEMPT Fri Mar 9 12:34:56 UTC 2018", "APA????"),
        ("4.14.20-yocto-standard #1 SMP PREEMPT Fri Mar 9 12:34:56 UTC 2018", "?P?????"),
        ("5.4.30-custom #1 SMP Thu Jan 1 00:00:00 UTC 1970", "?PA???A"),
        ("5.4.30-custom #1-NixOS SMP Tue Jan 1 00:00:00 UTC 1980", "?PA???A"),
        // The table names exactly this build; a build that it only counts contradicts its date.
        ("3.10.0-1160.el7.x86_64 #1 SMP Mon Jan 6 16:18:59 UTC 2020", "APAPA??"),
        ("3.10.0-1160.2.1.el7.x86_64 #1 SMP Mon Jan 6 16:18:59 UTC 2020", "?PAP???"),
        // Other vendors' builds of Red Hat's sources are not counted by Red Hat's table.
        ("4.18.0-348.20.1.el7.aarch64 #1 SMP Wed Mar 23 20:51:52 UTC 2022", "?P?????"),
        ("3.10.0-1160.119.1.el7.tuxcare.els3.x86_64 #1 SMP Tue Sep 3 10:00:00 UTC 2024", "???????"),
        // Candidates contain what the release before them contains.
        ("5.7.0-rc1 #1 SMP Sun Apr 12 20:00:00 UTC 2020", "PPAAAAA"),
        ("5.7.0-rc5 #1 SMP Sun May 10 20:00:00 UTC 2020", "?PAAAAA"),
        // No Linux.
        ("4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016", "???????"),
        ("4.4.0-19041-Microsoft #1237-Microsoft Sat Sep 11 14:32:00 PST 2021", "???????"),
        // Vendors that follow upstream are decided by number.
        ("4.14.177-139.253.amzn2.x86_64 #1 SMP Wed Apr 29 09:56:20 UTC 2020", "PPP?AAP"),
        ("4.14.186-146.268.amzn2.x86_64 #1 SMP Tue Jul 14 18:16:52 UTC 2020", "APP?AAP"),
        ("4.14.336-257.562.amzn2.x86_64 #1 SMP Sat Feb 24 09:50:35 UTC 2024", "APA??AP"),
        ("5.15.122.1-2.cm2 #1 SMP Wed Aug 9 2023", "APAAAAA"),
        ("5.10.0-9-amd64 #1 SMP Debian 5.10.70-1 (2021-09-30)", "APAA?AA"),
        ("6.6.9-amd64 #1 SMP PREEMPT_DYNAMIC Kali 6.6.9-1kali1 (2024-01-08)", "APAAAAA"),
        ("5.10.16.3-microsoft-standard-WSL2 #1 SMP Fri Apr 2 22:23:49 UTC 2021", "APAAAPA"),
        ("6.6.43-talos #1 SMP PREEMPT_DYNAMIC Mon Aug 5 11:37:44 UTC 2024", "APAAAAA"),
        ("6.1.21-v8+ #1642 SMP PREEMPT Mon Apr 3 17:24:16 BST 2023", "APAAAAA"),
        ("5.15.84-v8+ #1613 SMP PREEMPT Thu Jan 5 12:03:08 GMT 2023", "APAAPAA"),
        ("4.19.97-v7l+ #1294 SMP Thu Jan 30 13:21:14 GMT 2020", "PPPPAAP"),
        ("5.15.49-linuxkit #1 SMP Tue Sep 13 07:51:46 UTC 2022", "APAAPAA"),
        ("5.10.176 #0 SMP Thu Apr 27 20:28:15 2023", "APAA?AA"),
        // A fix that is older than the base stays.
        ("5.14.0-162.6.1.el9_1.x86_64 #1 SMP PREEMPT_DYNAMIC Fri Sep 30 07:36:03 EDT 2022", "APAA?AA"),
        ("5.14.21-150400.24.33-default #1 SMP PREEMPT_DYNAMIC Fri Nov 4 13:55:06 UTC 2022 (76cfe60)", "APAA?AA"),
        ("6.4.0-150600.23.7-default #1 SMP PREEMPT_DYNAMIC Mon Jun 10 22:24:05 UTC 2024 (1ee5b97)", "APAAAAA"),
        ("6.5.0-1010-azure #10~22.04.1-Ubuntu SMP Tue Nov 28 10:00:00 UTC 2023", "APAAAAA"),
        ("5.13.0-1005-gcp #6-Ubuntu SMP Thu Jun 24 08:53:30 UTC 2021", "APAA??A"),
        ("4.18.0-240.22.1.el8_3.x86_64 #1 SMP Thu Apr 8 19:01:30 UTC 2021", "APAA???"),
    ];
    let mut wrong = Vec::new();
    for (text, wanted) in rows {
        let found: String = IDS.iter().chain(&[HASH]).map(|id| letter(decide(id, text).state)).collect();
        if found != wanted {
            wrong.push(format!("{text}: wanted {wanted}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_build_date_says_what_it_rests_on() {
    let decide = |text| decide("nat-udp-zero-checksum", text);
    let dated = decide("4.18.0-193.el8.x86_64 #1 SMP Fri Mar 27 14:35:58 UTC 2020");
    assert_eq!((dated.state, dated.basis), (DefectState::Present, Basis::BuildDate));
    for part in ["built on 2020-03-27 at the latest", "before the fix was written on 2020-04-21", "were not read"] {
        assert!(dated.detail.contains(part), "{part:?} in {}", dated.detail);
    }
    let contradiction = decide("3.10.0-1160.2.1.el7.x86_64 #1 SMP Mon Jan 6 16:18:59 UTC 2020");
    assert_eq!((contradiction.state, contradiction.basis), (DefectState::Unknown, Basis::None));
    for part in ["built on 2020-01-06", "; but rhel build 1160.2.1", "defect absent"] {
        assert!(contradiction.detail.contains(part), "{part:?} in {}", contradiction.detail);
    }
    let named = decide("3.10.0-1160.el7.x86_64 #1 SMP Mon Jan 6 16:18:59 UTC 2020");
    assert_eq!((named.state, named.basis), (DefectState::Absent, Basis::VendorTable));
    let foreign = decide("4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016");
    assert!(foreign.detail.contains("no Linux (gvisor)"), "{}", foreign.detail);
    let stranger = decide("5.4.40-custom");
    assert!(stranger.detail.contains("someone natwatch does not know, based on 5.4.40"), "{}", stranger.detail);
    // A live patch may have added the fix to a kernel of any age.
    let patched = decide::decide(
        defect("nat-udp-zero-checksum"),
        &kernel("4.18.0-193.el8.x86_64 #1 SMP Fri Mar 27 14:35:58 UTC 2020"),
        Some(&["kpatch_1".to_owned()]),
    );
    assert_eq!(patched.state, DefectState::Unknown);
}

#[test]
fn the_tables_name_vendors_that_there_are() {
    for defect in all() {
        for table in &defect.vendors {
            assert!(release::vendors().any(|name| name == table.vendor), "{}: {}", defect.id, table.vendor);
        }
    }
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
        let patched = decide::decide(zero, &kernel(text), Some(&names(1)));
        assert_eq!((patched.state, patched.basis), (DefectState::Unknown, Basis::None));
        assert!(patched.detail.contains("livepatch is loaded") && patched.detail.contains("kpatch_0"));
        assert_eq!(decide::decide(zero, &kernel(text), None).state, DefectState::Unknown);
        assert_eq!(decide::decide(zero, &kernel(text), Some(&[])).state, DefectState::Present);
    }
    let many = decide::decide(zero, &kernel("5.4.40"), Some(&names(9))).detail;
    assert!(many.contains("kpatch_2 and 6 more") && !many.contains("kpatch_3"), "{many}");
    let odd = decide::decide(zero, &kernel("5.4.40"), Some(&["a\nb".to_owned()])).detail;
    assert!(!odd.contains('\n'), "{odd}");
    for livepatches in [None, Some(&names(1)[..]), Some(&[])] {
        let fixed = decide::decide(zero, &kernel("5.4.41"), livepatches);
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
        ("title = \"t\"", "title = \"t\"\nfix_written = \"April 2020\"", "fix_written: \"April 2020\" is not a date"),
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
        .replace("\"4.18\"", "\"4.18.0\"")
        .replace("from = \"0\"", "from = \"1\"")
        .replace("source = \"s\"", "source = \"\"");
    let errors = lint_file("good", &bad);
    // id, references, series, two first ranges, four sources
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
                let decision = decide::decide(defect, &kernel, Some(&[]));
                prop_assert_eq!(decision.state == DefectState::Unknown, decision.basis == Basis::None);
                prop_assert!(decision.detail.contains(&release) && !decision.detail.contains('\n'));
            }
        }
    }

    /// What a lower bound decides must be true of every release on its line that it may stand for.
    #[test]
    fn a_frozen_kernel_is_never_surer_than_upstream(x in 3u16..8, y in 0u16..20, z in 0u16..250) {
        let base = KernelVersion::new(x, y, z);
        let mut kernel = kernel("8.0.0");
        kernel.base = base;
        for defect in all() {
            let exact = decide::decide(defect, &kernel, Some(&[])).state;
            kernel.numbering = Numbering::Frozen;
            let frozen = decide::decide(defect, &kernel, Some(&[])).state;
            kernel.numbering = Numbering::Upstream;
            prop_assert!(frozen == exact || frozen == DefectState::Unknown);
        }
    }
}
