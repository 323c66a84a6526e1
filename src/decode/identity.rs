//! Which kernel this is and what the host calls itself.

use crate::capture::{Capture, Request, Root};
use crate::decode::{Problems, always_there, release};
use crate::snapshot::{Kernel, KernelVersion, Reading, Source};

fn proc(path: &str) -> Request {
    Request::file(Source::Kernel, Root::Procfs, path)
}

fn os_release(path: &str) -> Request {
    Request::file(Source::Kernel, Root::Rootfs, path).optional()
}

fn livepatch() -> Request {
    Request::directory(Source::Kernel, Root::Sysfs, "kernel/livepatch").optional()
}

fn livepatch_neighbour() -> Request {
    Request::file(Source::Kernel, Root::Sysfs, "kernel/uevent_seqnum").optional()
}

/// What to ask.
pub fn requests(capture: &Capture) -> Vec<Request> {
    let mut requests = vec![
        proc("sys/kernel/osrelease").everywhere(),
        proc("sys/kernel/version").everywhere(),
        proc("version").everywhere(),
        proc("version_signature").optional(),
        livepatch(),
        os_release("etc/os-release"),
    ];
    if matches!(capture.get(&os_release("etc/os-release")), Reading::Absent(_)) {
        requests.push(os_release("usr/lib/os-release"));
    }
    if matches!(capture.get(&livepatch()), Reading::Absent(_)) {
        requests.push(livepatch_neighbour());
    }
    requests
}

/// Release and numbering of the kernel.
pub fn decode(capture: &Capture, problems: &mut Problems) -> Reading<Kernel> {
    let text = |path: &str| capture.line(&proc(path)).ok().cloned();
    let (version, proc_version) = (text("sys/kernel/version"), text("version"));
    let signature = text("version_signature");
    let reading = capture.line(&proc("sys/kernel/osrelease").everywhere()).decode(|release| {
        release::parse(&release, version.as_deref(), proc_version.as_deref(), signature.as_deref())
            .map_err(|error| format!("sys/kernel/osrelease: {error}"))
    });
    problems.note(Source::Kernel, reading)
}

/// Whether the kernel may drop UDP packets that clash (before Linux 5.6); `false` where its version is not known.
pub fn drops_clashes(capture: &Capture) -> bool {
    const RESOLVED: KernelVersion = KernelVersion::new(5, 6, 0);
    decode(capture, &mut Problems::default()).ok().is_some_and(|kernel| kernel.base < RESOLVED)
}

/// Names of the live patches that are loaded.
pub fn decode_livepatches(capture: &Capture) -> Reading<Vec<String>> {
    let names = capture.text(&livepatch()).map(|names| names.lines().map(str::to_owned).collect());
    always_there(capture, names, &livepatch_neighbour())
}

/// `ID VERSION_ID` of os-release.
pub fn decode_distro(capture: &Capture, problems: &mut Problems) -> Reading<String> {
    let reading = match capture.text(&os_release("etc/os-release")) {
        Reading::Absent(_) => capture.text(&os_release("usr/lib/os-release")),
        other => other,
    };
    let distro = reading.decode(|text| {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
        };
        let id = value("ID").ok_or("os-release has no ID")?;
        let distro = value("VERSION_ID").map_or(id.clone(), |version| format!("{id} {version}"));
        // A label value: bounded, and printable.
        Ok::<_, String>(distro.chars().filter(|c| !c.is_control()).take(64).collect())
    });
    if let Reading::Failed(why) = &distro {
        problems.remark(Source::Kernel, why.to_string()); // a name for people; nothing rests on it
    }
    distro
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::test_capture;

    fn distro(text: &str) -> Reading<String> {
        let mut capture = test_capture();
        let request = os_release("etc/os-release");
        capture.answers.insert(request.name, Reading::Ok(text.as_bytes().to_vec()));
        decode_distro(&capture, &mut Problems::default())
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        assert_eq!(distro("NAME=x\nID=ubuntu\nVERSION_ID=\"22.04\"\n"), Reading::Ok("ubuntu 22.04".into()));
        assert_eq!(distro("ID='arch'\nBUILD_ID=rolling\n"), Reading::Ok("arch".into()));
        assert!(matches!(distro("VERSION_ID=1\n"), Reading::Failed(_)));
    }
}
