//! Sources that a translation gives: `nf_nat_masquerade_ipv4`, `nf_nat_masquerade_ipv6`, `get_unique_tuple`.

use crate::facts::netfilter::{Chosen, Family, Field, Nat, NatAction, address_key, name_key};
use crate::symbolic::machine::Walk;
use crate::symbolic::network::host::LOCAL;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// `0.0.0.0/8`, `127.0.0.0/8`; `::`, `::1`, `fe80::/10`: what has one of these as its source gets to nobody beyond
/// (`ip_route_input_slow`, `ip6_forward`).
pub(super) const NARROW: [&[(u128, u128)]; 2] =
    [&[(0, 0x00ff_ffff), (0x7f00_0000, 0x7fff_ffff)], &[(0, 1), (0xfe80 << 112, (0xfec0 << 112) - 1)]];

/// Packets with a source that this translation may give, by output device. `None`: not known.
pub(super) fn given_source(walk: &mut Walk<'_>, family: Family, nat: &Nat) -> Option<PacketSet> {
    let (source, _) = walk.packets.ends();
    let narrow = walk.with(&source, NARROW[family.ip_index()]);
    match (nat.action, nat.addresses) {
        (NatAction::Masquerade, _) => {
            let local = walk.network.local_addresses(family)?;
            let any = walk.with(&source, local.as_ranges());
            let any = walk.space.minus(any, narrow);
            let names: Vec<u128> =
                walk.network.devices.as_ref()?.iter().filter_map(|device| name_key(device.name)).collect();
            let (mut given, mut without) = (NOTHING, EVERYTHING);
            for name in names {
                let own = walk.network.addresses_of_types(family, |kind| kind == LOCAL, Some(name))?;
                if own.as_ranges().is_empty() {
                    continue;
                }
                let here = walk.with(&source, own.as_ranges());
                let here = walk.space.minus(here, narrow);
                if here.is_empty() {
                    continue;
                }
                let by = walk.with(&Field::OutputName, &[(name, name)]);
                given = walk.space.or(given, walk.space.and(by, here));
                without = walk.space.minus(without, by);
            }
            // Without an address of its own, another device's is used (`inet_select_addr`).
            let lent = walk.space.and(without, any);
            Some(walk.space.or(given, lent))
        }
        (NatAction::Snat | NatAction::Netmap, Chosen::Range(first, last)) => {
            Some(walk.with(&source, &[(address_key(first), address_key(last))]))
        }
        _ => None,
    }
}
