//! Expression payload: bytes of headers as fields, and writes to them.
//!
//! Kernel sources: `nft_payload_eval`, `nft_payload_set_eval`.

use super::expressions::{Reader, Result, required};
use super::registers::Loaded;
use crate::netfilter::netlink::Attributes;
use crate::snapshot::netfilter::{Family, Field, Step};

impl Reader<'_> {
    pub(super) fn payload(&mut self, a: &Attributes<'_>) -> Result<()> {
        const NETWORK_HEADER: u32 = 1;
        const TRANSPORT_HEADER: u32 = 2;
        let base = required(a.be32(2)?, "NFTA_PAYLOAD_BASE")?;
        let from = required(a.be32(3)?, "NFTA_PAYLOAD_OFFSET")? as usize;
        let length = required(a.be32(4)?, "NFTA_PAYLOAD_LEN")? as usize;
        if a.be32(5)?.is_some() {
            let written = format!("payload write at {from} of header {base}");
            let harmless = match (base, self.network) {
                (NETWORK_HEADER, Some(Family::Ipv4)) => from + length <= 9 || (from > 9 && from + length <= 12),
                (NETWORK_HEADER, Some(Family::Ipv6)) => from + length <= 6 || (from > 6 && from + length <= 8),
                (NETWORK_HEADER, _) => from + length <= 4,
                // Ports, and where UDP and UDP-Lite have their checksum, which may be the remedy.
                (TRANSPORT_HEADER, _) => from >= 8,
                _ => true,
            };
            self.steps.push(if harmless { Step::Harmless(written) } else { Step::Opaque(written) });
            return Ok(());
        }
        let register = required(a.be32(1)?, "NFTA_PAYLOAD_DREG")?;
        let parts = header_fields(base, self.network);
        let mut loaded = Vec::new();
        let (mut at, end) = (from, from + length.min(64));
        while at < end {
            match parts.iter().find(|(_, start, width)| (*start..start + width).contains(&at)) {
                Some((field, start, width)) => {
                    let upto = end.min(start + width);
                    loaded.push((Loaded::Wire(field.clone(), *width), at - start, upto - at));
                    at = upto;
                }
                None => {
                    let next = parts.iter().map(|(_, start, _)| *start).filter(|start| *start > at).min();
                    let width = next.unwrap_or(end).min(end).min(at + 16) - at;
                    let field = Field::Other(format!("{width} bytes at {at} of header {base}"));
                    loaded.push((Loaded::Wire(field, width), 0, width));
                    at += width;
                }
            }
        }
        self.registers.load_parts(register, loaded);
        Ok(())
    }
}

/// Fields of a header with offset and width.
fn header_fields(base: u32, network: Option<Family>) -> Vec<(Field, usize, usize)> {
    match (base, network) {
        (1, Some(Family::Ipv4)) => {
            vec![(Field::L4Proto, 9, 1), (Field::Ipv4Source, 12, 4), (Field::Ipv4Destination, 16, 4)]
        }
        (1, Some(Family::Ipv6)) => vec![(Field::Ipv6Source, 8, 16), (Field::Ipv6Destination, 24, 16)],
        (2, _) => vec![(Field::SourcePort, 0, 2), (Field::DestinationPort, 2, 2)],
        _ => Vec::new(),
    }
}
