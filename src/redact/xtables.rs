//! Extensions of x_tables, whose data are structures of C.
//!
//! Those that may be read and hold no address stay, those whose addresses are known are mapped, and all others are
//! zeroed: what they are is told by their names, which stay.

use super::Redactor;
use super::netfilter::text;
use crate::capture::XTABLES_INFO;
use crate::netfilter::array;
use crate::snapshot::Failure;

const MATCHES: &[&str] = &[
    "addrtype",
    "ah",
    "cluster",
    "connbytes",
    "connlabel",
    "connlimit",
    "connmark",
    "cpu",
    "dccp",
    "devgroup",
    "dscp",
    "ecn",
    "esp",
    "frag",
    "helper",
    "hl",
    "icmp",
    "icmp6",
    "ipcomp",
    "ipv6header",
    "l2tp",
    "length",
    "limit",
    "mark",
    "multiport",
    "owner",
    "physdev",
    "pkttype",
    "quota",
    "rateest",
    "realm",
    "rpfilter",
    "sctp",
    "set",
    "socket",
    "state",
    "statistic",
    "tcp",
    "tcpmss",
    "time",
    "tos",
    "ttl",
    "udp",
];
const TARGETS: &[&str] = &[
    "CHECKSUM", "CLASSIFY", "CONNMARK", "CT", "DSCP", "HL", "MARK", "NFQUEUE", "NOTRACK", "REJECT", "SET", "TCPMSS",
    "TOS", "TRACE", "TTL",
];
const NAT: &[&str] = &["MASQUERADE", "REDIRECT", "NETMAP", "SNAT", "DNAT"];

/// Description and header before the entries of a legacy table.
const ENTRIES: usize = XTABLES_INFO + 40;
/// Length of `struct xt_entry_match` and `struct xt_entry_target` without data.
const EXTENSION_HEADER: usize = 32;

impl Redactor {
    /// A table of legacy x_tables, entry by entry.
    pub(super) fn legacy_table(&mut self, ipv6: bool, answer: &mut [u8]) -> Result<(), Failure> {
        let mut rest = answer.get_mut(ENTRIES..).ok_or_else(|| Failure::unexpected("a table is cut off"))?;
        // target_offset of struct ipt_entry and struct ip6t_entry; next_offset follows
        let at = if ipv6 { 140 } else { 88 };
        while !rest.is_empty() {
            let target = usize::from(u16::from_ne_bytes(array(rest, at, "entry")?));
            let next = usize::from(u16::from_ne_bytes(array(rest, at + 2, "entry")?));
            if next == 0 || next > rest.len() {
                return Err(Failure::unexpected("an entry is cut off"));
            }
            let (entry, more) = rest.split_at_mut(next);
            self.legacy_entry(ipv6, entry, target)?;
            rest = more;
        }
        Ok(())
    }

    fn legacy_entry(&mut self, ipv6: bool, entry: &mut [u8], target: usize) -> Result<(), Failure> {
        let (family, width, size) = if ipv6 { (10, 16, 168) } else { (2, 4, 112) };
        // Source, destination, and their masks.
        self.masked(family, entry, 0, 2 * width)?;
        self.masked(family, entry, width, 3 * width)?;
        let mut at = size;
        while at < target {
            let (name, revision, data) = extension(entry, &mut at)?;
            self.xt_match(family, &name, revision, data)?;
        }
        let mut at = target;
        let (name, revision, data) = extension(entry, &mut at)?;
        match name.as_slice() {
            b"" => Ok(()), // a verdict
            b"ERROR" => {
                self.chain_name(data);
                Ok(())
            }
            name => self.xt_target(family, name, revision, data),
        }
    }

    pub(super) fn xt_match(&self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), Failure> {
        match name {
            b"comment" => text(info),
            b"conntrack" if revision > 0 => {
                // Address and mask of the original and the reply direction's source and destination.
                for at in [0, 32, 64, 96] {
                    self.masked(family, info, at, at + 16)?;
                }
            }
            b"ipvs" => self.masked(family, info, 0, 16)?,
            b"iprange" if revision > 0 => {
                self.two(family, info, 0, 16)?;
                self.two(family, info, 32, 48)?;
            }
            b"mac" => self.hardware(place(info, 0, 6)?),
            _ if is_one_of(MATCHES, name) => {}
            _ => info.fill(0),
        }
        Ok(())
    }

