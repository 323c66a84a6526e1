//! Attributes: sequences of `struct nlattr`, and access to them by type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netfilter::{Error, Result, array};

/// `NLA_F_NESTED`: contains attributes.
pub const NLA_F_NESTED: u16 = 1 << 15;
/// `NLA_F_NET_BYTEORDER`: a big-endian number.
pub const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
/// `NLA_TYPE_MASK`
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// `nla_type` without flags.
    pub kind: u16,
    /// `NLA_F_*` of `nla_type`.
    pub flags: u16,
    /// Payload after the header.
    pub body: &'a [u8],
}

/// The attributes of a block, in order; `what` names it in errors. Ends after an error.
pub fn attributes<'a>(bytes: &'a [u8], what: &'static str) -> impl Iterator<Item = Result<Attribute<'a>>> {
    Split { rest: bytes, what }
}

struct Split<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Iterator for Split<'a> {
    type Item = Result<Attribute<'a>>;

    // Not to be called some hundred thousand times for a large set of rules.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let [low, high, kind_low, kind_high] = match array(bytes, 0, self.what) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let (length, kind) = (usize::from(u16::from_ne_bytes([low, high])), u16::from_ne_bytes([kind_low, kind_high]));
        let (kind, flags) = (kind & NLA_TYPE_MASK, kind & !NLA_TYPE_MASK);
        let Some(body) = bytes.get(4..length) else {
            return Some(Err(too_short(self.what, kind, length, bytes.len())));
        };
        // The last one need not be filled up.
        self.rest = bytes.get((length + 3) & !3..).unwrap_or_default();
        Some(Ok(Attribute { kind, flags, body }))
    }
}

#[cold]
fn too_short(what: &str, kind: u16, length: usize, have: usize) -> Error {
    Error::unexpected(format!("{what} attribute {kind} says {length} bytes, have {have}"))
}

/// A block of attributes, known to be well-formed.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    what: &'static str,
    list: Vec<Attribute<'a>>,
}

impl<'a> Attributes<'a> {
    /// Splits a block; `what` names it in errors.
    pub fn parse(bytes: &'a [u8], what: &'static str) -> Result<Self> {
        let list = attributes(bytes, what).collect::<Result<_>>()?;
        Ok(Self { what, list })
    }

    /// Splits the attributes after a fixed header of `header` bytes.
    pub fn after(bytes: &'a [u8], header: usize, what: &'static str) -> Result<Self> {
        let rest = bytes.get(header..).ok_or_else(|| {
            Error::unexpected(format!("{what}: need a header of {header} bytes, have {}", bytes.len()))
        })?;
        Self::parse(rest, what)
    }

    /// All attributes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Attribute<'a>> {
        self.list.iter()
    }

    /// Payload of an attribute; the last one counts, as in the kernel's `nla_parse`.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.list.iter().rev().find(|attribute| attribute.kind == kind).map(|attribute| attribute.body)
    }

    /// A nested block.
    pub fn nested(&self, kind: u16, what: &'static str) -> Result<Option<Attributes<'a>>> {
        self.get(kind).map(|body| Attributes::parse(body, what)).transpose()
    }

    fn fixed<const N: usize>(&self, kind: u16) -> Result<Option<[u8; N]>> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        match body.try_into() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => {
                Err(Error::unexpected(format!("{} attribute {kind}: need {N} bytes, have {}", self.what, body.len())))
            }
        }
    }

    /// One byte.
    pub fn u8(&self, kind: u16) -> Result<Option<u8>> {
        Ok(self.fixed::<1>(kind)?.map(|[byte]| byte))
    }

    /// 16 bits, host byte order.
    pub fn u16(&self, kind: u16) -> Result<Option<u16>> {
        Ok(self.fixed(kind)?.map(u16::from_ne_bytes))
    }

    /// 16 bits, network byte order.
    pub fn be16(&self, kind: u16) -> Result<Option<u16>> {
        Ok(self.fixed(kind)?.map(u16::from_be_bytes))
    }

    /// 32 bits, host byte order.
    pub fn u32(&self, kind: u16) -> Result<Option<u32>> {
        Ok(self.fixed(kind)?.map(u32::from_ne_bytes))
    }

    /// Two 16-bit numbers, network byte order.
    pub fn be16_pair(&self, kind: u16) -> Result<Option<(u16, u16)>> {
        Ok(self.fixed::<4>(kind)?.map(|[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
    }

    /// An address, whose length determines its family.
    pub fn address(&self, kind: u16) -> Result<Option<IpAddr>> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        address(body).map(Some).ok_or_else(|| {
            let have = body.len();
            Error::unexpected(format!("{} attribute {kind}: an address has 4 or 16 bytes, not {have}", self.what))
        })
    }

    /// A string, up to its terminating zero.
    pub fn string(&self, kind: u16) -> Result<Option<String>> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Error::unexpected(format!("{} attribute {kind}: not UTF-8", self.what))),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

/// Appends an attribute with its padding.
pub fn put(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    // Requests are built from bounded values, far below 64 KiB.
    let length = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a nested attribute.
pub fn put_nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    fill(&mut body);
    put(out, kind | NLA_F_NESTED, &body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_round_trip() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, &7u32.to_ne_bytes());
        put(&mut bytes, 2, b"eth0\0");
        put_nested(&mut bytes, 3, |nested| put(nested, 4, &0x2118u16.to_be_bytes()));
        put(&mut bytes, 5, &[10, 0, 0, 1]);
        let attributes = Attributes::parse(&bytes, "test").unwrap();
        assert_eq!(attributes.u32(1).unwrap(), Some(7));
        assert_eq!(attributes.string(2).unwrap().as_deref(), Some("eth0"));
        assert_eq!(attributes.nested(3, "inner").unwrap().unwrap().be16(4).unwrap(), Some(8472));
        assert_eq!(attributes.address(5).unwrap(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(attributes.u8(9).unwrap(), None);
        let error = attributes.be16(1).unwrap_err().to_string();
        assert_eq!(error, "test attribute 1: need 2 bytes, have 4");
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>)| {
            let _ = Attributes::parse(&bytes, "random");
            let _ = crate::netfilter::netlink::messages(&bytes).count();
        });
    }
}
