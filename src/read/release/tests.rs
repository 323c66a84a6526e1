//! Rows without a comment are samples of real kernels; the others are made up to mislead.

use super::*;
use crate::facts::{Build, KernelVersion, Numbering};
use Numbering::{Foreign, Frozen, Prerelease, Upstream};
use proptest::prelude::*;

fn read(release: &str) -> Kernel {
    parse(release, None, None, None).unwrap_or_else(|e| panic!("{release}: {e}"))
}

/// `vendor base numbering build`, `-` for no build.
fn shown(k: &Kernel) -> String {
    let build = k.build.as_ref().map_or("-".to_owned(), Build::to_string);
    format!("{} {} {:?} {build}", k.vendor, k.base, k.numbering)
}

#[test]
fn the_release_alone() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str, Numbering, &str)] = &[
        // Ubuntu
        ("5.3.0-39-generic", "ubuntu", "5.3", Frozen, "39-generic"),
        ("5.4.0-1010-azure", "ubuntu", "5.4", Frozen, "1010-azure"),
        ("5.4.0-1041-aws", "ubuntu", "5.4", Frozen, "1041-aws"),
        ("5.4.0-1034-gcp", "ubuntu", "5.4", Frozen, "1034-gcp"),
        ("4.15.0-1064-gke", "ubuntu", "4.15", Frozen, "1064-gke"),
        ("5.15.0-1034-intel-iotg", "ubuntu", "5.15", Frozen, "1034-intel-iotg"),
        ("2.6.32-21-generic", "ubuntu", "2.6.32", Frozen, "21-generic"), // z is the series
        ("4.12.17-040917-generic", "upstream", "4.12.17", Upstream, "40917-generic"),
        ("6.8.0-060800-generic", "upstream", "6.8", Upstream, "60800-generic"),
        ("6.8.0-060800rc1-generic", "upstream", "6.8", Prerelease, "-"),
        ("6.8.0-060700-generic", "ubuntu", "6.8", Frozen, "60700-generic"), // code of another release
        ("6.8.0-76060800daily20240311-generic", "other", "6.8", Frozen, "-"),
        ("6.6.10-76060610-generic", "other", "6.6.10", Frozen, "76060610-generic"),
        // Debian
        ("4.19.0-10-amd64", "debian", "4.19", Frozen, "10-amd64"),
        ("4.19.0-10-cloud-amd64", "debian", "4.19", Frozen, "10-cloud-amd64"),
        ("6.1.0-23-amd64", "debian", "6.1", Frozen, "23-amd64"),
        ("4.19.0-0.bpo.9-amd64", "debian", "4.19", Frozen, "-"), // another ABI counter
        ("5.10.0-0.deb10.16-amd64", "debian", "5.10", Frozen, "-"),
        ("6.12.38+deb13-amd64", "debian", "6.12.38", Upstream, "-"),
        // Red Hat and those that look like it
        ("4.18.0-193.el8.x86_64", "rhel", "4.18", Frozen, "193"),
        ("3.10.0-1127.8.2.el7.x86_64", "rhel", "3.10", Frozen, "1127.8.2"),
        ("3.10.0-1160.el7.x86_64.debug", "rhel", "3.10", Frozen, "1160"),
        ("5.14.0-362.13.1.el9_3.x86_64", "rhel", "5.14", Frozen, "362.13.1"),
        ("4.18.0-193.rt13.51.el8.x86_64", "rhel", "4.18", Frozen, "193-rt"),
        ("4.18.0-193.14.3.rt13.67.el8_2.x86_64", "rhel", "4.18", Frozen, "193.14.3-rt"),
        ("4.18.0-553.el8_10.x86_64", "rhel", "4.18", Frozen, "553"),
        ("6.12.0-55.9.1.el10_0.x86_64", "rhel", "6.12", Frozen, "55.9.1"),
        ("2.6.32-754.el6.x86_64", "rhel", "2.6.32", Frozen, "754"),
        ("3.10.0-962.3.2.lve1.5.80.el7.x86_64", "other", "3.10", Frozen, "962.3.2"), // CloudLinux counts alone
        ("3.10.0-957.1.3.el7.nutanix.20190409.x86_64", "other", "3.10", Frozen, "957.1.3"),
        ("5.14.0-362.13.1.el9_3.aarch64+64k", "rhel", "5.14", Frozen, "362.13.1"),
        ("4.13.18-300.el7.x86_64", "other", "4.13.18", Frozen, "300"),
        ("4.14.0-115.el7a.0.1.aarch64", "other", "4.14", Frozen, "115"),
        ("5.4.278-1.el7.elrepo.x86_64", "elrepo", "5.4.278", Upstream, "1"),
        ("6.8.0-1.el9.elrepo.x86_64", "elrepo", "6.8", Upstream, "1"),
        ("5.4.17-2136.310.7.1.el8uek.x86_64", "uek", "5.4.17", Frozen, "2136.310.7.1"),
        ("3.10.0-862.14.4.el7.ve.x86_64", "virtuozzo", "3.10", Frozen, "862.14.4"),
        ("3.10.0-1160.105.1.vz7.214.3", "virtuozzo", "3.10", Frozen, "1160.105.1"),
        ("2.6.32-042stab120.11", "virtuozzo", "2.6.32", Frozen, "-"),
        ("5.4.17-200.fc31.x86_64", "fedora", "5.4.17", Upstream, "200"),
        ("6.9.0-64.fc41.x86_64", "fedora", "6.9", Upstream, "64"),
        ("6.8.0-0.rc3.20240209git1f719a2f3fa6.31.fc40.x86_64", "fedora", "6.8", Prerelease, "0"),
        ("5.10.0-60.18.0.50.r966_40.hce2.x86_64", "openeuler", "5.10", Frozen, "60.18.0.50"),
        ("4.19.90-2003.4.0.0036.oe1.x86_64", "openeuler", "4.19.90", Frozen, "2003.4.0.36"),
        ("4.19.90-24.4.v2101.ky10.x86_64", "openeuler", "4.19.90", Frozen, "24.4"),
        ("5.10.134-16.3.al8.x86_64", "alibaba", "5.10.134", Frozen, "16.3"),
        ("5.4.119-19.0009.44.tl3", "tencent", "5.4.119", Frozen, "19.9.44"),
        // the rest
        ("4.14.193-149.317.amzn2.x86_64", "amazon", "4.14.193", Upstream, "149.317"),
        ("5.10.75-79.358.amzn2.x86_64", "amazon", "5.10.75", Upstream, "79.358"),
        ("4.14.193-110.317.amzn1.x86_64", "amazon", "4.14.193", Upstream, "110.317"),
        ("6.1.90-99.173.amzn2023.x86_64", "amazon", "6.1.90", Upstream, "99.173"),
        ("6.12.102-flatcar", "flatcar", "6.12.102", Upstream, "-"),
        ("4.19.56-coreos-r1", "flatcar", "4.19.56", Upstream, "-"),
        ("4.14.137+", "other", "4.14.137", Frozen, "-"), // COS needs /proc/version
        ("5.10.159-20950-g3963226d9eb4", "other", "5.10.159", Frozen, "20950-g3963226d9eb4"), // so does ChromeOS
        ("5.10.159-00012-g3963226d9eb4", "other", "5.10.159", Frozen, "12-g3963226d9eb4"),
        ("5.15.167.4-microsoft-standard-WSL2", "wsl", "5.15.167", Upstream, "-"),
        ("6.6.87.2-microsoft-standard-WSL2", "wsl", "6.6.87", Upstream, "-"),
        ("4.4.0-19041-Microsoft", "wsl1", "4.4", Foreign, "19041-Microsoft"),
        ("4.12.14-122.23-default", "suse", "4.12.14", Frozen, "122.23-default"),
        ("5.14.21-150400.24.33-default", "suse", "5.14.21", Frozen, "150400.24.33-default"),
        ("5.14.21-150400.14.10-azure", "suse", "5.14.21", Frozen, "150400.14.10-azure"),
        ("4.4.104-39-default", "suse", "4.4.104", Frozen, "39-default"),
        ("6.4.0-150600.23.7-default", "suse", "6.4", Frozen, "150600.23.7-default"),
        ("5.4.106-1-pve", "proxmox", "5.4.106", Frozen, "1-pve"),
        ("4.19.198-1.ph3-esx", "photon", "4.19.198", Upstream, "1-esx"),
        ("5.4.17-1-MANJARO", "arch", "5.4.17", Upstream, "1-MANJARO"),
        ("6.9.1-arch1-1", "arch", "6.9.1", Upstream, "-"),
        ("6.18.44-fc-v669", "other", "6.18.44", Frozen, "-"), // no Fedora: not ".fcN"
        ("5.4.40", "upstream", "5.4.40", Upstream, "-"),
        ("5.4.40-custom", "other", "5.4.40", Frozen, "-"),
        ("6.8.0", "upstream", "6.8", Upstream, "-"),
        ("6.8.0+", "other", "6.8", Frozen, "-"), // commits of the next release
        ("6.8.0-custom", "other", "6.8", Frozen, "-"),
        ("6.8.0-1", "other", "6.8", Frozen, "1"),
        ("6.8", "upstream", "6.8", Upstream, "-"),
        ("6.8.0-rc3", "other", "6.8", Prerelease, "-"),
        ("6.8.0-rc3+", "other", "6.8", Prerelease, "-"),
        ("6.8.0-rc3-next-20240209", "other", "6.8", Prerelease, "-"),
        ("6.1.20-rc1", "other", "6.1.20", Prerelease, "-"),
        ("6.8.0-arch2", "arch", "6.8", Upstream, "-"), // "rc" inside a word
        ("8.0.0", "upstream", "8.0", Upstream, "-"),
        ("65535.65535.65535", "upstream", "65535.65535.65535", Upstream, "-"),
        ("5.4.0-99999999999-generic", "ubuntu", "5.4", Frozen, "-"), // no u32: no build
        ("5.4.40\n", "upstream", "5.4.40", Upstream, "-"), // as read from /proc
    ];
    let mut wrong = Vec::new();
    for (release, vendor, base, numbering, build) in rows {
        let base: KernelVersion = base.parse().unwrap();
        let wanted = format!("{vendor} {base} {numbering:?} {build}");
        let found = shown(&read(release));
        if found != wanted {
            wrong.push(format!("{release}: wanted {wanted}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_other_files_add_to_it() {
    const GCC_DEBIAN: &str = "Linux version 4.19.0-10-amd64 (debian-kernel@lists.debian.org) \
        (gcc version 8.3.0 (Debian 8.3.0-6)) #1 SMP Debian 4.19.132-1 (2020-07-24)";
    const GCC_UBUNTU: &str = "Linux version 5.4.0-custom (me@home) (gcc version 9.3.0 \
        (Ubuntu 9.3.0-10ubuntu2)) #1 SMP Fri Jun 19 10:28:31 UTC 2020";
    const UBUNTU: &str = "Linux version 5.3.0-39-generic (buildd@lcy01-amd64-016) (gcc version 9.3.0 \
        (Ubuntu 9.3.0-10ubuntu2)) #43-Ubuntu SMP Fri Jun 19 10:28:31 UTC 2020";
    const COS: &str = "Linux version 4.14.137+ (chrome-bot@build.golo) (Chromium OS 9.0_pre361749_p20190714 \
        clang version 9.0.0) #1 SMP Thu Aug 8 02:47:02 PDT 2019";
    type Row<'a> = (&'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>, &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        // release, uname -v, /proc/version, /proc/version_signature
        ("4.19.0-10-amd64", None, Some(GCC_DEBIAN), None, "debian 4.19.132 Upstream 10-amd64"),
        ("4.19.0-9-amd64", Some("#1 SMP Debian 4.19.118-2 (2020-04-29)\n"), None, None, "debian 4.19.118 Upstream 9-amd64"),
        ("6.1.0-23-amd64", Some("#1 SMP PREEMPT_DYNAMIC Debian 6.1.99-1 (2024-07-15)"), None, None, "debian 6.1.99 Upstream 23-amd64"),
        ("5.10.0-0.bpo.9-amd64", Some("#1 SMP Debian 5.10.70-1~bpo10+1 (2021-10-10)"), None, None, "debian 5.10.70 Upstream -"),
        ("6.6.20+rpt-rpi-v8", Some("#1 SMP PREEMPT Debian 1:6.6.20-1+rpt1 (2024-03-07)"), None, None, "debian 6.6.20 Upstream -"),
        ("6.1.0-kali9-amd64", Some("#1 SMP PREEMPT_DYNAMIC Debian 6.1.27-1kali1 (2023-05-12)"), None, None, "debian 6.1.27 Upstream -"),
        ("6.9-amd64", Some("#1 SMP PREEMPT_DYNAMIC Debian 6.9~rc5-1~exp1 (2024-04-22)"), None, None, "debian 6.9.0 Prerelease -"),
        // another series than the release: not this kernel's line
        ("4.19.0-10-amd64", Some("#1 SMP Debian 5.10.1-1 (2021-01-01)"), None, None, "debian 4.19.0 Frozen 10-amd64"),
        ("4.19.0-10-amd64", Some("#1 SMP Debian"), None, None, "debian 4.19.0 Frozen 10-amd64"),
        ("4.19.0-10-amd64", Some("#1 SMP Debian ..-1"), None, None, "debian 4.19.0 Frozen 10-amd64"),
        // the compiler's distribution is not the kernel's
        ("5.4.0-custom", None, Some(GCC_UBUNTU), None, "other 5.4.0 Frozen -"),
        ("5.3.0-39-generic", None, Some(UBUNTU), None, "ubuntu 5.3.0 Frozen 39-generic"),
        ("5.3.0-39-strange", Some("#43~18.04.1-Ubuntu SMP x"), None, None, "ubuntu 5.3.0 Frozen 39-strange"),
        ("4.19.0-10-amd64", Some("\n"), Some(GCC_DEBIAN), None, "debian 4.19.132 Upstream 10-amd64"),
        ("4.14.137+", None, Some(COS), None, "cos 4.14.137 Upstream -"),
        ("5.10.159-20950-g3963226d9eb4", None, Some(COS), None, "chromeos 5.10.159 Upstream 20950-g3963226d9eb4"),
        ("4.4.0", Some("#1 SMP Sun Jan 10 15:06:54 PST 2016"), None, None, "gvisor 4.4.0 Foreign -"),
        ("5.15.0-107-generic", None, None, Some("Ubuntu 5.15.0-107.117-generic 5.15.149\n"), "ubuntu 5.15.149 Upstream 107.117-generic"),
        ("5.15.0-107-generic", None, None, Some("Ubuntu <5.15.0-107.117-generic> <5.15.149>"), "ubuntu 5.15.149 Upstream 107.117-generic"),
        ("5.4.0-1041-aws", None, None, Some("Ubuntu 5.4.0-1041.43~18.04.1-aws 5.4.86"), "ubuntu 5.4.86 Upstream 1041.43-aws"),
        ("4.15.0-107-generic", None, None, Some("Ubuntu 4.15.0-107.108-generic 4.15.18"), "ubuntu 4.15.18 Frozen 107.108-generic"),
        ("6.8.0-31-generic", None, None, Some("Ubuntu 6.8.0-31.31-generic 6.8.1"), "ubuntu 6.8.1 Frozen 31.31-generic"),
        ("5.15.0-25-generic", None, None, Some("Ubuntu 5.15.0-25.25-generic 5.15.0"), "ubuntu 5.15.0 Frozen 25.25-generic"),
        ("2.6.20-16-generic", None, None, Some("Ubuntu 2.6.20-16.29-generic"), "ubuntu 2.6.20 Frozen 16.29-generic"),
        // signatures of other kernels, or none at all
        ("5.15.0-107-generic", None, None, Some("Ubuntu 5.15.0-91.101-generic 5.15.131"), "ubuntu 5.15.0 Frozen 107-generic"),
        ("5.15.0-107-generic", None, None, Some("Ubuntu 5.4.0-107.117-generic 5.4.149"), "ubuntu 5.15.0 Frozen 107-generic"),
        ("5.15.0-107-generic", None, None, Some("Ubuntu 5.15.0-107.117-generic 5.4.149"), "ubuntu 5.15.0 Frozen 107.117-generic"),
        ("5.15.0-107-generic", None, None, Some("Ubuntu"), "ubuntu 5.15.0 Frozen 107-generic"),
        ("5.15.0-107-generic", None, None, Some(""), "ubuntu 5.15.0 Frozen 107-generic"),
        ("5.4.40", Some("#1"), Some("garbage"), Some("garbage"), "upstream 5.4.40 Upstream -"),
    ];
    for (release, version, proc_version, signature, expected) in rows {
        let kernel = parse(release, *version, *proc_version, *signature).unwrap();
        assert_eq!(shown(&kernel), *expected, "{release} {version:?} {proc_version:?} {signature:?}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let junk = "x".repeat(10_000);
    for (release, wanted) in [
        ("", "is empty"),
        ("\n", "is empty"),
        ("unknown", "does not begin with x.y"),
        ("5", "has no minor version"),
        ("5-generic", "has no minor version"),
        ("5.", "has no minor version"),
        (".5.4", "does not begin with x.y"),
        ("-5.4.1", "does not begin with x.y"),
        ("v5.4.1", "does not begin with x.y"),
        ("5.4.99999", "99999 is too large"),
        ("99999999999999999999.1.1", "is too large"),
        ("0.99.15", "major version 0"),
        ("5.4.1\n5.4.2", "contains '\\n'"),
        ("5.4.1 x", "contains ' '"),
        ("5.4.1-é", "contains 'é'"),
        ("2.6.78-fc-v669", "UNAME26"),
        (junk.as_str(), "has 10000 bytes"),
    ] {
        let error = parse(release, None, None, None).expect_err(release);
        assert!(error.contains(wanted), "{release:.20}: {error}");
        assert!(error.len() < 250 && !error.contains('\n'), "{error}");
    }
    assert!(parse("2.6.39", None, None, None).is_ok());
}

proptest! {
    #[test]
    fn never_panics(r in any::<String>(), v in any::<Option<String>>(), p in any::<Option<String>>(), s in any::<Option<String>>()) {
        let _ = parse(&r, v.as_deref(), p.as_deref(), s.as_deref());
    }

    #[test]
    fn never_panics_on_nearly_right_input(
        r in "[0-9]{1,3}\\.[0-9]{1,3}(\\.[0-9]{1,3})?[-+.~_0-9a-z]{0,24}",
        v in "#1( SMP)? (Debian )?[0-9.:~rc+-]{0,12}",
        s in "Ubuntu [0-9.]{0,8}[-~0-9.a-z]{0,12} [0-9.]{0,8}",
    ) {
        if let Ok(kernel) = parse(&r, Some(&v), None, Some(&s)) {
            prop_assert_eq!(&kernel.release, &r);
            prop_assert!(kernel.build.is_none_or(|b| !b.numbers.is_empty()));
            prop_assert!(kernel.base.major > 0);
        }
    }

    #[test]
    fn a_release_of_upstream_is_read_as_itself(x in 3u16..20, y in 0u16..30, z in 0u16..500) {
        let kernel = read(&format!("{x}.{y}.{z}"));
        prop_assert_eq!(kernel.base, KernelVersion::new(x, y, z));
        prop_assert_eq!(kernel.numbering, Numbering::Upstream);
    }
}
