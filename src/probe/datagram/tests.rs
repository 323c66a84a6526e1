//! Frames of Linux 6.18.44, received by the probe's own packet socket behind its `struct virtio_net_hdr`.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Outer checksums on, before NAT and after it; the same over IPv6; off, over IPv4.
const ON_PLAIN: &str = "0100000000005400060026c9eb65e4ef26c9eb65e4ef080045000052092600004011ed71c0000201c00002029bc82712003ef68008000000000002007ae94a0d5b357ae94a0d5b35080045000020a34f400040110756c6120201c6120202961b0009000c904527120000";
const ON_TRANSLATED: &str = "0100000000005400060026c9eb65e4ef26c9eb65e4ef080045000052092700004011ed70c0000201c0000202115c2712003eeddc08000000000002007ae94a0d5b357ae94a0d5b35080045000020a350400040110755c6120201c6120202bdf30009000c904527120001";
const ON_PLAIN_IPV6: &str = "0100000000006800060026c9eb65e4ef26c9eb65e4ef86dd60000000003e114020010db800000000000000000000000120010db8000000000000000000000003d69e2713003e25f8080000000000030022cc7a77628822cc7a776288080045000020bc3840004011ec6cc6120301c612030286190009000c924527130000";
const ON_TRANSLATED_IPV6: &str = "0100000000006800060026c9eb65e4ef26c9eb65e4ef86dd60000000003e114020010db800000000000000000000000120010db8000000000000000000000003115c2713003e484c080000000000030022cc7a77628822cc7a776288080045000020bc3940004011ec6bc6120301c6120302b9860009000c924527130001";
const OFF_TRANSLATED: &str = "0100000000005400060026c9eb65e4ef26c9eb65e4ef0800450000528472000040117223c0000201c0000204115c2714003e0000080000000000040006c7a7ebd07f06c7a7ebd07f0800450000208d2d400040111978c6120401c612040287a30009000c944527140001";
/// Multicast listener report of the kernel's own.
const NOT_UDP: &str = "00000000000000000000333300000002f699b2b3fb4386dd6000000000103afffe80000000000000f499b2fffeb3fb43ff0200000000000000000000000000028500360b000000000101f699b2b3fb43";

fn datagram(hex: &str) -> Datagram {
    read(&bytes(hex)).expect("whole").expect("UDP")
}

#[test]
fn real_tunnel_packets_are_read() {
    let plain = datagram(ON_PLAIN);
    assert_eq!((plain.source_port, plain.destination_port), (39880, 10002));
    assert_eq!(plain.destination, "192.0.2.2".parse::<IpAddr>().unwrap());
    assert_eq!((plain.checksum, plain.partial), (Checksum::Valid, Partial::Inner));
    assert_eq!(plain.inner(), Some((9, &[0x27, 0x12, 0, 0][..])));
    let translated = datagram(ON_TRANSLATED);
    assert_eq!(translated.source_port, 4444);
    assert_eq!((translated.checksum, translated.partial), (Checksum::Wrong, Partial::Inner), "the defect of 6.18");
    assert_eq!(datagram(ON_PLAIN_IPV6).checksum, Checksum::Valid);
    let translated = datagram(ON_TRANSLATED_IPV6);
    assert_eq!(translated.destination, "2001:db8::3".parse::<IpAddr>().unwrap());
    assert_eq!((translated.checksum, translated.partial), (Checksum::Wrong, Partial::Inner));
    let off = datagram(OFF_TRANSLATED);
    assert_eq!((off.source_port, off.checksum, off.partial), (4444, Checksum::None, Partial::Inner));
    assert_eq!(read(&bytes(NOT_UDP)), Ok(None));
}

/// What kernels before the fix of 2020 send: 0, changed as if it were a checksum.
#[test]
fn a_checksum_that_was_none_and_is_now_wrong() {
    let mut frame = bytes(OFF_TRANSLATED);
    let place = VNET_HEADER + 14 + 20 + 6;
    assert_eq!(frame[place..place + 2], [0, 0]);
    frame[place..place + 2].fill(0xff);
    assert_eq!(read(&frame).unwrap().unwrap().checksum, Checksum::Wrong);
}

/// Where the outer checksum itself was left to the card, it is right once the card has computed it.
#[test]
fn an_offload_of_the_datagram_itself_is_told_apart() {
    let mut frame = bytes(ON_PLAIN);
    frame[6..8].copy_from_slice(&34u16.to_ne_bytes());
    let sum = {
        let layout = Layout::of(&frame[VNET_HEADER..]).unwrap().unwrap();
        fold(layout.pseudo_header(&frame[VNET_HEADER..], 0x3e))
    };
    let place = VNET_HEADER + 34 + 6;
    frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    let datagram = read(&frame).unwrap().unwrap();
    assert_eq!((datagram.checksum, datagram.partial), (Checksum::Valid, Partial::Own));
    frame[6..8].copy_from_slice(&40u16.to_ne_bytes());
    assert_eq!(read(&frame).unwrap().unwrap().partial, Partial::Elsewhere);
    frame[0] = 0;
    assert_eq!(read(&frame).unwrap().unwrap().partial, Partial::No);
}

#[test]
fn a_frame_that_is_cut_anywhere_is_an_error() {
    for frame in [ON_PLAIN, ON_TRANSLATED_IPV6] {
        let frame = bytes(frame);
        for length in 0..frame.len() {
            assert!(read(&frame[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    use proptest::prelude::*;
    proptest!(|(noise in proptest::collection::vec(any::<u8>(), 0..200), ethertype in 0usize..3)| {
        let mut frame = noise;
        if frame.len() > 24 {
            frame[22..24].copy_from_slice(&[[0x08, 0x00], [0x86, 0xdd], [0, 0]][ethertype]);
        }
        let _ = read(&frame).map(|found| found.map(|datagram| datagram.inner().map(|(port, _)| port)));
    });
}
