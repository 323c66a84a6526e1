//! Offload features over generic netlink, by name: their numbers change between kernels.
//!
//! Kernel sources: `net/ethtool/features.c`, `net/ethtool/strset.c`, `ctrl_fill_info`.

use std::collections::BTreeMap;

use crate::capture::{NetlinkFamily, Request};
use crate::decode::Node;
use crate::snapshot::{Failure, Feature, FeatureState, Features, Link, Reading, Source};
use crate::wire::{self, Attributes, Message, NLMSG_ERROR};

/// `GENL_ID_CTRL`
const CONTROLLER: u16 = 16;
/// Length of `struct genlmsghdr`.
const GENLMSGHDR: usize = 4;
const CTRL_CMD_GETFAMILY: u8 = 3;
const ETHTOOL_MSG_STRSET_GET: u8 = 1;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
/// `ETH_SS_FEATURES`
const FEATURE_NAMES: u32 = 4;
/// `ETHTOOL_FLAG_COMPACT_BITSETS`
const COMPACT_BITSETS: u32 = 1;

fn command(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

/// All generic netlink families. Asking for one by name would make the kernel try to load a module for it.
fn families() -> Request {
    let body = command(CTRL_CMD_GETFAMILY);
    Request::netlink(Source::Ethtool, "generic/families", NetlinkFamily::Generic, CONTROLLER, true, body)
}

fn names_request(family: u16) -> Request {
    let mut body = command(ETHTOOL_MSG_STRSET_GET);
    wire::put_nested(&mut body, 1, |_| ());
    wire::put_nested(&mut body, 2, |sets| {
        wire::put_nested(sets, 1, |set| wire::put(set, 1, &FEATURE_NAMES.to_ne_bytes()));
    });
    Request::netlink(Source::Ethtool, "ethtool/feature-names", NetlinkFamily::Generic, family, false, body)
}

fn features_request(family: u16, link: &Link) -> Request {
    let mut body = command(ETHTOOL_MSG_FEATURES_GET);
    wire::put_nested(&mut body, 1, |header| {
        wire::put(header, 1, &link.index.to_ne_bytes());
        wire::put(header, 3, &COMPACT_BITSETS.to_ne_bytes());
    });
    let name = format!("ethtool/features-{}", link.name);
    Request::netlink(Source::Ethtool, &name, NetlinkFamily::Generic, family, false, body)
}

/// What the kernel calls its offload features.
pub struct Ethtool {
    family: Reading<u16>,
    /// Number of each feature in this kernel.
    names: Reading<BTreeMap<String, usize>>,
}

impl Ethtool {
    /// The family's number, then the features' names.
    pub fn read(node: &mut Node<'_>) -> Self {
        let listed = node.lasting(&families()).decode(|bytes| decode_families(&bytes));
        let family = listed.and_then(|found| match found.get("ethtool") {
            Some(id) => Reading::Ok(*id),
            None => Reading::Absent("this kernel has no ethtool netlink (it came with 5.6)".into()),
        });
        let names =
            family.clone().and_then(|family| node.lasting(&names_request(family)).decode(|bytes| decode_names(&bytes)));
        if let (Reading::Failed(_), Some(family)) = (&names, family.ok()) {
            node.forget(&names_request(*family));
        }
        if family.failure().is_some() {
            node.forget(&families());
        }
        node.sources.asked(Source::Ethtool);
        if !matches!(names, Reading::Absent(_)) {
            node.sources.note(Source::Ethtool, &names);
        }
        Self { family, names }
    }

    /// Features of one device.
    pub fn features(&self, node: &mut Node<'_>, link: &Link) -> Reading<Features> {
        let Reading::Ok(family) = self.family else { return self.family.as_ref().map(|_| Features::new()) };
        let names = match &self.names {
            Reading::Ok(names) => names,
            other => return other.as_ref().map(|_| Features::new()),
        };
        let request = features_request(family, link);
        let features = node.try_single(&request, |message| decode_features(message.body, names));
        let features =
            features.decode(|found| found.ok_or_else(|| Failure::unexpected("no answer but an acknowledgement")));
        node.note(&request, features)
    }
}

fn decode_families(bytes: &[u8]) -> Result<BTreeMap<String, u16>, Failure> {
    let mut families = BTreeMap::new();
    for message in wire::dump(bytes, "generic netlink families")? {
        let attributes = Attributes::after(message.body, GENLMSGHDR, "CTRL_ATTR")?;
        if let (Some(id), Some(name)) = (attributes.u16(1)?, attributes.string(2)?) {
            families.insert(name, id);
        }
    }
    Ok(families)
}

/// The one message that answers a request without a dump.
fn reply<'a>(bytes: &'a [u8], what: &str) -> Result<Message<'a>, Failure> {
    let message = wire::messages(bytes).next().ok_or_else(|| Failure::unexpected(format!("{what}: no answer")))?;
    let message = message.map_err(|error| error.within(what))?;
    match message.kind {
        NLMSG_ERROR => Err(Failure::unexpected(format!("{what}: the kernel answered errno {}", message.errno()?))),
        _ => Ok(message),
    }
}

