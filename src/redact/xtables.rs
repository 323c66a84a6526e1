//! Extensions of x_tables, whose data are structures of C.
//!
//! What identifies nobody stays, addresses are mapped, and all else is zeroed: bytes that belong to no field, and
//! extensions whose structure is not known. What they are is told by their names, which stay.

use super::Redactor;
use super::netfilter::text;
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::netfilter::xtables::{IptGetEntries, IptGetinfo, Match, Rule, Structure, Target, Visitor};
use crate::snapshot::Failure;

/// What is done with fields of tables and extensions of one family.
struct Fields<'r> {
    redactor: &'r mut Redactor,
    /// `NFPROTO_*`
    family: u8,
    /// The first thing that could not be done.
    failed: Option<Failure>,
}

impl<'r> Fields<'r> {
    fn new(redactor: &'r mut Redactor, family: u8) -> Self {
        Self { redactor, family, failed: None }
    }

    fn finish(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }

    /// Whether it is a family that has addresses.
    fn has_addresses(&mut self) -> bool {
        let has = matches!(self.family, NFPROTO_IPV4 | NFPROTO_IPV6);
        if !has {
            self.failed = Some(Failure::unexpected("an extension of x_tables outside of IPv4 and IPv6"));
        }
        has
    }
}

impl Visitor for Fields<'_> {
    fn ipv6(&self) -> bool {
        self.family == NFPROTO_IPV6
    }

    fn address_with(&mut self, address: &mut [u8], mask: Option<&mut [u8]>) {
        let Some(mask) = mask else {
            return if self.has_addresses() {
                self.redactor.address(address, None)
            };
        };
        match prefix_length(mask) {
            Ok(length) if self.has_addresses() => {
                address.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= *mask);
                self.redactor.address(address, Some(length));
            }
            Ok(_) => {}
            Err(error) => self.failed = Some(error),
        }
    }

    fn addresses(&mut self, first: &mut [u8], last: &mut [u8]) {
        if self.has_addresses() {
            self.redactor.range(first, last);
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

    fn chain(&mut self, name: &mut [u8]) {
        self.redactor.chain_name(name);
    }
}

impl Redactor {
    /// A table of legacy x_tables, entry by entry.
    pub(super) fn legacy_table(&mut self, ipv6: bool, answer: &mut [u8]) -> Result<(), Failure> {
        let mut fields = Fields::new(self, if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 });
        let mut redacted = Vec::with_capacity(answer.len());
        let mut info = IptGetinfo::parse(answer.get(..IptGetinfo::SIZE).unwrap_or(answer))?;
        info.visit(&mut fields);
        redacted.extend(info.emit());
        let rest = &answer[redacted.len()..];
        let mut header = IptGetEntries::parse(rest.get(..IptGetEntries::SIZE).unwrap_or(rest))?;
        header.visit(&mut fields);
        redacted.extend(header.emit());
        while redacted.len() < answer.len() {
            let mut rule = Rule::parse(ipv6, &answer[redacted.len()..])?;
            rule.visit(&mut fields)?;
            redacted.extend(rule.emit());
        }
        fields.finish()?;
        answer.copy_from_slice(&redacted);
        Ok(())
    }

    pub(super) fn xt_match(&mut self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), Failure> {
        let mut fields = Fields::new(self, family);
        let mut found = Match::parse(name, revision, family, info)?;
        found.visit(&mut fields);
        let redacted = found.emit();
        info.copy_from_slice(&redacted);
        fields.finish()
    }

    pub(super) fn xt_target(&mut self, family: u8, name: &[u8], revision: u32, info: &mut [u8]) -> Result<(), Failure> {
        let mut fields = Fields::new(self, family);
        let mut found = Target::parse(name, revision, family, info)?;
        found.visit(&mut fields);
        let redacted = found.emit();
        info.copy_from_slice(&redacted);
        fields.finish()
    }

    /// The two ends of a range of addresses. A prefix stays one; any other range covers others than before.
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

/// How many bits are set in a mask.
pub(super) fn prefix_length(mask: &[u8]) -> Result<u8, Failure> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count();
    let leading = 8 * full + mask.get(full).map_or(0, |byte| byte.leading_ones() as usize);
    match u8::try_from(ones) {
        Ok(length) if leading == ones as usize => Ok(length),
        _ => Err(Failure::unexpected("a mask of an address has holes")),
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    const NAT: &[u8] = include_bytes!("../../tests/fixtures/nat-iptables-legacy/xtables/ipv4-nat");

    #[test]
    fn tables_that_are_cut_off_or_changed_never_panic() {
        let redact = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            Redactor::new(RandomState::new(), String::new()).legacy_table(false, &mut bytes).map(|()| bytes)
        };
        assert_eq!(redact(NAT).map(|bytes| bytes.len()), Ok(NAT.len()));
        assert_ne!(redact(NAT).unwrap(), NAT);
        for length in IptGetinfo::SIZE + IptGetEntries::SIZE + 1..NAT.len().min(4000) {
            let _ = redact(&NAT[..length]);
        }
        proptest::proptest!(|(at in 0..NAT.len() - 1, value: [u8; 2])| {
            let mut bytes = NAT.to_vec();
            bytes[at..at + 2].copy_from_slice(&value);
            let _ = redact(&bytes);
            let _ = Redactor::new(RandomState::new(), String::new()).legacy_table(true, &mut bytes);
        });
    }
}
