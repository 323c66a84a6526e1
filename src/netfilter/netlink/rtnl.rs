//! Numbers of rtnetlink by their names in `include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour,fib_rules}.h`.
//!
//! They come from `linux-raw-sys`, which is made of the headers. neli's own are values of enums: they cannot stand in a
//! pattern or a constant table, some are missing with musl, and those of VXLAN, Geneve and XDP altogether.
#![allow(missing_docs, reason = "the kernel's names")]

use linux_raw_sys::netlink::{self, rtattr_type_t};

macro_rules! numbers {
    ($from:ident: $($name:ident)*) => { $(pub const $name: u16 = $from::$name as u16;)* };
}

numbers! { netlink:
    RTM_NEWLINK RTM_GETLINK RTM_NEWADDR RTM_GETADDR RTM_NEWROUTE RTM_GETROUTE RTM_GETNEIGH RTM_GETRULE RTM_GETQDISC RTM_GETTCLASS RTM_GETTFILTER
    RTM_GETNETCONF RTM_GETNEIGHTBL

    IFLA_ADDRESS IFLA_IFNAME IFLA_MTU IFLA_LINK IFLA_MASTER IFLA_TXQLEN IFLA_OPERSTATE IFLA_LINKINFO IFLA_GROUP
    IFLA_EXT_MASK IFLA_LINK_NETNSID IFLA_XDP IFLA_PERM_ADDRESS
    IFLA_INFO_KIND IFLA_INFO_DATA
    IFLA_XDP_ATTACHED
    IFLA_BR_NF_CALL_IPTABLES IFLA_BR_NF_CALL_IP6TABLES
    IFLA_VXLAN_ID IFLA_VXLAN_GROUP IFLA_VXLAN_LINK IFLA_VXLAN_LOCAL IFLA_VXLAN_LEARNING IFLA_VXLAN_PORT_RANGE
    IFLA_VXLAN_PORT IFLA_VXLAN_GROUP6 IFLA_VXLAN_LOCAL6 IFLA_VXLAN_UDP_CSUM IFLA_VXLAN_UDP_ZERO_CSUM6_TX
    IFLA_VXLAN_UDP_ZERO_CSUM6_RX IFLA_VXLAN_COLLECT_METADATA
    IFLA_GENEVE_ID IFLA_GENEVE_REMOTE IFLA_GENEVE_PORT IFLA_GENEVE_COLLECT_METADATA IFLA_GENEVE_REMOTE6
    IFLA_GENEVE_UDP_CSUM IFLA_GENEVE_UDP_ZERO_CSUM6_TX IFLA_GENEVE_PORT_RANGE

    NDTA_NAME NDTA_THRESH1 NDTA_THRESH2 NDTA_THRESH3 NDTA_CONFIG NDTA_STATS NDTA_GC_INTERVAL

    NDA_DST NDA_LLADDR NDA_PORT NDA_VNI NDA_IFINDEX NDA_MASTER NDA_NH_ID

    IFA_ADDRESS IFA_LOCAL IFA_LABEL IFA_BROADCAST IFA_ANYCAST IFA_CACHEINFO IFA_MULTICAST IFA_FLAGS

    FRA_DST FRA_SRC FRA_IIFNAME FRA_GOTO FRA_PRIORITY FRA_FWMARK FRA_SUPPRESS_IFGROUP FRA_SUPPRESS_PREFIXLEN FRA_TABLE
    FRA_FWMASK FRA_OIFNAME FRA_L3MDEV FRA_UID_RANGE FRA_PROTOCOL FRA_IP_PROTO FRA_SPORT_RANGE FRA_DPORT_RANGE

    TCA_KIND TCA_OPTIONS
}

numbers! { rtattr_type_t:
    RTA_DST RTA_SRC RTA_OIF RTA_GATEWAY RTA_PRIORITY RTA_PREFSRC RTA_METRICS RTA_MULTIPATH RTA_CACHEINFO RTA_TABLE
    RTA_MARK RTA_PREF RTA_UID RTA_IP_PROTO RTA_DPORT RTA_NH_ID
}

/// `include/uapi/linux/pkt_cls.h`: kinds of filters, and which of their attributes is the list of their actions.
pub const TCA_ACTIONS: &[(&str, u16)] =
    &[("basic", 3), ("cgroup", 1), ("flow", 9), ("flower", 3), ("fw", 4), ("matchall", 2), ("route", 6), ("u32", 7)];
pub const TCA_ACT_KIND: u16 = 1;
pub const TCA_ACT_OPTIONS: u16 = 2;
/// `include/uapi/linux/tc_act/tc_skbedit.h`
pub const TCA_SKBEDIT_MARK: u16 = 5;
pub const TCA_SKBEDIT_MASK: u16 = 8;
/// `include/uapi/linux/netconf.h`
pub const NETCONFA_IFINDEX: u16 = 1;
pub const NETCONFA_FORWARDING: u16 = 2;
/// `include/uapi/linux/veth.h`
pub const VETH_INFO_PEER: u16 = 1;
