//! Builds a nat table of legacy x_tables as one replacement. Pure. Kernel: `translate_table`.

use std::net::IpAddr;

use super::messages::{NF_NAT_RANGE_PROTO_RANDOM, NF_NAT_RANGE_PROTO_SPECIFIED, Ports};
use crate::netfilter::xtables::targets::nat::{NfNatIpv4MultiRangeCompat, NfNatRange};
use crate::netfilter::xtables::targets::verdict::{ACCEPT, XtErrorTarget, XtStandardTarget};
use crate::netfilter::xtables::{
    Be16, Ip6tEntry, IptEntry, IptReplace, Structure, XtEntry, XtFamily, XtHeader, XtRule,
};

/// Hooks on which the table has chains: prerouting, input, output, postrouting.
const HOOKS: [usize; 4] = [0, 1, 3, 4];
const POSTROUTING: usize = 4;

/// A rule that masquerades UDP to one destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Masquerade {
    /// Destination address of the packets.
    pub destination: IpAddr,
    /// How source ports are chosen.
    pub ports: Ports,
}

/// The table `nat` with these rules in POSTROUTING, all of one family. The caller fills in `num_counters` and
/// `counters`.
pub(crate) fn nat_table(family: XtFamily, rules: &[Masquerade]) -> Vec<u8> {
    let mut replace = IptReplace { name: padded(b"nat"), ..IptReplace::default() };
    let mut entries = Vec::new();
    let any = || match family {
        XtFamily::Ipv4 => XtHeader::Ipv4(IptEntry::default()),
        XtFamily::Ipv6 => XtHeader::Ipv6(Ip6tEntry::default()),
    };
    let mut add = |replace: &mut IptReplace<'_>, header, target| {
        entries.extend(XtRule::new(header, target).emit());
        replace.num_entries += 1;
        // A few entries of less than 300 bytes.
        replace.size = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    };
    for hook in HOOKS {
        replace.valid_hooks |= 1 << hook;
        replace.hook_entry[hook] = replace.size;
        for rule in rules.iter().filter(|_| hook == POSTROUTING) {
            add(&mut replace, udp_to(rule.destination), XtEntry::new("MASQUERADE", 0, range(family, rule.ports)));
        }
        replace.underflow[hook] = replace.size;
        let policy = XtStandardTarget { verdict: ACCEPT, ..XtStandardTarget::default() };
        add(&mut replace, any(), XtEntry::new("", 0, policy.emit()));
    }
    let end = XtErrorTarget { errorname: padded(b"ERROR"), ..XtErrorTarget::default() };
    add(&mut replace, any(), XtEntry::new("ERROR", 0, end.emit()));
    [replace.emit(), entries].concat()
}

fn padded<const N: usize>(name: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| name.get(at).copied().unwrap_or(0))
}

fn udp_to(destination: IpAddr) -> XtHeader<'static> {
    const UDP: u16 = 17;
    const IP6T_F_PROTO: u8 = 1;
    match destination {
        IpAddr::V4(address) => {
            let (dst, dmsk) = (address.octets(), [0xff; 4]);
            XtHeader::Ipv4(IptEntry { dst, dmsk, proto: UDP, ..IptEntry::default() })
        }
        IpAddr::V6(address) => {
            let (dst, dmsk) = (address.octets(), [0xff; 16]);
            XtHeader::Ipv6(Ip6tEntry { dst, dmsk, proto: UDP, flags: IP6T_F_PROTO, ..Ip6tEntry::default() })
        }
    }
}

fn range(family: XtFamily, ports: Ports) -> Vec<u8> {
    let (flags, (min, max)) = match ports {
        Ports::Range(min, max) => (NF_NAT_RANGE_PROTO_SPECIFIED, (Be16(min), Be16(max))),
        Ports::Random => (NF_NAT_RANGE_PROTO_RANDOM, (Be16(0), Be16(0))),
    };
    match family {
        XtFamily::Ipv4 => {
            NfNatIpv4MultiRangeCompat { rangesize: 1, flags, min, max, ..NfNatIpv4MultiRangeCompat::default() }.emit()
        }
        XtFamily::Ipv6 => NfNatRange { flags, min_proto: min, max_proto: max, ..NfNatRange::default() }.emit(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was accepted by a kernel: hexadecimal, z5 being five zero bytes.
    fn bytes(word: &str) -> Vec<u8> {
        match word.strip_prefix('z') {
            Some(zeros) => vec![0; zeros.parse().unwrap()],
            None => (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()).collect(),
        }
    }

    #[test]
    fn tables_are_what_kernels_accepted() {
        for (family, address, accepted) in [(XtFamily::Ipv4, "192.0.2.2", IPV4), (XtFamily::Ipv6, "2001:db8::2", IPV6)]
        {
            let rule = |ports| Masquerade { destination: address.parse().unwrap(), ports };
            let table = nat_table(family, &[rule(Ports::Range(4444, 5555)), rule(Ports::Random)]);
            let accepted: Vec<u8> = accepted.split_whitespace().flat_map(bytes).collect();
            assert_eq!(table, accepted);
        }
    }

    const IPV4: &str = "\
        6e6174 z29 1b000000070000006004 z6 98 z7 30010000c801 z6 98 z7 300100001803 z102 700098 z21 28 z31 feffffff \
        z92 700098 z21 28 z31 feffffff z92 700098 z21 28 z31 feffffff z8 c000020200000000ffffffff z64 11 z7 7000a8 \
        z21 38004d415351554552414445 z20 0100000002 z11 115c15b3 z8 c000020200000000ffffffff z64 11 z7 7000a8 z21 \
        38004d415351554552414445 z20 0100000004 z107 700098 z21 28 z31 feffffff z92 7000b0 z21 40004552524f52 z25 \
        4552524f52 z27";
    const IPV6: &str = "\
        6e6174 z29 1b000000070000000806 z6 d0 z7 a00100007002 z6 d0 z7 a00100005004 z154 a800d0 z25 28 z31 feffffff \
        z144 a800d0 z25 28 z31 feffffff z144 a800d0 z25 28 z31 feffffff z20 20010db8 z11 02 z16 \
        ffffffffffffffffffffffffffffffff z64 11000001 z8 a800f0 z25 48004d415351554552414445 z20 02 z35 115c15b3 z16 \
        20010db8 z11 02 z16 ffffffffffffffffffffffffffffffff z64 11000001 z8 a800f0 z25 48004d415351554552414445 z20 \
        04 z179 a800d0 z25 28 z31 feffffff z144 a800e8 z25 40004552524f52 z25 4552524f52 z27";
}
