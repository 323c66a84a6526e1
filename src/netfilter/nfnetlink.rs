//! `struct nfgenmsg`, the header of all netfilter messages.
//!
//! `include/uapi/linux/netfilter/nfnetlink.h`.

use super::netlink::{AttributeValue, MessageWriter};
use super::{Result, array};

/// Length of `struct nfgenmsg`.
pub const NFGENMSG: usize = 4;

/// Message that starts a batch.
pub const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
/// Message that ends a batch.
pub const NFNL_MSG_BATCH_END: u16 = 0x11;

/// `struct nfgenmsg`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nfgenmsg {
    /// `NFPROTO_*`
    pub family: u8,
    /// `NFNETLINK_V0`
    pub version: u8,
    /// Network byte order: for nf_tables the lower 16 bits of the generation, for batches the subsystem.
    pub res_id: u16,
}

impl Nfgenmsg {
    /// Splits off the header.
    ///
    /// # Errors
    /// It is truncated.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let [family, version, high, low] = array(bytes, 0, "nfgenmsg")?;
        Ok((Self { family, version, res_id: u16::from_be_bytes([high, low]) }, &bytes[NFGENMSG..]))
    }

    /// Parses the header and the attributes after it.
    ///
    /// # Errors
    /// It is truncated, or lacks a required attribute.
    pub fn parse<'a, T: AttributeValue<'a>>(bytes: &'a [u8]) -> Result<(Self, T)> {
        let (header, rest) = Self::split(bytes)?;
        Ok((header, T::parse(rest)?))
    }

    /// Writes the header.
    pub fn emit(&self, out: &mut MessageWriter) {
        out.bytes(&[self.family, self.version]);
        out.bytes(&self.res_id.to_be_bytes());
    }
}
