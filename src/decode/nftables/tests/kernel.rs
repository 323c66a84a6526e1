//! A kernel that is played, message by message.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::language::{Expression, jump_data};
use crate::capture::{Answer, Question, Request};
use crate::decode::nftables::{self, Around};
use crate::decode::testing::played_after;
use crate::decode::{Known, Sources};
use crate::netfilter::netlink::{self, Attributes, put, put_nested};
use crate::snapshot::netfilter::Ruleset;
use crate::snapshot::{Collector, Reading, Source, SourceState};

pub const PREROUTING: u32 = 0;
pub const FORWARD: u32 = 2;
pub const OUTPUT: u32 = 3;
pub const POSTROUTING: u32 = 4;

pub const NEWTABLE: u16 = 0xa00;
pub const NEWCHAIN: u16 = 0xa03;
pub const NEWRULE: u16 = 0xa06;
const NEWSET: u16 = 0xa09;
const NEWSETELEM: u16 = 0xa0c;
const NEWGEN: u16 = 0xa0f;

/// `NFT_SET_MAP`
pub const MAP: u32 = 0x8;
/// `NFT_SET_TIMEOUT`
pub const TIMEOUT: u32 = 0x10;

fn frame(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message of a dump.
pub fn message(kind: u16, family: u8, generation: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    framed(2, kind, family, generation, fill)
}

/// A message on its own.
fn single(kind: u16, family: u8, generation: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    framed(0, kind, family, generation, fill)
}

fn framed(flags: u16, kind: u16, family: u8, generation: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(u16::try_from(generation & 0xffff).unwrap().to_be_bytes());
    fill(&mut body);
    frame(kind, flags, &body)
}

pub fn text(out: &mut Vec<u8>, kind: u16, text: impl AsRef<[u8]>) {
    put(out, kind, &[text.as_ref(), &[0]].concat());
}

pub fn be32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

/// Messages, and the end of the dump.
pub fn done(messages: impl IntoIterator<Item = Vec<u8>>) -> Answer {
    let mut bytes = messages.into_iter().collect::<Vec<_>>().concat();
    bytes.extend(frame(netlink::NLMSG_DONE, 2, &0i32.to_ne_bytes()));
    Reading::Ok(bytes)
}

/// A refusal.
pub fn errno(errno: i32) -> Answer {
    Reading::Ok(frame(netlink::NLMSG_ERROR, 0, &(-errno).to_ne_bytes()))
}

fn acknowledged(mut answer: Vec<u8>) -> Answer {
    answer.extend(frame(netlink::NLMSG_ERROR, 0x100, &[0; 20]));
    Reading::Ok(answer)
}

/// A file of a kernel that can load no modules.
pub fn file(name: &str) -> Answer {
    match name {
        "procfs/version" => Reading::Ok(b"Linux version 6.18.0\n".to_vec()),
        _ => Reading::Absent("no such file".into()),
    }
}

#[derive(Clone)]
pub enum Data {
    None,
    Jump(&'static str),
    Mark(u32),
}

/// A set whose elements are names of devices.
#[derive(Clone)]
pub struct Devices {
    pub flags: u32,
    pub key_length: u32,
    /// Name, data, and milliseconds until it expires.
    pub elements: Vec<(&'static str, Data, Option<u64>)>,
}

impl Devices {
    /// With elements that stay.
    pub fn new(flags: u32, elements: impl IntoIterator<Item = (&'static str, Data)>) -> Self {
        let elements = elements.into_iter().map(|(name, data)| (name, data, None)).collect();
        Self { flags, key_length: 16, elements }
    }

    /// A verdict map that leads to these chains.
    pub fn leading_to(chains: &[&'static str]) -> Self {
        Self::new(MAP, chains.iter().map(|chain| (*chain, Data::Jump(chain))))
    }

    fn put(&self, list: &mut Vec<u8>, at: usize) {
        let (name, data, left) = &self.elements[at];
        put_nested(list, 1, |element| {
            let mut key = name.as_bytes().to_vec();
            key.resize(16, 0);
            put_nested(element, 1, |data| put(data, 1, &key));
            match data {
                Data::None => {}
                Data::Jump(chain) => put_nested(element, 2, |data| jump_data(data, chain.as_bytes())),
                Data::Mark(mark) => put_nested(element, 2, |data| put(data, 1, &mark.to_ne_bytes())),
            }
            if let Some(left) = left {
                put(element, 5, &left.to_be_bytes());
            }
        });
    }
}

/// One table `ip nat`.
#[derive(Clone, Default)]
pub struct Kernel {
    /// Answers to successive questions for the generation; the last one stays.
    pub generations: Vec<u32>,
    pub dormant: bool,
    /// Base chains: name, hook, whether of type nat.
    pub bases: Vec<(&'static str, u32, bool)>,
    /// Types of base chains that are neither of nat nor of filter.
    pub types: BTreeMap<&'static str, &'static str>,
    /// Rules by chain.
    pub rules: BTreeMap<&'static str, Vec<Vec<Expression>>>,
    /// Users of a chain beyond its rules.
    pub users: BTreeMap<&'static str, u32>,
    pub sets: BTreeMap<&'static str, Devices>,
    /// Answers whose messages belong to another generation, as often as this.
    pub torn: usize,
    /// Base chains count one rule more than they show.
    pub hidden: bool,
    /// What is answered instead to requests whose names end so.
    pub instead: BTreeMap<&'static str, Answer>,
}

/// What a reading found.
pub struct Seen {
    pub ruleset: Reading<Arc<Ruleset>>,
    /// Names of the requests to nf_tables, in the order in which they were asked.
    pub names: Vec<String>,
    pub sources: Sources,
    pub memory: Known,
}

impl Seen {
    pub fn whole(&self) -> &Ruleset {
        self.ruleset.ok().expect("it was read")
    }

    /// State and detail of the source.
    pub fn source(&self) -> (SourceState, String) {
        let all = self.sources.statuses(&Collector::ALL.iter().copied().collect(), |_| None);
        let nftables = all.into_iter().find(|status| status.source == Source::Nftables);
        nftables.map(|status| (status.state, status.detail)).expect("it was on")
    }
}

/// Reads a node that a function plays, files apart.
pub fn look_at(memory: &Known, around: &Around, mut answer: impl FnMut(&Request) -> Answer) -> Seen {
    let mut names = Vec::new();
    let mut all = |request: &Request| match request.question {
        Question::Netlink(_) => {
            names.push(request.name.strip_prefix("netlink/netfilter/").expect("a name of its own").to_owned());
            answer(request)
        }
        _ => file(&request.name),
    };
    let (ruleset, sources, memory) = played_after(memory, &mut all, |node| nftables::read(node, around));
    Seen { ruleset, names, sources, memory }
}

/// The attributes of a request to netfilter.
pub fn asked(request: &Request) -> Attributes<'_> {
    match &request.question {
        Question::Netlink(question) => Attributes::after(&question.body, 4, "request").unwrap(),
        other => panic!("{other:?}"),
    }
}

impl Kernel {
    pub fn new(bases: &[(&'static str, u32, bool)], rules: &[(&'static str, Vec<Vec<Expression>>)]) -> Self {
        let rules = rules.iter().cloned().collect();
        Self { generations: vec![7], bases: bases.to_vec(), rules, ..Self::default() }
    }

    pub fn look(&mut self, memory: &Known, around: &Around) -> Seen {
        look_at(memory, around, |request| self.answer(request))
    }

    pub fn read(&mut self) -> (Reading<Arc<Ruleset>>, Vec<String>) {
        let seen = self.look(&Known::default(), &Around::default());
        (seen.ruleset, seen.names)
    }

    pub fn answer(&mut self, request: &Request) -> Answer {
        if let Some((_, answer)) = self.instead.iter().find(|(end, _)| request.name.ends_with(**end)) {
            return answer.clone();
        }
        let name = request.name.strip_prefix("netlink/netfilter/").unwrap_or(&request.name);
        let what: Vec<&str> = name.split('/').collect();
        let now = self.generations[0];
        let chain = what.last().copied().unwrap();
        match what.as_slice() {
            [generation] if generation.starts_with("nft-generation-") => {
                let body = single(NEWGEN, 0, now, |out| be32(out, 1, now));
                if self.generations.len() > 1 {
                    self.generations.remove(0);
                }
                Reading::Ok(body)
            }
            [_, "tables"] => done([message(NEWTABLE, 2, now, |out| {
                text(out, 1, "nat");
                be32(out, 2, self.dormant.into());
            })]),
            [_, "chains-ipv4"] => done(self.bases.iter().map(|base| self.base_chain(now, base))),
            [_, "chain", ..] => match self.rules.get(chain) {
                Some(rules) => Reading::Ok(single(NEWCHAIN, 2, now, |out| {
                    let users = self.users.get(chain).copied().unwrap_or(0);
                    be32(out, 6, u32::try_from(rules.len()).unwrap() + users);
                })),
                None => errno(2),
            },
            [_, "rules" | "udp-rules" | "counters", ..] => {
                let generation = if self.torn > 0 { now.wrapping_sub(1) } else { now };
                self.torn = self.torn.saturating_sub(1);
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
                acknowledged(single(NEWSET, 2, now, |out| {
                    text(out, 2, name);
                    be32(out, 3, set.flags);
                    be32(out, 5, set.key_length);
                }))
            }
            _ => panic!("nobody should ask {name}"),
        }
    }

    fn base_chain(&self, now: u32, (chain, hook, nat): &(&'static str, u32, bool)) -> Vec<u8> {
        message(NEWCHAIN, 2, now, |out| {
            text(out, 1, "nat");
            text(out, 3, chain);
            put_nested(out, 4, |at| {
                be32(at, 1, *hook);
                be32(at, 2, 100);
            });
            let users = self.rules.get(chain).map_or(0, Vec::len) + usize::from(self.hidden);
            be32(out, 6, u32::try_from(users).unwrap());
            let usual = if *nat { "nat" } else { "filter" };
            text(out, 7, self.types.get(chain).unwrap_or(&usual));
        })
    }

    /// The set that a request names.
    fn set(&self, request: &Request) -> (&'static str, &Devices) {
        let name = asked(request).get(2).map(crate::snapshot::Name::from_bytes).expect("a set's name");
        let found = self.sets.iter().find(|(known, _)| ***known == *name);
        found.map(|(name, set)| (*name, set)).unwrap_or_else(|| panic!("there is no set {name}"))
    }

    fn elements(&self, now: u32, request: &Request) -> Answer {
        let (_, set) = self.set(request);
        let one = |at| message(NEWSETELEM, 2, now, |out| put_nested(out, 3, |list| set.put(list, at)));
        done((0..set.elements.len()).map(one))
    }
}

/// A rule of table `ip nat`.
fn rule_message(generation: u32, chain: &str, expressions: &[Expression]) -> Vec<u8> {
    message(NEWRULE, 2, generation, |out| {
        text(out, 1, "nat");
        text(out, 2, chain);
        put_nested(out, 4, |list| list.extend(expressions.concat()));
    })
}
