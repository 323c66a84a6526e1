//! Replaces what identifies a node in a capture, so that it can be attached to a public bug report.
//!
//! IP addresses keep their structure: two that share a prefix share one afterwards, so routes still cover what they
//! covered and the verdict stays the same. Only attributes that natwatch reads survive; everything else is zeroed,
//! and an answer of a kind that is not known here is removed.
//! In rules it is the other way round, since anything may matter to what they do: addresses, comments and names of sets
//! are replaced, and a chain in which something cannot be told apart from an address is removed.

mod labels;
mod netfilter;
mod rules;
mod xtables;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::capture::Capture;
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{self, HEADER_LENGTH};
use crate::snapshot::{Failure, Reading};

/// Answers without addresses.
const HARMLESS: &[&str] =
    &["procfs/", "sysfs/", "rootfs/", "netlink/generic/", "netlink/ethtool/", "netlink/netfilter/ct-stats-cpu"];

/// Files with addresses and ports in hexadecimal. Only the ports matter.
const SOCKETS: &[&str] = &["procfs/thread-self/net/udp", "procfs/thread-self/net/udp6", "procfs/thread-self/net/ip_vs"];

/// What an experiment has found: kernel, live patches, defects; its addresses are those of the experiment.
const PROBE: &str = "probe/result.json";

/// Rules and sets.
const NETFILTER: &[&str] = &["netlink/netfilter/nft-", "netlink/netfilter/ipset/"];

/// Tables of legacy x_tables.
const LEGACY: &str = "xtables/";
const LEGACY_IPV6: &str = "xtables/ipv6-";

/// What happens to attributes of one message: kept, mapped, or (everything else) zeroed.
struct Rules {
    prefix: &'static str,
    header: usize,
    keep: &'static [u16],
    /// IP addresses; those of routes and rules are prefixes whose length stands in the header at `length_at`.
    addresses: &'static [(u16, Option<usize>)],
    hardware: &'static [u16],
}

#[rustfmt::skip]
const RULES: &[Rules] = &[
    Rules { prefix: "links", header: 16, addresses: &[], hardware: &[IFLA_ADDRESS, IFLA_PERM_ADDRESS],
        keep: &[IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_GROUP,
            IFLA_LINK_NETNSID, IFLA_XDP] },
    Rules { prefix: "fdb-", header: 12, addresses: &[(NDA_DST, None)], hardware: &[NDA_LLADDR],
        keep: &[NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_MASTER, NDA_NH_ID] },
    Rules { prefix: "addresses", header: 8, hardware: &[],
        addresses: &[(IFA_ADDRESS, None), (IFA_LOCAL, None), (IFA_BROADCAST, None), (IFA_ANYCAST, None),
            (IFA_MULTICAST, None)],
        keep: &[IFA_LABEL, IFA_CACHEINFO, IFA_FLAGS] },
    Rules { prefix: "rules-", header: 12, addresses: &[(FRA_DST, Some(1)), (FRA_SRC, Some(2))], hardware: &[],
        keep: &[FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN,
            FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE, FRA_PROTOCOL, FRA_IP_PROTO,
            FRA_SPORT_RANGE, FRA_DPORT_RANGE] },
    Rules { prefix: "routes-", header: 12, keep: ROUTE, addresses: ROUTE_ADDRESSES, hardware: &[] },
    Rules { prefix: "forwarding-", header: 4, keep: &[NETCONFA_IFINDEX, NETCONFA_FORWARDING], addresses: &[],
        hardware: &[] },
    Rules { prefix: "filters-", header: 20, keep: &[TCA_KIND], addresses: &[], hardware: &[] },
    Rules { prefix: "get-", header: 12, keep: ROUTE, addresses: ROUTE_ADDRESSES, hardware: &[] },
];
#[rustfmt::skip]
const ROUTE: &[u16] = &[RTA_OIF, RTA_PRIORITY, RTA_METRICS, RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_MARK, RTA_PREF,
    RTA_UID, RTA_NH_ID];
const ROUTE_ADDRESSES: &[(u16, Option<usize>)] =
    &[(RTA_DST, Some(1)), (RTA_SRC, Some(2)), (RTA_GATEWAY, None), (RTA_PREFSRC, None)];

