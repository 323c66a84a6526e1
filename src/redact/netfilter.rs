//! Answers of nf_tables and ipset.
//!
//! Names of tables and chains stay: they tell who writes a rule. Names of sets go, and so do comments behind what tells
//! their writer. Keys of sets whose fields no rule tells become zeros.
//!
//! Limits: names of chains that hold a hash of what they are for (`KUBE-SVC-…`, `CNI-…`) keep it; a range of addresses
//! that is no prefix covers others than before; and what tests parts of an address reads as a test of something unknown.

use std::ops::Range;

use super::Redactor;
use crate::capture::path_part;
use crate::netfilter::ipset::{IpsetMessage, NFNL_SUBSYS_IPSET};
use crate::netfilter::netlink::{Emit as _, Writer};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::Message;
use crate::snapshot::Failure;
use crate::snapshot::netfilter::signatures;

/// Replaces a text up to its zero: the length stays, and so does what tells who wrote it.
pub(super) fn text(value: &mut [u8]) {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let start = signatures::telling_comment(&value[..end]);
    value[start..end].iter_mut().filter(|byte| **byte != b'"').for_each(|byte| *byte = b'x');
    value[end..].fill(0);
}

impl Redactor {
    /// One message without its header.
    pub(super) fn netfilter(&mut self, kind: u16, body: &mut [u8]) -> Result<(), Failure> {
        let mut out = Writer::kernel();
        if kind >> 8 == NFNL_SUBSYS_IPSET {
            let (header, mut message): (_, IpsetMessage<'_>) = Nfgenmsg::parse(body)?;
            self.visit(header.family, &[], &mut message)?;
            header.emit(&mut out);
            message.emit(&mut out);
        } else {
            let mut message = Message::parse(kind, body)?;
            self.nftables(&mut message)?;
            message.emit(&mut out);
        }
        let redacted = out.finish();
        if redacted.len() != body.len() {
            return Err(Failure::unexpected("a message does not keep its length"));
        }
        body.copy_from_slice(&redacted);
        Ok(())
    }

    pub(super) fn set_name(&mut self, value: &mut [u8]) {
        let name = up_to_zero(value);
        let anonymous = [b"__set".as_slice(), b"__map"].iter().any(|start| name.starts_with(start));
        let kept = signatures::telling_ipset(name);
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

/// `NFTA_*_USERDATA` of tables, chains and rules: type, length, value; type 0 is the comment. Programs may write anything else
/// there: of that nothing stays.
pub(super) fn user_data(mut rest: &mut [u8]) {
    /// `NFTNL_UDATA_TABLE_NFTBLD`, the highest of all such types.
    const LAST_KIND: u8 = 2;
    while let [kind @ 0..=LAST_KIND, length, values @ ..] = &*rest
        && values.len() >= usize::from(*length)
    {
        let (kind, end) = (*kind, 2 + usize::from(*length));
        let (known, next) = rest.split_at_mut(end);
        match kind {
            0 => text(&mut known[2..]),
            _ => known[2..].fill(0),
        }
        rest = next;
    }
    rest.fill(0);
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
