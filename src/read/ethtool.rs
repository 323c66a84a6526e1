//! Offload features over generic netlink, by name, since their numbers differ between kernels.
//!
//! Requested per device rather than dumped: a node with hundreds of veths has three devices that matter.
//!
//! Kernel sources: `net/ethtool/features.c`, `net/ethtool/strset.c`, `ctrl_fill_info`.

use std::collections::BTreeMap;

use crate::capture::{NetlinkFamily, Request};
use crate::facts::{Failure, Feature, FeatureState, Features, Link, Reading, Source};
use crate::netfilter::netlink::{self, Attributes, Message};
use crate::read::Node;
use crate::read::known::Ethtool;

/// `GENL_ID_CTRL`
const CONTROLLER: u16 = 16;
/// Length of `struct genlmsghdr`.
const GENLMSGHDR: usize = 4;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_STRSET_GET: u8 = 1;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETH_SS_FEATURES: u32 = 4;
const ETHTOOL_FLAG_COMPACT_BITSETS: u32 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_A_STRSET_HEADER: u16 = 1;
const ETHTOOL_A_STRSET_STRINGSETS: u16 = 2;
const ETHTOOL_A_STRINGSETS_STRINGSET: u16 = 1;
const ETHTOOL_A_STRINGSET_ID: u16 = 1;
const ETHTOOL_A_STRINGSET_STRINGS: u16 = 3;
const ETHTOOL_A_STRING_INDEX: u16 = 1;
const ETHTOOL_A_STRING_VALUE: u16 = 2;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;
const ETHTOOL_A_BITSET_SIZE: u16 = 2;
const ETHTOOL_A_BITSET_VALUE: u16 = 4;

