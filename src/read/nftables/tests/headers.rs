//! Writes into headers, mark bits, numbers, and map data, in the expressions that nft makes of them.

use super::kernel::rule;
use super::language::Expression;
use crate::facts::netfilter::{
    Chosen, Comparison, Family, Field, FieldTest, MapLookup, MarkBits, MarkWrite, Match, NatMap, SetId, Step, Verdict,
};
use crate::netfilter::netlink::{Attribute, BlockLayout};
use crate::netfilter::nftables::expr::{
    Bitwise, Byteorder, Cmp, FlowOffload, Hash, Immediate, Lookup, Meta, Nat, Numgen, Objref, Payload, Range,
};
use crate::netfilter::nftables::uapi::{
    NFT_META_L4PROTO, NFT_META_MARK, NFT_OBJECT_CT_TIMEOUT, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER,
    NFT_REG_1, NFT_REG_VERDICT,
};
use crate::netfilter::nftables::{self as wired};

fn steps(expressions: Expression) -> Vec<Step> {
    super::read_rule(rule("nat", "post", &[expressions])).expect("read").steps
}

fn constant(value: &[u8]) -> Expression {
    vec![Immediate { dreg: NFT_REG_1, data: wired::Data::of(value.to_vec()), ..Immediate::default() }.into()]
}

fn load(base: u32, offset: u32, len: u32) -> Expression {
    vec![Payload { dreg: Some(NFT_REG_1), base, offset, len, ..Payload::default() }.into()]
}

fn write(base: u32, offset: u32, len: u32) -> Expression {
    vec![Payload { sreg: Some(NFT_REG_1), base, offset, len, ..Payload::default() }.into()]
}

fn bitwise(mask: &[u8], xor: &[u8]) -> Expression {
    let (mask, xor) = (Some(wired::Data::of(mask.to_vec())), Some(wired::Data::of(xor.to_vec())));
    let len = mask.as_ref().and_then(|mask| mask.value.as_ref()).map_or(0, |value| value.len() as u32);
    vec![Bitwise { sreg: NFT_REG_1, dreg: NFT_REG_1, len, mask, xor, ..Bitwise::default() }.into()]
}

fn meta(key: u32) -> Expression {
    vec![Meta { key, dreg: Some(NFT_REG_1), ..Meta::default() }.into()]
}

fn set_mark() -> Expression {
    vec![Meta { key: NFT_META_MARK, sreg: Some(NFT_REG_1), ..Meta::default() }.into()]
}

fn udp() -> Expression {
    let compare = Cmp { sreg: NFT_REG_1, data: wired::Data::of(vec![17]), ..Cmp::default() };
    [meta(NFT_META_L4PROTO), vec![compare.into()]].concat()
}

#[test]
fn addresses_and_ports_are_written_into_headers() {
    let (network, transport) = (NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER);
    let last = |expressions: &[Expression]| steps(expressions.concat()).pop();
    let rewrite = |field: Field, value: Option<u128>| Some(Step::Rewrite { field, value });
    let port = last(&[udp(), constant(&[0x15, 0xb3]), write(transport, 0, 2)]);
    assert_eq!(port, rewrite(Field::SourcePort, Some(5555)), "udp sport set 5555");
    let address = last(&[constant(&[192, 0, 2, 1]), write(network, 12, 4)]);
    assert_eq!(address, rewrite(Field::Ipv4Source, Some(0xc000_0201)), "ip saddr set 192.0.2.1");
    let both = steps([constant(&[0, 53, 0, 54]), write(transport, 0, 4)].concat());
    assert_eq!(
        both,
        [(Field::SourcePort, 53), (Field::DestinationPort, 54)]
            .map(|(field, value)| Step::Rewrite { field, value: Some(value) })
    );
    // ip ttl set 60: the kernel writes two bytes, and the protocol stays the same.
    let ttl = last(&[load(network, 8, 2), bitwise(&[0, 0xff], &[60, 0]), write(network, 8, 2)]);
    assert!(matches!(ttl, Some(Step::NoEffect(_))), "{ttl:?}");
    let protocol = last(&[load(network, 8, 2), bitwise(&[0xff, 0], &[0, 6]), write(network, 8, 2)]);
    assert!(matches!(protocol, Some(Step::Unsupported { .. })), "{protocol:?}");
    // Part of an address.
    let part = last(&[load(network, 16, 4), bitwise(&[0xff, 0xff, 0xff, 0], &[0, 0, 0, 7]), write(network, 16, 4)]);
    assert_eq!(part, rewrite(Field::Ipv4Destination, None));
    let copied = last(&[load(network, 12, 4), write(network, 16, 4)]);
    assert_eq!(copied, rewrite(Field::Ipv4Destination, None), "ip daddr set ip saddr");
    assert!(matches!(last(&[load(network, 12, 4), write(network, 12, 4)]), Some(Step::NoEffect(_))));
}

