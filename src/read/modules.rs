//! Whether a netfilter subsystem is present in the running kernel.
//!
//! On the first request by a privileged process the kernel loads `nfnetlink-subsys-N`. natwatch must not change the
//! node, so readers check here before they send one.

use crate::capture::{Request, Root};
use crate::facts::{Failure, Reading, Source};
use crate::read::Node;

/// Kernel code that may be a module.
#[derive(Debug)]
pub(crate) struct Module {
    /// Name of the module.
    pub name: &'static str,
    /// A function of its, by which its code is found in the symbol table if it is built in.
    pub symbol: &'static str,
    /// The source that needs it.
    pub source: Source,
}

/// ctnetlink
pub(crate) const NF_CONNTRACK_NETLINK: Module =
    Module { name: "nf_conntrack_netlink", symbol: "ctnetlink_net_init", source: Source::Ctnetlink };
/// The same for conntrack entries
pub(crate) const CONNTRACK_ENTRIES: Module = Module { source: Source::CtnetlinkEntries, ..NF_CONNTRACK_NETLINK };
/// nf_tables
pub(crate) const NF_TABLES: Module = Module { name: "nf_tables", symbol: "nf_tables_getgen", source: Source::Nftables };
/// ipset
pub(crate) const IP_SET: Module = Module { name: "ip_set", symbol: "ip_set_net_init", source: Source::Ipset };
/// All are searched for in one pass over a file.
const ALL: [&Module; 3] = [&NF_CONNTRACK_NETLINK, &NF_TABLES, &IP_SET];

/// Looks for a module by name, and for its code in the kernel. Absent: a request would load it. Failed: not known, so
/// no request may be sent.
pub(crate) fn presence(node: &mut Node<'_>, module: &Module) -> Reading<()> {
    presence_among(node, module, &ALL)
}

/// Like [`presence`], with files searched for all of these modules in one pass.
pub(crate) fn presence_among(node: &mut Node<'_>, module: &Module, all: &[&Module]) -> Reading<()> {
    // The kernel generates the list for each reader, one line per module, a hundred or two.
    let directory = Request::directory(module.source, Root::Sysfs, format!("module/{}", module.name));
    if node.shared(&directory).ok().is_some() || is_listed(node, module, all) {
        return Reading::Ok(());
    }
    let can_be_listed = node.shared(&loaded(module, all)).ok().is_some();
    let Module { name: module, symbol, source } = *module;
    let release = node.shared(&Request::file(source, Root::Procfs, "sys/kernel/osrelease"));
    let release = release.ok().map(|release| String::from_utf8_lossy(release).trim_end().to_owned());
    let release = release.filter(|release| !release.contains('/')).unwrap_or_default();
    let files: Vec<String> = all.iter().map(|module| format!("/{}.ko", module.name)).collect();
    let built_in = Request::lines(source, Root::Rootfs, format!("lib/modules/{release}/modules.builtin"), &files);
    let built_in = node.lasting(&built_in);
    if built_in.ok().is_some_and(|lines| contains(lines, &format!("/{module}.ko"))) {
        return Reading::Ok(());
    }
    let functions: Vec<String> = all.iter().map(|module| format!(" {}", module.symbol)).collect();
    let missing = || Reading::Absent(format!("the module {module} is not loaded; asking would load it"));
    match node.lasting(&Request::lines(source, Root::Procfs, "kallsyms", &functions)) {
        Reading::Ok(lines) if contains(&lines, &format!(" {symbol}")) => Reading::Ok(()),
        // If the list can be read, a module loaded meanwhile is in it.
        Reading::Ok(_) if can_be_listed => missing(),
        _ if built_in.ok().is_some() && can_be_listed => missing(),
        Reading::Failed(failure) if matches!(failure.root(), Failure::NotAnswered(_)) => Reading::Failed(failure),
        _ => Reading::Failed(Failure::Unclear { module: module.to_owned() }),
    }
}

/// Whether it is loaded, or the kernel has no loadable modules.
pub(crate) fn is_listed(node: &mut Node<'_>, module: &Module, all: &[&Module]) -> bool {
    match node.shared(&loaded(module, all)) {
        Reading::Absent(_) => true, // a kernel without CONFIG_MODULES
        Reading::Ok(lines) => names_module(&lines, module.name),
        Reading::Denied(_) | Reading::Failed(_) => false,
    }
}