/// Redacts a capture in place. What cannot be redacted is removed and reads as failed.
pub fn redact(capture: &mut Capture) {
    let mut redactor = Redactor::new(RandomState::new());
    let hostname = std::mem::replace(&mut capture.meta.hostname, "redacted".into());
    capture.meta.redacted = true;
    for (name, answer) in &mut capture.answers {
        let bytes = match answer {
            Reading::Ok(bytes) => bytes,
            other => {
                *other = other.clone().reword(|why| redact_text(&why, &hostname));
                continue;
            }
        };
        let redacted = match name.strip_prefix("netlink/route/") {
            Some(what) => match RULES.iter().find(|rules| what.starts_with(rules.prefix)) {
                Some(rules) => redactor.route(bytes, rules).map_err(|error| error.to_string()),
                None => Err("nothing is known about its addresses".into()),
            },
            None if NETFILTER.iter().any(|prefix| name.starts_with(prefix)) => {
                each_message(bytes, |kind, body| redactor.netfilter(kind, body)).map_err(|error| error.to_string())
            }
            None if name.starts_with(LEGACY) => {
                redactor.legacy_table(name.starts_with(LEGACY_IPV6), bytes).map_err(|error| error.to_string())
            }
            None if SOCKETS.contains(&name.as_str()) => {
                *bytes = without_socket_addresses(&String::from_utf8_lossy(bytes)).into_bytes();
                Ok(())
            }
            None if name == PROBE => redact_document(bytes, &hostname),
            None if HARMLESS.iter().any(|prefix| name.starts_with(prefix)) => {
                replace_text(bytes, &hostname);
                Ok(())
            }
            None => Err("nothing is known about its addresses".into()),
        };
        if let Err(why) = redacted {
            *answer = Reading::Failed(Failure::Told(format!("removed by --redact: {why}")));
        }
    }
    rename(capture, &mut redactor);
}

