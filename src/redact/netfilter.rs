//! Redacts responses of nf_tables, ipset and ctnetlink.
//!
//! Names of tables and chains are kept except for the host's name and addresses, because they show who writes a rule.
//! Names of sets and comments are replaced, except for owner signatures (`facts::netfilter::signatures`). Keys of sets
//! whose fields no rule shows are zeroed, and so are data of maps that no rule uses as number or address, or that two
//! rules use differently.
//!
//! Limits: chain names with a hash of their purpose (`KUBE-SVC-…`, `CNI-…`) keep it; an address range that is not a
//! prefix covers other addresses than before; and a test of parts of an address becomes an unsupported one.

use super::Redactor;
use crate::facts::Failure;
use crate::facts::netfilter::signatures;
use crate::netfilter::conntrack::{Entry, NFNL_SUBSYS_CTNETLINK};
use crate::netfilter::ipset::{IpsetMessage, NFNL_SUBSYS_IPSET};
use crate::netfilter::netlink::{Emit as _, MessageWriter};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::NftMessage;

/// Replaces a text up to its zero, keeping its length and owner signatures.
pub(super) fn text(value: &mut [u8]) {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    for part in signatures::free_parts_of_comment(&value[..end]) {
        value[part].fill(b'x');
    }
    value[end..].fill(0);
}

impl Redactor {
    /// Redacts one message without its header.
    pub(super) fn netfilter(&mut self, kind: u16, body: &mut [u8]) -> Result<(), Failure> {
        let mut out = MessageWriter::kernel();
        if kind >> 8 == NFNL_SUBSYS_IPSET {
            let (header, mut message): (_, IpsetMessage<'_>) = Nfgenmsg::parse(body)?;
            self.visit(header.family, &[], &mut message)?;
            header.emit(&mut out);
            message.emit(&mut out);
        } else if kind >> 8 == NFNL_SUBSYS_CTNETLINK {
            let (header, mut entry): (_, Entry<'_>) = Nfgenmsg::parse(body)?;
            self.visit(header.family, &[], &mut entry)?;
            header.emit(&mut out);
            entry.emit(&mut out);
        } else {
            let mut message = NftMessage::parse(kind, body)?;
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
}

/// `NFTA_*_USERDATA` of tables, chains and rules: type, length, value; type 0 is the comment. Other programs' contents
/// are zeroed.
pub(super) fn user_data(mut rest: &mut [u8]) {
    /// `NFTNL_UDATA_TABLE_NFTBLD`, the highest type.
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

#[cfg(test)]
mod tests;