fn command(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

/// Dumps all generic netlink families. A request for one by name makes the kernel try to load its module.
fn families() -> Request {
    let body = command(CTRL_CMD_GETFAMILY);
    Request::netlink(Source::Ethtool, "generic/families", NetlinkFamily::Generic, CONTROLLER, true, body)
}

fn names_request(family: u16) -> Request {
    let mut body = command(ETHTOOL_MSG_STRSET_GET);
    netlink::put_nested(&mut body, ETHTOOL_A_STRSET_HEADER, |_| ());
    netlink::put_nested(&mut body, ETHTOOL_A_STRSET_STRINGSETS, |sets| {
        netlink::put_nested(sets, ETHTOOL_A_STRINGSETS_STRINGSET, |set| {
            netlink::put(set, ETHTOOL_A_STRINGSET_ID, &ETH_SS_FEATURES.to_ne_bytes())
        });
    });
    Request::netlink(Source::Ethtool, "ethtool/feature-names", NetlinkFamily::Generic, family, false, body)
}

fn features_request(family: u16, link: &Link) -> Request {
    let mut body = command(ETHTOOL_MSG_FEATURES_GET);
    netlink::put_nested(&mut body, ETHTOOL_A_FEATURES_HEADER, |header| {
        netlink::put(header, ETHTOOL_A_HEADER_DEV_INDEX, &link.index.to_ne_bytes());
        netlink::put(header, ETHTOOL_A_HEADER_FLAGS, &ETHTOOL_FLAG_COMPACT_BITSETS.to_ne_bytes());
    });
    let name = format!("ethtool/features-{}", link.name);
    Request::netlink(Source::Ethtool, &name, NetlinkFamily::Generic, family, false, body)
}

/// Reads the family's number and the feature names, both fixed until the next boot.
pub(crate) fn read(node: &mut Node<'_>) -> Ethtool {
    node.sources.asked(Source::Ethtool);
    if let Some(known) = node.left.ethtool.clone() {
        return known;
    }
    let listed = node.try_dump(&families(), decode_family);
    let family = listed.and_then(|found| match found.first() {
        Some(id) => Reading::Ok(*id),
        None => Reading::Absent("this kernel has no ethtool netlink (it came with 5.6)".into()),
    });
    let names = family.clone().and_then(|family| node.try_answer(&names_request(family), decode_names));
    if !matches!(names, Reading::Absent(_)) {
        node.sources.note(Source::Ethtool, &names);
    }
    let ethtool = Ethtool { family, names };
    if matches!(ethtool.names, Reading::Ok(_) | Reading::Absent(_)) {
        node.left.ethtool = Some(ethtool.clone());
    }
    ethtool
}

/// Features of one device; Absent if the kernel has no ethtool netlink.
pub(crate) fn features(ethtool: &Ethtool, node: &mut Node<'_>, link: &Link) -> Reading<Features> {
    let Reading::Ok(family) = ethtool.family else { return ethtool.family.as_ref().map(|_| Features::new()) };
    let names = match &ethtool.names {
        Reading::Ok(names) => names,
        other => return other.as_ref().map(|_| Features::new()),
    };
    let request = features_request(family, link);
    let features = node.try_answer(&request, |message| decode_features(message, names));
    node.note(&request, features)
}

/// The family number, if this message is about the family `ethtool`.
fn decode_family(message: &Message<'_>) -> Result<Option<u16>, Failure> {
    let attributes = Attributes::after(message.body, GENLMSGHDR, "CTRL_ATTR")?;
    let is_ethtool = attributes.string(CTRL_ATTR_FAMILY_NAME)?.as_deref() == Some("ethtool");
    Ok(attributes.u16(CTRL_ATTR_FAMILY_ID)?.filter(|_| is_ethtool))
}

fn decode_names(message: &Message<'_>) -> Result<BTreeMap<String, usize>, Failure> {
    let attributes = Attributes::after(message.body, GENLMSGHDR, "ETHTOOL_A_STRSET")?;
    let sets = attributes.nested(ETHTOOL_A_STRSET_STRINGSETS, "ETHTOOL_A_STRSET_STRINGSETS")?;
    let mut names = BTreeMap::new();
    for set in sets.iter().flat_map(Attributes::iter) {
        let set = Attributes::parse(set.body, "ETHTOOL_A_STRINGSET")?;
        if set.u32(ETHTOOL_A_STRINGSET_ID)? != Some(ETH_SS_FEATURES) {
            continue;
        }
        for string in
            set.nested(ETHTOOL_A_STRINGSET_STRINGS, "ETHTOOL_A_STRINGSET_STRINGS")?.iter().flat_map(Attributes::iter)
        {
            let string = Attributes::parse(string.body, "ETHTOOL_A_STRING")?;
            if let (Some(index), Some(name)) =
                (string.u32(ETHTOOL_A_STRING_INDEX)?, string.string(ETHTOOL_A_STRING_VALUE)?)
            {
                names.insert(name, index as usize);
            }
        }
    }
    if names.is_empty() {
        return Err(Failure::unexpected("feature names: the answer holds none"));
    }
    Ok(names)
}

fn decode_features(message: &Message<'_>, names: &BTreeMap<String, usize>) -> Result<Features, Failure> {
    let attributes = Attributes::after(message.body, GENLMSGHDR, "ETHTOOL_A_FEATURES")?;
    let set = |kind, what| bits(attributes.get(kind), what);
    let changeable = set(ETHTOOL_A_FEATURES_HW, "hw features")?;
    let wanted = set(ETHTOOL_A_FEATURES_WANTED, "wanted features")?;
    let active = set(ETHTOOL_A_FEATURES_ACTIVE, "active features")?;
    let never_changed = set(ETHTOOL_A_FEATURES_NOCHANGE, "fixed features")?;
    let mut features = Features::new();
    for feature in Feature::ALL {
        let Some(bit) = names.get(feature.name()) else { continue };
        let is_in = |set: &[u32]| set.get(bit / 32).is_some_and(|word| word >> (bit % 32) & 1 == 1);
        let (enabled, fixed) = (is_in(&active), !is_in(&changeable) || is_in(&never_changed));
        // The kernel's set of wanted features leaves out fixed ones.
        let wanted = if fixed { enabled } else { is_in(&wanted) };
        features.insert(*feature, FeatureState { enabled, wanted, fixed });
    }
    Ok(features)
}

/// A compact bitset: 32-bit words in host byte order.
fn bits(bitset: Option<&[u8]>, what: &'static str) -> Result<Vec<u32>, Failure> {
    let bitset = bitset.ok_or_else(|| Failure::unexpected(format!("the answer lacks the {what}")))?;
    let attributes = Attributes::parse(bitset, what)?;
    let size =
        attributes.u32(ETHTOOL_A_BITSET_SIZE)?.ok_or_else(|| Failure::unexpected(format!("{what}: no size")))? as usize;
    let value = attributes
        .get(ETHTOOL_A_BITSET_VALUE)
        .ok_or_else(|| Failure::unexpected(format!("{what}: no compact value")))?;
    if value.len() % 4 != 0 || value.len() * 8 < size {
        return Err(Failure::unexpected(format!("{what}: {size} bits in {} bytes", value.len())));
    }
    Ok(value.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect())
}

#[cfg(test)]
mod tests;
