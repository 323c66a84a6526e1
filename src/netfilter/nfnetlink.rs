//! `struct nfgenmsg`, which all messages of netfilter begin with.
//!
//! `include/uapi/linux/netfilter/nfnetlink.h`.

use super::netlink::{AttributeValue, MessageWriter};
use super::{Result, array};

/// Length of `struct nfgenmsg`.
pub const NFGENMSG: usize = 4;

/// First message of a batch.
pub const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
/// Last message of a batch.
pub const NFNL_MSG_BATCH_END: u16 = 0x11;

/// `struct nfgenmsg`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nfgenmsg {
    /// `NFPROTO_*`
    pub family: u8,
    /// `NFNETLINK_V0`
    pub version: u8,
    /// In network order: of nf_tables the lower 16 bits of the generation, of batches the subsystem.
    pub res_id: u16,
}

impl Nfgenmsg {
    /// The header, and what follows it.
    ///
    /// # Errors
    /// It is cut off.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let [family, version, high, low] = array(bytes, 0, "nfgenmsg")?;
        Ok((Self { family, version, res_id: u16::from_be_bytes([high, low]) }, &bytes[NFGENMSG..]))
    }

    /// The header, and the attributes that follow it.
    ///
    /// # Errors
    /// It is cut off, or lacks something.
    pub fn parse<'a, T: AttributeValue<'a>>(bytes: &'a [u8]) -> Result<(Self, T)> {
        let (header, rest) = Self::split(bytes)?;
        Ok((header, T::parse(rest)?))
    }

    /// Writes it.
    pub fn emit(&self, out: &mut MessageWriter) {
        out.bytes(&[self.family, self.version]);
        out.bytes(&self.res_id.to_be_bytes());
    }
}
