//! Identity of the kernel (release, version, live patches), CPUs online, and the host's distribution.

use crate::capture::{Request, Root};
use crate::facts::{Failure, Kernel, KernelVersion, Reading, Source};
use crate::read::{Node, release};

fn proc(path: &str) -> Request {
    Request::file(Source::Kernel, Root::Procfs, path)
}

fn os_release(path: &str) -> Request {
    Request::file(Source::Kernel, Root::Rootfs, path)
}

fn livepatch() -> Request {
    Request::directory(Source::Kernel, Root::Sysfs, "kernel/livepatch")
}

fn online_cpus() -> Request {
    Request::file(Source::Kernel, Root::Sysfs, "devices/system/cpu/online")
}

/// Identity of kernel and machine.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Release and numbering of the kernel.
    pub kernel: Reading<Kernel>,
    /// Names of loaded live patches. Absent: the kernel has no live patching.
    pub livepatches: Reading<Vec<String>>,
    /// Number of CPUs online.
    pub online_cpus: Reading<u32>,
}

impl Identity {
    /// All fields `Failed` for this reason.
    pub(crate) fn unread(why: &Failure) -> Self {
        let why = || why.clone();
        Self {
            kernel: Reading::Failed(why()),
            livepatches: Reading::Failed(why()),
            online_cpus: Reading::Failed(why()),
        }
    }
}

/// Reads release, version, live patches and CPUs online.
pub(crate) fn read(node: &mut Node<'_>) -> Identity {
    let release = node.try_line(&proc("sys/kernel/osrelease"));
    let version = node.line(&proc("sys/kernel/version"));
    let proc_version = node.line(&proc("version"));
    let signature = node.line(&proc("version_signature"));
    let text = |line: &Reading<String>| line.ok().cloned();
    let kernel = release.decode(|release| {
        let (version, proc_version, signature) = (text(&version), text(&proc_version), text(&signature));
        release::parse(&release, version.as_deref(), proc_version.as_deref(), signature.as_deref())
            .map_err(|error| format!("sys/kernel/osrelease: {error}"))
    });
    let kernel = node.note(&proc("sys/kernel/osrelease"), kernel);
    let livepatches = node.text(&livepatch()).map(|names| names.lines().map(str::to_owned).collect());
    let cpus = node.try_bytes(&online_cpus()).decode(|list| cpu_list(&list));
    let cpus = cpus.map(|cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX));
    let online_cpus = node.note(&online_cpus(), cpus);
    Identity { kernel, livepatches, online_cpus }
}

/// `ID VERSION_ID` of os-release. For display only: no verdict depends on it, so a failure is not one of its source.
pub(crate) fn distro(node: &mut Node<'_>) -> Reading<String> {
    let bytes = match node.bytes(&os_release("etc/os-release")) {
        Reading::Absent(_) => node.bytes(&os_release("usr/lib/os-release")),
        other => other,
    };
    let distro = bytes.decode(|bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
        };
        let id = value("ID").ok_or("os-release has no ID")?;
        let distro = value("VERSION_ID").map_or(id.clone(), |version| format!("{id} {version}"));
        // It becomes a label value: printable, at most 64 characters.
        Ok::<_, Failure>(distro.chars().filter(|c| !c.is_control()).take(64).collect())
    });
    if let Reading::Failed(why) = &distro {
        node.sources.remark(Source::Kernel, why.to_string());
    }
    distro
}

/// Whether the kernel may drop UDP packets whose entries clash (before Linux 5.6); `true` if its version is not known.
pub(crate) fn drops_clashes(kernel: &Reading<Kernel>) -> bool {
    const RESOLVED: KernelVersion = KernelVersion::new(5, 6, 0);
    kernel.ok().is_none_or(|kernel| kernel.base < RESOLVED)
}

/// Parses a CPU list in sysfs format (`0-3,8`).
///
/// # Errors
/// Not a list, truncated, or with numbers beyond any machine's.
pub(crate) fn cpu_list(bytes: &[u8]) -> Result<Vec<u16>, Failure> {
    const MAX_CPUS: usize = 1 << 16;
    let text = String::from_utf8_lossy(bytes);
    let odd = || Failure::unexpected(format!("{text:?} is no list of CPUs"));
    let mut cpus = Vec::new();
    for range in text.strip_suffix('\n').ok_or_else(odd)?.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u16>().map_err(|_| odd())?..=last.parse::<u16>().map_err(|_| odd())?);
        if cpus.len() > MAX_CPUS {
            return Err(odd());
        }
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{Answers, read_with};

    fn distro(text: &str) -> Reading<String> {
        let answers = Answers::from([("rootfs/etc/os-release", text)]);
        read_with(&answers, super::distro).0
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        assert_eq!(distro("NAME=x\nID=ubuntu\nVERSION_ID=\"22.04\"\n"), Reading::Ok("ubuntu 22.04".into()));
        assert_eq!(distro("ID='arch'\nBUILD_ID=rolling\n"), Reading::Ok("arch".into()));
        assert!(matches!(distro("VERSION_ID=1\n"), Reading::Failed(_)));
    }

    #[test]
    fn cpu_lists_may_have_holes_but_no_nonsense() {
        assert_eq!(cpu_list(b"0-1,4\n"), Ok(vec![0, 1, 4]));
        assert_eq!(cpu_list(b"0\n"), Ok(vec![0]));
        for nonsense in ["", "0", "0-1", "0-x\n", "-\n", "0-65536\n", &format!("{}\n", "0-65535,".repeat(1000))] {
            assert!(cpu_list(nonsense.as_bytes()).is_err(), "{nonsense:?}");
        }
    }
}
