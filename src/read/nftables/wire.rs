//! nf_tables requests and decoding of their responses, except expressions.
//!
//! Kernel sources: `nf_tables_dump_tables`, `nf_tables_dump_chains`, `nf_tables_dump_rules`, `nf_tables_dump_set`,
//! `nf_tables_getgen`.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use foldhash::fast::FixedState;

use super::expressions::RuleReader;
use super::verdicts::decode_verdict;
use crate::capture::{Keep, NetlinkFamily, Request, path_part};
use crate::facts::netfilter::{Base, ChainId, ChainKind, Family, Hook, Rule, SetId, Step, Verdict};
use crate::facts::{Failure, Name, Reading, Source};
use crate::netfilter::netlink::{self, AttributeValue as _, Attributes, Message, NFTA_LIST_ELEM, Text, put};
use crate::netfilter::nfnetlink::{NFGENMSG, Nfgenmsg};
use crate::netfilter::nftables::expr::Expr;
use crate::netfilter::nftables::uapi::{
    NF_ACCEPT, NFT_MSG_GETCHAIN, NFT_MSG_GETGEN, NFT_MSG_GETRULE, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE,
    NFT_TABLE_F_DORMANT,
};
use crate::netfilter::nftables::{
    self, Expression, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_DEVICE_PREFIX, NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
};
use crate::read::services;

/// Size limit of a verdict map, bytes: 25,000 elements.
const MAX_MAP: usize = 4 << 20;

fn family_from(number: u8) -> Option<Family> {
    Family::ALL.iter().copied().find(|family| family.nfproto() == number)
}

fn request(name: &str, family: u8, kind: u16, dump: bool, attributes: &[(u16, &Name)]) -> Request {
    let mut body = vec![family, 0, 0, 0];
    for (attribute, text) in attributes {
        let mut text = text.to_bytes();
        text.push(0);
        put(&mut body, *attribute, &text);
    }
    let name = format!("netfilter/{name}");
    Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, kind, dump, body)
}

/// The generation of the rule set; `number`: counts its requests in this reading.
pub(crate) fn generation(number: usize) -> Request {
    request(&format!("nft-generation-{number}"), 0, NFT_MSG_GETGEN, false, &[])
}

/// All tables of all families.
pub(crate) fn tables(generation: u32) -> Request {
    request(&format!("nft-{generation}/tables"), 0, NFT_MSG_GETTABLE, true, &[])
}

/// Base chains of a family. The kernel dumps all chains, of which a node with thousands of Services has tens of
/// thousands; the others are dropped as they arrive.
pub(crate) fn base_chains(generation: u32, family: Family) -> Request {
    let name = format!("nft-{generation}/chains-{family}");
    let keep = Keep { header: NFGENMSG, attribute: NFTA_CHAIN_HOOK };
    request(&name, family.nfproto(), NFT_MSG_GETCHAIN, true, &[]).keeping(keep)
}

/// One chain, for its use count.
pub(crate) fn chain(generation: u32, id: &ChainId) -> Request {
    let attributes = [(NFTA_CHAIN_TABLE, &id.table), (NFTA_CHAIN_NAME, &id.chain)];
    request(&path(generation, "chain", id), id.family.nfproto(), NFT_MSG_GETCHAIN, false, &attributes)
}

/// The rules of one chain.
pub(crate) fn rules(generation: u32, id: &ChainId) -> Request {
    rules_as("rules", generation, id)
}

/// The same rules for their counters, which change within a generation.
pub(crate) fn counters(generation: u32, id: &ChainId) -> Request {
    rules_as("counters", generation, id)
}

fn rules_as(what: &str, generation: u32, id: &ChainId) -> Request {
    let attributes = [(NFTA_RULE_TABLE, &id.table), (NFTA_RULE_CHAIN, &id.chain)];
    request(&path(generation, what, id), id.family.nfproto(), NFT_MSG_GETRULE, true, &attributes)
}

/// All rules of a table, up to a size.
pub(crate) fn table_rules(generation: u32, table: &Table) -> Request {
    /// Thousands of unreachable rules are not searched.
    const MAX_BYTES: usize = 1 << 20;
    let name = format!("nft-{generation}/table-rules/{}/{}", table.family, path_part(&table.name.to_bytes()));
    request(&name, table.family.nfproto(), NFT_MSG_GETRULE, true, &[(NFTA_RULE_TABLE, &table.name)]).at_most(MAX_BYTES)
}

