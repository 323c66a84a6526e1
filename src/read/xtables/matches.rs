//! Matches of x_tables: what each tests.

use super::ports::Multiport;
use super::{Extension, all, conntrack, masked, non_deterministic, other, ports, test, unsupported_match, within};
use crate::facts::Failure;
use crate::facts::netfilter::{
    BridgePort, Counted, DeviceProperty, End, Family, Field, FieldTest, MarkWrite, Match, Step, TypeScope, signatures,
};
use crate::netfilter::xtables::matches::{addrtype, connbytes, devgroup, helper, iprange, ipvs, physdev, policy, time};
use crate::netfilter::xtables::{Match as Xt, XtFamily, up_to_zero};

/// `IPS_EXPECTED`
const IPS_EXPECTED: u32 = 0x1;

/// The steps for a match, all of which must hold, in order.
///
/// # Errors
/// The data are too short for the structure, or have values that the kernel rejects.
#[expect(clippy::too_many_lines, reason = "a list: an arm for each match")]
pub(crate) fn decode_match(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let Some(family) = extension.nfproto() else { return Ok(unsupported_match(extension)) };
    Ok(match Xt::parse(extension.name.as_bytes(), extension.revision.into(), family, extension.data)? {
        Xt::AddrtypeV0(info) => addrtype_v0(&info),
        Xt::Addrtype(info) => addrtype(extension, &info),
        Xt::Ah4(info) => vec![spi("ah spi", info.spis, info.invflags)],
        Xt::Comment(_) => Vec::new(),
        Xt::Connmark(info) => conntrack::connmark(&info),
        Xt::ConntrackV1(info) => conntrack::conntrack(extension, &info.into()),
        Xt::ConntrackV2(info) => conntrack::conntrack(extension, &info.into()),
        Xt::Conntrack(info) => conntrack::conntrack(extension, &info),
        Xt::Dccp(info) => {
            let rest = [(0x4, "dccp type"), (0x8, "dccp option")];
            ports::flagged(info.spts, info.dpts, info.flags.into(), info.invflags.into(), &rest)
        }
        Xt::Devgroup(info) => devgroup(&info),
        Xt::Dscp(info) => vec![test(dsfield(extension, 0xfc, info.dscp << 2), info.invert != 0)],
        Xt::Esp(info) => vec![spi("esp spi", info.spis, info.invflags)],
        Xt::Connbytes(info) => connbytes(extension, &info),
        Xt::Helper(info) => helper(extension, &info),
        Xt::Physdev(info) => vec![physdev(&info)],
        Xt::Hl(info) => ttl("ip6 hoplimit", info.mode, info.hop_limit).unwrap_or_else(|| unsupported_match(extension)),
        Xt::Icmp(info) => match info.r#type {
            u8::MAX => vec![test(masked(other("icmp type"), 0u8, 0u8), info.invflags & 0x1 != 0)],
            kind => vec![icmp("icmp", kind, info.code, info.invflags)],
        },
        Xt::Icmp6(info) => match info.r#type {
            u8::MAX => unsupported_match(extension), // any type in new kernels, type 255 in old ones
            kind => vec![icmp("icmpv6", kind, info.code, info.invflags)],
        },
        Xt::Iprange(info) => iprange(&info, XtFamily::of(family)),
        Xt::Ipvs(info) => vec![non_deterministic(&ipvs(&info))],
        Xt::Length(info) => vec![test(within(other("meta length"), info.min, info.max), info.invert != 0)],
        Xt::Mark(info) => vec![test(masked(Field::Mark, info.mask, info.mark), info.invert != 0)],
        Xt::MultiportV0(info) => {
            let (ends, count, ports) = (info.flags, info.count, info.ports);
            ports::multiport(extension, &Multiport { ends, count, ports, begins: [0; 15], inverted: false })?
        }
        Xt::Multiport(info) => {
            let (ends, count, ports, begins) = (info.flags, info.count, info.ports, info.pflags);
            ports::multiport(extension, &Multiport { ends, count, ports, begins, inverted: info.invert != 0 })?
        }
        Xt::Policy(info) => policy(extension, &info),
        Xt::Pkttype(info) => vec![test(masked(other("meta pkttype"), u32::MAX, info.pkttype), info.invert != 0)],
        Xt::Quota(_) => vec![Step::Match(Match::Quota)],
        Xt::Realm(info) => vec![test(masked(other("realm"), info.mask, info.id), info.invert != 0)],
        Xt::Sctp(info) => ports::flagged(info.spts, info.dpts, info.flags, info.invflags, &[(0x4, "sctp chunks")]),
        Xt::SetV0(info) => {
            let end = |flags: &u32| if flags & 0x1 != 0 { End::Source } else { End::Destination };
            let ends = info.flags[..5].iter().take_while(|flags| **flags != 0).map(end).collect();
            vec![Step::Match(Match::Ipset { index: info.index, ends, inverted: info.flags[0] & 0x4 != 0 })]
        }
        Xt::SetV1(info) => set(extension, info.index, info.dim, info.flags, None)?,
        Xt::SetV3(info) => {
            let compared = info.packets_op != 0 || info.bytes_op != 0;
            set(extension, info.index, info.dim, info.flags, Some((info.cmdflags, compared)))?
        }
        Xt::Set(info) => {
            let compared = info.packets_op != 0 || info.bytes_op != 0;
            set(extension, info.index, info.dim, info.flags, Some((info.cmdflags, compared)))?
        }
        Xt::SocketV0(_) | Xt::SocketV1(_) => vec![non_deterministic("socket")],
        Xt::Socket(info) => {
            const RESTORE_MARK: u8 = 1 << 2;
            let restores = info.flags & RESTORE_MARK != 0;
            let write = restores.then(|| Step::SetMark(MarkWrite::Unknown("mark of the socket".into())));
            Some(non_deterministic("socket")).into_iter().chain(write).collect()
        }
        Xt::State(info) => conntrack::state(info.statemask),
        Xt::Tcp(info) => ports::tcp(&info),
        Xt::Time(info) => time(extension, &info),
        Xt::Tos(info) => vec![test(dsfield(extension, info.tos_mask, info.tos_value), info.invert != 0)],
        Xt::Ttl(info) => ttl("ip ttl", info.mode, info.ttl).unwrap_or_else(|| unsupported_match(extension)),
        Xt::Udp(info) | Xt::Udplite(info) => ports::both(info.spts, info.dpts, info.invflags),
        // Their result depends on chance, rate or circumstances.
        Xt::Ah6(_)
        | Xt::CgroupV0(_)
        | Xt::CgroupV1(_)
        | Xt::Cgroup(_)
        | Xt::Cluster(_)
        | Xt::Connlabel(_)
        | Xt::Connlimit(_)
        | Xt::Cpu(_)
        | Xt::Dst(_)
        | Xt::Ecn(_)
        | Xt::Eui64(_)
        | Xt::Frag(_)
        | Xt::HashlimitV1(_)
        | Xt::HashlimitV2(_)
        | Xt::Hashlimit(_)
        | Xt::Hbh(_)
        | Xt::Ipcomp(_)
        | Xt::Ipv6header(_)
        | Xt::L2tp(_)
        | Xt::Limit(_)
        | Xt::Mac(_)
        | Xt::Mh(_)
        | Xt::Osf(_)
        | Xt::Owner(_)
        | Xt::Rateest(_)
        | Xt::RecentV0(_)
        | Xt::Recent(_)
        | Xt::Rpfilter(_)
        | Xt::Rt(_)
        | Xt::SrhV0(_)
        | Xt::Srh(_)
        | Xt::Statistic(_)
        | Xt::Tcpmss(_) => vec![non_deterministic(extension.name)],
        Xt::Nfacct(info) if is_counter(&info.name) => vec![],
        Xt::Nfacct(info) => {
            vec![Step::Match(Match::Accounting(String::from_utf8_lossy(up_to_zero(&info.name)).into_owned()))]
        }
        Xt::Bpf(_) | Xt::String(_) | Xt::U32(_) | Xt::Unsupported { .. } => unsupported_match(extension),
    })
}

