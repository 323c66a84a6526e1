//! Netlink framing: message headers and attributes, borrowed from the bytes, with errors that carry numbers.
//!
//! Used on both sides of the border: `kernel` needs it to see where an answer ends, `decode` to read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::snapshot::{Failure, Name};

/// `NLMSG_ERROR`: an errno, or an acknowledgement when it is 0.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLM_F_MULTI`: more messages follow until `NLMSG_DONE`.
pub const NLM_F_MULTI: u16 = 0x2;
/// `NLM_F_DUMP_INTR`: the dump is inconsistent, something changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// Length of `struct nlmsghdr`.
pub const HEADER_LENGTH: usize = 16;
/// `NLA_F_NESTED`
const NLA_F_NESTED: u16 = 0x8000;
/// Everything but `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// `bytes[at..at + N]`, or an error that says what was needed.
pub fn array<const N: usize>(bytes: &[u8], at: usize, what: &str) -> Result<[u8; N], Failure> {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    slice.and_then(|slice| slice.try_into().ok()).ok_or_else(|| {
        let have = bytes.len().saturating_sub(at);
        Failure::Malformed { what: what.to_owned(), at, need: N, have }
    })
}

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Message type.
    pub kind: u16,
    /// Header flags.
    pub flags: u16,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether it is one of netlink itself: an errno, an end.
    pub fn is_control(&self) -> bool {
        self.kind <= NLMSG_DONE
    }

    /// The errno of an `NLMSG_ERROR` or `NLMSG_DONE` message, as a positive number; 0 is success.
    pub fn errno(&self) -> Result<i32, Failure> {
        if self.kind == NLMSG_DONE && self.body.len() < 4 {
            return Ok(0); // old kernels send an empty NLMSG_DONE
        }
        Ok(i32::from_ne_bytes(array(self.body, 0, "errno of a netlink message")?).wrapping_neg())
    }
}

/// The sequence number of a message, header included.
///
/// # Errors
/// It is cut off.
pub fn sequence(message: &[u8]) -> Result<u32, Failure> {
    array(message, 8, "nlmsg_seq").map(u32::from_ne_bytes)
}

/// Whether a message, header included, is one of netlink itself: an errno, an end.
///
/// # Errors
/// It is cut off.
pub fn is_control(message: &[u8]) -> Result<bool, Failure> {
    Ok(u16::from_ne_bytes(array(message, 4, "nlmsg_type")?) <= NLMSG_DONE)
}

/// Iterates over the messages of one or more datagrams.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Failure>> {
    let mut rest = bytes;
    let mut number = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        number += 1;
        let message = message(rest).map_err(|error| error.within(format_args!("netlink message {number}")));
        rest = match &message {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(message.map(|(message, _)| message))
    })
}

/// The first message, header and padding included, and what follows it.
///
/// # Errors
/// It is cut off.
pub fn split_message(bytes: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let (_, rest) = message(bytes)?;
    Ok(bytes.split_at(bytes.len() - rest.len()))
}

/// The first message, and what follows it.
///
/// # Errors
/// It is cut off.
pub fn message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), Failure> {
    let length = u32::from_ne_bytes(array(bytes, 0, "header")?) as usize;
    let kind = u16::from_ne_bytes(array(bytes, 4, "header")?);
    let flags = u16::from_ne_bytes(array(bytes, 6, "header")?);
    if length < HEADER_LENGTH || length > bytes.len() {
        return Err(Failure::unexpected(format!("type {kind} says {length} bytes, have {}", bytes.len())));
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((Message { kind, flags, body: &bytes[HEADER_LENGTH..length] }, &bytes[next..]))
}

/// Whether the attributes of a message, which begin behind its header and `header` bytes, include this one.
///
/// # Errors
/// A broken attribute.
pub fn has_attribute(message: &[u8], header: usize, attribute: u16) -> Result<bool, Failure> {
    let (message, _) = self::message(message)?;
    let mut rest = message.body.get(header..).unwrap_or_default();
    while !rest.is_empty() {
        let (found, next) = split_attribute(rest, "a message")?;
        if found.kind == attribute {
            return Ok(true);
        }
        rest = next;
    }
    Ok(false)
}

fn split_attribute<'a>(bytes: &'a [u8], what: &str) -> Result<(Attribute<'a>, &'a [u8]), Failure> {
    let length = u16::from_ne_bytes(array(bytes, 0, what)?) as usize;
    let kind = u16::from_ne_bytes(array(bytes, 2, what)?) & NLA_TYPE_MASK;
    if length < 4 || length > bytes.len() {
        let have = bytes.len();
        return Err(Failure::unexpected(format!("{what} attribute {kind} says {length} bytes, have {have}")));
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((Attribute { kind, body: &bytes[4..length] }, &bytes[next..]))
}

/// One netlink attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Attribute type, without the flag bits.
    pub kind: u16,
    /// Payload.
    pub body: &'a [u8],
}

