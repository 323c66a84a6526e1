//! Files that a redacted capture may contain, and how each is redacted. Others are removed.

/// Redaction by file name; `*` stands for one path component.
const FILES: &[(&str, Treatment)] = &[
    ("procfs/version", version),
    ("procfs/version_signature", kept),
    ("procfs/sys/kernel/osrelease", kept),
    ("procfs/sys/kernel/version", kept),
    ("procfs/sys/net/core/somaxconn", kept),
    ("procfs/sys/net/ipv4/ip_local_port_range", kept),
    ("procfs/sys/net/ipv4/tcp_fwmark_accept", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_acct", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_buckets", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_count", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_max", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_tcp_be_liberal", kept),
    ("procfs/sys/net/netfilter/nf_conntrack_tcp_timeout_established", kept),
    ("procfs/thread-self/net/ip6_tables_names", kept),
    ("procfs/thread-self/net/ip_tables_names", kept),
    ("procfs/thread-self/net/netstat", kept),
    ("procfs/thread-self/net/snmp", kept),
    ("procfs/thread-self/net/snmp6", kept),
    ("procfs/thread-self/net/stat/nf_conntrack", kept),
    ("procfs/thread-self/net/stat/rt_cache", kept),
    // Contain kernel addresses.
    ("procfs/kallsyms", without_pointers),
    ("procfs/modules", without_pointers),
    ("procfs/thread-self/net/netlink", without_pointers),
    // Contain addresses and ports in hexadecimal, of which only ports matter.
    ("procfs/thread-self/net/ip_vs", without_socket_addresses),
    ("procfs/thread-self/net/udp", without_socket_addresses),
    ("procfs/thread-self/net/udp6", without_socket_addresses),
    ("rootfs/etc/os-release", kept),
    ("rootfs/lib/modules/*/modules.builtin", kept),
    ("rootfs/usr/lib/os-release", kept),
    ("sysfs/class/net/*/device/driver", kept),
    ("sysfs/class/net/*/ifindex", kept),
    ("sysfs/devices/system/cpu/online", kept),
    ("sysfs/devices/system/cpu/possible", kept),
    ("sysfs/kernel.list", kept),
    ("sysfs/kernel/livepatch.list", kept),
    ("sysfs/kernel/uevent_seqnum", kept),
    ("sysfs/module/*", kept),
];

/// Returns the redacted text of a file.
pub(super) type Treatment = fn(&str) -> String;

/// The treatment of a file; `None`: unknown contents.
pub(super) fn treatment(name: &str) -> Option<Treatment> {
    let parts = || name.split('/');
    let is = |pattern: &str| {
        pattern.split('/').count() == parts().count()
            && pattern.split('/').zip(parts()).all(|(wanted, part)| wanted == "*" || wanted == part)
    };
    FILES.iter().find(|(pattern, _)| is(pattern)).map(|(_, treatment)| *treatment)
}

fn kept(text: &str) -> String {
    text.to_owned()
}

/// Removes the builder, `(user@host)`. The user of Chromium OS identifies the vendor and is kept.
fn version(text: &str) -> String {
    let (before, rest) = text.split_once(" (").unwrap_or((text, ""));
    match rest.split_once(')') {
        Some((builder, rest)) => {
            let user = if builder.starts_with("chrome-bot@") { "chrome-bot" } else { "builder" };
            format!("{before} ({user}@builder){rest}")
        }
        None => before.to_owned(),
    }
}

/// `ffffffff81f6b560 t nf_tables_getgen` becomes `0000000000000000 t nf_tables_getgen`.
fn without_pointers(text: &str) -> String {
    each_word(text, |word| {
        let digits = word.trim_start_matches("0x");
        match digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => word.replace(digits, &"0".repeat(digits.len())),
            false => word.to_owned(),
        }
    })
}

/// `C000020A:2118` becomes `00000000:2118`.
fn without_socket_addresses(text: &str) -> String {
    let hex = |text: &str| text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    each_word(text, |word| match word.rsplit_once(':') {
        Some((address, port)) if hex(address) && hex(port) => format!("{}:{port}", "0".repeat(address.len())),
        _ if word.starts_with('[') => "[::]".to_owned(), // ip_vs' form of IPv6
        _ => word.to_owned(),
    })
}

fn each_word(text: &str, change: impl Fn(&str) -> String) -> String {
    text.split_inclusive([' ', '\t', '\n'])
        .map(|word| {
            let (end, _) =
                word.char_indices().next_back().filter(|(_, last)| last.is_whitespace()).unwrap_or((word.len(), ' '));
            change(&word[..end]) + &word[end..]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn treated(name: &str, text: &str) -> String {
        treatment(name).unwrap_or_else(|| panic!("{name}"))(text)
    }

    #[test]
    fn addresses_of_the_kernel_go() {
        let modules = "nf_tables 303104 0 - Live 0xffffffffc0deb000 (E)\nip_set 65536 1 a,b, Live 0x0000000000000000\n";
        let without = modules.replace("ffffffffc0deb000", "0000000000000000");
        assert_eq!(treated("procfs/modules", modules), without);
        let symbols = "ffffffff81f6b560 t nf_tables_getgen\nffffffffc0000010 t ip_set_net_init\t[ip_set]\n";
        let without = "0000000000000000 t nf_tables_getgen\n0000000000000000 t ip_set_net_init\t[ip_set]\n";
        assert_eq!(treated("procfs/kallsyms", symbols), without);
    }

    #[test]
    fn who_built_the_kernel_goes() {
        for (plain, redacted) in [
            (
                "Linux version 6.1.0 (me@secret) (gcc (GCC) 15.3.0, GNU ld) #1 SMP",
                "Linux version 6.1.0 (builder@builder) (gcc (GCC) 15.3.0, GNU ld) #1 SMP",
            ),
            ("Linux version 5.10.1 (chrome-bot@secret) #1 SMP", "Linux version 5.10.1 (chrome-bot@builder) #1 SMP"),
            ("Linux version 5.10.1", "Linux version 5.10.1"),
            ("Linux version 5.10.1 (me@secret", "Linux version 5.10.1"),
        ] {
            assert_eq!(treated("procfs/version", plain), redacted);
        }
    }

    #[test]
    fn only_files_that_are_known_stay() {
        assert!(treatment("sysfs/class/net/eth0/ifindex").is_some());
        for name in ["procfs/self/maps", "sysfs/class/net/eth0/address", "rootfs/etc/passwd", "procfs", ""] {
            assert!(treatment(name).is_none(), "{name}");
        }
    }
}
