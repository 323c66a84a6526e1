//! Redacts x_tables matches and targets, whose data are C structures.
//!
//! Fields that identify nobody are kept, addresses are mapped, and everything else is zeroed: bytes of no field, and
//! extensions of unknown structure; their names, which are kept, still show what they are. An address whose mask is not
//! a prefix cannot be mapped with the same meaning: it is zeroed with its mask, and the entry gets an undefined flag,
//! or the extension an undefined revision, so that natwatch reads it as unsupported.

use super::Redactor;
use super::netfilter::text;
use crate::facts::Failure;
use crate::facts::netfilter::signatures;
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::netfilter::xtables::{IptGetEntries, IptGetinfo, Match, Structure, Target, XtFamily, XtRule, XtVisitor};

/// Visits the fields of tables and extensions of one family.
struct Fields<'r> {
    redactor: &'r mut Redactor,
    /// `NFPROTO_*`
    family: u8,
    /// Whether a field could not be mapped.
    unclear: bool,
}

impl<'r> Fields<'r> {
    fn new(redactor: &'r mut Redactor, family: u8) -> Self {
        Self { redactor, family, unclear: false }
    }

    /// Whether the family has addresses.
    fn has_addresses(&self) -> bool {
        matches!(self.family, NFPROTO_IPV4 | NFPROTO_IPV6)
    }
}

impl XtVisitor for Fields<'_> {
    fn family(&self) -> XtFamily {
        XtFamily::of(self.family)
    }

    fn is_unclear(&mut self) -> bool {
        std::mem::take(&mut self.unclear)
    }

    fn address_with(&mut self, address: &mut [u8], mask: Option<&mut [u8]>) {
        // Without a mask all bits are compared.
        let prefix = mask.as_deref().map_or(Some(u8::MAX), prefix_length).filter(|_| self.has_addresses());
        if let (Some(_), Some(mask)) = (prefix, mask.as_deref()) {
            address.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= *mask);
        }
        match prefix {
            Some(prefix) => self.redactor.address(address, Some(prefix)),
            None => {
                address.fill(0);
                mask.into_iter().for_each(|mask| mask.fill(0));
                self.unclear = true;
            }
        }
    }

    fn addresses(&mut self, first: &mut [u8], last: &mut [u8]) {
        if self.has_addresses() {
            self.redactor.range(first, last);
        } else {
            [first, last].into_iter().for_each(|end| end.fill(0));
            self.unclear = true;
        }
    }

    fn hardware(&mut self, address: &mut [u8; 6]) {
        self.redactor.hardware(address);
    }

    fn comment(&mut self, comment: &mut [u8]) {
        text(comment);
    }

    fn device(&mut self, name: &mut [u8; 16]) {
        self.redactor.name(name);
    }

    fn accounting(&mut self, name: &mut [u8]) {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        match signatures::COUNTERS.iter().any(|counter| counter.as_bytes() == &name[..end]) {
            true => name[end..].fill(0),
            false => name.fill(0),
        }
    }

    fn chain(&mut self, name: &mut [u8]) {
        self.redactor.chain_name(name);
    }
}

impl Redactor {
    /// Redacts a legacy table, entry by entry.
    pub(super) fn legacy_table(&mut self, family: XtFamily, answer: &mut [u8]) -> Result<(), Failure> {
        let mut fields = Fields::new(self, family.nfproto());
        let mut redacted = Vec::with_capacity(answer.len());
        let mut info = IptGetinfo::parse(answer.get(..IptGetinfo::SIZE).unwrap_or(answer))?;
        info.visit(&mut fields);
        redacted.extend(info.emit());
        let rest = &answer[redacted.len()..];
        let mut header = IptGetEntries::parse(rest.get(..IptGetEntries::SIZE).unwrap_or(rest))?;
        header.visit(&mut fields);
        redacted.extend(header.emit());
        while redacted.len() < answer.len() {
            let mut rule = XtRule::parse(family, &answer[redacted.len()..])?;
            rule.visit(&mut fields)?;
            redacted.extend(rule.emit());
        }
        answer.copy_from_slice(&redacted);
        Ok(())
    }

    /// Redacts the data of a match or target; returns whether its meaning is kept.
    pub(super) fn extension(
        &mut self,
        family: u8,
        target: bool,
        name: &[u8],
        revision: u32,
        info: &mut [u8],
    ) -> Result<bool, Failure> {
        let mut fields = Fields::new(self, family);
        let redacted = if target {
            let mut target = Target::parse(name, revision, family, info)?;
            target.visit(&mut fields);
            target.emit()
        } else {
            let mut found = Match::parse(name, revision, family, info)?;
            found.visit(&mut fields);
            found.emit()
        };
        info.copy_from_slice(&redacted);
        Ok(!fields.is_unclear())
    }

