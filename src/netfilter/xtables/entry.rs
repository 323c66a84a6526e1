//! Entries of x_tables: `struct ipt_entry` or `struct ip6t_entry`, matches, target; and the structures around them.
//!
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h`, `netfilter_ipv6/ip6_tables.h`, `netfilter/x_tables.h`;
//! `net/ipv4/netfilter/ip_tables.c`: `ip_packet_match`, `translate_table`, `do_ipt_get_ctl`; `ip6_tables.c`.

use std::borrow::Cow;

use super::layout::cut;
use super::{LayoutField, Match, Structure, Target, XtFamily, XtVisitor};
use crate::netfilter::{Error, Result};

crate::netfilter::layout! {
    /// `struct ipt_entry`, whose first 84 bytes are `struct ipt_ip`
    IptEntry = 112 {
        0 src: [u8; 4] => masked(smsk), 4 dst: [u8; 4] => masked(dmsk), 8 smsk: [u8; 4] => plain,
        12 dmsk: [u8; 4] => plain, 16 iniface: [u8; 16] => device, 32 outiface: [u8; 16] => device,
        48 iniface_mask: [u8; 16] => plain, 64 outiface_mask: [u8; 16] => plain,
        /// 0 means any
        80 proto: u16 => plain, 82 flags: u8 => plain, 83 invflags: u8 => plain, 84 nfcache: u32 => plain,
        88 target_offset: u16 => plain, 90 next_offset: u16 => plain, 92 comefrom: u32 => plain,
        96 pcnt: u64 => plain, 104 bcnt: u64 => plain,
    }
    /// `struct ip6t_entry`, whose first 136 bytes are `struct ip6t_ip6`
    Ip6tEntry = 168 {
        0 src: [u8; 16] => masked(smsk), 16 dst: [u8; 16] => masked(dmsk), 32 smsk: [u8; 16] => plain,
        48 dmsk: [u8; 16] => plain, 64 iniface: [u8; 16] => device, 80 outiface: [u8; 16] => device,
        96 iniface_mask: [u8; 16] => plain, 112 outiface_mask: [u8; 16] => plain,
        /// Valid with `IP6T_F_PROTO` only
        128 proto: u16 => plain, 130 tos: u8 => plain, 131 flags: u8 => plain, 132 invflags: u8 => plain,
        136 nfcache: u32 => plain, 140 target_offset: u16 => plain, 142 next_offset: u16 => plain,
        144 comefrom: u32 => plain, 152 pcnt: u64 => plain, 160 bcnt: u64 => plain,
    }
    /// `struct xt_entry_match`, `struct xt_entry_target`
    XtEntryHeader = 32 {
        /// `match_size`, `target_size`, including this header
        0 size: u16 => plain, 2 name: [u8; 29] => plain, 31 revision: u8 => plain,
    }
    /// `struct ipt_getinfo`, `struct ip6t_getinfo`
    IptGetinfo = 84 {
        0 name: [u8; 32] => plain,
        /// `NF_INET_*` as bits
        32 valid_hooks: u32 => plain,
        /// Offset of the first entry, by hook
        36 hook_entry: [u32; 5] => plain,
        /// Offset of the policy, by hook
        56 underflow: [u32; 5] => plain, 76 num_entries: u32 => plain, 80 size: u32 => plain,
    }
    /// `struct ipt_get_entries`, `struct ip6t_get_entries`, followed by entries
    IptGetEntries = 40 {
        0 name: [u8; 32] => plain, 32 size: u32 => plain,
    }
    /// `struct ipt_replace`, `struct ip6t_replace`, followed by entries
    IptReplace = 96 {
        0 name: [u8; 32] => plain, 32 valid_hooks: u32 => plain, 36 num_entries: u32 => plain, 40 size: u32 => plain,
        44 hook_entry: [u32; 5] => plain, 64 underflow: [u32; 5] => plain,
        /// Number of entries replaced
        84 num_counters: u32 => plain,
        /// A pointer
        88 counters: u64 => plain,
    }
}

/// An entry without its matches and target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said by the structures")]
#[allow(clippy::large_enum_variant, reason = "it is looked at and dropped")]
pub enum XtHeader<'a> {
    Ipv4(IptEntry<'a>),
    Ipv6(Ip6tEntry<'a>),
}

/// The fields common to `struct ipt_ip` and `struct ip6t_ip6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the kernel's names")]
pub struct Ip<'e> {
    pub src: &'e [u8],
    pub smsk: &'e [u8],
    pub dst: &'e [u8],
    pub dmsk: &'e [u8],
    pub iniface: &'e [u8],
    pub iniface_mask: &'e [u8],
    pub outiface: &'e [u8],
    pub outiface_mask: &'e [u8],
    pub proto: u16,
    pub flags: u8,
    pub invflags: u8,
}

