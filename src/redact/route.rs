//! Redacts responses of rtnetlink: attributes that natwatch does not read are zeroed.

use super::{Redactor, each_message};
use crate::facts::Failure;
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::*;

/// Rules for the attributes of one kind of message: kept, mapped, or (all others) zeroed.
pub(super) struct AttributeRules {
    /// Prefix of request names, below `netlink/route/`.
    pub(super) prefix: &'static str,
    header: usize,
    keep: &'static [u16],
    /// IP addresses; for prefixes, offset of their length in the header.
    addresses: &'static [(u16, Option<usize>)],
    hardware: &'static [u16],
}

#[rustfmt::skip]
/// By request.
pub(super) const RULES: &[AttributeRules] = &[
    AttributeRules { prefix: "links", header: 16, addresses: &[], hardware: &[IFLA_ADDRESS, IFLA_PERM_ADDRESS],
        keep: &[IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_GROUP,
            IFLA_LINK_NETNSID, IFLA_XDP] },
    AttributeRules { prefix: "fdb-", header: 12, addresses: &[(NDA_DST, None)], hardware: &[NDA_LLADDR],
        keep: &[NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_MASTER, NDA_NH_ID] },
    AttributeRules { prefix: "neighbour-table-", header: 4, addresses: &[], hardware: &[],
        keep: &[NDTA_NAME, NDTA_THRESH1, NDTA_THRESH2, NDTA_THRESH3, NDTA_CONFIG, NDTA_STATS, NDTA_GC_INTERVAL] },
    AttributeRules { prefix: "neighbours-", header: 12, addresses: &[(NDA_DST, None)], hardware: &[NDA_LLADDR], keep: &[] },
    AttributeRules { prefix: "addresses", header: 8, hardware: &[],
        addresses: &[(IFA_ADDRESS, None), (IFA_LOCAL, None), (IFA_BROADCAST, None), (IFA_ANYCAST, None),
            (IFA_MULTICAST, None)],
        keep: &[IFA_CACHEINFO, IFA_FLAGS] },
    AttributeRules { prefix: "rules-", header: 12, addresses: &[(FRA_DST, Some(1)), (FRA_SRC, Some(2))], hardware: &[],
        keep: &[FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN,
            FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE, FRA_PROTOCOL, FRA_IP_PROTO,
            FRA_SPORT_RANGE, FRA_DPORT_RANGE] },
    AttributeRules { prefix: "routes-", header: 12, keep: ROUTE, addresses: ROUTE_ADDRESSES, hardware: &[] },
    AttributeRules { prefix: "forwarding-", header: 4, keep: &[NETCONFA_IFINDEX, NETCONFA_FORWARDING], addresses: &[],
        hardware: &[] },
    AttributeRules { prefix: "qdiscs", header: 20, keep: &[TCA_KIND], addresses: &[], hardware: &[] },
    AttributeRules { prefix: "classes-", header: 20, keep: &[], addresses: &[], hardware: &[] },
    AttributeRules { prefix: "filters-", header: 20, keep: &[TCA_KIND, TCA_OPTIONS], addresses: &[], hardware: &[] },
    AttributeRules { prefix: "get-", header: 12, keep: ROUTE, addresses: ROUTE_ADDRESSES, hardware: &[] },
];
#[rustfmt::skip]
const ROUTE: &[u16] = &[RTA_OIF, RTA_PRIORITY, RTA_METRICS, RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_MARK, RTA_PREF,
    RTA_UID, RTA_NH_ID];
const ROUTE_ADDRESSES: &[(u16, Option<usize>)] =
    &[(RTA_DST, Some(1)), (RTA_SRC, Some(2)), (RTA_GATEWAY, None), (RTA_PREFSRC, None)];

/// Tunnel attributes: kind, addresses, attributes to keep.
#[rustfmt::skip]
const KINDS: &[(&[u8], &[u16], &[u16])] = &[
    (b"vxlan", &[IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6],
        &[IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT_RANGE, IFLA_VXLAN_PORT,
            IFLA_VXLAN_UDP_CSUM, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
            IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_GBP, IFLA_VXLAN_TTL, IFLA_VXLAN_TOS, IFLA_VXLAN_TTL_INHERIT, IFLA_VXLAN_DF]),
    (b"geneve", &[IFLA_GENEVE_REMOTE, IFLA_GENEVE_REMOTE6],
        &[IFLA_GENEVE_ID, IFLA_GENEVE_PORT, IFLA_GENEVE_COLLECT_METADATA, IFLA_GENEVE_UDP_CSUM,
            IFLA_GENEVE_UDP_ZERO_CSUM6_TX, IFLA_GENEVE_PORT_RANGE, IFLA_GENEVE_TTL, IFLA_GENEVE_TOS,
            IFLA_GENEVE_TTL_INHERIT, IFLA_GENEVE_DF]),
    (b"bridge", &[], &[IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES]),
];

impl Redactor {
    /// Redacts all messages of a response.
    pub(super) fn route(&mut self, bytes: &mut [u8], rules: &AttributeRules) -> Result<(), Failure> {
        each_message(bytes, |_, body| self.message(body, rules))
    }