#[test]
fn bits_of_marks_are_compared_and_looked_up() {
    let bits = |mask, network_order| Field::MarkBits(MarkBits { connection: false, mask, network_order });
    let masked = [meta(NFT_META_MARK), bitwise(&0xff00_u32.to_ne_bytes(), &[0; 4])].concat();
    let turned: Expression = vec![
        Byteorder { sreg: NFT_REG_1, dreg: NFT_REG_1, op: Some(1), len: 4, size: 4, ..Byteorder::default() }.into(),
    ];
    let look_up: Expression = vec![Lookup { set: "s".into(), sreg: NFT_REG_1, ..Lookup::default() }.into()];
    let fields = |expressions: &[Expression]| match steps(expressions.concat()).pop() {
        Some(Step::Match(Match::Set { fields, .. })) => fields,
        other => panic!("{other:?}"),
    };
    assert_eq!(fields(&[masked.clone(), look_up.clone()]), [bits(0xff00, false)]);
    assert_eq!(fields(&[masked.clone(), turned.clone(), look_up.clone()]), [bits(0xff00, true)]);
    assert_eq!(fields(&[meta(NFT_META_MARK), turned.clone(), look_up]), [bits(u32::MAX, true)], "intervals");
    let ends = [0x100_u32, 0x1ff].map(|end| wired::Data::of(end.to_be_bytes().to_vec()));
    let [from_data, to_data] = ends;
    let range: Expression = vec![Range { sreg: NFT_REG_1, from_data, to_data, ..Range::default() }.into()];
    let test = FieldTest { field: bits(0xff00, true), condition: Comparison::Ranges(vec![(0x100, 0x1ff)]) };
    let found = steps([masked, turned, range].concat()).pop();
    assert_eq!(found, Some(Step::Match(Match::Tests { tests: vec![test], inverted: false })));
}