/// `connbytes_mt`: ends that are the wrong way round are inverted, and without counters nothing holds.
fn connbytes(extension: &Extension, info: &connbytes::XtConnbytesInfo<'_>) -> Vec<Step> {
    const DIRECTIONS: [Option<u8>; 3] = [Some(0), Some(1), None];
    const WHAT: [Counted; 3] = [Counted::Packets, Counted::Bytes, Counted::BytesPerPacket];
    let (what, direction) = (WHAT.get(usize::from(info.what)), DIRECTIONS.get(usize::from(info.direction)));
    let (Some(what), Some(direction)) = (what, direction) else { return unsupported_match(extension) };
    let is_counted = within(Field::Counted { what: Counted::Packets, direction: None }, 1u8, u64::MAX);
    let counted = Field::Counted { what: *what, direction: *direction };
    let within = within(counted, info.from.min(info.to), info.from.max(info.to));
    vec![test(conntrack::has_connection(), false), test(is_counted, false), test(within, info.from > info.to)]
}

/// `time_mt`: dates, and times of day, which come again.
fn time(extension: &Extension, info: &time::XtTimeInfo<'_>) -> Vec<Step> {
    const LOCAL_TZ: u8 = 1;
    const LAST_OF_DAY: u32 = 86_399;
    const WEEKDAYS: u8 = 0xfe;
    const MONTHDAYS: u32 = 0xffff_fffe;
    const SECOND: u64 = 1_000_000_000;
    /// Seconds by which the kernel's time zone may be off (`sys_tz`).
    const ZONE: u64 = 16 * 3600;
    let is_local = info.flags & LOCAL_TZ != 0;
    let zone = if is_local { ZONE } else { 0 };
    let (first, last) = (u64::from(info.date_start), u64::from(info.date_stop));
    // What is without an end there has one in 2038, which iptables does not mean.
    let last = if info.date_stop < i32::MAX as u32 { (last + zone + 1) * SECOND - 1 } else { u64::MAX };
    let date = test(within(Field::Time, first.saturating_sub(zone) * SECOND, last), false);
    let daily = (info.daytime_start, info.daytime_stop) != (0, LAST_OF_DAY)
        || info.weekdays_match & WEEKDAYS != WEEKDAYS
        || info.monthdays_match & MONTHDAYS != MONTHDAYS;
    let open = daily || is_local && (info.date_start, last) != (0, u64::MAX);
    [date].into_iter().chain(open.then(|| non_deterministic(extension.name))).collect()
}

