//! Requests to nf_tables and what their answers hold, apart from expressions.
//!
//! Kernel sources: `nf_tables_dump_tables`, `nf_tables_dump_chains`, `nf_tables_dump_rules`, `nf_tables_dump_set`,
//! `nf_tables_getgen`.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::expressions::{self, Reader};
use crate::capture::{Keep, NetlinkFamily, Request, path_part};
use crate::netfilter::array;
use crate::netfilter::netlink::{self, Attributes, Message};
use crate::snapshot::netfilter::{Base, ChainId, ChainKind, Family, Hook, Rule, SetId, Step, Verdict};
use crate::snapshot::{Failure, Name, Reading, Source};

/// `NFNL_SUBSYS_NFTABLES << 8`
const NFTABLES: u16 = 10 << 8;
const GETTABLE: u16 = NFTABLES | 1;
const GETCHAIN: u16 = NFTABLES | 4;
const GETRULE: u16 = NFTABLES | 7;
const GETSETELEM: u16 = NFTABLES | 13;
const GETGEN: u16 = NFTABLES | 16;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_USE: u16 = 6;
/// A verdict map of 25,000 elements; larger ones are not read.
const MAX_MAP: usize = 4 << 20;

fn family_from(number: u8) -> Option<Family> {
    Family::ALL.iter().copied().find(|family| family.nfproto() == number)
}

fn request(name: &str, family: u8, kind: u16, dump: bool, attributes: &[(u16, &Name)]) -> Request {
    let mut body = vec![family, 0, 0, 0];
    for (attribute, text) in attributes {
        let mut text = text.to_bytes();
        text.push(0);
        netlink::put(&mut body, *attribute, &text);
    }
    let name = format!("netfilter/{name}");
    Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, kind, dump, body)
}

/// The generation of the rule set; `round` counts how often it is asked for in one look.
pub fn generation(round: usize) -> Request {
    request(&format!("nft-generation-{round}"), 0, GETGEN, false, &[])
}

/// All tables of all families.
pub fn tables(generation: u32) -> Request {
    request(&format!("nft-{generation}/tables"), 0, GETTABLE, true, &[])
}

/// The base chains of a family: a node with thousands of Services has tens of thousands of other chains, and the
/// kernel does not tell them apart.
pub fn base_chains(generation: u32, family: Family) -> Request {
    let name = format!("nft-{generation}/chains-{family}");
    let keep = Keep { header: NFGENMSG, attribute: NFTA_CHAIN_HOOK };
    request(&name, family.nfproto(), GETCHAIN, true, &[]).keeping(keep)
}

/// One chain, for the number of its users.
pub fn chain(generation: u32, id: &ChainId) -> Request {
    let attributes = [(1, &id.table), (3, &id.chain)];
    request(&path(generation, "chain", id), id.family.nfproto(), GETCHAIN, false, &attributes)
}

/// The rules of one chain.
pub fn rules(generation: u32, id: &ChainId) -> Request {
    rules_as("rules", generation, id)
}

/// The same rules once more, whatever their number, for those that UDP packets can meet.
pub fn rules_for_udp(generation: u32, id: &ChainId) -> Request {
    rules_as("udp-rules", generation, id)
}

/// The same rules once more, for their counters: those do not stand still while the generation does.
pub fn counters(generation: u32, id: &ChainId) -> Request {
    rules_as("counters", generation, id)
}

fn rules_as(what: &str, generation: u32, id: &ChainId) -> Request {
    let attributes = [(1, &id.table), (2, &id.chain)];
    request(&path(generation, what, id), id.family.nfproto(), GETRULE, true, &attributes)
}

/// All rules of a table, up to a size.
pub fn table_rules(generation: u32, table: &Table) -> Request {
    /// Thousands of rules that nothing leads to are not looked for.
    const MAX_BYTES: usize = 1 << 20;
    let name = format!("nft-{generation}/table-rules/{}/{}", table.family, path_part(&table.name.to_bytes()));
    request(&name, table.family.nfproto(), GETRULE, true, &[(1, &table.name)]).at_most(MAX_BYTES)
}

/// Whether a rule of any chain needs connection tracking.
pub fn needs_conntrack(message: &Message<'_>) -> Result<bool, Failure> {
    let attributes = Attributes::after(message.body, NFGENMSG, "rule")?;
    let (table, chain) = (
        attributes.get(1).map(Name::from_bytes).unwrap_or_default(),
        attributes.get(2).map(Name::from_bytes).unwrap_or_default(),
    );
    let Some(family) = header_family(message)? else { return Ok(false) };
    let rule = decode_rule(message, &ChainId { family, table, chain }, 1)?;
    Ok(rule.steps.iter().any(Step::needs_conntrack))
}

