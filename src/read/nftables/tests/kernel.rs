//! A simulated kernel with nf_tables, which responds message by message.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::language::Expression;
use crate::capture::{Request, RequestKind, Response};
use crate::facts::netfilter::Ruleset;
use crate::facts::{Collector, Reading, Source, SourceState};
use crate::netfilter::netlink::{self, Attributes, MessageWriter, NLM_F_MULTI, Text, frame};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFT_JUMP, NFT_SET_MAP};
use crate::netfilter::nftables::{
    self as wire, Body, Chain, Generation, Hook, NFTA_SET_NAME, Rule, Set, SetElement, SetElements, Table,
};
use crate::read::nftables::{self, RulesetInputs};
use crate::read::testing::played_after;
use crate::read::{Known, Sources};

pub(crate) const PREROUTING: u32 = 0;
pub(crate) const FORWARD: u32 = 2;
pub(crate) const OUTPUT: u32 = 3;
pub(crate) const POSTROUTING: u32 = 4;

/// A message of a dump.
pub(crate) fn message<'a>(family: u8, generation: u32, body: impl Into<Body<'a>>) -> Vec<u8> {
    framed(NLM_F_MULTI, family, generation, body.into())
}

/// A message that is not part of a dump.
fn single<'a>(family: u8, generation: u32, body: impl Into<Body<'a>>) -> Vec<u8> {
    framed(0, family, generation, body.into())
}

const TABLE: &str = "nat";

fn framed(flags: u16, family: u8, generation: u32, body: Body<'_>) -> Vec<u8> {
    let header = Nfgenmsg { family, res_id: (generation & 0xffff) as u16, ..Nfgenmsg::default() };
    let (kind, mut out) = (body.kind(), MessageWriter::kernel());
    wire::NftMessage { header, body }.emit(&mut out);
    frame(kind, flags, &out.finish())
}

/// A dump of these messages, with its end.
pub(crate) fn done(messages: impl IntoIterator<Item = Vec<u8>>) -> Response {
    let mut bytes = messages.into_iter().collect::<Vec<_>>().concat();
    bytes.extend(frame(netlink::NLMSG_DONE, 2, &0i32.to_ne_bytes()));
    Reading::Ok(bytes)
}

/// An error response.
pub(crate) fn errno(errno: i32) -> Response {
    Reading::Ok(frame(netlink::NLMSG_ERROR, 0, &(-errno).to_ne_bytes()))
}

fn acknowledged(mut answer: Vec<u8>) -> Response {
    answer.extend(frame(netlink::NLMSG_ERROR, 0x100, &[0; 20]));
    Reading::Ok(answer)
}

/// Responses to reads of files, as of a kernel that cannot load modules.
pub(crate) fn file(name: &str) -> Response {
    match name {
        "procfs/version" => Reading::Ok(b"Linux version 6.18.0\n".to_vec()),
        _ => Reading::Absent("no such file".into()),
    }
}