/// Whether a rule of any chain enables conntrack.
pub(crate) fn needs_conntrack(message: &Message<'_>) -> Result<bool, Failure> {
    let (header, rule): (_, nftables::Rule<'_>) = Nfgenmsg::parse(message.body)?;
    let Some(family) = family_from(header.family) else { return Ok(false) };
    let rule = rule_of(&rule, family, &name(&rule.table), 1)?;
    Ok(rule.steps.iter().any(Step::needs_conntrack))
}

/// The elements of a verdict map; `None` for an ipset, which is never one.
pub(crate) fn map_of(generation: u32, id: &SetId) -> Option<Request> {
    let SetId::Nftables { family, table, set } = id else { return None };
    let name = format!("nft-{generation}/map/{family}/{}/{}", path_part(&table.to_bytes()), path_part(&set.to_bytes()));
    let request = request(
        &name,
        family.nfproto(),
        NFT_MSG_GETSETELEM,
        true,
        &[(NFTA_SET_ELEM_LIST_TABLE, table), (NFTA_SET_ELEM_LIST_SET, set)],
    );
    Some(request.at_most(MAX_MAP))
}

fn path(generation: u32, what: &str, id: &ChainId) -> String {
    let (table, chain) = (path_part(&id.table.to_bytes()), path_part(&id.chain.to_bytes()));
    format!("nft-{generation}/{what}/{}/{table}/{chain}", id.family)
}

fn name(text: &Text<'_>) -> Name {
    Name::from_bytes(text.as_bytes())
}

fn needed<T>(value: Option<T>, what: &str) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::unexpected(format!("{what} is missing")))
}

/// Decodes the response to [`generation`].
pub(crate) fn decode_generation(message: &Message<'_>) -> Result<u32, Failure> {
    let (_, generation): (_, nftables::Generation<'_>) = Nfgenmsg::parse(message.body)?;
    Ok(generation.id)
}

/// `NFTA_CHAIN_USE`: number of rules in the chain, and of rules and elements that jump to it.
pub(crate) fn decode_use(message: &Message<'_>) -> Result<u32, Failure> {
    let (_, chain): (_, nftables::Chain<'_>) = Nfgenmsg::parse(message.body)?;
    Ok(chain.used.unwrap_or(0))
}

/// Checks that a message belongs to this generation, by the lower 16 bits in `nfgenmsg.res_id`.
pub(crate) fn belongs(message: &Message<'_>, generation: u32) -> Result<(), Failure> {
    let (header, _) = Nfgenmsg::split(message.body)?;
    let same = u32::from(header.res_id) == generation & 0xffff;
    if same { Ok(()) } else { Err(Failure::Changed { readings: 1 }) }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Name,
    /// `NFT_TABLE_F_DORMANT`: its base chains are not registered.
    pub dormant: bool,
}

/// One message of the response to [`tables`]; `None`: of a family that IP packets never traverse, such as arp.
pub(crate) fn decode_table(message: &Message<'_>) -> Result<Option<Table>, Failure> {
    let (header, table): (_, nftables::Table<'_>) = Nfgenmsg::parse(message.body)?;
    let Some(family) = family_from(header.family) else { return Ok(None) };
    let dormant = table.flags.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0;
    Ok(Some(Table { family, name: name(&table.name), dormant }))
}

/// A base chain.
#[derive(Debug)]
pub(crate) struct BaseChain {
    /// Its id.
    pub id: ChainId,
    /// Hook that it is registered at.
    pub hook: Hook,
    /// Its properties. Failed: unknown chain type.
    pub base: Reading<Base>,
    /// Whether it has rules: nothing else uses a base chain (`NFTA_CHAIN_USE`).
    pub in_use: bool,
}

/// One message of the response to [`base_chains`]; `None`: not a base chain, or on an irrelevant hook.
pub(crate) fn decode_base_chain(message: &Message<'_>) -> Result<Option<BaseChain>, Failure> {
    let (header, chain): (_, nftables::Chain<'_>) = Nfgenmsg::parse(message.body)?;
    let (Some(family), Some(at)) = (family_from(header.family), &chain.hook) else { return Ok(None) };
    let hook = match (family, at.hooknum) {
        (Family::Netdev, 0) | (Family::Inet, 5) => Hook::Ingress,
        (Family::Netdev, 1) => Hook::Egress,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 0) => Hook::Prerouting,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 1) => Hook::Input,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 2) => Hook::Forward,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 3) => Hook::Output,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 4) => Hook::Postrouting,
        _ => return Ok(None),
    };
    let mut devices: Vec<String> = at.dev.iter().map(|device| name(device).to_string()).collect();
    for (kind, device) in at.devs.iter().flat_map(|devices| &devices.0) {
        let wildcard = if *kind == NFTA_DEVICE_PREFIX { "*" } else { "" };
        devices.push(format!("{}{wildcard}", name(device)));
    }
    devices.dedup();
    let chain_name = name(needed(chain.name.as_ref(), "NFTA_CHAIN_NAME")?);
    let id = ChainId { family, table: name(&chain.table), chain: chain_name };
    let priority = at.priority.cast_signed();
    let drops = chain.policy.unwrap_or(NF_ACCEPT.cast_unsigned()) != NF_ACCEPT.cast_unsigned();
    let kind = name(needed(chain.kind.as_ref(), "NFTA_CHAIN_TYPE")?);
    let base = match ChainKind::from_name(&kind) {
        Some(kind) => Reading::Ok(Base { hook, kind, priority, drops, devices }),
        None => {
            let why = format!("chain {} of table {} {} has type {kind}, which is unknown", id.chain, family, id.table);
            Reading::Failed(Failure::unsupported(why))
        }
    };
    Ok(Some(BaseChain { id, hook, base, in_use: chain.used.unwrap_or(0) > 0 }))
}