    pub(super) fn xt_target(&self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), Failure> {
        match name {
            // nf_nat_ipv4_multi_range_compat
            _ if is_one_of(NAT, name) && revision == 0 && width(family)? == 4 => self.two(family, info, 8, 12),
            // nf_nat_range, nf_nat_range2
            _ if is_one_of(NAT, name) => self.two(family, info, 4, 20),
            b"TPROXY" => {
                self.address(place(info, 8, width(family)?)?, None);
                Ok(())
            }
            _ if is_one_of(TARGETS, name) => Ok(()),
            _ => {
                info.fill(0);
                Ok(())
            }
        }
    }

    /// An address at `at` and its mask.
    fn masked(&self, family: u8, info: &mut [u8], at: usize, mask: usize) -> Result<(), Failure> {
        let width = width(family)?;
        let mask = place(info, mask, width)?.to_vec();
        let address = place(info, at, width)?;
        address.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte &= mask);
        self.address(address, Some(prefix_length(&mask)?));
        Ok(())
    }

    /// The two ends of a range.
    fn two(&self, family: u8, info: &mut [u8], min: usize, max: usize) -> Result<(), Failure> {
        let width = width(family)?;
        let mut first = place(info, min, width)?.to_vec();
        let mut last = place(info, max, width)?.to_vec();
        self.range(&mut first, &mut last);
        place(info, min, width)?.copy_from_slice(&first);
        place(info, max, width)?.copy_from_slice(&last);
        Ok(())
    }

    /// The two ends of a range of addresses. A prefix stays one; any other range covers others than before.
    pub(super) fn range(&self, min: &mut [u8], max: &mut [u8]) {
        let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        let differ = number(min) ^ number(max);
        let aligned = differ & differ.wrapping_add(1) == 0 && number(min) & differ == 0;
        if aligned && min.len() <= 16 {
            let free = u128::BITS - differ.leading_zeros();
            self.address(min, u8::try_from(8 * min.len()).ok().map(|width| width.saturating_sub(free as u8)));
            let last = (number(min) | differ).to_be_bytes();
            max.copy_from_slice(&last[16 - min.len()..]);
        } else {
            self.address(min, None);
            self.address(max, None);
            if min > max {
                min.swap_with_slice(max);
            }
        }
    }
}

/// Name, revision and data of the match or target at `at`, which goes on to what follows it.
fn extension<'a>(entry: &'a mut [u8], at: &mut usize) -> Result<(Vec<u8>, u32, &'a mut [u8]), Failure> {
    let start = *at;
    let size = usize::from(u16::from_ne_bytes(array(entry, start, "extension")?));
    *at = start + size.max(EXTENSION_HEADER);
    let (header, data) = place(entry, start, *at - start)?.split_at_mut(EXTENSION_HEADER);
    let name = header[2..31].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    Ok((name, header[31].into(), data))
}

fn is_one_of(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|known| known.as_bytes() == name)
}

/// Length of an address.
fn width(family: u8) -> Result<usize, Failure> {
    match family {
        2 => Ok(4),
        10 => Ok(16),
        _ => Err(Failure::unexpected("an extension of x_tables outside of IPv4 and IPv6")),
    }
}

fn place(info: &mut [u8], at: usize, length: usize) -> Result<&mut [u8], Failure> {
    info.get_mut(at..at + length)
        .ok_or_else(|| Failure::unexpected("an extension of x_tables is shorter than expected"))
}

/// How many bits are set in a mask.
pub(super) fn prefix_length(mask: &[u8]) -> Result<u8, Failure> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count();
    let leading = 8 * full + mask.get(full).map_or(0, |byte| byte.leading_ones() as usize);
    match u8::try_from(ones) {
        Ok(length) if leading == ones as usize => Ok(length),
        _ => Err(Failure::unexpected("a mask of an address has holes")),
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    const NAT: &[u8] = include_bytes!("../../tests/fixtures/nat-iptables-legacy/xtables/ipv4-nat");

    #[test]
    fn tables_that_are_cut_off_or_changed_never_panic() {
        let redact = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            Redactor::new(RandomState::new()).legacy_table(false, &mut bytes).map(|()| bytes)
        };
        assert_eq!(redact(NAT).map(|bytes| bytes.len()), Ok(NAT.len()));
        assert_ne!(redact(NAT).unwrap(), NAT);
        for length in ENTRIES + 1..NAT.len().min(4000) {
            let _ = redact(&NAT[..length]);
        }
        proptest::proptest!(|(at in 0..NAT.len() - 1, value: [u8; 2])| {
            let mut bytes = NAT.to_vec();
            bytes[at..at + 2].copy_from_slice(&value);
            let _ = redact(&bytes);
            let _ = Redactor::new(RandomState::new()).legacy_table(true, &mut bytes);
        });
    }
}
