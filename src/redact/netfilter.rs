//! Answers of nf_tables and ipset.
//!
//! Names of tables and chains stay: they tell who writes a rule. Names of sets go, and so do comments behind what tells
//! their writer. Keys of sets whose fields no rule tells are taken for addresses if they could be one, else zeroed.
//!
//! Limits: names of chains that hold a hash of what they are for (`KUBE-SVC-…`, `CNI-…`) keep it; a range of addresses
//! that is no prefix covers others than before; and a rule that tests parts of an address removes its chain.

use std::ops::Range;

use super::{Redactor, each_attribute};
use crate::capture::path_part;
use crate::netfilter::array;
use crate::snapshot::Failure;

/// What happens to attributes of one message: kept, renamed, treated by [`Redactor::special`], or zeroed.
struct Rules {
    kind: u16,
    keep: &'static [u16],
    set: Option<u16>,
    chain: Option<u16>,
    /// `NFTA_*_USERDATA`
    comment: Option<u16>,
}

/// `NFTA_TABLE_*`, `NFTA_CHAIN_*`, `NFTA_RULE_*`, `NFTA_SET_*`, `NFTA_SET_ELEM_LIST_*`, `NFTA_GEN_*` by number.
#[rustfmt::skip]
const RULES: &[Rules] = &[
    Rules { kind: NEWTABLE, keep: &[1, 2, 3, 4, 7], set: None, chain: None, comment: Some(6) },
    Rules { kind: 0xa03, keep: &[1, 2, 4, 5, 6, 7, 8, 10, 11], set: None, chain: Some(3), comment: Some(12) },
    Rules { kind: NEWRULE, keep: &[1, 3, 4, 5, 6, 9], set: None, chain: Some(2), comment: Some(7) },
    Rules { kind: 0xa09, keep: &[1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16], set: Some(2), chain: None, comment: None },
    Rules { kind: NEWSETELEM, keep: &[1, 3, 4], set: Some(2), chain: None, comment: None },
    Rules { kind: 0xa0f, keep: &[1], set: None, chain: None, comment: None },
];
const NEWTABLE: u16 = 0xa00;
const NEWRULE: u16 = 0xa06;
const NEWSETELEM: u16 = 0xa0c;
/// `IPSET_ATTR_*`: any command.
const IPSET: Rules = Rules { kind: 0, keep: &[1, 3, 4, 5, 6, 11], set: Some(2), chain: None, comment: None };
const NFNL_SUBSYS_IPSET: u16 = 6;

/// Beginnings of comments that tell who writes a rule. `decode` knows the same ones.
const COMMENTS: &[&str] = &[
    "kubernetes postrouting rules",
    "kubernetes service ",
    "kubernetes service traffic requiring SNAT",
    "Kubernetes endpoints dst ip:port",
    "kubenet: ",
    "flanneld masq",
    "cali:",
    "cilium-feeder:",
    "cilium masquerade ",
    "cilium host->cluster ",
    "AWS SNAT CHAIN",
    "AWS, ",
    "name: \"aws-cni\" id: \"",
    "name: \"",
    "ip-masq-agent:",
    "kind-masq-agent:",
    "CNI portfwd ",
    "netavark portfw ",
    "Antrea: ",
    "Prevent SNAT to locally running containers",
    "rules for masquerading OpenShift traffic",
];

/// Beginnings of names of sets that do.
const SETS: &[&str] = &["kube-router-", "inet6:kube-router-"];

/// Replaces a text up to its zero: the length stays, and so does what tells who wrote it.
pub(super) fn text(value: &mut [u8]) {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let known = COMMENTS.iter().filter(|known| value[..end].starts_with(known.as_bytes()));
    let start = known.map(|known| known.len()).max().unwrap_or(0);
    value[start..end].iter_mut().filter(|byte| **byte != b'"').for_each(|byte| *byte = b'x');
    value[end..].fill(0);
}

/// The attributes of a block, by type and place.
pub(super) struct Places(Vec<(u16, Range<usize>)>);

impl Places {
    pub(super) fn of(bytes: &[u8], block: Range<usize>) -> Result<Self, Failure> {
        let mut places = Vec::new();
        let mut at = block.start;
        let block = bytes.get(..block.end).ok_or_else(|| Failure::unexpected("an attribute is cut off"))?;
        while at < block.len() {
            let length = u16::from_ne_bytes(array(block, at, "attribute")?) as usize;
            let kind = u16::from_ne_bytes(array(block, at + 2, "attribute")?) & 0x3fff;
            if length < 4 || length > block.len() - at {
                return Err(Failure::unexpected("an attribute is cut off"));
            }
            places.push((kind, at + 4..at + length));
            at += length.next_multiple_of(4);
        }
        Ok(Self(places))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, Range<usize>)> {
        self.0.iter().cloned()
    }

    pub(super) fn get(&self, kind: u16) -> Option<Range<usize>> {
        self.iter().filter(|(other, _)| *other == kind).last().map(|(_, place)| place)
    }

    pub(super) fn be32(&self, bytes: &[u8], kind: u16) -> Result<Option<u32>, Failure> {
        Ok(self.get(kind).map(|place| array(&bytes[place], 0, "number").map(u32::from_be_bytes)).transpose()?)
    }

    /// The value within `NFTA_DATA_VALUE` within this attribute.
    pub(super) fn value(&self, bytes: &[u8], kind: u16) -> Result<Option<Range<usize>>, Failure> {
        let Some(place) = self.get(kind) else { return Ok(None) };
        Ok(Self::of(bytes, place)?.get(1))
    }
}