/// `helper_mt`: only expected connections have a master whose helper can be tested.
fn helper(extension: &Extension, info: &helper::XtHelperInfo<'_>) -> Vec<Step> {
    let expected = (info.invert == 0).then(|| test(masked(Field::ConnectionStatus, IPS_EXPECTED, IPS_EXPECTED), false));
    expected.into_iter().chain([non_deterministic(extension.name)]).collect()
}

/// The IPVS test in iptables' syntax, without addresses and ports; an inverted direction is the other direction.
fn ipvs(info: &ipvs::XtIpvsMtinfo) -> String {
    const MASQUERADING: u8 = 0; // IP_VS_CONN_F_MASQ
    const DIRECTION: u8 = 0x10;
    let method = if info.fwd_method == MASQUERADING { "--vmethod MASQ" } else { "--vmethod" };
    let direction = if info.invert & DIRECTION != 0 { "--vdir REPLY" } else { "--vdir ORIGINAL" };
    let mut text = String::from("ipvs");
    for (bit, name) in [
        (0x1, "--ipvs"),
        (0x2, "--vproto"),
        (0x4, "--vaddr"),
        (0x8, "--vport"),
        (DIRECTION, direction),
        (0x20, method),
        (0x40, "--vportctl"),
    ] {
        if info.bitmask & bit != 0 {
            text += if info.invert & bit & !DIRECTION != 0 { " ! " } else { " " };
            text += name;
        }
    }
    text
}