/// The elements of a verdict map; no ipset is one.
pub fn map_of(generation: u32, id: &SetId) -> Option<Request> {
    let SetId::Nftables { family, table, set } = id else { return None };
    let name = format!("nft-{generation}/map/{family}/{}/{}", path_part(&table.to_bytes()), path_part(&set.to_bytes()));
    let request = request(&name, family.nfproto(), GETSETELEM, true, &[(1, table), (2, set)]);
    Some(request.at_most(MAX_MAP))
}

fn path(generation: u32, what: &str, id: &ChainId) -> String {
    let (table, chain) = (path_part(&id.table.to_bytes()), path_part(&id.chain.to_bytes()));
    format!("nft-{generation}/{what}/{}/{table}/{chain}", id.family)
}

/// Answer to [`generation`].
pub fn decode_generation(message: &Message<'_>) -> Result<u32, Failure> {
    let attributes = Attributes::after(message.body, NFGENMSG, "NFTA_GEN")?;
    attributes.be32(1)?.ok_or_else(|| Failure::unexpected("NFTA_GEN_ID is missing"))
}

/// Uses of a chain: its rules, and the rules and elements that lead to it.
pub fn decode_use(message: &Message<'_>) -> Result<u32, Failure> {
    Ok(Attributes::after(message.body, NFGENMSG, "chain")?.be32(NFTA_CHAIN_USE)?.unwrap_or(0))
}

/// Makes sure that a message belongs to this generation, whose lower 16 bits are in `nfgenmsg.res_id`.
pub fn belongs(message: &Message<'_>, generation: u32) -> Result<(), Failure> {
    let low = u16::from_be_bytes(array(message.body, 2, "nfgenmsg")?);
    if u32::from(low) == generation & 0xffff { Ok(()) } else { Err(Failure::Changed { readings: 1 }) }
}

fn header_family(message: &Message<'_>) -> Result<Option<Family>, Failure> {
    let [number, ..] = array::<4>(message.body, 0, "nfgenmsg")?;
    Ok(family_from(number))
}

/// A table that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Name,
    /// Its hooks are off.
    pub dormant: bool,
}

/// One message of the answer to [`tables`]; `None`: of a family that no packet of ours meets.
pub fn decode_table(message: &Message<'_>) -> Result<Option<Table>, Failure> {
    const NFT_TABLE_F_DORMANT: u32 = 1;
    let attributes = Attributes::after(message.body, NFGENMSG, "table")?;
    let dormant = attributes.be32(2)?.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0;
    let Some(family) = header_family(message)? else { return Ok(None) };
    let name = attributes
        .get(1)
        .map(Name::from_bytes)
        .ok_or_else(|| Failure::unexpected("table: NFTA_TABLE_NAME is missing"))?;
    Ok(Some(Table { family, name, dormant }))
}

/// A base chain of the dump.
#[derive(Debug)]
pub struct BaseChain {
    /// Its name.
    pub id: ChainId,
    /// Where it is called.
    pub hook: Hook,
    /// The rest of that. Failed: its type is not known, so nor is what the kernel does there.
    pub base: Reading<Base>,
    /// It has rules: nothing else uses a base chain (`NFTA_CHAIN_USE`).
    pub in_use: bool,
}

/// One message of the answer to [`base_chains`]; `None`: a chain without a hook, or with one that does not matter.
pub fn decode_base_chain(message: &Message<'_>) -> Result<Option<BaseChain>, Failure> {
    const NF_ACCEPT: u32 = 1;
    let attributes = Attributes::after(message.body, NFGENMSG, "chain")?;
    let missing = |what: &str| Failure::unexpected(format!("{what} is missing"));
    let (Some(family), Some(at)) = (header_family(message)?, attributes.nested(NFTA_CHAIN_HOOK, "hook")?) else {
        return Ok(None);
    };
    let hook = match (family, at.be32(1)?.ok_or_else(|| missing("NFTA_HOOK_HOOKNUM"))?) {
        (Family::Netdev, 0) | (Family::Inet, 5) => Hook::Ingress,
        (Family::Netdev, 1) => Hook::Egress,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 0) => Hook::Prerouting,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 1) => Hook::Input,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 2) => Hook::Forward,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 3) => Hook::Output,
        (Family::Ipv4 | Family::Ipv6 | Family::Inet | Family::Bridge, 4) => Hook::Postrouting,
        _ => return Ok(None),
    };
    let mut devices: Vec<String> = at.get(3).map(Name::from_bytes).into_iter().map(|name| name.to_string()).collect();
    for device in at.nested(4, "devices")?.iter().flat_map(Attributes::iter) {
        let name = Name::from_bytes(device.body);
        let wildcard = if device.kind == 2 { "*" } else { "" }; // NFTA_DEVICE_PREFIX
        devices.push(format!("{name}{wildcard}"));
    }
    devices.dedup();
    let id = ChainId {
        family,
        table: attributes.get(1).map(Name::from_bytes).ok_or_else(|| missing("NFTA_CHAIN_TABLE"))?,
        chain: attributes.get(3).map(Name::from_bytes).ok_or_else(|| missing("NFTA_CHAIN_NAME"))?,
    };
    let priority = at.be32(2)?.ok_or_else(|| missing("NFTA_HOOK_PRIORITY"))?.cast_signed();
    let drops = attributes.be32(5)?.unwrap_or(NF_ACCEPT) != NF_ACCEPT;
    let kind = attributes.get(7).map(Name::from_bytes).ok_or_else(|| missing("NFTA_CHAIN_TYPE"))?;
    let base = match ChainKind::from_name(&kind) {
        Some(kind) => Reading::Ok(Base { hook, kind, priority, drops, devices }),
        None => {
            let why = format!("chain {} of table {} {} has type {kind}, which is unknown", id.chain, family, id.table);
            Reading::Failed(Failure::unsupported(why))
        }
    };
    Ok(Some(BaseChain { id, hook, base, in_use: attributes.be32(NFTA_CHAIN_USE)?.unwrap_or(0) > 0 }))
}

