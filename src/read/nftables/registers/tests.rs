use super::*;
use crate::netfilter::nftables::Data;
use crate::netfilter::nftables::expr::{Bitwise, Byteorder, Immediate, Meta, Payload, Rt};
use crate::netfilter::nftables::uapi::{
    NFPROTO_IPV4, NFT_META_L4PROTO, NFT_META_MARK, NFT_META_OIFNAME, NFT_PAYLOAD_NETWORK_HEADER,
    NFT_PAYLOAD_TRANSPORT_HEADER,
};

const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;

/// Helpers on registers.
impl Registers {
    fn meta(&mut self, dreg: u32, key: u32) {
        self.run(0, &Meta { key, dreg: Some(dreg), ..Meta::default() }.into());
    }

    fn ipv4(&mut self, dreg: u32, offset: u32, len: u32) {
        let base = NFT_PAYLOAD_NETWORK_HEADER;
        self.run(0, &Payload { dreg: Some(dreg), base, offset, len, ..Payload::default() }.into());
    }

    fn destination_port(&mut self, dreg: u32) {
        let base = NFT_PAYLOAD_TRANSPORT_HEADER;
        self.run(0, &Payload { dreg: Some(dreg), base, offset: 2, len: 2, ..Payload::default() }.into());
    }

    fn mask_xor(&mut self, register: u32, mask: &[u8], xor: &[u8]) {
        let (len, mask, xor) = (mask.len() as u32, Some(Data::of(mask.to_vec())), Some(Data::of(xor.to_vec())));
        self.run(0, &Bitwise { sreg: register, dreg: register, len, mask, xor, ..Bitwise::default() }.into());
    }

    fn load_constant(&mut self, dreg: u32, value: &[u8]) {
        self.run(0, &Immediate { dreg, data: Data::of(value.to_vec()), ..Immediate::default() }.into());
    }
}

fn masked(mask: u128, value: u128) -> Comparison {
    Comparison::Masked { mask, value }
}

fn tests(fields: &[(Field, Comparison)], inverted: bool) -> Match {
    let tests = fields.iter().cloned().map(|(field, condition)| FieldTest { field, condition });
    Match::Tests { tests: tests.collect(), inverted }
}

#[test]
fn a_masked_mark_is_a_number() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.meta(1, NFT_META_MARK);
    registers.mask_xor(1, &0x4000u32.to_ne_bytes(), &[0; 4]);
    let found = registers.compare(1, NFT_CMP_NEQ, &0u32.to_ne_bytes());
    assert_eq!(found, tests(&[(Field::Mark, masked(0x4000, 0))], true));
}

#[test]
fn fields_that_were_loaded_together_come_apart_again() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.ipv4(8, IPV4_SOURCE, 8);
    let found = registers.compare(8, NFT_CMP_NEQ, &[10, 1, 2, 3, 10, 4, 5, 6]);
    let (source, destination) = (masked(0xffff_ffff, 0x0a01_0203), masked(0xffff_ffff, 0x0a04_0506));
    let wanted = [(Field::Ipv4Source, source), (Field::Ipv4Destination, destination)];
    assert_eq!(found, tests(&wanted, true), "not both, which is not the same as neither");
}

#[test]
fn a_shorter_comparison_is_a_prefix() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.meta(1, NFT_META_OIFNAME);
    let found = registers.compare(1, NFT_CMP_EQ, b"veth");
    let (mask, value) = (u128::MAX << 96, u128::from(u32::from_be_bytes(*b"veth")) << 96);
    assert_eq!(found, tests(&[(Field::OutputName, masked(mask, value))], false));
}

#[test]
fn ports_are_ordered_as_on_the_wire_and_marks_after_a_swap() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.destination_port(1);
    let found = registers.compare(1, NFT_CMP_GT, &8472u16.to_be_bytes());
    assert_eq!(found, tests(&[(Field::DestinationPort, Comparison::Ranges(vec![(8473, 65535)]))], false));
    assert!(matches!(registers.compare(1, NFT_CMP_LT, &[1]), Match::Unsupported(_)), "half a port");
    registers.meta(1, NFT_META_MARK);
    if cfg!(target_endian = "little") {
        assert!(matches!(registers.compare(1, NFT_CMP_LT, &[0, 0, 1, 0]), Match::Unsupported(_)));
    }
    registers.run(0, &Byteorder { sreg: 1, dreg: 1, len: 4, size: 4, ..Byteorder::default() }.into());
    let found = registers.range(1, &[0, 0, 1, 0], &[0, 0, 2, 0], true);
    assert_eq!(found, tests(&[(Field::Mark, Comparison::Ranges(vec![(256, 512)]))], true));
}

#[test]
fn mark_arithmetic_is_exact() {
    let (own, other) = (Field::Mark, Field::ConnectionMark);
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.meta(1, NFT_META_MARK);
    registers.mask_xor(1, &(!0x4000u32).to_ne_bytes(), &0x4000u32.to_ne_bytes());
    let exact = |keep, take, xor| MarkWrite::Exact { keep, take, xor };
    assert_eq!(registers.mark(1, &own, &other, |_| None), exact(!0x4000, 0, 0x4000));
    assert_eq!(registers.mark(1, &other, &own, |_| None), exact(0, !0x4000, 0x4000));
    registers.load_constant(1, &0x12u32.to_ne_bytes());
    assert_eq!(registers.mark(1, &own, &other, |_| None), exact(0, 0, 0x12));
    registers.run(0, &Rt { key: 0, dreg: 1, ..Rt::default() }.into());
    assert_eq!(registers.mark(1, &own, &other, |_| None), MarkWrite::Unknown("rt".into()));
    registers.ipv4(1, IPV4_SOURCE, 4);
    assert!(matches!(registers.mark(1, &own, &other, |_| None), MarkWrite::Unknown(_)));
}

#[test]
fn keys_are_the_fields_from_a_register_on_and_nothing_stale() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.ipv4(1, IPV4_SOURCE, 4);
    registers.destination_port(9);
    assert_eq!(registers.key(1), Ok(vec![Field::Ipv4Source, Field::DestinationPort]));
    registers.ipv4(1, IPV4_DESTINATION, 4);
    assert_eq!(registers.key(1), Ok(vec![Field::Ipv4Destination]));
    registers.mask_xor(1, &[255, 255, 0, 0], &[0; 4]);
    assert!(matches!(registers.key(1), Err(Match::Unsupported(_))));
}

#[test]
fn a_key_that_is_loaded_again_is_that_of_the_new_loads() {
    let mut registers = Registers::new(NFPROTO_IPV4);
    registers.meta(1, NFT_META_L4PROTO);
    registers.ipv4(9, IPV4_SOURCE, 4);
    registers.destination_port(10);
    assert_eq!(registers.key(1), Ok(vec![Field::L4Proto, Field::Ipv4Source, Field::DestinationPort]));
    registers.ipv4(1, IPV4_DESTINATION, 4);
    registers.destination_port(9);
    assert_eq!(registers.key(1), Ok(vec![Field::Ipv4Destination, Field::DestinationPort]));
}
