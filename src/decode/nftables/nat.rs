//! Expressions that translate: masq, nat, redir.
//!
//! Kernel sources: `nft_masq_dump`, `nft_nat_dump`, `nft_redir_dump`.

use std::net::IpAddr;

use super::expressions::{Reader, Result, equal, required};
use crate::netfilter::netlink::Attributes;
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Chosen, Family, Field, Match, Nat, NatAction, PortRandomization, Step};

impl Reader<'_> {
    pub(super) fn masq(&mut self, a: &Attributes<'_>) -> Result<()> {
        let ports = self.ports(a.be32(2)?, a.be32(3)?);
        self.translate(NatAction::Masquerade, Chosen::Unset, ports, a.be32(1)?);
        Ok(())
    }

    pub(super) fn redir(&mut self, a: &Attributes<'_>) -> Result<()> {
        let ports = self.ports(a.be32(1)?, a.be32(2)?);
        self.translate(NatAction::Redirect, Chosen::Unset, ports, a.be32(3)?);
        Ok(())
    }

    pub(super) fn nat(&mut self, a: &Attributes<'_>) -> Result<()> {
        const NETMAP: u32 = 0x40;
        const NFPROTO_INET: u32 = 1;
        let flags = a.be32(7)?;
        let action = match (required(a.be32(1)?, "NFTA_NAT_TYPE")?, flags.unwrap_or(0) & NETMAP) {
            (_, NETMAP) => NatAction::Netmap,
            (0, _) => NatAction::Snat,
            (1, _) => NatAction::Dnat,
            (other, _) => return Err(Failure::unexpected(format!("NFTA_NAT_TYPE {other} is unknown"))),
        };
        let family = required(a.be32(2)?, "NFTA_NAT_FAMILY")?;
        if self.family == Family::Inet && family != NFPROTO_INET {
            // nft_nat_inet_eval: packets of the other family go on behind it; nft writes no test of the family.
            let tests = vec![equal(Field::NfProto, 0xff, family.into())];
            self.steps.push(Step::Match(Match::Tests { tests, inverted: false }));
        }
        let ipv6 = family == 10;
        let addresses = self.addresses(a.be32(3)?, a.be32(4)?, ipv6);
        let ports = self.ports(a.be32(5)?, a.be32(6)?);
        self.translate(action, addresses, ports, flags);
        Ok(())
    }

    fn translate(&mut self, action: NatAction, addresses: Chosen<IpAddr>, ports: Chosen<u16>, flags: Option<u32>) {
        let flags = flags.unwrap_or(0); // the attribute is left out when there are none
        self.steps.push(Step::Nat(Nat {
            action,
            addresses,
            ports,
            randomization: PortRandomization::from_flags(flags),
            persistent: flags & 8 != 0,
        }));
    }

    fn ports(&self, min: Option<u32>, max: Option<u32>) -> Chosen<u16> {
        let port = |register: u32| Some(u16::from_be_bytes(self.registers.constant(register, 2)?.try_into().ok()?));
        chosen(min, max, port)
    }

    fn addresses(&self, min: Option<u32>, max: Option<u32>, ipv6: bool) -> Chosen<IpAddr> {
        chosen(min, max, |register| {
            let bytes = self.registers.constant(register, if ipv6 { 16 } else { 4 })?;
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        })
    }
}

fn chosen<T: Copy>(min: Option<u32>, max: Option<u32>, read: impl Fn(u32) -> Option<T>) -> Chosen<T> {
    let Some(min) = min else { return Chosen::Unset };
    match (read(min), read(max.unwrap_or(min))) {
        (Some(min), Some(max)) => Chosen::Range(min, max),
        _ => Chosen::ByPacket,
    }
}
