//! Matches and targets of x_tables, converted into steps. Used for nf_tables rules of iptables-nft and for legacy
//! tables.

use crate::facts::netfilter::{Comparison, Family, Field, FieldTest, Match, Step};
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::netfilter::xtables::{self, up_to_zero};

mod conntrack;
mod matches;
mod ports;
mod targets;

pub(crate) use matches::decode_match;
pub(crate) use targets::decode_target;

/// A match or target of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    /// `name`
    pub name: &'a str,
    /// `revision`
    pub revision: u8,
    /// Family of the table.
    pub family: Family,
    /// Data after the header.
    pub data: &'a [u8],
}

impl Extension<'_> {
    /// `NFPROTO_*` of the table; `None`: no x_tables family.
    fn nfproto(&self) -> Option<u8> {
        match self.family {
            Family::Ipv4 => Some(NFPROTO_IPV4),
            Family::Ipv6 => Some(NFPROTO_IPV6),
            Family::Inet | Family::Netdev | Family::Bridge => None,
        }
    }
}

/// Text of a comment match; `None`: another match.
pub(crate) fn comment(extension: &Extension) -> Option<String> {
    let family = extension.nfproto()?;
    match xtables::Match::parse(extension.name.as_bytes(), extension.revision.into(), family, extension.data) {
        Ok(xtables::Match::Comment(info)) => Some(String::from_utf8_lossy(up_to_zero(&info.comment)).into_owned()),
        _ => None,
    }
}

/// A match that is not supported.
fn unsupported_match(extension: &Extension) -> Vec<Step> {
    vec![Step::Match(Match::Unsupported(format!("match {} revision {}", extension.name, extension.revision)))]
}

fn masked(field: Field, mask: impl Into<u128>, value: impl Into<u128>) -> FieldTest {
    FieldTest { field, condition: Comparison::Masked { mask: mask.into(), value: value.into() } }
}

fn within(field: Field, first: impl Into<u128>, last: impl Into<u128>) -> FieldTest {
    FieldTest::within(field, vec![(first.into(), last.into())])
}

fn all(tests: Vec<FieldTest>, inverted: bool) -> Step {
    Step::Match(Match::Tests { tests, inverted })
}

fn test(test: FieldTest, inverted: bool) -> Step {
    all(vec![test], inverted)
}

fn other(name: &str) -> Field {
    Field::Other(name.to_owned())
}

fn non_deterministic(what: &str) -> Step {
    Step::Match(Match::NonDeterministic(what.to_owned()))
}

#[cfg(test)]
mod tests;