#[derive(Clone)]
pub(crate) enum Data {
    None,
    Jump(&'static str),
    Mark(u32),
}

/// A set whose elements are device names.
#[derive(Clone)]
pub(crate) struct Devices {
    pub flags: u32,
    pub key_length: u32,
    /// Name, data, and milliseconds until expiry.
    pub elements: Vec<(&'static str, Data, Option<u64>)>,
}

impl Devices {
    /// With elements that do not expire.
    pub(crate) fn new(flags: u32, elements: impl IntoIterator<Item = (&'static str, Data)>) -> Self {
        let elements = elements.into_iter().map(|(name, data)| (name, data, None)).collect();
        Self { flags, key_length: 16, elements }
    }

    /// A verdict map that leads to these chains.
    pub(crate) fn leading_to(chains: &[&'static str]) -> Self {
        Self::new(NFT_SET_MAP, chains.iter().map(|chain| (*chain, Data::Jump(chain))))
    }

    fn element(&self, at: usize) -> SetElement<'static> {
        let (name, data, left) = &self.elements[at];
        let mut key = name.as_bytes().to_vec();
        key.resize(16, 0);
        let data = match data {
            Data::None => None,
            Data::Jump(chain) => Some(wire::Data::to(NFT_JUMP, Some((*chain).into()))),
            Data::Mark(mark) => Some(wire::Data::of(mark.to_ne_bytes().to_vec())),
        };
        SetElement { key: Some(wire::Data::of(key)), data, expiration: *left, ..SetElement::default() }
    }
}

/// A kernel with one table, `ip nat`.
#[derive(Clone, Default)]
pub(crate) struct Kernel {
    /// Generations in successive responses; the last one is repeated.
    pub generations: Vec<u32>,
    pub dormant: bool,
    /// Base chains: name, hook, whether of type nat.
    pub bases: Vec<(&'static str, u32, bool)>,
    /// Types of base chains other than nat and filter, by chain.
    pub types: BTreeMap<&'static str, &'static str>,
    /// Rules by chain.
    pub rules: BTreeMap<&'static str, Vec<Vec<Expression>>>,
    /// References to a chain that add to its rules in its reported `use` count.
    pub users: BTreeMap<&'static str, u32>,
    pub sets: BTreeMap<&'static str, Devices>,
    /// Number of responses whose messages have another generation.
    pub mismatch: usize,
    /// Base chains report one rule more than they list.
    pub hidden: bool,
    /// Responses that replace others, by the end of the request's name.
    pub instead: BTreeMap<&'static str, Response>,
}

/// The results of a reading.
pub(crate) struct Seen {
    pub ruleset: Reading<Arc<Ruleset>>,
    /// Names of the requests to nf_tables, in order.
    pub names: Vec<String>,
    pub sources: Sources,
    pub memory: Known,
}

impl Seen {
    pub(crate) fn whole(&self) -> &Ruleset {
        self.ruleset.ok().expect("it was read")
    }

    /// State and detail of the nf_tables source.
    pub(crate) fn source(&self) -> (SourceState, String) {
        let all = self.sources.statuses(&Collector::ALL.iter().copied().collect(), |_| None);
        let nftables = all.into_iter().find(|status| status.source == Source::Nftables);
        nftables.map(|status| (status.state, status.detail)).expect("it was on")
    }
}

/// Reads a node whose responses, except for files, come from a function.
pub(crate) fn observe_at(memory: &Known, inputs: &RulesetInputs, mut answer: impl FnMut(&Request) -> Response) -> Seen {
    let mut names = Vec::new();
    let mut all = |request: &Request| match request.kind {
        RequestKind::Netlink(_) => {
            names.push(request.name.strip_prefix("netlink/netfilter/").expect("a name of its own").to_owned());
            answer(request)
        }
        _ => file(&request.name),
    };
    let (ruleset, sources, memory) = played_after(memory, &mut all, |node| nftables::read(node, inputs));
    Seen { ruleset, names, sources, memory }
}

/// The attributes of a netfilter request.
pub(crate) fn asked(request: &Request) -> Attributes<'_> {
    match &request.kind {
        RequestKind::Netlink(asked) => Attributes::after(&asked.body, 4, "request").unwrap(),
        other => panic!("{other:?}"),
    }
}

impl Kernel {
    pub(crate) fn new(bases: &[(&'static str, u32, bool)], rules: &[(&'static str, Vec<Vec<Expression>>)]) -> Self {
        let rules = rules.iter().cloned().collect();
        Self { generations: vec![7], bases: bases.to_vec(), rules, ..Self::default() }
    }

    pub(crate) fn observe(&mut self, memory: &Known, inputs: &RulesetInputs) -> Seen {
        observe_at(memory, inputs, |request| self.answer(request))
    }

    pub(crate) fn read(&mut self) -> (Reading<Arc<Ruleset>>, Vec<String>) {
        let seen = self.observe(&Known::default(), &RulesetInputs::default());
        (seen.ruleset, seen.names)
    }

