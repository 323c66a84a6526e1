//! Netlink messages: `struct nlmsghdr`.

use neli::consts::nl::NlmF;

use super::attributes::attributes;
use crate::netfilter::{Error, Result, array};

/// `NLMSG_ERROR`: an errno; an acknowledgement if it is 0.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLM_F_MULTI`: more messages follow until `NLMSG_DONE`.
pub const NLM_F_MULTI: u16 = NlmF::MULTI.bits();
/// `NLM_F_DUMP_INTR`: the dump is inconsistent because of a change.
pub const NLM_F_DUMP_INTR: u16 = NlmF::DUMP_INTR.bits();
/// Length of `struct nlmsghdr`.
pub const HEADER_LENGTH: usize = 16;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// Payload after the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether it is a control message (error or end of dump).
    pub fn is_control(&self) -> bool {
        self.kind <= NLMSG_DONE
    }

    /// Errno of an `NLMSG_ERROR` or `NLMSG_DONE` message, as a positive number; 0 is success.
    pub fn errno(&self) -> Result<i32> {
        if self.kind == NLMSG_DONE && self.body.len() < 4 {
            return Ok(0); // old kernels send an empty NLMSG_DONE
        }
        Ok(i32::from_ne_bytes(array(self.body, 0, "errno of a netlink message")?).wrapping_neg())
    }
}

/// Sequence number of a message with its header.
///
/// # Errors
/// It is truncated.
pub fn sequence(message: &[u8]) -> Result<u32> {
    array(message, 8, "nlmsg_seq").map(u32::from_ne_bytes)
}

/// Whether a message with its header is a control message (error or end of dump).
///
/// # Errors
/// It is truncated.
pub fn is_control(message: &[u8]) -> Result<bool> {
    Ok(u16::from_ne_bytes(array(message, 4, "nlmsg_type")?) <= NLMSG_DONE)
}

/// Iterates over the messages of one or more datagrams.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>>> {
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

/// Splits off the first message with header and padding.
///
/// # Errors
/// It is truncated.
pub fn split_message(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (_, rest) = message(bytes)?;
    Ok(bytes.split_at(bytes.len() - rest.len()))
}

/// Splits off the first message.
///
/// # Errors
/// It is truncated.
pub fn message(bytes: &[u8]) -> Result<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(array(bytes, 0, "header")?) as usize;
    let kind = u16::from_ne_bytes(array(bytes, 4, "header")?);
    let flags = u16::from_ne_bytes(array(bytes, 6, "header")?);
    if length < HEADER_LENGTH || length > bytes.len() {
        return Err(Error::unexpected(format!("type {kind} says {length} bytes, have {}", bytes.len())));
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((Message { kind, flags, body: &bytes[HEADER_LENGTH..length] }, &bytes[next..]))
}

/// Whether a message has this attribute; attributes start `header` bytes after `nlmsghdr`.
///
/// # Errors
/// A malformed attribute.
pub fn has_attribute(message: &[u8], header: usize, kind: u16) -> Result<bool> {
    let (message, _) = self::message(message)?;
    for attribute in attributes(message.body.get(header..).unwrap_or_default(), "a message") {
        if attribute?.kind == kind {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A message of this type with these flags; sequence number and port id are 0.
pub fn frame(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    // Messages built here have some hundred bytes.
    let length = u32::try_from(HEADER_LENGTH + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}
