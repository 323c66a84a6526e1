//! Rules for tests, a line each:
//!
//! ```text
//! ip nat POSTROUTING: nat postrouting 100          a base chain (policy drop: `… 100 drop`); `legacy ip nat …`
//! ip nat KUBE:                                     another chain
//!   mark 0x4000/0x4000, oif eth0 => masquerade random-fully
//!   unread                                         the rules of this chain were not read
//! unread inet forward                              the list of base chains was not read
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::facts::Reading;
use crate::facts::netfilter::{
    Base, BridgePort, Chain, ChainId, ChainKind, Chosen, Comparison, ElementKey, Family, Field, FieldTest, Hook,
    MapLookup, MarkWrite, Match, Nat, NatAction, NatMap, PortRandomization, Rule, Ruleset, SetId, Step, TypeScope,
    Verdict, address_key, name_key,
};
use crate::symbolic::network::BackendRules;
use crate::symbolic::network::host::HostFacts;
use crate::symbolic::{Effort, Network};

/// Rule sets of nf_tables and of legacy tables.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub nftables: Ruleset,
    pub legacy: Ruleset,
}

impl Written {
    pub(crate) fn network(&self) -> Network<'_> {
        let rules = [(&self.nftables, false), (&self.legacy, true)];
        let rules = rules.into_iter().map(|(ruleset, legacy)| BackendRules { legacy, ruleset }).collect();
        Network { host: host(), ..Network::of(rules, Some(Vec::new()), [None, None]) }
    }
}

/// A host that forwards, has no addresses, and does nothing besides its rules.
pub(crate) fn host() -> HostFacts {
    let forwards = [Ok(true), Ok(true)];
    HostFacts {
        addresses: Ok(vec![]),
        forwards,
        ipvs_in_use: Ok(false),
        input_in_postrouting: Ok(true),
        outward: Ok(vec![]),
        first_paths: [Ok([].into()), Ok([].into())],
        accepts_marks: Ok(false),
        counts_entries: Ok(true),
        date: Ok(0),
        targets: Ok([].into()),
        forwarded_paths: Ok(vec![]),
        routes_by_sender: [false, false],
    }
}

/// The whole work limit of a judgement, never stopped.
pub(crate) fn effort() -> Effort<'static> {
    static GO_ON: AtomicBool = AtomicBool::new(false);
    Effort::new(&GO_ON)
}

/// Parses the language. Bits that some rule sets count as settable.
pub(crate) fn rules(text: &str) -> Written {
    let mut written = Written::default();
    let mut open: Option<(bool, ChainId)> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(list) = line.trim().strip_prefix("unread ") {
            let mut words: Vec<&str> = list.split_whitespace().collect();
            let legacy = words[0] == "legacy";
            words.drain(..usize::from(legacy));
            let hook = Hook::from_name(words[1]).unwrap();
            ruleset(&mut written, legacy).base_chains.lose(read_family(words[0]), hook, &unread());
        } else if line.trim() == "unread" {
            let (legacy, id) = open.clone().expect("a chain first");
            ruleset(&mut written, legacy).chains.get_mut(&id).unwrap().rules = unread().map(|()| Arc::default());
        } else if let Some((head, base)) = line.split_once(':').filter(|_| !line.contains("=>")) {
            let mut words: Vec<&str> = head.split_whitespace().collect();
            let legacy = words[0] == "legacy";
            words.drain(..usize::from(legacy));
            let id = ChainId { family: read_family(words[0]), table: words[1].into(), chain: words[2].into() };
            let chain = Chain::new(read_base(base), Reading::Ok(Arc::default()));
            if let Some(base) = &chain.base {
                ruleset(&mut written, legacy).base_chains.add(base.hook, id.clone());
            }
            ruleset(&mut written, legacy).chains.insert(id.clone(), chain);
            open = Some((legacy, id));
        } else {
            let (legacy, id) = open.clone().expect("a chain first");
            let chain = ruleset(&mut written, legacy).chains.get_mut(&id).unwrap();
            let Reading::Ok(rules) = &mut chain.rules else { unreachable!() };
            let rules = Arc::make_mut(rules);
            let position = u32::try_from(rules.len()).unwrap() + 1;
            rules.push(read_rule(line, position, id.family == Family::Ipv6));
        }
    }
    for ruleset in [&mut written.nftables, &mut written.legacy] {
        let mut found = BTreeMap::new();
        for (id, chain) in &ruleset.chains {
            for rule in chain.known_rules() {
                for step in &rule.steps {
                    let Step::SetMark(write) = step else { continue };
                    let kept = if let MarkWrite::Exact { keep, .. } = write { *keep } else { 0 };
                    let bits = (0..32).map(|shift| 1u32 << shift).filter(|bit| write.can_set() & !kept & bit != 0);
                    found.extend(bits.map(|bit| (bit, (id.clone(), rule.position))));
                }
            }
        }
        ruleset.mark_writers.found = found;
    }
    written
}

