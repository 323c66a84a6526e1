//! Whether a netfilter subsystem is in the running kernel, so that asking it cannot load a module.
//!
//! The kernel loads `nfnetlink-subsys-N` on the first request of a privileged process; natwatch changes
//! nothing by looking, so it makes sure first.

use crate::capture::{Capture, Request, Root};
use crate::snapshot::{Reading, Source};

/// What is known about a subsystem.
#[derive(Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is in the kernel: asking is safe.
    There,
    /// It is not: asking would load it. The text says how that is known.
    Missing(String),
    /// It could not be told, so it must not be asked: the module.
    Unclear(String),
    /// Not known yet: these answers are needed first.
    Ask(Vec<Request>),
}

/// Code that may be a module.
#[derive(Debug)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// One of its functions, by which its code is found when it is built in.
    pub symbol: &'static str,
    /// The source that asks it.
    pub source: Source,
}

/// ctnetlink
pub const NF_CONNTRACK_NETLINK: Module =
    Module { name: "nf_conntrack_netlink", symbol: "ctnetlink_net_init", source: Source::Ctnetlink };
/// nf_tables
pub const NF_TABLES: Module = Module { name: "nf_tables", symbol: "nf_tables_getgen", source: Source::Nftables };
/// ipset
pub const IP_SET: Module = Module { name: "ip_set", symbol: "ip_set_net_init", source: Source::Ipset };
/// One search of a file serves all of them.
const ALL: [&Module; 3] = [&NF_CONNTRACK_NETLINK, &NF_TABLES, &IP_SET];

/// Looks for a module by name, and for its code in the kernel.
pub fn presence(capture: &Capture, module: &Module) -> Presence {
    presence_among(capture, module, &ALL)
}

/// The same, with questions about all of these modules at once.
pub fn presence_among(capture: &Capture, module: &Module, all: &[&Module]) -> Presence {
    let Module { name: module, symbol, source } = *module;
    let names: Vec<&str> = all.iter().map(|module| module.name).collect();
    let loaded = Request::lines(source, Root::Procfs, "modules", &names).optional();
    if !capture.has(&loaded) {
        return Presence::Ask(vec![loaded]);
    }
    match capture.get(&loaded) {
        Reading::Absent(_) => {
            let procfs = Request::file(source, Root::Procfs, "version").everywhere();
            if !capture.has(&procfs) {
                return Presence::Ask(vec![procfs]);
            }
            if capture.get(&procfs).ok().is_some() {
                return Presence::There; // a kernel without CONFIG_MODULES can load none
            }
        }
        Reading::Ok(lines) if names_module(lines, module) => return Presence::There,
        _ => {}
    }
    let release = Request::file(source, Root::Procfs, "sys/kernel/osrelease");
    let object = Request::directory(source, Root::Sysfs, format!("module/{module}")).optional();
    if !capture.has(&object) || !capture.has(&release) {
        return Presence::Ask(vec![object, release]);
    }
    if capture.get(&object).ok().is_some() {
        return Presence::There;
    }
    let release = capture.text(&release).ok().cloned().unwrap_or_default();
    let release = if release.contains('/') { String::new() } else { release };
    let files: Vec<String> = all.iter().map(|module| format!("/{}.ko", module.name)).collect();
    let functions: Vec<String> = all.iter().map(|module| format!(" {}", module.symbol)).collect();
    let path = format!("lib/modules/{release}/modules.builtin");
    let built_in = Request::lines(source, Root::Rootfs, path, &files);
    let symbols = Request::lines(source, Root::Procfs, "kallsyms", &functions);
    let (built_in, symbols) = (built_in.optional().until_reboot(), symbols.optional().until_reboot());
    if !capture.has(&built_in) {
        return Presence::Ask(vec![built_in]);
    }
    if capture.get(&built_in).ok().is_some_and(|lines| contains(lines, &format!("/{module}.ko"))) {
        return Presence::There;
    }
    if !capture.has(&symbols) {
        return Presence::Ask(vec![symbols]);
    }
    match capture.get(&symbols) {
        Reading::Ok(lines) if contains(lines, &format!(" {symbol}")) => Presence::There,
        Reading::Ok(_) => Presence::Missing(format!("the module {module} is not loaded; asking would load it")),
        _ if capture.get(&built_in).ok().is_some() => {
            Presence::Missing(format!("the module {module} is not loaded; asking would load it"))
        }
        _ => Presence::Unclear(module.to_owned()),
    }
}