/// A block of attributes, known to be well-formed.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    what: &'static str,
    list: Vec<Attribute<'a>>,
}

impl<'a> Attributes<'a> {
    /// Splits a block; `what` names it in errors.
    pub fn parse(bytes: &'a [u8], what: &'static str) -> Result<Self, Failure> {
        let mut list = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (attribute, next) = split_attribute(rest, what)?;
            list.push(attribute);
            rest = next;
        }
        Ok(Self { what, list })
    }

    /// Splits what follows a fixed header of `header` bytes.
    pub fn after(bytes: &'a [u8], header: usize, what: &'static str) -> Result<Self, Failure> {
        let rest = bytes.get(header..).ok_or_else(|| {
            Failure::unexpected(format!("{what}: need a header of {header} bytes, have {}", bytes.len()))
        })?;
        Self::parse(rest, what)
    }

    /// All attributes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Attribute<'a>> {
        self.list.iter()
    }

    /// The payload of an attribute; the last one wins, as in the kernel's `nla_parse`.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.list.iter().rev().find(|attribute| attribute.kind == kind).map(|attribute| attribute.body)
    }

    /// A nested block.
    pub fn nested(&self, kind: u16, what: &'static str) -> Result<Option<Attributes<'a>>, Failure> {
        self.get(kind).map(|body| Attributes::parse(body, what)).transpose()
    }

    fn fixed<const N: usize>(&self, kind: u16) -> Result<Option<[u8; N]>, Failure> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        match body.try_into() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => {
                Err(Failure::unexpected(format!("{} attribute {kind}: need {N} bytes, have {}", self.what, body.len())))
            }
        }
    }

    /// A byte.
    pub fn u8(&self, kind: u16) -> Result<Option<u8>, Failure> {
        Ok(self.fixed::<1>(kind)?.map(|[byte]| byte))
    }

    /// Host order, 16 bits.
    pub fn u16(&self, kind: u16) -> Result<Option<u16>, Failure> {
        Ok(self.fixed(kind)?.map(u16::from_ne_bytes))
    }

    /// Network order, 16 bits.
    pub fn be16(&self, kind: u16) -> Result<Option<u16>, Failure> {
        Ok(self.fixed(kind)?.map(u16::from_be_bytes))
    }

    /// Host order, 32 bits.
    pub fn u32(&self, kind: u16) -> Result<Option<u32>, Failure> {
        Ok(self.fixed(kind)?.map(u32::from_ne_bytes))
    }

    /// Network order, 32 bits.
    pub fn be32(&self, kind: u16) -> Result<Option<u32>, Failure> {
        Ok(self.fixed(kind)?.map(u32::from_be_bytes))
    }

    /// Network order, 64 bits.
    pub fn be64(&self, kind: u16) -> Result<Option<u64>, Failure> {
        Ok(self.fixed(kind)?.map(u64::from_be_bytes))
    }

    /// Two 16-bit numbers in network order.
    pub fn be16_pair(&self, kind: u16) -> Result<Option<(u16, u16)>, Failure> {
        Ok(self.fixed::<4>(kind)?.map(|[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
    }

    /// An address, whose family its length tells.
    pub fn address(&self, kind: u16) -> Result<Option<IpAddr>, Failure> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        address(body).map(Some).ok_or_else(|| {
            let have = body.len();
            Failure::unexpected(format!("{} attribute {kind}: an address has 4 or 16 bytes, not {have}", self.what))
        })
    }

    /// A name, up to its terminating zero.
    pub fn name(&self, kind: u16) -> Option<Name> {
        self.get(kind).map(Name::from_bytes)
    }

    /// A string, up to its terminating zero.
    pub fn string(&self, kind: u16) -> Result<Option<String>, Failure> {
        let Some(body) = self.get(kind) else { return Ok(None) };
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Failure::unexpected(format!("{} attribute {kind}: not UTF-8", self.what))),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

/// Appends an attribute with its padding.
pub fn put(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    // Requests are built here from bounded values; none comes near 64 KiB.
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
            let _ = messages(&bytes).count();
        });
    }
}
