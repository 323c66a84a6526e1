//! A nat table of legacy x_tables as one replacement: pure. Kernel sources: `struct ipt_replace`, `struct ip6t_replace`,
//! `translate_table`. 64-bit layout.

use std::net::IpAddr;

use super::messages::{NF_NAT_RANGE_PROTO_RANDOM, NF_NAT_RANGE_PROTO_SPECIFIED, Ports};

/// `offsetof(struct ipt_replace, entries)`
const REPLACE: usize = 96;
/// Hooks that the table has chains on: prerouting, input, output, postrouting.
const HOOKS: [usize; 4] = [0, 1, 3, 4];
const POSTROUTING: usize = 4;
/// `sizeof(struct xt_counters)`
const COUNTERS: usize = 16;
/// `sizeof(struct xt_entry_target)`
const TARGET_HEADER: usize = 32;
const NF_ACCEPT: i32 = 1;

/// A rule that masquerades UDP to a destination.
#[derive(Clone, Copy, Debug)]
pub struct Masquerade {
    /// Destination address of the packets.
    pub destination: IpAddr,
    /// How ports are chosen.
    pub ports: Ports,
}

/// The table `nat` with these rules in POSTROUTING, all for one family. `num_counters` and `counters` are left to whoever
/// hands it to the kernel.
pub fn nat_table(ipv6: bool, rules: &[Masquerade]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u32;
    let mut add = |entries: &mut Vec<u8>, entry: Vec<u8>| {
        count += 1;
        entries.extend(entry);
    };
    let (mut hook_entry, mut underflow) = ([0u32; 5], [0u32; 5]);
    for hook in HOOKS {
        hook_entry[hook] = offset(&entries);
        if hook == POSTROUTING {
            for rule in rules {
                add(&mut entries, masquerade(ipv6, rule));
            }
        }
        underflow[hook] = offset(&entries);
        add(&mut entries, entry(ipv6, None, &verdict(-NF_ACCEPT - 1)));
    }
    add(&mut entries, entry(ipv6, None, &error()));
    let mut table = b"nat".to_vec();
    table.resize(32, 0);
    let valid = HOOKS.iter().fold(0u32, |all, hook| all | 1 << hook);
    for number in [valid, count, offset(&entries)] {
        table.extend(number.to_ne_bytes());
    }
    table.extend(hook_entry.iter().chain(&underflow).flat_map(|number| number.to_ne_bytes()));
    table.resize(REPLACE, 0);
    table.extend(entries);
    table
}

fn offset(entries: &[u8]) -> u32 {
    // A handful of entries of less than 300 bytes.
    u32::try_from(entries.len()).unwrap_or(u32::MAX)
}

/// `struct ipt_entry` or `struct ip6t_entry` without matches.
fn entry(ipv6: bool, udp_to: Option<IpAddr>, target: &[u8]) -> Vec<u8> {
    const UDP: u8 = 17;
    const IP6T_F_PROTO: u8 = 1;
    // Length of `struct ipt_ip`, where addresses are, where the protocol is, and the flags.
    let (match_length, width, protocol, flags) = if ipv6 { (136, 16, 128, 131) } else { (84, 4, 80, 82) };
    let mut entry = vec![0; match_length];
    match udp_to {
        Some(IpAddr::V4(address)) => entry[width..2 * width].copy_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => entry[width..2 * width].copy_from_slice(&address.octets()),
        None => {}
    }
    if udp_to.is_some() {
        entry[3 * width..4 * width].fill(0xff);
        entry[protocol] = UDP;
        if ipv6 {
            entry[flags] = IP6T_F_PROTO;
        }
    }
    // nfcache, target_offset, next_offset, comefrom, counters
    let header = (match_length + 4 + 2 + 2 + 4).next_multiple_of(8) + COUNTERS;
    entry.extend([0; 4]);
    for length in [header, header + target.len()] {
        entry.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    }
    entry.resize(header, 0);
    entry.extend(target);
    entry
}

/// `struct xt_entry_target` with its data.
fn target(name: &str, data: &[u8]) -> Vec<u8> {
    let length = (TARGET_HEADER + data.len()).next_multiple_of(8);
    let mut target = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    target.extend(name.as_bytes());
    target.resize(TARGET_HEADER, 0);
    target.extend(data);
    target.resize(length, 0);
    target
}

/// `struct xt_standard_target`
fn verdict(verdict: i32) -> Vec<u8> {
    target("", &verdict.to_ne_bytes())
}

/// `struct xt_error_target`: the end of the table.
fn error() -> Vec<u8> {
    let mut name = b"ERROR".to_vec();
    name.resize(30, 0);
    target("ERROR", &name)
}

fn masquerade(ipv6: bool, rule: &Masquerade) -> Vec<u8> {
    let (flags, (min, max)) = match rule.ports {
        Ports::Range(min, max) => (NF_NAT_RANGE_PROTO_SPECIFIED, (min, max)),
        Ports::Random => (NF_NAT_RANGE_PROTO_RANDOM, (0, 0)),
    };
    let ports = [min.to_be_bytes(), max.to_be_bytes()].concat();
    let data = if ipv6 {
        [&flags.to_ne_bytes()[..], &[0; 32], &ports].concat() // struct nf_nat_range
    } else {
        // struct nf_nat_ipv4_multi_range_compat: one range
        [&1u32.to_ne_bytes()[..], &flags.to_ne_bytes(), &[0; 8], &ports].concat()
    };
    entry(ipv6, Some(rule.destination), &target("MASQUERADE", &data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses a table whose offsets do not fit; what it accepts is tested on it.
    #[test]
    fn entries_are_as_long_as_the_kernel_says() {
        for (ipv6, address, header) in [(false, "192.0.2.2", 112), (true, "2001:db8::2", 168)] {
            let rule = Masquerade { destination: address.parse().unwrap(), ports: Ports::Range(4444, 4444) };
            let table = nat_table(ipv6, &[rule]);
            let number = |at: usize| u32::from_ne_bytes(table[at..at + 4].try_into().unwrap());
            assert_eq!((number(32), number(36)), (0b11011, 6));
            assert_eq!(number(40) as usize, table.len() - REPLACE);
            let rule_length = header + if ipv6 { 72 } else { 56 };
            assert_eq!(number(64 + 4 * POSTROUTING) - number(44 + 4 * POSTROUTING), rule_length);
            assert_eq!(number(44 + 4), header + 40, "a policy is one entry with a verdict");
        }
    }
}