fn decode_names(bytes: &[u8]) -> Result<BTreeMap<String, usize>, Failure> {
    let attributes = Attributes::after(reply(bytes, "feature names")?.body, GENLMSGHDR, "ETHTOOL_A_STRSET")?;
    let sets = attributes.nested(2, "ETHTOOL_A_STRSET_STRINGSETS")?;
    let mut names = BTreeMap::new();
    for set in sets.iter().flat_map(Attributes::iter) {
        let set = Attributes::parse(set.body, "ETHTOOL_A_STRINGSET")?;
        if set.u32(1)? != Some(FEATURE_NAMES) {
            continue;
        }
        for string in set.nested(3, "ETHTOOL_A_STRINGSET_STRINGS")?.iter().flat_map(Attributes::iter) {
            let string = Attributes::parse(string.body, "ETHTOOL_A_STRING")?;
            if let (Some(index), Some(name)) = (string.u32(1)?, string.string(2)?) {
                names.insert(name, index as usize);
            }
        }
    }
    if names.is_empty() {
        return Err(Failure::unexpected("feature names: the answer holds none"));
    }
    Ok(names)
}

fn decode_features(body: &[u8], names: &BTreeMap<String, usize>) -> Result<Features, Failure> {
    let attributes = Attributes::after(body, GENLMSGHDR, "ETHTOOL_A_FEATURES")?;
    let set = |kind, what| bits(attributes.get(kind), what);
    let (changeable, wanted) = (set(2, "hw features")?, set(3, "wanted features")?);
    let (active, never_changed) = (set(4, "active features")?, set(5, "fixed features")?);
    let mut features = Features::new();
    for feature in Feature::ALL {
        let Some(bit) = names.get(feature.name()) else { continue };
        let is_in = |set: &[u32]| set.get(bit / 32).is_some_and(|word| word >> (bit % 32) & 1 == 1);
        let (enabled, fixed) = (is_in(&active), !is_in(&changeable) || is_in(&never_changed));
        // Nobody can ask for a fixed feature, so the kernel's set of wanted ones does not hold it.
        let wanted = if fixed { enabled } else { is_in(&wanted) };
        features.insert(*feature, FeatureState { enabled, wanted, fixed });
    }
    Ok(features)
}

/// A compact bitset: 32-bit words in host order.
fn bits(bitset: Option<&[u8]>, what: &'static str) -> Result<Vec<u32>, Failure> {
    let bitset = bitset.ok_or_else(|| Failure::unexpected(format!("the answer lacks the {what}")))?;
    let attributes = Attributes::parse(bitset, what)?;
    let size = attributes.u32(2)?.ok_or_else(|| Failure::unexpected(format!("{what}: no size")))? as usize;
    let value = attributes.get(4).ok_or_else(|| Failure::unexpected(format!("{what}: no compact value")))?;
    if value.len() % 4 != 0 || value.len() * 8 < size {
        return Err(Failure::unexpected(format!("{what}: {size} bits in {} bytes", value.len())));
    }
    Ok(value.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect())
}

#[cfg(test)]
mod tests;