macro_rules! either {
    ($header:expr, $entry:ident => $value:expr) => {
        match $header {
            XtHeader::Ipv4($entry) => $value,
            XtHeader::Ipv6($entry) => $value,
        }
    };
}

impl<'a> XtHeader<'a> {
    /// Parses the first bytes of an entry.
    ///
    /// # Errors
    /// Too short.
    pub fn parse(family: XtFamily, bytes: &'a [u8]) -> Result<Self> {
        let bytes = bytes.get(..Self::size(family)).unwrap_or(bytes);
        Ok(match family {
            XtFamily::Ipv4 => Self::Ipv4(Structure::parse(bytes)?),
            XtFamily::Ipv6 => Self::Ipv6(Structure::parse(bytes)?),
        })
    }

    /// Length, bytes.
    pub fn size(family: XtFamily) -> usize {
        match family {
            XtFamily::Ipv4 => IptEntry::SIZE,
            XtFamily::Ipv6 => Ip6tEntry::SIZE,
        }
    }

    /// `target_offset` and `next_offset`: end of the matches, end of the entry.
    pub fn offsets(&self) -> (usize, usize) {
        either!(self, entry => (entry.target_offset.into(), entry.next_offset.into()))
    }
}

/// Reads fields of an entry without parsing all of it, since there may be tens of thousands of entries.
macro_rules! of_entry {
    ($family:expr, $Entry:ident => $value:expr) => {
        match $family {
            XtFamily::Ipv4 => {
                type $Entry<'a> = IptEntry<'a>;
                $value
            }
            XtFamily::Ipv6 => {
                type $Entry<'a> = Ip6tEntry<'a>;
                $value
            }
        }
    };
}

/// A revision that no kernel has. Together with [`NO_FLAG`] it makes redacted entries unsupported.
pub const NO_REVISION: u8 = u8::MAX;
const NO_FLAG: u8 = 0x80;

impl<'e> Ip<'e> {
    /// Whether it has unknown flags (`IPT_F_MASK`, `IP6T_F_MASK`, `IPT_INV_MASK`).
    pub fn has_unknown_flags(&self, family: XtFamily) -> bool {
        self.flags & !(if family == XtFamily::Ipv6 { 0x07 } else { 0x03 }) != 0 || self.invflags & !0x7f != 0
    }

    /// From the first bytes of an entry, which must be long enough.
    #[inline]
    pub fn of(family: XtFamily, bytes: &'e [u8]) -> Self {
        of_entry!(family, E => Self {
            src: &bytes[E::src..E::dst],
            smsk: &bytes[E::smsk..E::dmsk],
            dst: &bytes[E::dst..E::smsk],
            dmsk: &bytes[E::dmsk..E::iniface],
            iniface: &bytes[E::iniface..E::outiface],
            iniface_mask: &bytes[E::iniface_mask..E::outiface_mask],
            outiface: &bytes[E::outiface..E::iniface_mask],
            outiface_mask: &bytes[E::outiface_mask..E::proto],
            proto: LayoutField::read(&bytes[E::proto..]),
            flags: bytes[E::flags],
            invflags: bytes[E::invflags],
        })
    }
}

/// `target_offset` and `next_offset` of the entry at the start of `bytes`.
///
/// # Errors
/// Too short.
#[inline]
pub(crate) fn offsets(family: XtFamily, bytes: &[u8]) -> Result<(usize, usize)> {
    of_entry!(family, E => {
        let bytes = bytes.get(..E::SIZE).ok_or_else(|| cut(E::SIZE, bytes.len()))?;
        Ok((u16::read(&bytes[E::target_offset..]).into(), u16::read(&bytes[E::next_offset..]).into()))
    })
}

/// Packets and bytes counted by an entry, which must be long enough.
pub(crate) fn counters(family: XtFamily, bytes: &[u8]) -> (u64, u64) {
    of_entry!(family, E => (u64::read(&bytes[E::pcnt..]), u64::read(&bytes[E::bcnt..])))
}

/// A match or a target with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtEntry<'a> {
    /// Name and revision.
    pub header: XtEntryHeader<'a>,
    /// Its structure, including padding.
    pub data: Cow<'a, [u8]>,
}