/// `C000020A:2118` becomes `00000000:2118`.
fn without_socket_addresses(text: &str) -> String {
    let hex = |text: &str| text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let word = |word: &str| match word.rsplit_once(':') {
        Some((address, port)) if hex(address) && hex(port) => format!("{}:{port}", "0".repeat(address.len())),
        _ if word.starts_with('[') => "[::]".to_owned(), // how ip_vs writes IPv6
        _ => word.to_owned(),
    };
    text.split_inclusive('\n').map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

/// A kernel that was built on the node carries its name.
fn replace_text(bytes: &mut Vec<u8>, hostname: &str) {
    if hostname.len() > 3
        && let Ok(text) = std::str::from_utf8(bytes)
        && text.contains(hostname)
    {
        *bytes = redact_text(text, hostname).into_bytes();
    }
}

/// The same for a JSON document, whose keys and closed sets of words stay what they are whatever the node is called.
fn redact_document(bytes: &mut Vec<u8>, hostname: &str) -> Result<(), String> {
    fn redact_value(value: &mut Value, hostname: &str) {
        match value {
            Value::String(text) => *text = redact_text(text, hostname),
            Value::Array(values) => values.iter_mut().for_each(|value| redact_value(value, hostname)),
            Value::Object(fields) => {
                let named = fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "id" | "state"));
                named.for_each(|(_, value)| redact_value(value, hostname));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    redact_value(&mut document, hostname);
    *bytes = document.to_string().into_bytes();
    Ok(())
}

fn redact_text(text: &str, hostname: &str) -> String {
    if hostname.len() > 3 { text.replace(hostname, "redacted") } else { text.to_owned() }
}

/// Devices that were named after their hardware address, and requests that name a set.
fn rename(capture: &mut Capture, redactor: &mut Redactor) {
    let answers = std::mem::take(&mut capture.answers);
    for (old, answer) in answers {
        let name = redactor.request_name(&old);
        let answer = answer.reword(|why| why.replace(&old, &name));
        let renamed = &redactor.renamed;
        let new = renamed.iter().fold(name, |name, (old, new)| name.replace(old, new));
        let answer = answer
            .map(|bytes| renamed.iter().fold(bytes, |bytes, (old, new)| replaced(bytes, old, new)))
            .reword(|why| renamed.iter().fold(why, |why, (old, new)| why.replace(old, new)));
        capture.answers.insert(new, answer);
    }
}

/// Answers about a device name it; both names have the same length, so the framing stays as it is.
fn replaced(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    for at in 0..bytes.len().saturating_sub(old.len() - 1) {
        if let Some(place) = bytes.get_mut(at..at + old.len()).filter(|place| *place == old.as_bytes()) {
            place.copy_from_slice(new.as_bytes());
        }
    }
    bytes
}

struct Redactor {
    random: RandomState,
    renamed: Vec<(String, String)>,
    /// New names of sets and chains.
    names: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those that are in use.
    taken: BTreeSet<Vec<u8>>,
    /// What keys of sets are made of: by family, table and set.
    layouts: BTreeMap<rules::SetKey, Vec<labels::Label>>,
}

/// Calls `change` with the type and the payload of each message. Of errors and ends only the number stays: they may
/// repeat the request.
fn each_message(
    bytes: &mut [u8],
    mut change: impl FnMut(u16, &mut [u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_ne_bytes(array(bytes, at, "message")?) as usize;
        let kind = u16::from_ne_bytes(array(bytes, at + 4, "message")?);
        let next = at.saturating_add(length.max(HEADER_LENGTH));
        let body =
            bytes.get_mut(at + HEADER_LENGTH..next).ok_or_else(|| Failure::unexpected("a message is cut off"))?;
        if kind > netlink::NLMSG_DONE {
            change(kind, body)?;
        } else if kind >= netlink::NLMSG_ERROR {
            body.iter_mut().skip(4).for_each(|byte| *byte = 0);
        }
        at = next.next_multiple_of(4);
    }
    Ok(())
}

impl Redactor {
    fn new(random: RandomState) -> Self {
        Self { random, renamed: Vec::new(), names: BTreeMap::new(), taken: BTreeSet::new(), layouts: BTreeMap::new() }
    }

    fn hash(&self, what: impl Hash) -> u64 {
        self.random.hash_one(what)
    }

    fn route(&mut self, bytes: &mut [u8], rules: &Rules) -> Result<(), Failure> {
        each_message(bytes, |_, body| self.message(body, rules))
    }

    fn message(&mut self, body: &mut [u8], rules: &Rules) -> Result<(), Failure> {
        if body.len() < rules.header {
            return Err(Failure::unexpected("a message is too short for its header"));
        }
        let (header, attributes) = body.split_at_mut(rules.header);
        each_attribute(attributes, |kind, value| {
            if let Some((_, length_at)) = rules.addresses.iter().find(|(address, _)| *address == kind) {
                self.address(value, length_at.map(|at| header[at]));
            } else if rules.hardware.contains(&kind) {
                self.hardware(value);
            } else if !rules.keep.contains(&kind) {
                value.fill(0);
            } else if rules.prefix == "links" && kind == IFLA_LINKINFO {
                self.link_info(value)?;
            } else if rules.prefix == "links" && kind == IFLA_IFNAME {
                self.device_name(value);
            } else if rules.addresses == ROUTE_ADDRESSES && kind == RTA_MULTIPATH {
                self.next_hops(value)?;
            }
            Ok(())
        })
    }

    fn link_info(&mut self, info: &mut [u8]) -> Result<(), Failure> {
        let mut kind = Vec::new();
        each_attribute(info, |attribute, value| {
            match attribute {
                IFLA_INFO_KIND => kind = value.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
                IFLA_INFO_DATA => {
                    let addresses: &[u16] = match kind.as_slice() {
                        b"vxlan" => &[IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6],
                        b"geneve" => &[IFLA_GENEVE_REMOTE, IFLA_GENEVE_REMOTE6],
                        _ => {
                            value.fill(0);
                            return Ok(());
                        }
                    };
                    each_attribute(value, |attribute, value| {
                        if addresses.contains(&attribute) {
                            self.address(value, None);
                        }
                        Ok(())
                    })?;
                }
                _ => value.fill(0),
            }
            Ok(())
        })
    }

    fn next_hops(&mut self, mut hops: &mut [u8]) -> Result<(), Failure> {
        while !hops.is_empty() {
            let length = u16::from_ne_bytes(array(hops, 0, "rtnexthop")?) as usize;
            if length < 8 || length > hops.len() {
                return Err(Failure::unexpected("a next hop is cut off"));
            }
            each_attribute(&mut hops[8..length], |kind, value| {
                if kind == RTA_GATEWAY {
                    self.address(value, None);
                } else {
                    value.fill(0);
                }
                Ok(())
            })?;
            let next = length.next_multiple_of(4).min(hops.len());
            hops = &mut hops[next..];
        }
        Ok(())
    }

    fn device_name(&mut self, value: &mut [u8]) {
        let Some(digits) = value.strip_prefix(b"enx").and_then(|rest| rest.get(..12)) else { return };
        let Some(mut address) = parse_hex(digits) else { return };
        let old = String::from_utf8_lossy(&value[..15]).into_owned();
        self.hardware(&mut address);
        let new: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        value[3..15].copy_from_slice(new.as_bytes());
        self.renamed.push((old, format!("enx{new}")));
    }

    fn hardware(&self, value: &mut [u8]) {
        let mapped = self.random.hash_one(&*value).to_ne_bytes();
        let constant = value.iter().all(|byte| *byte == 0) || value.iter().all(|byte| *byte == 0xff);
        if !constant {
            value.iter_mut().zip(mapped).for_each(|(byte, mapped)| *byte = mapped);
            value.iter_mut().skip(8).for_each(|byte| *byte = 0);
            value[0] = value[0] & 0xfc | 0x02; // unicast, locally administered
        }
    }

    fn address(&self, value: &mut [u8], prefix_length: Option<u8>) {
        if let Ok(octets) = <[u8; 4]>::try_from(&*value) {
            let address = Ipv4Addr::from(octets);
            let mapped = self.bits(u128::from(address.to_bits()) << 96, kept_v4(address), 32, prefix_length);
            value.copy_from_slice(&((mapped >> 96) as u32).to_be_bytes());
        } else if let Ok(octets) = <[u8; 16]>::try_from(&*value) {
            let address = Ipv6Addr::from(octets);
            let mapped = self.bits(address.to_bits(), kept_v6(address), 128, prefix_length);
            value.copy_from_slice(&mapped.to_be_bytes());
        } else {
            value.fill(0);
        }
    }

    /// Flips each bit below `kept` by a keyed function of the bits before it; host bits of a prefix stay 0.
    fn bits(&self, address: u128, kept: u32, width: u32, prefix_length: Option<u8>) -> u128 {
        let end = prefix_length.map_or(width, |length| u32::from(length).min(width));
        (kept..end).fold(address, |mapped, bit| {
            let before = if bit == 0 { 0 } else { address >> (128 - bit) };
            let flip = u128::from(self.random.hash_one((width, bit, before)) & 1);
            mapped ^ flip << (127 - bit)
        })
    }
}

/// Leading bits that tell what kind of address it is, not whose.
fn kept_v4(address: Ipv4Addr) -> u32 {
    match address.octets() {
        [0 | 127 | 224..=255, ..] => 32,
        [169, 254, ..] | [192, 168, ..] => 16,
        [172, 16..=31, ..] => 12,
        [100, 64..=127, ..] => 10,
        _ => 8,
    }
}

fn kept_v6(address: Ipv6Addr) -> u32 {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] | [0xff00..=0xffff, ..] => 128,
        [0xfe80..=0xfebf, ..] => 64,
        _ => 16,
    }
}

fn parse_hex(digits: &[u8]) -> Option<[u8; 6]> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))?;
    let mut bytes = [0; 6];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Calls `change` with the type and the payload of each attribute of a block.