/// One message of the response to [`rules`] or [`counters`]: the rule at this position of the chain.
pub(crate) fn decode_rule(message: &Message<'_>, id: &ChainId, position: u32) -> Result<Rule, Failure> {
    let read = || {
        let (header, rule): (_, nftables::Rule<'_>) = Nfgenmsg::parse(message.body)?;
        let of = (name(&rule.table), rule.chain.as_ref().map(name).unwrap_or_default());
        if (&of.0, &of.1) != (&id.table, &id.chain) || family_from(header.family) != Some(id.family) {
            return Err(Failure::unexpected(format!("it belongs to another chain: {of:?}")));
        }
        rule_of(&rule, id.family, &id.table, position)
    };
    read().map_err(|failure| failure.within(format_args!("rule {position} of {}", id.chain)))
}

/// Whether the first matches of a rule exclude UDP packets; `false`: not known. The rest of the rule is not decoded.
pub(crate) fn excludes_udp(message: &Message<'_>, id: &ChainId) -> bool {
    /// Number of expressions to check: a match on the protocol may follow one on an address.
    const MOST: usize = 8;
    let Ok(attributes) = Attributes::after(message.body, NFGENMSG, "NFTA_RULE") else { return false };
    let list = attributes.get(NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    let mut reader = RuleReader::new(id.family, &id.table);
    for (at, element) in netlink::attributes(list, "NFTA_RULE_EXPRESSIONS").take(MOST).enumerate() {
        let Ok(element) = element else { return false };
        let expression = Some(element.body).filter(|_| element.kind == NFTA_LIST_ELEM).map(Expression::parse);
        let Some(Ok(expression)) = expression else { return false };
        if reader.read(at, &expression).is_err() || !reader.steps.iter().all(services::only_tests) {
            return false;
        }
        if reader.steps.iter().any(services::excludes_udp) {
            return true;
        }
    }
    false
}

fn rule_of(rule: &nftables::Rule<'_>, family: Family, table: &Name, position: u32) -> Result<Rule, Failure> {
    let mut reader = RuleReader::new(family, table);
    let mut hasher = FixedState::default().build_hasher();
    // The kernel sends an empty list for a rule without expressions.
    let list = needed(rule.expressions.as_ref(), "NFTA_RULE_EXPRESSIONS")?;
    if list.layout.has_unknown() {
        let what = "an entry of a rule that is no expression".to_owned();
        reader.steps.push(Step::Unsupported { what, may_translate: true });
    }
    for (at, element) in list.elements.iter().enumerate() {
        let expression = &element.expr;
        match expression {
            // State that changes while the rule stays the same.
            Expr::Counter(_) | Expr::Quota(_) | Expr::Last(_) | Expr::Limit(_) => expression.name().hash(&mut hasher),
            // An anonymous set gets a new name each time its rule is written.
            Expr::Lookup(lookup) if is_anonymous(&lookup.set) => {
                (lookup.sreg, lookup.dreg, lookup.flags).hash(&mut hasher);
            }
            _ => expression.hash(&mut hasher),
        }
        reader.read(at, element).map_err(|error| error.within(format_args!("expression {}", at + 1)))?;
    }
    let comment = match rule.userdata.as_deref().and_then(user_comment) {
        Some(comment) => comment,
        None => reader.comment,
    };
    comment.hash(&mut hasher);
    Ok(Rule {
        position,
        comment,
        steps: reader.steps,
        counter: reader.counter,
        from_xtables: reader.from_xtables,
        fingerprint: hasher.finish(),
    })
}

fn is_anonymous(set: &Text<'_>) -> bool {
    [&b"__set"[..], b"__map"].iter().any(|start| set.as_bytes().starts_with(start))
}

/// The comment in a rule's user data (type, length, value, as nft writes it).
fn user_comment(mut data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

/// Contents of a verdict map.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// The distinct verdicts.
    pub verdicts: Vec<Verdict>,
    /// Whether elements time out, which does not change the generation.
    pub volatile: bool,
}

impl Map {
    /// Joins the messages of a response to [`map_of`].
    pub(crate) fn of(parts: Vec<Self>) -> Self {
        let mut map = Self::default();
        for part in parts {
            map.volatile |= part.volatile;
            for verdict in part.verdicts {
                if !map.verdicts.contains(&verdict) {
                    map.verdicts.push(verdict);
                }
            }
        }
        map
    }
}

/// One message of the response to [`map_of`].
pub(crate) fn decode_elements(message: &Message<'_>, set: &SetId) -> Result<Map, Failure> {
    let (mut map, mut known) = (Map::default(), HashSet::new());
    let (_, list): (_, nftables::SetElements<'_>) = Nfgenmsg::parse(message.body)?;
    for element in list.elements() {
        map.volatile |= element.expiration.is_some();
        // An element without data is the end of an interval.
        let Some(data) = &element.data else { continue };
        let Some(verdict) = &data.verdict else {
            return Err(Failure::unexpected(format!("{set:?} holds something other than verdicts")));
        };
        if known.insert((verdict.code, verdict.chain.clone())) {
            map.verdicts.push(decode_verdict(verdict)?);
        }
    }
    Ok(map)
}