impl Redactor {
    /// One message without its header.
    pub(super) fn netfilter(&mut self, kind: u16, body: &mut [u8]) -> Result<(), Failure> {
        let rules = match kind >> 8 {
            NFNL_SUBSYS_IPSET => &IPSET,
            _ => RULES
                .iter()
                .find(|rules| rules.kind == kind)
                .ok_or_else(|| Failure::unexpected("nothing is known about messages of this type"))?,
        };
        let family = *body.first().ok_or_else(|| Failure::unexpected("a message is too short for its header"))?;
        let length = body.len();
        let places = Places::of(body, 4.min(length)..length)?;
        let name = |body: &[u8], kind| places.get(kind).map(|place| up_to_zero(&body[place]).to_vec());
        let table = name(body, 1).unwrap_or_default();
        let set = name(body, 2).unwrap_or_default();
        for (kind, place) in places.iter() {
            if rules.set == Some(kind) {
                self.set_name(&mut body[place]);
            } else if rules.chain == Some(kind) {
                self.chain_name(&mut body[place]);
            } else if rules.comment == Some(kind) {
                user_data(&mut body[place])?;
            } else if !rules.keep.contains(&kind) {
                body[place].fill(0);
            } else if rules.kind == NEWRULE && kind == 4 {
                self.expressions(family, &table, body, place)?;
            } else if rules.kind == NEWSETELEM && kind == 3 {
                for (_, element) in Places::of(body, place)?.iter() {
                    self.element(&(family, table.clone(), set.clone()), body, element)?;
                }
            }
        }
        Ok(())
    }

    /// `NFTA_SET_ELEM_*`
    fn element(&mut self, id: &(u8, Vec<u8>, Vec<u8>), body: &mut [u8], element: Range<usize>) -> Result<(), Failure> {
        for (kind, place) in Places::of(body, element)?.iter() {
            match kind {
                1 | 10 => {
                    let Some(value) = Places::of(body, place)?.get(1) else { continue };
                    match self.layouts.get(id).cloned() {
                        Some(layout) => self.value(body, value, &layout)?,
                        None => self.address(&mut body[value], None), // anything else than 4 or 16 bytes is zeroed
                    }
                }
                2 => self.verdict(body, place)?,
                3..=5 => {}
                _ => body[place].fill(0),
            }
        }
        Ok(())
    }

    /// `NFTA_DATA_*`: a verdict, whose chain may have to be renamed; a value is zeroed.
    pub(super) fn verdict(&mut self, body: &mut [u8], data: Range<usize>) -> Result<(), Failure> {
        for (kind, place) in Places::of(body, data)?.iter() {
            if kind != 2 {
                body[place].fill(0);
                continue;
            }
            each_attribute(&mut body[place], |kind, value| {
                if kind == 2 {
                    self.chain_name(value);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(super) fn set_name(&mut self, value: &mut [u8]) {
        let name = up_to_zero(value);
        let anonymous = [b"__set".as_slice(), b"__map"].iter().any(|start| name.starts_with(start));
        let kept = SETS.iter().find(|known| name.starts_with(known.as_bytes())).map_or(0, |known| known.len());
        if !anonymous {
            let end = name.len();
            self.letters(value, kept..end);
        }
    }

    /// Netavark names its chains after the network: `nv_10_88_0_0_nm16`.
    pub(super) fn chain_name(&mut self, value: &mut [u8]) {
        let name = up_to_zero(value);
        let Some(end) = name.windows(3).rposition(|window| window == b"_nm") else { return };
        if name.starts_with(b"nv_") && end > 3 {
            self.letters(value, 3..end);
        }
    }

    /// Replaces a part of a name by letters, the same ones wherever it stands, and different ones for each name.
    fn letters(&mut self, value: &mut [u8], part: Range<usize>) {
        let old = up_to_zero(value).to_vec();
        let new = match self.names.get(&old) {
            Some(new) => new.clone(),
            None => {
                let candidate = |attempt: u32| {
                    let mut new = old.clone();
                    for at in part.clone() {
                        new[at] = b'a' + (self.hash((&old, attempt, at)) % 26) as u8;
                    }
                    new
                };
                let free = |new: &Vec<u8>| !self.taken.contains(new);
                // Names so short that all are taken tell nothing.
                let new = (0..256).map(candidate).find(free).unwrap_or_else(|| old.clone());
                self.taken.insert(new.clone());
                self.names.insert(old.clone(), new.clone());
                new
            }
        };
        value[..new.len()].copy_from_slice(&new);
    }

    /// The name of a request, which may hold the name of a set or a chain.
    pub(super) fn request_name(&mut self, name: &str) -> String {
        let parts: Vec<&str> = name.split('/').collect();
        let ["netlink", "netfilter", attempt, what, _, _, last] = parts.as_slice() else { return name.to_owned() };
        if !attempt.starts_with("nft-") {
            return name.to_owned();
        }
        let mut decoded = unescape(last);
        match *what {
            "map" => self.set_name(&mut decoded),
            "chain" | "rules" | "udp-rules" | "counters" => self.chain_name(&mut decoded),
            _ => {}
        }
        format!("{}{}", &name[..name.len() - last.len()], path_part(&decoded))
    }
}

/// `NFTA_*_USERDATA` of tables, chains and rules: type, length, value; type 0 is the comment.
fn user_data(mut rest: &mut [u8]) -> Result<(), Failure> {
    while let [kind, length, values @ ..] = rest {
        let (kind, length) = (*kind, usize::from(*length));
        if length > values.len() {
            return Err(Failure::unexpected("user data are cut off"));
        }
        let (value, next) = values.split_at_mut(length);
        if kind == 0 {
            text(value)
        } else {
            value.fill(0)
        }
        rest = next;
    }
    rest.fill(0);
    Ok(())
}

fn up_to_zero(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests;