/// The lines of /proc/modules with any of these names.
fn loaded(module: &Module, all: &[&Module]) -> Request {
    let names: Vec<&str> = all.iter().map(|module| module.name).collect();
    Request::lines(module.source, Root::Procfs, "modules", &names)
}

/// Whether a line of `/proc/modules` has this name.
fn names_module(lines: &[u8], module: &str) -> bool {
    let lines = String::from_utf8_lossy(lines);
    lines.lines().any(|line| line.split_whitespace().next() == Some(module))
}

fn contains(lines: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(lines).contains(word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::read::testing::played;

    /// Plays a kernel that gives these responses and is silent (absent) otherwise.
    fn ask(answers: &[(&str, Reading<&str>)]) -> Reading<()> {
        let answer = |request: &Request| {
            let given = answers.iter().find(|(name, _)| *name == request.name).map(|(_, answer)| answer.clone());
            given.unwrap_or(Reading::Absent("ENOENT".into())).map(|text| text.as_bytes().to_vec())
        };
        played(answer, |node| presence(node, &NF_TABLES)).0
    }

    fn is_unclear(presence: &Reading<()>) -> bool {
        matches!(presence.failure().map(Failure::root), Some(Failure::Unclear { .. }))
    }

    #[test]
    fn each_sign_of_presence_is_enough() {
        let modules = ("procfs/modules", Reading::Ok(""));
        let procfs = ("procfs/version", Reading::Ok("Linux version 6.1.0\n"));
        assert_eq!(ask(&[procfs]), Reading::Ok(()), "no /proc/modules: the kernel cannot load any");
        assert_eq!(ask(&[("procfs/modules", Reading::Ok("nf_tables 16384 0 - Live 0x0\n"))]), Reading::Ok(()));
        assert_eq!(ask(&[modules.clone(), ("sysfs/module/nf_tables.list", Reading::Ok(""))]), Reading::Ok(()));
        let builtin = "rootfs/lib/modules/6.1.0/modules.builtin";
        let release = ("procfs/sys/kernel/osrelease", Reading::Ok("6.1.0\n"));
        let found = (builtin, Reading::Ok("kernel/net/netfilter/nf_tables.ko\n"));
        assert_eq!(ask(&[modules.clone(), release, found]), Reading::Ok(()));
        let symbol = ("procfs/kallsyms", Reading::Ok("0000 t nf_tables_getgen\n"));
        assert_eq!(ask(&[modules, symbol]), Reading::Ok(()));
    }

    /// The files are searched once for all modules: what another one left in them proves nothing.
    #[test]
    fn another_module_is_no_sign() {
        let loaded = ("procfs/modules", Reading::Ok("nf_conntrack_netlink 16384 0 - Live 0x0\n"));
        let release = ("procfs/sys/kernel/osrelease", Reading::Ok("6.1.0\n"));
        let built_in =
            ("rootfs/lib/modules/6.1.0/modules.builtin", Reading::Ok("kernel/net/netfilter/ipset/ip_set.ko\n"));
        let symbols = ("procfs/kallsyms", Reading::Ok("0000 t ctnetlink_net_init\n"));
        assert!(matches!(ask(&[loaded, release, built_in, symbols]), Reading::Absent(_)));
        let mut asked = BTreeMap::new();
        let mut answer = |request: &Request| {
            let known = asked.entry(request.name.clone()).or_insert_with(|| request.kind.clone());
            assert_eq!(*known, request.kind, "one name, one request");
            Reading::Absent("ENOENT".into())
        };
        // Each without what was found for the others.
        for module in ALL {
            let _ = played(&mut answer, |node| presence(node, module));
        }
        assert!(asked.contains_key("procfs/modules") && asked.contains_key("procfs/kallsyms"), "{asked:?}");
    }

    #[test]
    fn without_any_sign_nothing_is_asked() {
        let other = ("procfs/modules", Reading::Ok("nf_tables_x 16384 0 - Live 0x0\n"));
        let no_symbol = ("procfs/kallsyms", Reading::Ok(""));
        assert!(matches!(ask(&[other.clone(), no_symbol]), Reading::Absent(_)));
        assert!(is_unclear(&ask(&[other])), "nothing readable is not the same as nothing there");
        assert!(is_unclear(&ask(&[])), "no procfs at all");
        let denied = ("procfs/modules", Reading::Denied("EACCES".into()));
        assert!(is_unclear(&ask(&[denied])));
    }
}