#[test]
fn numbers_that_are_made_are_within_their_range() {
    let number = |first, last, hashed| Some(Step::SetMark(MarkWrite::Number { first, last, hashed }));
    let numgen: Expression =
        vec![Numgen { dreg: NFT_REG_1, modulus: Some(8), offset: Some(0x4000), ..Numgen::default() }.into()];
    assert_eq!(steps([numgen.clone(), set_mark()].concat()).pop(), number(0x4000, 0x4007, false));
    let hash: Expression = vec![Hash { dreg: NFT_REG_1, modulus: Some(1), ..Hash::default() }.into()];
    assert_eq!(steps([hash, set_mark()].concat()).pop(), number(0, 0, true));
    // And looked up in a set.
    let look_up: Expression =
        vec![Lookup { set: "m".into(), sreg: NFT_REG_1, dreg: Some(NFT_REG_1), ..Lookup::default() }.into()];
    let looked_up = steps([numgen.clone(), look_up.clone(), set_mark()].concat());
    let fields = vec![Field::Number { first: 0x4000, last: 0x4007, hash: None, network_order: false }];
    assert!(matches!(&looked_up[0], Step::Match(Match::Set { fields: of, .. }) if *of == fields), "{looked_up:?}");
    let written = matches!(&looked_up[1], Step::SetMark(MarkWrite::Mapped { lookup, .. }) if lookup.fields == fields);
    assert!(written, "{looked_up:?}");
    let by_verdict: Expression =
        vec![Lookup { set: "m".into(), sreg: NFT_REG_1, dreg: Some(NFT_REG_VERDICT), ..Lookup::default() }.into()];
    let found = steps([numgen.clone(), by_verdict].concat());
    assert!(matches!(&found[0], Step::Verdict(Verdict::Map { fields: of, .. }) if *of == fields), "{found:?}");
    // By a hash of known fields; of others it is unknown what it depends on.
    let of_source = Hash { sreg: Some(NFT_REG_1), len: Some(4), dreg: NFT_REG_1, modulus: Some(2), ..Hash::default() };
    for (offset, expected) in [(12, Some("jhash ip saddr")), (16, Some("jhash ip daddr")), (3, None)] {
        let source = load(NFT_PAYLOAD_NETWORK_HEADER, offset, 4);
        let hash: Expression = vec![of_source.clone().into()];
        let looked_up = steps([source, hash, look_up.clone(), set_mark()].concat());
        let of = match &looked_up[0] {
            Step::Match(Match::Set { fields, .. }) => match &fields[..] {
                [Field::Number { first: 0, last: 1, hash, .. }] => hash.as_deref(),
                other => panic!("{other:?}"),
            },
            _ => None,
        };
        assert_eq!(of, expected, "{looked_up:?}");
    }
    // Before it is looked up among intervals it is brought into their byte order.
    let turned: Expression = vec![
        Byteorder { sreg: NFT_REG_1, dreg: NFT_REG_1, op: Some(1), len: 4, size: 4, ..Byteorder::default() }.into(),
    ];
    let found = steps([numgen.clone(), turned, look_up.clone(), set_mark()].concat());
    let fields = vec![Field::Number { first: 0x4000, last: 0x4007, hash: None, network_order: true }];
    assert!(matches!(&found[0], Step::Match(Match::Set { fields: of, .. }) if *of == fields), "{found:?}");
    let changed = steps([numgen, bitwise(&[0xff; 4], &[1, 0, 0, 0]), set_mark()].concat()).pop();
    assert!(matches!(changed, Some(Step::SetMark(MarkWrite::Unknown(_)))), "{changed:?}");
    let mut layout = BlockLayout::default();
    layout.keep_unknown(0, &Attribute { kind: 99, flags: 0, body: &[1] });
    let strange: Expression = vec![Numgen { dreg: NFT_REG_1, modulus: Some(8), layout, ..Numgen::default() }.into()];
    let strange = steps([strange, set_mark()].concat()).pop();
    assert!(matches!(strange, Some(Step::SetMark(MarkWrite::Unknown(_)))), "what an attribute changes: {strange:?}");
}