/// Lines of `/proc/modules` begin with the name.
fn names_module(lines: &[u8], module: &str) -> bool {
    let lines = String::from_utf8_lossy(lines);
    lines.lines().any(|line| line.split_whitespace().next() == Some(module))
}

fn contains(lines: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(lines).contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::test_capture;

    /// Plays a kernel that gives these answers and is silent (absent) otherwise.
    fn ask(answers: &[(&str, Reading<&str>)]) -> Presence {
        let mut capture = test_capture();
        for _ in 0..8 {
            let Presence::Ask(requests) = presence(&capture, &NF_TABLES) else { break };
            for request in requests {
                let given = answers.iter().find(|(name, _)| *name == request.name).map(|(_, answer)| answer.clone());
                let answer = given.unwrap_or(Reading::Absent("ENOENT".into()));
                capture.answers.insert(request.name, answer.map(|text| text.as_bytes().to_vec()));
            }
        }
        presence(&capture, &NF_TABLES)
    }

    #[test]
    fn each_sign_of_presence_is_enough() {
        let modules = ("procfs/modules", Reading::Ok(""));
        let procfs = ("procfs/version", Reading::Ok("Linux version 6.1.0\n"));
        assert_eq!(ask(&[procfs]), Presence::There, "no /proc/modules: the kernel cannot load any");
        assert_eq!(ask(&[("procfs/modules", Reading::Ok("nf_tables 16384 0 - Live 0x0\n"))]), Presence::There);
        assert_eq!(ask(&[modules.clone(), ("sysfs/module/nf_tables.list", Reading::Ok(""))]), Presence::There);
        let builtin = "rootfs/lib/modules/6.1.0/modules.builtin";
        let release = ("procfs/sys/kernel/osrelease", Reading::Ok("6.1.0\n"));
        let found = (builtin, Reading::Ok("kernel/net/netfilter/nf_tables.ko\n"));
        assert_eq!(ask(&[modules.clone(), release, found]), Presence::There);
        let symbol = ("procfs/kallsyms", Reading::Ok("0000 t nf_tables_getgen\n"));
        assert_eq!(ask(&[modules, symbol]), Presence::There);
    }

    /// The files are searched once for all modules: what another one left in them proves nothing.
    #[test]
    fn another_module_is_no_sign() {
        let loaded = ("procfs/modules", Reading::Ok("nf_conntrack_netlink 16384 0 - Live 0x0\n"));
        let release = ("procfs/sys/kernel/osrelease", Reading::Ok("6.1.0\n"));
        let built_in =
            ("rootfs/lib/modules/6.1.0/modules.builtin", Reading::Ok("kernel/net/netfilter/ipset/ip_set.ko\n"));
        let symbols = ("procfs/kallsyms", Reading::Ok("0000 t ctnetlink_net_init\n"));
        assert!(matches!(ask(&[loaded, release, built_in, symbols]), Presence::Missing(_)));
        let asked = |module| match presence(&test_capture(), module) {
            Presence::Ask(requests) => requests[0].question.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(&NF_TABLES), asked(&IP_SET), "one name, one question");
    }

    #[test]
    fn without_any_sign_nothing_is_asked() {
        let other = ("procfs/modules", Reading::Ok("nf_tables_x 16384 0 - Live 0x0\n"));
        let no_symbol = ("procfs/kallsyms", Reading::Ok(""));
        assert!(matches!(ask(&[other.clone(), no_symbol]), Presence::Missing(_)));
        assert!(matches!(ask(&[other]), Presence::Unclear(_)), "nothing readable is not the same as nothing there");
        assert!(matches!(ask(&[]), Presence::Unclear(_)), "no procfs at all");
        let denied = ("procfs/modules", Reading::Denied("EACCES".into()));
        assert!(matches!(ask(&[denied]), Presence::Unclear(_)));
    }
}