    pub(crate) fn answer(&mut self, request: &Request) -> Response {
        if let Some((_, answer)) = self.instead.iter().find(|(end, _)| request.name.ends_with(**end)) {
            return answer.clone();
        }
        let name = request.name.strip_prefix("netlink/netfilter/").unwrap_or(&request.name);
        let what: Vec<&str> = name.split('/').collect();
        let now = self.generations[0];
        let chain = what.last().copied().unwrap();
        match what.as_slice() {
            [generation] if generation.starts_with("nft-generation-") => {
                let body = single(0, now, Generation { id: now, ..Generation::default() });
                if self.generations.len() > 1 {
                    self.generations.remove(0);
                }
                Reading::Ok(body)
            }
            [_, "tables"] => {
                let flags = Some(self.dormant.into());
                done([message(NFPROTO_IPV4, now, Table { name: TABLE.into(), flags, ..Table::default() })])
            }
            [_, "chains-ipv4"] => done(self.bases.iter().map(|base| self.base_chain(now, base))),
            [_, "chain", ..] => match self.rules.get(chain) {
                Some(rules) => {
                    let users = self.users.get(chain).copied().unwrap_or(0);
                    let used = Some(u32::try_from(rules.len()).unwrap() + users);
                    Reading::Ok(single(NFPROTO_IPV4, now, Chain { table: TABLE.into(), used, ..Chain::default() }))
                }
                None => errno(2),
            },
            [_, "rules" | "udp-rules" | "counters", ..] => {
                let generation = if self.mismatch > 0 { now.wrapping_sub(1) } else { now };
                self.mismatch = self.mismatch.saturating_sub(1);
                done(self.rules.get(chain).into_iter().flatten().map(|rule| rule_message(generation, chain, rule)))
            }
            [_, "table-rules", ..] => {
                let rules = self.rules.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)));
                done(rules.map(|(chain, rule)| rule_message(now, chain, rule)))
            }
            [_, "map", ..] => self.elements(now, request),
            [_, set] if set.ends_with("-elements") => self.elements(now, request),
            [_, set] if set.ends_with("-catch-all") || set.contains("-element-") => errno(2), // not one of them
            [_, set] if set.ends_with("-header") => {
                let (name, set) = self.set(request);
                let (flags, key_len) = (Some(set.flags), set.key_length);
                let set = Set { table: TABLE.into(), name: name.into(), flags, key_len, ..Set::default() };
                acknowledged(single(NFPROTO_IPV4, now, set))
            }
            _ => panic!("nobody should ask {name}"),
        }
    }

    fn base_chain(&self, now: u32, (chain, hook, nat): &(&'static str, u32, bool)) -> Vec<u8> {
        let users = self.rules.get(chain).map_or(0, Vec::len) + usize::from(self.hidden);
        let usual = if *nat { "nat" } else { "filter" };
        let kind = self.types.get(chain).unwrap_or(&usual);
        message(NFPROTO_IPV4, now, base_chain(TABLE, *chain, *hook, kind, u32::try_from(users).unwrap()))
    }

    /// The set that a request names, and its name.
    fn set(&self, request: &Request) -> (&'static str, &Devices) {
        let name = asked(request).get(NFTA_SET_NAME).map(crate::facts::Name::from_bytes).expect("a set's name");
        let found = self.sets.iter().find(|(known, _)| ***known == *name);
        found.map(|(name, set)| (*name, set)).unwrap_or_else(|| panic!("there is no set {name}"))
    }

    fn elements(&self, now: u32, request: &Request) -> Response {
        let (_, set) = self.set(request);
        let one = |at| {
            let elements = Some(vec![set.element(at)].into());
            message(NFPROTO_IPV4, now, SetElements { table: TABLE.into(), elements, ..SetElements::default() })
        };
        done((0..set.elements.len()).map(one))
    }
}

/// A base chain with this many rules.
pub(crate) fn base_chain(
    table: impl Into<Text<'static>>,
    chain: impl Into<Text<'static>>,
    hooknum: u32,
    kind: &str,
    rules: u32,
) -> Chain<'static> {
    let hook = Some(Hook { hooknum, priority: 100, ..Hook::default() });
    let (table, name, kind) = (table.into(), Some(chain.into()), Some(kind.into()));
    Chain { table, name, hook, kind, used: Some(rules), ..Chain::default() }
}

/// A rule of table `ip nat`.
fn rule_message(generation: u32, chain: &str, expressions: &[Expression]) -> Vec<u8> {
    message(NFPROTO_IPV4, generation, rule(TABLE, chain, expressions))
}

pub(crate) fn rule(
    table: impl Into<Text<'static>>,
    chain: impl Into<Text<'static>>,
    expressions: &[Expression],
) -> Rule<'static> {
    let (table, chain, expressions) = (table.into(), Some(chain.into()), Some(expressions.concat().into()));
    Rule { table, chain, expressions, ..Rule::default() }
}
