//! Decodes a UDP datagram from a packet socket. Pure.
//!
//! A frame begins with `struct virtio_net_hdr` (`PACKET_VNET_HDR`), which says whether and where a checksum is still to
//! be computed (`CHECKSUM_PARTIAL`).

use std::net::IpAddr;

use crate::facts::Failure;
use crate::netfilter::array;

/// `sizeof(struct virtio_net_hdr)`
pub(crate) const VNET_HEADER: usize = 10;
const ETHERNET_HEADER: usize = 14;
const UDP_HEADER: usize = 8;
/// Offset of the inner UDP header in a VXLAN datagram's payload: VXLAN, Ethernet and IPv4 headers.
const INNER_UDP: usize = 8 + ETHERNET_HEADER + 20;

/// State of a UDP checksum, after offloads are completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// 0: no checksum.
    None,
    /// Correct.
    Valid,
    /// Incorrect: receivers drop the packet.
    Wrong,
}

/// Where a checksum is still to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partial {
    /// Nowhere.
    No,
    /// In the datagram's own UDP header.
    Own,
    /// In the inner UDP header of a VXLAN packet.
    Inner,
    /// Somewhere else.
    Elsewhere,
}

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// State of the checksum.
    pub checksum: Checksum,
    /// Checksum left to an offload.
    pub partial: Partial,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// Decodes a frame; `None`: not UDP.
///
/// # Errors
/// The frame is too short.
pub(crate) fn read(frame: &[u8]) -> Result<Option<Datagram>, Failure> {
    let vnet = array::<VNET_HEADER>(frame, 0, "virtio_net_hdr")?;
    let mut packet = frame[VNET_HEADER..].to_vec();
    let Some(layout) = Layout::of(&packet)? else { return Ok(None) };
    let partial = finish(&mut packet, &vnet, &layout)?;
    let udp = array::<UDP_HEADER>(&packet, layout.udp, "UDP header")?;
    let number = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let length = usize::from(number(4));
    let datagram = packet.get(layout.udp..layout.udp + length).filter(|datagram| datagram.len() >= UDP_HEADER);
    let datagram = datagram.ok_or_else(|| Failure::unexpected(format!("the UDP header says {length} bytes")))?;
    let checksum = match number(6) {
        0 => Checksum::None,
        _ if fold(layout.pseudo_header(&packet, length) + sum(datagram)) == 0xffff => Checksum::Valid,
        _ => Checksum::Wrong,
    };
    Ok(Some(Datagram {
        destination: layout.destination,
        source_port: number(0),
        destination_port: number(2),
        checksum,
        partial,
        payload: datagram[UDP_HEADER..].to_vec(),
    }))
}

/// Positions of the headers.
struct Layout {
    destination: IpAddr,
    /// Both addresses, which the pseudo header includes.
    addresses: std::ops::Range<usize>,
    udp: usize,
}

impl Layout {
    fn of(packet: &[u8]) -> Result<Option<Self>, Failure> {
        const UDP: u8 = 17;
        let at = ETHERNET_HEADER;
        match u16::from_be_bytes(array(packet, 12, "Ethernet header")?) {
            0x0800 => {
                let header = array::<20>(packet, at, "IPv4 header")?;
                let (length, fragment) = (usize::from(header[0] & 0xf) * 4, u16::from_be_bytes([header[6], header[7]]));
                let destination: [u8; 4] = std::array::from_fn(|byte| header[16 + byte]);
                let layout =
                    Self { destination: destination.into(), addresses: at + 12..at + 20, udp: at + length.max(20) };
                Ok((header[9] == UDP && fragment & 0x3fff == 0).then_some(layout))
            }
            0x86dd => {
                let header = array::<40>(packet, at, "IPv6 header")?;
                let destination: [u8; 16] = std::array::from_fn(|byte| header[24 + byte]);
                let layout = Self { destination: destination.into(), addresses: at + 8..at + 40, udp: at + 40 };
                Ok((header[6] == UDP).then_some(layout))
            }
            _ => Ok(None),
        }
    }

    fn pseudo_header(&self, packet: &[u8], length: usize) -> u64 {
        const UDP: u64 = 17;
        sum(&packet[self.addresses.clone()]) + UDP + length as u64
    }
}

/// Completes the checksum, as the NIC or `skb_checksum_help` would.
fn finish(packet: &mut [u8], vnet: &[u8; VNET_HEADER], layout: &Layout) -> Result<Partial, Failure> {
    const NEEDS_CSUM: u8 = 1;
    if vnet[0] & NEEDS_CSUM == 0 {
        return Ok(Partial::No);
    }
    let start = usize::from(u16::from_ne_bytes([vnet[6], vnet[7]]));
    let place = start + usize::from(u16::from_ne_bytes([vnet[8], vnet[9]]));
    array::<2>(packet, place, "checksum")?;
    let value = !fold(sum(packet.get(start..).unwrap_or_default()));
    let value = if value == 0 { 0xffff } else { value };
    packet[place..place + 2].copy_from_slice(&value.to_be_bytes());
    Ok(match start.checked_sub(layout.udp) {
        _ if place != start + 6 => Partial::Elsewhere,
        Some(0) => Partial::Own,
        Some(offset) if offset == UDP_HEADER + INNER_UDP => Partial::Inner,
        _ => Partial::Elsewhere,
    })
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Datagram {
    /// Inner destination port and payload of a VXLAN datagram.
    pub(crate) fn inner(&self) -> Option<(u16, &[u8])> {
        let header = self.payload.get(INNER_UDP..INNER_UDP + UDP_HEADER)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let inner = self.payload.get(INNER_UDP + UDP_HEADER..INNER_UDP + length)?;
        Some((u16::from_be_bytes([header[2], header[3]]), inner))
    }
}

#[cfg(test)]
mod tests;
