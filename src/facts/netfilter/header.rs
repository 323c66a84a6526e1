//! Names, as nft writes them, for bytes of packet headers.

use super::Field;

/// Fields of whole bytes: name, header (`NFT_PAYLOAD_NETWORK_HEADER` is 1, `NFT_PAYLOAD_TRANSPORT_HEADER` 2), offset
/// and length in bytes. The first word of a name is the protocol.
const NAMED: &[(&str, u32, usize, usize)] = &[
    ("ip dscp", 1, 1, 1), // with ECN
    ("ip length", 1, 2, 2),
    ("ip id", 1, 4, 2),
    ("ip frag-off", 1, 6, 2),
    ("ip ttl", 1, 8, 1),
    ("ip protocol", 1, 9, 1),
    ("ip checksum", 1, 10, 2),
    ("ip6 dscp", 1, 0, 2), // with the version, ECN and the beginning of the flow label
    ("ip6 length", 1, 4, 2),
    ("ip6 nexthdr", 1, 6, 1),
    ("ip6 hoplimit", 1, 7, 1),
    ("udp length", 2, 4, 2),
    ("udp checksum", 2, 6, 2),
    ("tcp sequence", 2, 4, 4),
    ("tcp ackseq", 2, 8, 4),
    ("tcp flags", 2, 13, 1),
    ("tcp window", 2, 14, 2),
    ("tcp checksum", 2, 16, 2),
    ("tcp urgptr", 2, 18, 2),
];
/// nft's names of header bases, by `NFT_PAYLOAD_*`.
const HEADERS: [&str; 4] = ["ll", "nh", "th", "ih"];

/// A range of bytes in a packet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBytes {
    /// `NFT_PAYLOAD_*`
    pub header: u32,
    /// Offset of the first byte.
    pub offset: usize,
    /// Number of bytes.
    pub length: usize,
}

impl HeaderBytes {
    /// The field at these bytes in headers of this protocol (`ip`, `ip6`, `tcp`, `udp`; empty: not known).
    pub fn field(self, protocol: &str) -> Field {
        let Self { header, offset, length } = self;
        let is_this = |(name, of, at, bytes): &&(&str, u32, usize, usize)| {
            (*of, *at, *bytes) == (header, offset, length) && name.split(' ').next() == Some(protocol)
        };
        Field::Other(match NAMED.iter().find(is_this) {
            Some((name, ..)) => (*name).to_owned(),
            None => {
                let word = usize::try_from(header).ok().and_then(|header| HEADERS.get(header)).copied();
                format!("@{},{},{}", word.unwrap_or("header of another kind"), 8 * offset, 8 * length)
            }
        })
    }

    /// The bytes of the field with this name; `None` if no header has it.
    pub fn of(name: &str) -> Option<Self> {
        if let Some((_, header, offset, length)) = NAMED.iter().find(|(known, ..)| *known == name) {
            return Some(Self { header: *header, offset: *offset, length: *length });
        }
        let mut parts = name.strip_prefix('@')?.split(',');
        let word = parts.next()?;
        let header = HEADERS.iter().position(|known| *known == word)? as u32;
        let [offset, length] = [parts.next()?.parse::<usize>().ok()?, parts.next()?.parse::<usize>().ok()?];
        Some(Self { header, offset: offset / 8, length: length / 8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_name_that_nft_has_for_them() {
        for (header, offset, length, protocol, name) in [
            (1, 8, 1, "ip", "ip ttl"),
            (1, 8, 1, "ip6", "@nh,64,8"),
            (1, 7, 1, "ip6", "ip6 hoplimit"),
            (2, 4, 2, "udp", "udp length"),
            (2, 4, 2, "", "@th,32,16"),
            (2, 13, 1, "tcp", "tcp flags"),
            (0, 0, 6, "", "@ll,0,48"),
        ] {
            let bytes = HeaderBytes { header, offset, length };
            assert_eq!(bytes.field(protocol), Field::Other(name.into()));
            assert_eq!(HeaderBytes::of(name), Some(bytes), "{name}");
        }
        assert_eq!(HeaderBytes::of("meta length"), None);
        assert_eq!(HeaderBytes::of("@nh,8"), None);
    }
}
