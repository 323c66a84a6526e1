//! Input and output devices of packets.

use crate::facts::ARPHRD_LOOPBACK;
use crate::facts::netfilter::{DeviceProperty, Family, Field, name_key};
use crate::symbolic::machine::Walk;
use crate::symbolic::network::host::Connected;
use crate::symbolic::packets::NO_DEVICE;
use crate::symbolic::space::{EVERYTHING, PacketSet};
use crate::symbolic::values::Numbers;

/// The loopback device's name, which walks of senders distinguish.
pub(super) fn loopback() -> Option<(u128, u128)> {
    name_key("lo").map(|lo| (lo, lo))
}

/// Packets with a device other than loopback in this field.
pub(super) fn by_device(walk: &mut Walk<'_>, field: &Field) -> PacketSet {
    let block = walk.block(field);
    let possible = walk.space.ranges(&block, &walk.layout.names.possible());
    let loopback = walk.network.names_with(DeviceProperty::HardwareType, |kind| kind == ARPHRD_LOOPBACK.into());
    let mut others: Vec<(u128, u128)> = loopback.map(|names| names.as_ranges().to_vec()).unwrap_or_default();
    others.extend(self::loopback().filter(|lo| !others.contains(lo)));
    others.extend(NO_DEVICE);
    let others = walk.with(field, &others);
    walk.space.minus(possible, others)
}

/// Packets with a device that is up, other than loopback, in this field. Without any device nothing can arrive or leave
/// yet; rules are then judged for future devices.
pub(super) fn connected(walk: &mut Walk<'_>, field: &Field) -> PacketSet {
    let possible = by_device(walk, field);
    match walk.network.connected() {
        Connected::Nowhere => possible,
        Connected::By(devices) => {
            let names: Vec<u128> = devices.into_iter().map(|(_, name)| name).collect();
            let up = walk.with(field, Numbers::of(&names).as_ranges());
            walk.space.and(possible, up)
        }
        Connected::Unknown => {
            let why = "which devices are up, and what they are called, is not known";
            let assumed = walk.assume("devices", &Err(why.into()));
            walk.space.and(possible, assumed)
        }
    }
}

/// Everything if packets of a family are forwarded, or may be once devices are up.
pub(super) fn may_forward(walk: &mut Walk<'_>, family: Family) -> PacketSet {
    match walk.network.connected() {
        Connected::Nowhere => EVERYTHING,
        _ => walk.if_forwarded(family),
    }
}

/// Everything if this host sends (`own`), or forwards.
pub(super) fn may_send(walk: &mut Walk<'_>, family: Family, own: bool) -> PacketSet {
    if own { EVERYTHING } else { may_forward(walk, family) }
}

/// Packets received from other hosts.
pub(super) fn entering(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let connected = connected(walk, &Field::InputName);
    walk.space.and(packets, connected)
}
