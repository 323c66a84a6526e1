//! Writes messages and attributes: `nla_put`, `nla_nest_start`.

use super::attributes::{NLA_F_NESTED, NLA_F_NET_BYTEORDER};

/// A buffer that messages are written to.
#[derive(Debug)]
pub struct MessageWriter {
    out: Vec<u8>,
    /// `NLA_F_*` flags to set on attributes that can have them.
    pub(super) flags: u16,
}

impl MessageWriter {
    /// In the kernel's form, without flags.
    pub fn kernel() -> Self {
        Self { out: Vec::new(), flags: 0 }
    }

    /// In user space's form: `NLA_F_NESTED` is set.
    pub fn user() -> Self {
        Self { out: Vec::new(), flags: NLA_F_NESTED }
    }

    /// In user space's form for ipset: numbers have `NLA_F_NET_BYTEORDER` as well.
    pub fn ipset() -> Self {
        Self { out: Vec::new(), flags: NLA_F_NESTED | NLA_F_NET_BYTEORDER }
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// Appends an attribute with its padding; `fill` writes the payload.
    pub fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.out.extend([0; 4]);
        fill(self);
        // Neither the kernel nor natwatch writes longer attributes.
        let length = u16::try_from(self.out.len() - start).unwrap_or(u16::MAX);
        self.out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}