#[test]
fn what_a_map_has_is_written_into_marks_and_translations() {
    const NFPROTO_IPV4: u32 = 2;
    const NFT_REG32_01: u32 = 9;
    let network = NFT_PAYLOAD_NETWORK_HEADER;
    let look_up: Expression =
        vec![Lookup { set: "m".into(), sreg: NFT_REG_1, dreg: Some(NFT_REG_1), ..Lookup::default() }.into()];
    let source = [load(network, 12, 4), look_up].concat();
    let set = SetId::Nftables { family: Family::Ipv4, table: "nat".into(), set: "m".into() };
    let lookup = MapLookup { fields: vec![Field::Ipv4Source], set: set.clone() };
    let mapped = |mapped, keep, take, xor| MarkWrite::Mapped { lookup: lookup.clone(), mapped, keep, take, xor };
    let mark = |expressions: &[Expression]| match steps(expressions.concat()).as_slice() {
        [Step::Match(Match::Set { fields, set: of, inverted: false }), .., Step::SetMark(write)] => {
            assert_eq!((fields, of), (&lookup.fields, &set));
            write.clone()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(mark(&[source.clone(), set_mark()]), mapped(u32::MAX, 0, 0, 0));
    let some_bits = bitwise(&0xff_u32.to_ne_bytes(), &0x100_u32.to_ne_bytes());
    assert_eq!(mark(&[source.clone(), some_bits, set_mark()]), mapped(0xff, 0, 0, 0x100));
    let other = mark(&[source.clone(), constant(&[1, 0, 0, 0]), set_mark()]);
    assert_eq!(other, MarkWrite::Exact { keep: 0, take: 0, xor: u32::from_ne_bytes([1, 0, 0, 0]) });
    // If the rule writes the address in between, it differs from the one that was looked up.
    let between = [source.clone(), write(network, 12, 4), set_mark()].concat();
    let last = steps(between).pop();
    assert!(matches!(last, Some(Step::SetMark(MarkWrite::Unknown(_)))), "{last:?}");

    let nat = |reg_addr_max, reg_proto_min| -> Expression {
        let (family, reg_addr_min) = (NFPROTO_IPV4, Some(NFT_REG_1));
        vec![Nat { family, reg_addr_min, reg_addr_max, reg_proto_min, ..Nat::default() }.into()]
    };
    let translation = |expressions: &[Expression]| match steps(expressions.concat()).pop() {
        Some(Step::Nat(nat)) => nat,
        other => panic!("{other:?}"),
    };
    let with = |addresses, ports| Some(NatMap { lookup: lookup.clone(), addresses, ports });
    let plain = translation(&[source.clone(), nat(Some(NFT_REG_1), None)]);
    assert_eq!((plain.addresses, plain.ports), (Chosen::ByPacket, Chosen::Unset));
    assert_eq!(plain.map, with(Some([0..4, 0..4]), None), "snat to ip saddr map @m");
    let port = translation(&[source.clone(), nat(None, Some(NFT_REG32_01))]);
    assert_eq!(port.map, with(Some([0..4, 0..4]), Some([4..6, 4..6])), "snat ip to ip saddr map @m, with a port");
    let range = translation(&[source.clone(), nat(Some(NFT_REG32_01), None)]);
    assert_eq!(range.map, with(Some([0..4, 4..8]), None), "a range of addresses");
    let changed = translation(&[source, bitwise(&[0xff, 0xff, 0, 0], &[0; 4]), nat(None, None)]);
    assert_eq!((changed.addresses, changed.map), (Chosen::ByPacket, None));
}

#[test]
fn timeout_policies_and_flowtables_give_entries_a_timeout_of_their_own() {
    const NFT_OBJECT_COUNTER: u32 = 1;
    let object = |kind| Objref { imm_name: Some("x".into()), imm_type: Some(kind), ..Objref::default() };
    let policy = steps(vec![object(NFT_OBJECT_CT_TIMEOUT).into()]);
    assert_eq!(policy.last(), Some(&Step::OwnTimeout));
    assert!(policy.iter().any(Step::needs_conntrack), "ct timeout");
    assert!(!steps(vec![object(NFT_OBJECT_COUNTER).into()]).contains(&Step::OwnTimeout));
    let offload = FlowOffload { table_name: Some("f".into()), ..FlowOffload::default() };
    let offloaded = steps(vec![offload.into()]);
    assert_eq!(offloaded, [Step::OwnTimeout, Step::Match(Match::NonDeterministic("flow_offload".into()))]);
    // The kind of a map's objects is unknown, and a map of counters does not track connections.
    let map = Objref { set_sreg: Some(NFT_REG_1), set_name: Some("m".into()), ..Objref::default() };
    let mapped = steps(vec![map.into()]);
    assert!(mapped.contains(&Step::OwnTimeout) && !mapped.iter().any(Step::needs_conntrack), "{mapped:?}");
}