fn read_family(word: &str) -> Family {
    match word {
        "ip" => Family::Ipv4,
        "ip6" => Family::Ipv6,
        "inet" => Family::Inet,
        "netdev" => Family::Netdev,
        "bridge" => Family::Bridge,
        other => panic!("family {other:?} is unknown"),
    }
}

fn unread() -> Reading<()> {
    Reading::Failed("no answer".into())
}

fn ruleset(written: &mut Written, legacy: bool) -> &mut Ruleset {
    if legacy { &mut written.legacy } else { &mut written.nftables }
}

fn read_base(text: &str) -> Option<Base> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, hook, priority, rest @ ..] = words.as_slice() else { return None };
    let devices = rest.iter().filter(|word| **word != "drop").map(|word| (*word).to_owned()).collect();
    Some(Base {
        hook: Hook::from_name(hook).unwrap(),
        kind: ChainKind::from_name(kind).unwrap(),
        priority: priority.parse().unwrap(),
        drops: rest.contains(&"drop"),
        devices,
    })
}

fn read_rule(line: &str, position: u32, ipv6: bool) -> Rule {
    let (matches, actions) = line.split_once("=>").unwrap_or_else(|| panic!("{line:?} has no =>"));
    let matches = matches.split(',').map(str::trim).filter(|text| !text.is_empty());
    let mut steps: Vec<Step> = matches.map(|text| Step::Match(read_match(text, ipv6))).collect();
    steps.extend(actions.split(',').map(str::trim).filter(|text| !text.is_empty()).map(read_action));
    Rule { position, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 }
}

pub(crate) fn number(text: &str) -> u32 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

pub(crate) fn address(text: &str) -> u128 {
    address_key(text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text:?} is not an address")))
}