impl<'a> XtEntry<'a> {
    /// From name, revision and structure.
    pub fn new(name: &str, revision: u8, data: Vec<u8>) -> Self {
        let mut header = XtEntryHeader { revision, ..XtEntryHeader::default() };
        header.name.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        // Structures have at most some thousand bytes.
        header.size = u16::try_from(XtEntryHeader::SIZE + data.len()).unwrap_or(u16::MAX);
        Self { header, data: data.into() }
    }

    /// Parses the match or target at the start of `bytes`.
    ///
    /// # Errors
    /// Too short, or an impossible size.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header = XtEntryHeader::parse(bytes.get(..XtEntryHeader::SIZE).unwrap_or(bytes))?;
        let data = bytes.get(XtEntryHeader::SIZE..header.size.into()).ok_or_else(|| {
            Error::unexpected(format!("an extension of {} bytes, of {} that are left", header.size, bytes.len()))
        })?;
        Ok(Self { header, data: data.into() })
    }

    /// Length including the header, bytes.
    pub fn size(&self) -> usize {
        XtEntryHeader::SIZE + self.data.len()
    }

    /// Its name, up to the terminating zero.
    pub fn name(&self) -> &[u8] {
        up_to_zero(&self.header.name)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend(self.header.emit());
        out.extend(&*self.data);
    }
}

/// A text up to its zero.
pub fn up_to_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A complete entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtRule<'a> {
    /// Header tests and counters.
    pub header: XtHeader<'a>,
    /// Matches.
    pub matches: Vec<XtEntry<'a>>,
    /// Target.
    pub target: XtEntry<'a>,
    /// Bytes after the target; kernels write none.
    pub rest: Cow<'a, [u8]>,
}

impl<'a> XtRule<'a> {
    /// Without matches, and with offsets set.
    pub fn new(mut header: XtHeader<'a>, target: XtEntry<'a>) -> Self {
        // Entries have at most some thousand bytes.
        let offset = |offset| u16::try_from(offset).unwrap_or(u16::MAX);
        let size = match header {
            XtHeader::Ipv4(_) => IptEntry::SIZE,
            XtHeader::Ipv6(_) => Ip6tEntry::SIZE,
        };
        either!(&mut header, entry => {
            entry.target_offset = offset(size);
            entry.next_offset = offset(size + target.size());
        });
        Self { header, matches: Vec::new(), target, rest: Cow::default() }
    }

    /// Parses the entry at the start of `bytes`.
    ///
    /// # Errors
    /// Too short, or inconsistent sizes and offsets.
    pub fn parse(family: XtFamily, bytes: &'a [u8]) -> Result<Self> {
        let header = XtHeader::parse(family, bytes)?;
        let (target_offset, next) = header.offsets();
        let unfit = || Error::unexpected(format!("target at {target_offset}, end at {next} of {}", bytes.len()));
        let bytes = bytes.get(..next).ok_or_else(unfit)?;
        let mut matches = Vec::new();
        let mut at = XtHeader::size(family);
        while at < target_offset {
            let found = XtEntry::parse(bytes.get(at..target_offset).ok_or_else(unfit)?)?;
            at += found.size();
            matches.push(found);
        }
        let target = XtEntry::parse(bytes.get(at..).filter(|_| at == target_offset).ok_or_else(unfit)?)?;
        let rest = bytes[at + target.size()..].into();
        Ok(Self { header, matches, target, rest })
    }

    /// Its bytes, with offsets and sizes as stored.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = either!(&self.header, entry => entry.emit());
        self.matches.iter().for_each(|found| found.emit(&mut out));
        self.target.emit(&mut out);
        out.extend(&*self.rest);
        out
    }

    /// Passes each field to the method for its meaning.
    ///
    /// # Errors
    /// A match or target is shorter than its structure.
    pub fn visit<V: XtVisitor>(&mut self, visitor: &mut V) -> Result<()> {
        let family = visitor.family().nfproto();
        either!(&mut self.header, entry => {
            entry.visit(visitor);
            entry.flags |= if visitor.is_unclear() { NO_FLAG } else { 0 };
        });
        for XtEntry { header, data } in &mut self.matches {
            let mut found = Match::parse(up_to_zero(&header.name), header.revision.into(), family, data)?;
            found.visit(visitor);
            *data = found.emit().into();
            if visitor.is_unclear() {
                header.revision = NO_REVISION;
                data.to_mut().fill(0);
            }
        }
        let XtEntry { header, data } = &mut self.target;
        let mut target = Target::parse(up_to_zero(&header.name), header.revision.into(), family, data)?;
        target.visit(visitor);
        *data = target.emit().into();
        self.rest.to_mut().fill(0);
        Ok(())
    }
}