fn each_attribute(
    mut block: &mut [u8],
    mut change: impl FnMut(u16, &mut [u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while !block.is_empty() {
        let length = u16::from_ne_bytes(array(block, 0, "attribute")?) as usize;
        let kind = u16::from_ne_bytes(array(block, 2, "attribute")?) & 0x3fff;
        if length < 4 || length > block.len() {
            return Err(Failure::unexpected("an attribute is cut off"));
        }
        change(kind, &mut block[4..length])?;
        let next = length.next_multiple_of(4).min(block.len());
        block = &mut block[next..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn map(random: &RandomState, address: IpAddr) -> IpAddr {
        let redactor = Redactor::new(random.clone());
        let mut bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        redactor.address(&mut bytes, None);
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 16]>::try_from(bytes.as_slice()).unwrap_or_default().into(),
        }
    }

    #[test]
    fn a_host_name_leaves_a_document_whole() {
        let mut bytes = br#"{"kernel_release":"5.4.0-kernel","defects":[{"id":"kernel-x","state":"absent"}]}"#.to_vec();
        redact_document(&mut bytes, "kernel").unwrap();
        redact_document(&mut bytes, "absent").unwrap();
        let whole = r#"{"kernel_release":"5.4.0-redacted","defects":[{"id":"kernel-x","state":"absent"}]}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), whole);
        assert!(redact_document(&mut b"{".to_vec(), "kernel").is_err());
    }

    fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => unreachable!("one family at a time"),
        }
    }

    #[test]
    fn shared_prefixes_stay_shared_and_no_longer() {
        proptest::proptest!(|(a: [u8; 4], b: [u8; 4], c: [u8; 16], d: [u8; 16])| {
            let random = RandomState::new();
            let pairs: [(IpAddr, IpAddr); 2] = [(a.into(), b.into()), (c.into(), d.into())];
            for (a, b) in pairs {
                proptest::prop_assert_eq!(common_bits(a, b), common_bits(map(&random, a), map(&random, b)));
            }
        });
    }

    #[test]
    fn kinds_of_addresses_are_kept_and_hosts_are_not() {
        let random = RandomState::new();
        for same in ["127.0.0.1", "0.0.0.0", "239.1.2.3", "255.255.255.255", "::", "::1", "ff02::1"] {
            let same: IpAddr = same.parse().unwrap();
            assert_eq!(map(&random, same), same);
        }
        let private = |address: &str| match map(&random, address.parse().unwrap()) {
            IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        for address in ["10.1.2.3", "172.20.1.2", "192.168.7.9", "169.254.20.10", "fe80::1234"] {
            assert!(private(address), "{address}");
        }
        let changed = (1..255u8).filter(|host| {
            let address: IpAddr = [192, 168, 1, *host].into();
            map(&random, address) != address
        });
        assert!(changed.count() > 200);
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>)| {
            for rules in RULES {
                let mut redactor = Redactor::new(RandomState::new());
                let _ = redactor.route(&mut bytes.clone(), rules);
                let _ = redactor.message(&mut bytes.clone(), rules);
            }
        });
    }
}