fn read_match(text: &str, ipv6: bool) -> Match {
    let (inverted, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    let mut words = text.split_whitespace();
    let (what, value) = (words.next().unwrap(), words.next().unwrap_or_default());
    let masked = |field, mask: u128, value: u128| Match::Tests {
        tests: vec![FieldTest { field, condition: Comparison::Masked { mask, value } }],
        inverted,
    };
    let range = |field| {
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        let ranges = vec![(number(first).into(), number(last).into())];
        Match::Tests { tests: vec![FieldTest { field, condition: Comparison::Ranges(ranges) }], inverted }
    };
    let prefix = |v4, v6| {
        let width = if ipv6 { 128u32 } else { 32 };
        let (network, length) = value.split_once('/').unwrap_or((value, if ipv6 { "128" } else { "32" }));
        let length: u32 = length.parse().unwrap();
        let mask = (u128::MAX >> (128 - width)) & !(u128::MAX >> (128 - width)).checked_shr(length).unwrap_or(0);
        masked(if ipv6 { v6 } else { v4 }, mask, address(network) & mask)
    };
    let device = |field| match value.strip_suffix('+') {
        Some(start) => {
            let mask = !(u128::MAX >> (8 * start.len()));
            masked(field, mask, name_key(start).unwrap())
        }
        None => masked(field, u128::MAX, name_key(value).unwrap()),
    };
    match what {
        "mark" => {
            let (value, mask) = value.split_once('/').unwrap_or((value, "0xffffffff"));
            masked(Field::Mark, number(mask).into(), number(value).into())
        }
        "src" => prefix(Field::Ipv4Source, Field::Ipv6Source),
        "dst" => prefix(Field::Ipv4Destination, Field::Ipv6Destination),
        "iif" => device(Field::InputName),
        "oif" => device(Field::OutputName),
        "proto" => masked(Field::L4Proto, 0xff, number(value).into()),
        "sport" => range(Field::SourcePort),
        "dport" => range(Field::DestinationPort),
        "state" => {
            // nf_tables matches if any of these bits is set.
            let Match::Tests { tests, inverted } = masked(Field::ConnectionState, number(value).into(), 0) else {
                unreachable!()
            };
            Match::Tests { tests, inverted: !inverted }
        }
        // No such state or no such status: iptables matches both in one test.
        "no-state" => {
            let test = |field, mask: &str| FieldTest {
                field,
                condition: Comparison::Masked { mask: number(mask).into(), value: 0 },
            };
            let status = test(Field::ConnectionStatus, words.next().unwrap());
            Match::Tests { tests: vec![test(Field::ConnectionState, value), status], inverted }
        }
        "status" => masked(Field::ConnectionStatus, number(value).into(), number(value).into()),
        "fragment" => masked(Field::Other("fragment".into()), 1, 1),
        "length" => range(Field::Other("meta length".into())),
        "ttl" => range(Field::Other("ip ttl".into())),
        "zone" => range(Field::Other("ct zone".into())),
        "id" => range(Field::Other("ip id".into())),
        "has" => masked(Field::Other(format!("{value} exists")), 0xff, 1),
        "bytes" => masked(Field::Other(value.replace(';', ",")), u128::MAX, address(words.next().unwrap())),
        "dscp" => masked(Field::Other("ip dscp".into()), 0xfc, u128::from(number(value)) << 2),
        "df" => masked(Field::Other("ip frag-off".into()), 0x4000, 0x4000),
        "version" => masked(Field::Other("@nh,0,8".into()), 0xf0, u128::from(number(value)) << 4),
        "bridged" => {
            let port = BridgePort { field: "physdev is bridged", mask: 0, value: 0, inverted };
            Match::OfBridged { holds: inverted, ports: vec![port] }
        }
        "dsttype" => range(Field::DestinationType(TypeScope::Any)),
        "set" => Match::Set { fields: vec![Field::Ipv4Source], set: set(value), inverted },
        // In a map: its name, and the key.
        "map" => Match::Set { fields: fields(words.next().unwrap()), set: set(value), inverted },
        "accounting" => Match::Accounting(value.into()),
        "sometimes" => Match::NonDeterministic("limit".into()),
        "opaque" => Match::Unsupported("a match that nobody knows".into()),
        other => panic!("match {other:?} is unknown"),
    }
}

pub(crate) fn set(name: &str) -> SetId {
    SetId::Nftables { family: Family::Ipv4, table: "t".into(), set: name.into() }
}

/// `src`, `dst.dport`: IPv4.
fn fields(text: &str) -> Vec<Field> {
    let field = |word| match word {
        "src" => Field::Ipv4Source,
        "dst" => Field::Ipv4Destination,
        "dport" => Field::DestinationPort,
        "numgen" => Field::Number { first: 0, last: 3, hash: None, network_order: false },
        "jhash" => Field::Number { first: 0, last: 3, hash: Some("jhash ip saddr".into()), network_order: false },
        "jhash-of-dst" => {
            Field::Number { first: 0, last: 3, hash: Some("jhash ip daddr".into()), network_order: false }
        }
        other => panic!("field {other:?} is unknown"),
    };
    text.split('.').map(field).collect()
}

fn lookup(map: &str, by: &str) -> MapLookup {
    MapLookup { fields: fields(by), set: set(map) }
}

fn read_action(text: &str) -> Step {
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let randomization = match (has("random-fully"), has("random")) {
        (true, _) => PortRandomization::RandomFully,
        (_, true) => PortRandomization::Random,
        _ => PortRandomization::None,
    };
    let after = |word: &str| words.iter().position(|found| *found == word).map(|at| words[at + 1]);
    let ports = after("ports").map_or(Chosen::Unset, |ports| {
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Chosen::Range(first.parse().unwrap(), last.parse().unwrap())
    });
    let addresses = after("to").map_or(Chosen::Unset, |to| {
        let (first, last) = to.split_once('-').unwrap_or((to, to));
        Chosen::Range(first.parse().unwrap(), last.parse().unwrap())
    });
    // `snat of m src`: the address comes from a map.
    let map = words.iter().position(|word| *word == "of").map(|at| NatMap {
        lookup: lookup(words[at + 1], words[at + 2]),
        addresses: Some([0..4, 0..4]),
        ports: None,
    });
    let addresses = if map.is_some() || has("by-chance") { Chosen::ByPacket } else { addresses };
    let nat = |action| Step::Nat(Nat { action, addresses, ports, randomization, persistent: false, map: map.clone() });
    match words[0] {
        "accept" => Step::Verdict(Verdict::Accept),
        "drop" => Step::Verdict(Verdict::Drop),
        "reset" => Step::Verdict(Verdict::Reset),
        "return" => Step::Verdict(Verdict::Return),
        "jump" => Step::Verdict(Verdict::Jump(words[1].into())),
        "goto" => Step::Verdict(Verdict::Goto(words[1].into())),
        // A verdict map, its key, and the chains that it leads to.
        "vmap" => {
            let by = if words[2] == "unknown" { Vec::new() } else { fields(words[2]) };
            let verdicts = words[3..].iter().map(|chain| Verdict::Goto((*chain).into())).collect();
            Step::Verdict(Verdict::Map { fields: by, set: set(words[1]), verdicts: Reading::Ok(verdicts) })
        }
        "queue" => Step::Verdict(Verdict::Stolen("queue".into())),
        "or" => Step::SetMark(MarkWrite::Exact { keep: !number(words[1]), take: 0, xor: number(words[1]) }),
        "xor" => Step::SetMark(MarkWrite::Exact { keep: !0, take: 0, xor: number(words[1]) }),
        "clear" => Step::SetMark(MarkWrite::Exact { keep: !number(words[1]), take: 0, xor: 0 }),
        "set-mark" => Step::SetMark(MarkWrite::Exact { keep: 0, take: 0, xor: number(words[1]) }),
        "save" => Step::SetConnectionMark(MarkWrite::Exact { keep: 0, take: !0, xor: 0 }),
        "restore" => Step::SetMark(MarkWrite::Exact { keep: 0, take: !0, xor: 0 }),
        "one-of" | "hash-of" => {
            let hashed = words[0] == "hash-of";
            Step::SetMark(MarkWrite::Number { first: number(words[1]), last: number(words[2]), hashed })
        }
        // These bits of a map's data: `mark-of m dst 0xffffffff`; all other bits are kept.
        "mark-of" => {
            let (lookup, mapped) = (lookup(words[1], words[2]), number(words[3]));
            Step::SetMark(MarkWrite::Mapped { lookup, mapped, keep: !mapped, take: 0, xor: 0 })
        }
        "any-mark" => Step::SetMark(MarkWrite::Unknown("a hash".into())),
        "notrack" => Step::Notrack,
        "template" => Step::Template,
        "timeout" => Step::OwnTimeout,
        "fill" => Step::FillChecksum,
        "to-socket" => Step::ToSocket,
        "add" | "delete" => {
            let by = words.get(2).map_or_else(Vec::new, |by| fields(by));
            Step::UpdateSet { set: set(words[1]), adds: words[0] == "add", key: ElementKey::Fields(by) }
        }
        "masquerade" => nat(NatAction::Masquerade),
        "snat" => nat(NatAction::Snat),
        "netmap" => nat(NatAction::Netmap),
        "dnat" => nat(NatAction::Dnat),
        "redirect" => nat(NatAction::Redirect),
        "write" => Step::Rewrite {
            field: if words[1] == "sport" { Field::SourcePort } else { Field::Ipv4Source },
            value: words[2].parse().ok(),
        },
        "log" => Step::NoEffect("log".into()),
        "write-dscp" => Step::NoEffect("@nh,8,8 set".into()),
        "odd" => Step::Unsupported { what: "target ODD".into(), may_translate: true },
        other => panic!("action {other:?} is unknown"),
    }
}