    fn message(&mut self, body: &mut [u8], rules: &AttributeRules) -> Result<(), Failure> {
        if body.len() < rules.header {
            return Err(Failure::unexpected("a message is too short for its header"));
        }
        let (header, attributes) = body.split_at_mut(rules.header);
        let mut filter = Vec::new();
        each_attribute(attributes, |kind, value| {
            if let Some((_, length_at)) = rules.addresses.iter().find(|(address, _)| *address == kind) {
                self.address(value, length_at.map(|at| header[at]));
            } else if rules.hardware.contains(&kind) {
                self.hardware(value);
            } else if !rules.keep.contains(&kind) {
                value.fill(0);
            } else if rules.prefix == "filters-" && kind == TCA_KIND {
                filter = value.to_vec();
            } else if rules.prefix == "filters-" && kind == TCA_OPTIONS {
                filter_options(&filter, value)?;
            } else if rules.prefix == "links" && kind == IFLA_LINKINFO {
                self.link_info(value)?;
            } else if rules.prefix == "links" && kind == IFLA_IFNAME {
                self.device_name(value);
            } else if rules.prefix == "rules-" && matches!(kind, FRA_IIFNAME | FRA_OIFNAME) {
                self.name(value);
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
                IFLA_INFO_KIND => kind = text(value).to_vec(),
                IFLA_INFO_DATA => {
                    let known = KINDS.iter().find(|(known, ..)| *known == kind.as_slice());
                    let Some((_, addresses, keep)) = known else {
                        value.fill(0);
                        return Ok(());
                    };
                    each_attribute(value, |attribute, value| {
                        if addresses.contains(&attribute) {
                            self.address(value, None);
                        } else if !keep.contains(&attribute) {
                            value.fill(0);
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
}

/// Redacts a tc filter: keeps the kinds of its actions, and the mark that one sets.
fn filter_options(filter: &[u8], options: &mut [u8]) -> Result<(), Failure> {
    let filter = text(filter);
    let Some((_, list)) = TCA_ACTIONS.iter().find(|(known, _)| known.as_bytes() == filter) else {
        options.fill(0);
        return Ok(());
    };
    each_attribute(options, |attribute, actions| match attribute == *list {
        true => each_attribute(actions, |_, action| {
            let mut kind = Vec::new();
            each_attribute(action, |attribute, value| match attribute {
                TCA_ACT_KIND => {
                    kind = text(value).to_vec();
                    Ok(())
                }
                TCA_ACT_OPTIONS if kind == b"skbedit" => each_attribute(value, |attribute, value| {
                    if !matches!(attribute, TCA_SKBEDIT_MARK | TCA_SKBEDIT_MASK) {
                        value.fill(0);
                    }
                    Ok(())
                }),
                _ => {
                    value.fill(0);
                    Ok(())
                }
            })
        }),
        false => {
            actions.fill(0);
            Ok(())
        }
    })
}

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Calls `change` with type and payload of each attribute.
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
    use std::hash::RandomState;

    use super::*;
    use crate::netfilter::netlink::{Attributes, put, put_nested};

    #[test]
    fn of_filters_stays_which_actions_they_have_and_the_mark() {
        const TCA_U32_SEL: u16 = 5;
        let mut body = vec![0; 20];
        put(&mut body, TCA_KIND, b"u32\0");
        put_nested(&mut body, TCA_OPTIONS, |options| {
            put(options, TCA_U32_SEL, &[10, 9, 9, 8]);
            put_nested(options, 7, |actions| {
                for (number, kind) in [(1, b"pedit\0\0\0"), (2, b"skbedit\0")] {
                    put_nested(actions, number, |action| {
                        put(action, TCA_ACT_KIND, kind);
                        put_nested(action, TCA_ACT_OPTIONS, |options| {
                            put(options, 2, &[10, 9, 9, 8]);
                            put(options, TCA_SKBEDIT_MARK, &0x4000_u32.to_ne_bytes());
                        });
                    });
                }
            });
        });
        let rules = RULES.iter().find(|rules| rules.prefix == "filters-").unwrap();
        let before = body.len();
        Redactor::new(RandomState::new(), String::new()).message(&mut body, rules).unwrap();
        assert!(body.len() == before && !body.windows(3).any(|bytes| bytes == [10, 9, 9]), "{body:?}");
        let options = Attributes::after(&body, 20, "").unwrap().nested(TCA_OPTIONS, "").unwrap().unwrap();
        let actions = options.nested(7, "").unwrap().unwrap();
        let action = |number| actions.nested(number, "").unwrap().unwrap();
        let kinds = [1, 2].map(|number| action(number).string(TCA_ACT_KIND).unwrap().unwrap());
        assert_eq!(kinds, ["pedit", "skbedit"]);
        let options = action(2).nested(TCA_ACT_OPTIONS, "").unwrap().unwrap();
        assert_eq!(options.u32(TCA_SKBEDIT_MARK).unwrap(), Some(0x4000));
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>)| {
            for rules in RULES {
                let mut redactor = Redactor::new(RandomState::new(), String::new());
                let _ = redactor.route(&mut bytes.clone(), rules);
                let _ = redactor.message(&mut bytes.clone(), rules);
            }
        });
    }
}