/// One message of the answer to [`rules`] and [`counters`]: the rule at this position of the chain.
pub fn decode_rule(message: &Message<'_>, id: &ChainId, position: u32) -> Result<Rule, Failure> {
    rule_of(message, id, position).map_err(|failure| failure.within(format_args!("rule {position} of {}", id.chain)))
}

fn rule_of(message: &Message<'_>, id: &ChainId, position: u32) -> Result<Rule, Failure> {
    let attributes = Attributes::after(message.body, NFGENMSG, "rule")?;
    let of = (attributes.get(1).map(Name::from_bytes), attributes.get(2).map(Name::from_bytes));
    if of != (Some(id.table.clone()), Some(id.chain.clone())) || header_family(message)? != Some(id.family) {
        return Err(Failure::unexpected(format!("it belongs to another chain: {of:?}")));
    }
    let mut reader = Reader::new(id.family, &id.table);
    let mut hasher = DefaultHasher::new();
    if let Some(list) = attributes.nested(4, "expressions")? {
        for (number, element) in list.iter().enumerate() {
            let within = |error: Failure| error.within(format_args!("expression {}", number + 1));
            let expression = Attributes::parse(element.body, "expression").map_err(|error| within(error.into()))?;
            let name = expression.string(1)?.ok_or_else(|| within(Failure::unexpected("NFTA_EXPR_NAME is missing")))?;
            let data = expression.get(2).unwrap_or_default();
            // What moves while the rule stays the same.
            match name.as_str() {
                "counter" | "quota" | "last" | "limit" => {}
                "lookup" => hash_lookup(data, &mut hasher).map_err(within)?,
                _ => data.hash(&mut hasher),
            }
            name.hash(&mut hasher);
            reader.read(&name, data).map_err(within)?;
        }
    }
    let comment = match attributes.get(7).and_then(user_comment) {
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

/// An anonymous set has another name whenever its rule is written.
fn hash_lookup(data: &[u8], hasher: &mut DefaultHasher) -> Result<(), Failure> {
    let anonymous = |name: &[u8]| name.starts_with(b"__set") || name.starts_with(b"__map");
    for attribute in Attributes::parse(data, "lookup")?.iter() {
        if attribute.kind != 1 || !anonymous(attribute.body) {
            (attribute.kind, attribute.body).hash(hasher);
        }
    }
    Ok(())
}

/// The comment among a rule's user data, which nft writes as type, length, value.
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

/// What a verdict map holds.
#[derive(Debug, Default)]
pub struct Map {
    /// The verdicts in it, each once.
    pub verdicts: Vec<Verdict>,
    /// Elements time out, which moves no generation.
    pub volatile: bool,
}

impl Map {
    /// Of all messages of the answer to [`map_of`].
    pub fn of(parts: Vec<Self>) -> Self {
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

/// One message of the answer to [`map_of`].
pub fn decode_elements(message: &Message<'_>, set: &SetId) -> Result<Map, Failure> {
    const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
    let (mut map, mut known) = (Map::default(), HashSet::new());
    let attributes = Attributes::after(message.body, NFGENMSG, "set elements")?;
    for element in attributes.nested(3, "elements")?.iter().flat_map(Attributes::iter) {
        let element = Attributes::parse(element.body, "element")?;
        map.volatile |= element.get(NFTA_SET_ELEM_EXPIRATION).is_some();
        // An element without data ends an interval.
        let Some(data) = element.nested(2, "NFTA_SET_ELEM_DATA")? else { continue };
        let Some(verdict) = data.nested(2, "NFTA_DATA_VERDICT")? else {
            return Err(Failure::unexpected(format!("{set:?} holds something other than verdicts")));
        };
        if known.insert((verdict.be32(1)?, verdict.get(2).unwrap_or_default().to_vec())) {
            map.verdicts.push(expressions::verdict(&verdict)?);
        }
    }
    Ok(map)
}