    /// Maps the ends of an address range. A prefix remains one; other ranges cover other addresses than before.
    pub(super) fn range(&self, min: &mut [u8], max: &mut [u8]) {
        let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        let differ = number(min) ^ number(max);
        let aligned = differ & differ.wrapping_add(1) == 0 && number(min) & differ == 0;
        if aligned && min.len() <= 16 {
            let free = u128::BITS - differ.leading_zeros();
            self.address(min, u8::try_from(8 * min.len()).ok().map(|width| width.saturating_sub(free as u8)));
            let last = (number(min) | differ).to_be_bytes();
            max.copy_from_slice(&last[16 - min.len()..]);
        } else {
            self.address(min, None);
            self.address(max, None);
            if min > max {
                min.swap_with_slice(max);
            }
        }
    }
}

/// Number of leading ones of a mask; `None` if it is not a prefix.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count();
    let leading = 8 * full + mask.get(full).map_or(0, |byte| byte.leading_ones() as usize);
    u8::try_from(ones).ok().filter(|_| leading == ones as usize)
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;
    use std::sync::LazyLock;

    use super::*;
    use crate::capture::archive::testing::recorded_answer;
    use crate::netfilter::xtables::matches::conntrack::XtConntrackMtinfo3;
    use crate::netfilter::xtables::{Ip, IptEntry, XtEntry, XtHeader};

    static NAT: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("nat-iptables-legacy", "xtables/ipv4-nat"));

    #[test]
    fn tables_that_are_cut_off_or_changed_never_panic() {
        let redact = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            Redactor::new(RandomState::new(), String::new()).legacy_table(XtFamily::Ipv4, &mut bytes).map(|()| bytes)
        };
        assert_eq!(redact(*NAT).map(|bytes| bytes.len()), Ok(NAT.len()));
        assert_ne!(redact(*NAT).unwrap(), *NAT);
        for length in IptGetinfo::SIZE + IptGetEntries::SIZE + 1..NAT.len().min(4000) {
            let _ = redact(&NAT[..length]);
        }
        proptest::proptest!(|(at in 0..NAT.len() - 1, value: [u8; 2])| {
            let mut bytes = NAT.to_vec();
            bytes[at..at + 2].copy_from_slice(&value);
            let _ = redact(&bytes);
            let _ = Redactor::new(RandomState::new(), String::new()).legacy_table(XtFamily::Ipv6, &mut bytes);
        });
    }
    /// A rule that cannot be mapped is marked as such, and the rest of the table is kept.
    #[test]
    fn masks_with_holes_are_understood_by_nobody() {
        let entry = |smsk| {
            let mut rule = XtRule::new(
                XtHeader::Ipv4(IptEntry { src: [203, 113, 77, 99], smsk, ..IptEntry::default() }),
                XtEntry::new("", 0, vec![0; 8]),
            );
            let conntrack = XtConntrackMtinfo3 {
                origsrc_addr: [203, 113, 77, 99].into(),
                origsrc_mask: smsk.into(),
                ..XtConntrackMtinfo3::default()
            };
            rule.matches.push(XtEntry::new("conntrack", 3, conntrack.emit()));
            rule
        };
        let visited = |smsk| {
            let redactor = &mut Redactor::new(RandomState::new(), String::new());
            let mut rule = entry(smsk);
            rule.visit(&mut Fields::new(redactor, NFPROTO_IPV4)).unwrap();
            rule
        };
        let parts = |rule: &XtRule<'_>| match &rule.header {
            XtHeader::Ipv4(entry) => (entry.src, entry.smsk, entry.flags, rule.matches[0].header.revision),
            XtHeader::Ipv6(_) => unreachable!("IPv4"),
        };
        let (src, smsk, flags, revision) = parts(&visited([255, 255, 255, 0]));
        assert!(src[0] == 203 && src[3] == 0 && (smsk, flags, revision) == ([255, 255, 255, 0], 0, 3));
        let rule = visited([255, 255, 0, 255]);
        assert_eq!(parts(&rule), ([0; 4], [0; 4], 0x80, 255));
        assert!(rule.matches[0].data.iter().all(|byte| *byte == 0));
        assert!(Ip::of(XtFamily::Ipv4, &rule.emit()).has_unknown_flags(XtFamily::Ipv4));
    }
}