/// `physdev_mt`: packets that are not bridged match inverted tests only.
fn physdev(info: &physdev::XtPhysdevInfo<'_>) -> Step {
    let flag = |field, bit: u8| (field, bit, 0, 0);
    let name = |field, bit: u8, name: &[u8; 16], mask: &[u8; 16]| {
        let mask = u128::from_be_bytes(*mask);
        (field, bit, mask, u128::from_be_bytes(*name) & mask)
    };
    let asked = [
        name("physdev in", 0x1, &info.physindev, &info.in_mask),
        name("physdev out", 0x2, &info.physoutdev, &info.out_mask),
        flag("physdev is bridged", 0x4),
        flag("physdev is in", 0x8),
        flag("physdev is out", 0x10),
    ];
    let asked = asked.into_iter().filter(|(_, bit, ..)| info.bitmask & bit != 0);
    let ports =
        asked.map(|(field, bit, mask, value)| BridgePort { field, mask, value, inverted: info.invert & bit != 0 });
    Step::Match(Match::OfBridged { holds: info.bitmask & !info.invert == 0, ports: ports.collect() })
}

/// `policy_mt`: elements, which test transformations, are not supported.
fn policy(extension: &Extension, info: &policy::XtPolicyInfo<'_>) -> Vec<Step> {
    let secured = Field::Ipsec { outgoing: info.flags & policy::XT_POLICY_MATCH_IN == 0 };
    let none = info.flags & policy::XT_POLICY_MATCH_NONE != 0;
    let is_secured = test(masked(secured, 1u8, u8::from(!none)), false);
    let elements = [info.match_0, info.match_1, info.match_2, info.match_3];
    let asks_more = !none && (info.len > 1 || elements.iter().any(|fields| *fields != 0));
    let more = if asks_more { unsupported_match(extension) } else { Vec::new() };
    [is_secured].into_iter().chain(more).collect()
}

fn addrtype_v0(info: &addrtype::XtAddrtypeInfo<'_>) -> Vec<Step> {
    let source = (Field::SourceType(TypeScope::Any), info.source, info.invert_source);
    let destination = (Field::DestinationType(TypeScope::Any), info.dest, info.invert_dest);
    let tested = [source, destination].into_iter().filter(|(_, types, _)| *types != 0);
    tested.map(|(field, types, invert)| test(one_of_types(field, types), invert != 0)).collect()
}

fn addrtype(extension: &Extension, info: &addrtype::XtAddrtypeInfoV1<'_>) -> Vec<Step> {
    let scope = match (info.flags & 0x4 != 0, info.flags & 0x8 != 0) {
        (true, _) => TypeScope::Input,
        (false, true) => TypeScope::Output,
        (false, false) => TypeScope::Any,
    };
    let mut steps = Vec::new();
    for (field, address, types, inverted) in [
        (Field::SourceType(scope), Field::Ipv6Source, info.source, info.flags & 0x1 != 0),
        (Field::DestinationType(scope), Field::Ipv6Destination, info.dest, info.flags & 0x2 != 0),
    ] {
        if types == 0 {
            continue;
        }
        if extension.family == Family::Ipv4 {
            steps.push(test(one_of_types(field, types), inverted));
        } else if let Some(tests) = ipv6_types(&field, &address, types) {
            steps.push(all(tests, inverted));
        } else {
            steps.extend(unsupported_match(extension));
        }
    }
    steps
}

/// `match_type`: the address has one of these types.
fn one_of_types(field: Field, types: u16) -> FieldTest {
    let types = (0..16u8).filter(|kind| types >> kind & 1 == 1).map(|kind| (kind.into(), kind.into()));
    FieldTest::within(field, types.collect())
}

/// `match_type6`: the address has **all** of these types, of which the first three are prefixes. `None`: a route type
/// other than local.
fn ipv6_types(field: &Field, address: &Field, types: u16) -> Option<Vec<FieldTest>> {
    const UNSPECIFIED: u16 = 1;
    const UNICAST: u16 = 1 << 1;
    const LOCAL: u16 = 1 << 2;
    const MULTICAST: u16 = 1 << 5;
    if types & !(UNSPECIFIED | UNICAST | LOCAL | MULTICAST) != 0 {
        return None;
    }
    let first_multicast = 0xff00u128 << 112;
    let mut tests = Vec::new();
    if types & MULTICAST != 0 {
        tests.push(masked(address.clone(), first_multicast, first_multicast));
    }
    if types & UNICAST != 0 {
        tests.push(within(address.clone(), 1u8, first_multicast - 1));
    }
    if types & UNSPECIFIED != 0 {
        tests.push(masked(address.clone(), u128::MAX, 0u8));
    }
    if types & LOCAL != 0 {
        tests.push(one_of_types(field.clone(), LOCAL));
    }
    Some(tests)
}

