//! Extensions of x_tables, whose data are structures of C.
//!
//! Those that may be read and hold no address stay, those whose addresses are known are mapped, and all others are
//! zeroed: what they are is told by their names, which stay.

use super::Redactor;
use super::netfilter::text;
use crate::wire::WireError;

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

impl Redactor {
    pub(super) fn xt_match(&self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), WireError> {
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

    pub(super) fn xt_target(&self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), WireError> {
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
    fn masked(&self, family: u8, info: &mut [u8], at: usize, mask: usize) -> Result<(), WireError> {
        let width = width(family)?;
        let mask = place(info, mask, width)?.to_vec();
        let address = place(info, at, width)?;
        address.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte &= mask);
        self.address(address, Some(prefix_length(&mask)?));
        Ok(())
    }

    /// The two ends of a range.
    fn two(&self, family: u8, info: &mut [u8], min: usize, max: usize) -> Result<(), WireError> {
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

fn is_one_of(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|known| known.as_bytes() == name)
}

/// Length of an address.
fn width(family: u8) -> Result<usize, WireError> {
    match family {
        2 => Ok(4),
        10 => Ok(16),
        _ => Err(WireError::new("an extension of x_tables outside of IPv4 and IPv6")),
    }
}

fn place(info: &mut [u8], at: usize, length: usize) -> Result<&mut [u8], WireError> {
    info.get_mut(at..at + length).ok_or_else(|| WireError::new("an extension of x_tables is shorter than expected"))
}

/// How many bits are set in a mask.
pub(super) fn prefix_length(mask: &[u8]) -> Result<u8, WireError> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count();
    let leading = 8 * full + mask.get(full).map_or(0, |byte| byte.leading_ones() as usize);
    match u8::try_from(ones) {
        Ok(length) if leading == ones as usize => Ok(length),
        _ => Err(WireError::new("a mask of an address has holes")),
    }
}
