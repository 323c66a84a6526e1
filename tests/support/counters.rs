//! Kernel counters as printed by conntrack, nstat and procfs.

use std::collections::BTreeMap;

use super::netns::Netns;

/// Counter names and values.
pub type Counters = BTreeMap<String, u64>;

/// Conntrack statistics of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtStats {
    /// In the order of the lines; the position is the CPU's number if all CPUs are online.
    pub per_cpu: Vec<Counters>,
}

impl CtStats {
    /// One counter summed over the CPUs; 0 if this kernel does not have it.
    ///
    /// Not for `entries` of the procfs file, which repeats the namespace's total on each line.
    pub fn total(&self, name: &str) -> u64 {
        let values = self.per_cpu.iter().map(|cpu| cpu.get(name));
        values.map(|value| value.copied().unwrap_or(0)).sum()
    }

    /// Whether the kernel (or the tool) knows this counter at all.
    pub fn has(&self, name: &str) -> bool {
        self.per_cpu.iter().any(|cpu| cpu.contains_key(name))
    }
}

/// `conntrack -S`; panics if it could not ask the kernel by netlink.
///
/// Without CAP_NET_ADMIN the tool falls back to procfs and prints other names.
pub fn conntrack_stats(ns: &Netns) -> CtStats {
    let stats = parse_conntrack_stats(&ns.cmd("conntrack -S"));
    assert!(stats.has("clash_resolve"), "not by netlink: {stats:?}");
    stats
}

/// Parses lines like `cpu=0  found=1 insert_failed=2`.
pub fn parse_conntrack_stats(text: &str) -> CtStats {
    let line = |line: &str| line.split_whitespace().filter_map(assignment).collect();
    CtStats { per_cpu: text.lines().map(line).collect() }
}

fn assignment(word: &str) -> Option<(String, u64)> {
    let (name, value) = word.split_once('=')?;
    if name == "cpu" {
        return None;
    }
    let number = value.parse();
    Some((name.to_owned(), number.unwrap_or_else(|e| panic!("{word}: {e}"))))
}

/// `/proc/net/stat/nf_conntrack`; it has other names (`clashres`) than `conntrack -S`.
pub fn proc_conntrack_stats(ns: &Netns) -> CtStats {
    parse_proc_conntrack(&ns.proc_net("stat/nf_conntrack"))
}

/// Parses a header line and one line of hexadecimal numbers per CPU.
pub fn parse_proc_conntrack(text: &str) -> CtStats {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let line = |line: &str| {
        let values = line.split_whitespace().map(hexadecimal);
        let names = header.iter().map(|name| (*name).to_owned());
        names.zip(values).collect()
    };
    CtStats { per_cpu: lines.map(line).collect() }
}

fn hexadecimal(word: &str) -> u64 {
    u64::from_str_radix(word, 16).unwrap_or_else(|e| panic!("{word}: {e}"))
}

/// `nstat -az`: IP, UDP and TCP counters since the namespace began, zeros included.
///
/// `-s` keeps the tool from writing its history file, which would be shared by all tests.
pub fn nstat(ns: &Netns) -> Counters {
    let text = ns.cmd("nstat -azs");
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.parse().ok()?))
    };
    let counters = text.lines().filter(|line| !line.starts_with('#'));
    counters.filter_map(entry).collect()
}

/// `/proc/net/snmp` and `/proc/net/netstat`, named as nstat does: `UdpInCsumErrors`.
///
/// Values that are negative by definition (`TcpMaxConn` is -1) are left out.
pub fn proc_netstat(ns: &Netns) -> Counters {
    let mut counters = parse_header_pairs(&ns.proc_net("snmp"));
    counters.extend(parse_header_pairs(&ns.proc_net("netstat")));
    counters
}

/// Parses pairs of lines: `Udp: InDatagrams …` and `Udp: 7 …`.
pub fn parse_header_pairs(text: &str) -> Counters {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = Counters::new();
    for pair in lines.chunks_exact(2) {
        let mut names = pair[0].split_whitespace();
        let prefix = names.next().unwrap_or_default().trim_end_matches(':');
        let values = pair[1].split_whitespace().skip(1);
        for (name, value) in names.zip(values) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{prefix}{name}"), value);
            }
        }
    }
    counters
}

/// `/proc/net/snmp6`: one name and value per line, for example `Udp6InCsumErrors`.
pub fn proc_snmp6(ns: &Netns) -> Counters {
    let entry = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    ns.proc_net("snmp6").lines().filter_map(entry).collect()
}