/// `flags` and `counters`: command flags and whether counters are compared, if its structure has them.
fn set(
    extension: &Extension,
    index: u16,
    dimensions: u8,
    flags: u8,
    counters: Option<(u32, bool)>,
) -> Result<Vec<Step>, Failure> {
    const RETURN_NOMATCH: u8 = 1 << 7;
    if dimensions > 6 {
        return Err(Failure::unexpected(format!("match set: {dimensions} dimensions, an ipset has at most 6")));
    }
    let inverted = flags & 0x1 != 0;
    let (commands, compared) = counters.unwrap_or_default();
    let nomatch = (u32::from(flags) | commands) & u32::from(RETURN_NOMATCH) != 0;
    if nomatch || inverted && compared {
        return Ok(unsupported_match(extension)); // which of the two is inverted depends on the kernel
    }
    let end = |dimension: u8| if flags >> dimension & 1 == 1 { End::Source } else { End::Destination };
    let mut steps = vec![Step::Match(Match::Ipset { index, ends: (1..=dimensions).map(end).collect(), inverted })];
    if compared {
        steps.push(non_deterministic("set: counters of an element"));
    }
    Ok(steps)
}

fn iprange(info: &iprange::XtIprangeMtinfo<'_>, family: XtFamily) -> Vec<Step> {
    let (source, destination) = match family {
        XtFamily::Ipv4 => (Field::Ipv4Source, Field::Ipv4Destination),
        XtFamily::Ipv6 => (Field::Ipv6Source, Field::Ipv6Destination),
    };
    let mut steps = Vec::new();
    for (field, first, last, wanted, inverted) in
        [(source, info.src_min, info.src_max, 0x01, 0x10), (destination, info.dst_min, info.dst_max, 0x02, 0x20)]
    {
        if info.flags & wanted != 0 {
            let range = within(field, first.number(family), last.number(family));
            steps.push(test(range, info.flags & inverted != 0));
        }
    }
    steps
}

/// Whether an nfacct object is known to have no quota; with one the match would not hold for every packet.
fn is_counter(name: &[u8]) -> bool {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    signatures::COUNTERS.iter().any(|counter| counter.as_bytes() == name)
}

fn icmp(name: &str, kind: u8, [first, last]: [u8; 2], invflags: u8) -> Step {
    let (kinds, codes) = (other(&format!("{name} type")), other(&format!("{name} code")));
    all(vec![within(kinds, kind, kind), within(codes, first, last)], invflags & 0x1 != 0)
}

fn spi(name: &str, [first, last]: [u32; 2], invflags: u8) -> Step {
    test(within(other(name), first, last), invflags & 0x1 != 0)
}

/// `ipv4_get_dsfield`, `ipv6_get_dsfield`
fn dsfield(extension: &Extension, mask: u8, value: u8) -> FieldTest {
    match extension.family {
        Family::Ipv6 => masked(other("ip6 dscp"), u16::from(mask) << 4, u16::from(value) << 4),
        _ => masked(other("ip dscp"), mask, value),
    }
}

/// `IPT_TTL_*`, `IP6T_HL_*`; `None`: unknown mode.
fn ttl(name: &str, mode: u8, value: u8) -> Option<Vec<Step>> {
    let field = other(name);
    Some(vec![match mode {
        0 | 1 => test(within(field, value, value), mode == 1),
        2 => test(within(field, value, u8::MAX), true),
        3 => test(within(field, 0u8, value), true),
        _ => return None,
    }])
}

fn devgroup(info: &devgroup::XtDevgroupInfo<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (outgoing, group, mask, wanted, inverted) in
        [(false, info.src_group, info.src_mask, 0x1, 0x2), (true, info.dst_group, info.dst_mask, 0x4, 0x8)]
    {
        if info.flags & wanted != 0 {
            let field = Field::Device { outgoing, property: DeviceProperty::Group };
            steps.push(test(masked(field, mask, group & mask), info.flags & inverted != 0));
        }
    }
    steps
}
