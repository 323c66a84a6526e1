//! Writes attributes: `nla_put`, `nla_nest_start`.

use super::attributes::{NLA_F_NESTED, NLA_F_NET_BYTEORDER};

/// Where messages are written to.
#[derive(Debug)]
pub struct MessageWriter {
    out: Vec<u8>,
    /// `NLA_F_*` that attributes get which can have them.
    pub(super) flags: u16,
}

impl MessageWriter {
    /// Writes as the kernel does.
    pub fn kernel() -> Self {
        Self { out: Vec::new(), flags: 0 }
    }

    /// Writes as user space does: attributes with others in them are flagged.
    pub fn user() -> Self {
        Self { out: Vec::new(), flags: NLA_F_NESTED }
    }

    /// Writes as user space does to ipset: numbers are flagged too.
    pub fn ipset() -> Self {
        Self { out: Vec::new(), flags: NLA_F_NESTED | NLA_F_NET_BYTEORDER }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// An attribute of a `nla_type`, whose body `fill` writes; with padding.
    pub fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.out.extend([0; 4]);
        fill(self);
        // No attribute of the kernel's is longer, and what is built here has some hundred bytes.
        let length = u16::try_from(self.out.len() - start).unwrap_or(u16::MAX);
        self.out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}
