//! Extensions of x_tables: payloads of `struct xt_entry_match` and `struct xt_entry_target`, which iptables-nft puts into
//! the rules of nf_tables and iptables-legacy into its tables.
//!
//! Kernel sources: `include/uapi/linux/netfilter/xt_*.h`, `netfilter_ipv4/ipt_*.h`, `netfilter_ipv6/ip6t_*.h`. Numbers
//! are in host order, addresses and the ports of translations in network order. Offsets are those of 64-bit kernels.
//! Revisions are those of Linux 3.10 and later. A blob may be longer than its structure (`XT_ALIGN`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netfilter::array;
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Condition, Family, Field, Match, Step, Test};

mod matches;
mod targets;

pub use matches::decode_match;
pub use targets::decode_target;

/// A match or a target of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    /// `name`
    pub name: &'a str,
    /// `revision`
    pub revision: u8,
    /// Family of the table.
    pub family: Family,
    /// What follows the header.
    pub data: &'a [u8],
}

/// The text of a comment (`struct xt_comment_info`); `None`: it is no comment.
pub fn comment(extension: &Extension) -> Option<String> {
    if (extension.name, extension.revision) != ("comment", 0) {
        return None;
    }
    let text = extension.data.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What a match without a decoder means.
fn opaque_match(extension: &Extension) -> Vec<Step> {
    vec![Step::Match(Match::Opaque(format!("match {} revision {}", extension.name, extension.revision)))]
}

/// An extension's structure, known to be there as a whole.
struct Blob<'a> {
    extension: &'a Extension<'a>,
    size: usize,
}

impl<'a> Blob<'a> {
    /// Makes sure that there are `size` bytes.
    fn new(extension: &'a Extension<'a>, size: usize) -> Result<Self, Failure> {
        let have = extension.data.len();
        if have < size {
            let Extension { name, revision, .. } = extension;
            return Err(Failure::unexpected(format!("{name} revision {revision}: need {size} bytes, have {have}")));
        }
        Ok(Self { extension, size })
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Failure> {
        debug_assert!(at + N <= self.size, "{} is shorter than its fields", self.extension.name);
        Ok(array(self.extension.data, at, self.extension.name)?)
    }

    fn u8(&self, at: usize) -> Result<u8, Failure> {
        self.array(at).map(|[byte]| byte)
    }

    fn u16(&self, at: usize) -> Result<u16, Failure> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn be16(&self, at: usize) -> Result<u16, Failure> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, Failure> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn ipv4(&self, at: usize) -> Result<IpAddr, Failure> {
        self.array::<4>(at).map(|octets| Ipv4Addr::from(octets).into())
    }

    fn ipv6(&self, at: usize) -> Result<IpAddr, Failure> {
        self.array::<16>(at).map(|octets| Ipv6Addr::from(octets).into())
    }

    /// `union nf_inet_addr`, 16 bytes
    fn inet(&self, at: usize) -> Result<IpAddr, Failure> {
        if self.extension.family == Family::Ipv6 { self.ipv6(at) } else { self.ipv4(at) }
    }

    /// `union nf_inet_addr` as a number.
    fn inet_number(&self, at: usize) -> Result<u128, Failure> {
        Ok(match self.inet(at)? {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        })
    }
}

fn masked(field: Field, mask: impl Into<u128>, value: impl Into<u128>) -> Test {
    Test { field, condition: Condition::Masked { mask: mask.into(), value: value.into() } }
}

fn within(field: Field, first: impl Into<u128>, last: impl Into<u128>) -> Test {
    Test { field, condition: Condition::Ranges(vec![(first.into(), last.into())]) }
}

fn all(tests: Vec<Test>, inverted: bool) -> Step {
    Step::Match(Match::Tests { tests, inverted })
}

fn test(test: Test, inverted: bool) -> Step {
    all(vec![test], inverted)
}

fn other(name: &str) -> Field {
    Field::Other(name.to_owned())
}

fn occasional(what: &str) -> Step {
    Step::Match(Match::Occasional(what.to_owned()))
}

#[cfg(test)]
mod tests;
