//! Matches of x_tables: one file each, with their structures. In `include/uapi/linux/netfilter/`, `net/netfilter/`,
//! `net/ipv4/netfilter/` and `net/ipv6/netfilter/`.

use super::{Untyped, extensions};
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

pub mod addrtype;
pub mod ah;
pub mod cluster;
pub mod comment;
pub mod connbytes;
pub mod connlabel;
pub mod connlimit;
pub mod connmark;
pub mod conntrack;
pub mod cpu;
pub mod dccp;
pub mod devgroup;
pub mod dscp;
pub mod ecn;
pub mod esp;
pub mod frag;
pub mod helper;
pub mod hl;
pub mod icmp;
pub mod icmp6;
pub mod ipcomp;
pub mod iprange;
pub mod ipv6header;
pub mod ipvs;
pub mod l2tp;
pub mod length;
pub mod limit;
pub mod mac;
pub mod mark;
pub mod multiport;
pub mod nfacct;
pub mod owner;
pub mod physdev;
pub mod pkttype;
pub mod policy;
pub mod quota;
pub mod rateest;
pub mod realm;
pub mod rpfilter;
pub mod sctp;
pub mod set;
pub mod socket;
pub mod state;
pub mod statistic;
pub mod tcp;
pub mod tcpmss;
pub mod time;
pub mod tos;
pub mod ttl;
pub mod udp;

extensions! {
    /// A match.
    Match {
        AddrtypeV0(addrtype::XtAddrtypeInfo<'a>) = ("addrtype", 0, NFPROTO_IPV4),
        Addrtype(addrtype::XtAddrtypeInfoV1<'a>) = ("addrtype", 1, _),
        Ah4(ah::IptAh<'a>) = ("ah", 0, NFPROTO_IPV4),
        Ah6(ah::Ip6tAh<'a>) = ("ah", 0, NFPROTO_IPV6),
        Bpf(Untyped<'a, 520>) = ("bpf", 0 | 1, _),
        CgroupV0(Untyped<'a, 8>) = ("cgroup", 0, _),
        CgroupV1(Untyped<'a, 4104>) = ("cgroup", 1, _),
        Cgroup(Untyped<'a, 520>) = ("cgroup", 2, _),
        Cluster(cluster::XtClusterMatchInfo<'a>) = ("cluster", 0, _),
        Comment(comment::XtCommentInfo<'a>) = ("comment", 0, _),
        Connbytes(connbytes::XtConnbytesInfo<'a>) = ("connbytes", 0, _),
        Connlabel(connlabel::XtConnlabelMtinfo<'a>) = ("connlabel", 0, _),
        Connlimit(connlimit::XtConnlimitInfo<'a>) = ("connlimit", 0 | 1, _),
        Connmark(connmark::XtConnmarkMtinfo1<'a>) = ("connmark", 1, _),
        ConntrackV1(conntrack::XtConntrackMtinfo1<'a>) = ("conntrack", 1, _),
        ConntrackV2(conntrack::XtConntrackMtinfo2<'a>) = ("conntrack", 2, _),
        Conntrack(conntrack::XtConntrackMtinfo3<'a>) = ("conntrack", 3, _),
        Cpu(cpu::XtCpuInfo<'a>) = ("cpu", 0, _),
        Dccp(dccp::XtDccpInfo<'a>) = ("dccp", 0, _),
        Devgroup(devgroup::XtDevgroupInfo<'a>) = ("devgroup", 0, _),
        Dscp(dscp::XtDscpInfo<'a>) = ("dscp", 0, _),
        Dst(Untyped<'a, 40>) = ("dst", 0, _),
        Ecn(ecn::XtEcnInfo<'a>) = ("ecn", 0, _),
        Esp(esp::XtEsp<'a>) = ("esp", 0, _),
        Eui64(Untyped<'a, 4>) = ("eui64", 0, _),
        Frag(frag::Ip6tFrag<'a>) = ("frag", 0, _),
        HashlimitV1(Untyped<'a, 48>) = ("hashlimit", 1, _),
        HashlimitV2(Untyped<'a, 296>) = ("hashlimit", 2, _),
        Hashlimit(Untyped<'a, 304>) = ("hashlimit", 3, _),
        Hbh(Untyped<'a, 40>) = ("hbh", 0, _),
        Helper(helper::XtHelperInfo<'a>) = ("helper", 0, _),
        Hl(hl::Ip6tHlInfo<'a>) = ("hl", 0, NFPROTO_IPV6),
        Icmp(icmp::IptIcmp<'a>) = ("icmp", 0, NFPROTO_IPV4),
        Icmp6(icmp6::Ip6tIcmp<'a>) = ("icmp6", 0, NFPROTO_IPV6),
        Ipcomp(ipcomp::XtIpcomp<'a>) = ("ipcomp", 0, _),
        Iprange(iprange::XtIprangeMtinfo<'a>) = ("iprange", 1, _),
        Ipv6header(ipv6header::Ip6tIpv6headerInfo<'a>) = ("ipv6header", 0, _),
        Ipvs(ipvs::XtIpvsMtinfo<'a>) = ("ipvs", 0, _),
        L2tp(l2tp::XtL2tpInfo<'a>) = ("l2tp", 0, _),
        Length(length::XtLengthInfo<'a>) = ("length", 0, _),
        Limit(limit::XtRateinfo<'a>) = ("limit", 0, _),
        Mac(mac::XtMacInfo<'a>) = ("mac", 0, _),
        Mark(mark::XtMarkMtinfo1<'a>) = ("mark", 1, _),
        Mh(Untyped<'a, 3>) = ("mh", 0, _),
        MultiportV0(multiport::XtMultiport<'a>) = ("multiport", 0, _),
        Multiport(multiport::XtMultiportV1<'a>) = ("multiport", 1, _),
        Nfacct(nfacct::XtNfacctMatchInfo<'a>) = ("nfacct", 0 | 1, _),
        Osf(Untyped<'a, 48>) = ("osf", 0, _),
        Owner(owner::XtOwnerMatchInfo<'a>) = ("owner", 1, _),
        Physdev(physdev::XtPhysdevInfo<'a>) = ("physdev", 0, _),
        Pkttype(pkttype::XtPkttypeInfo<'a>) = ("pkttype", 0, _),
        Policy(policy::XtPolicyInfo<'a>) = ("policy", 0, _),
        Quota(quota::XtQuotaInfo<'a>) = ("quota", 0, _),
        Rateest(rateest::XtRateestMatchInfo<'a>) = ("rateest", 0, _),
        Realm(realm::XtRealmInfo<'a>) = ("realm", 0, _),
        RecentV0(Untyped<'a, 212>) = ("recent", 0, _),
        Recent(Untyped<'a, 228>) = ("recent", 1, _),
        Rpfilter(rpfilter::XtRpfilterInfo<'a>) = ("rpfilter", 0, _),
        Rt(Untyped<'a, 280>) = ("rt", 0, _),
        Sctp(sctp::XtSctpInfo<'a>) = ("sctp", 0, _),
        SetV0(set::XtSetInfoMatchV0<'a>) = ("set", 0, _),
        SetV1(set::XtSetInfoMatchV1<'a>) = ("set", 1 | 2, _),
        SetV3(set::XtSetInfoMatchV3<'a>) = ("set", 3, _),
        Set(set::XtSetInfoMatchV4<'a>) = ("set", 4, _),
        SocketV0(Untyped<'a, 0>) = ("socket", 0, _),
        SocketV1(socket::XtSocketMtinfo1<'a>) = ("socket", 1 | 2, _),
        Socket(socket::XtSocketMtinfo1<'a>) = ("socket", 3, _),
        SrhV0(Untyped<'a, 10>) = ("srh", 0, _),
        Srh(Untyped<'a, 108>) = ("srh", 1, _),
        State(state::XtStateInfo<'a>) = ("state", 0, _),
        Statistic(statistic::XtStatisticInfo<'a>) = ("statistic", 0, _),
        String(Untyped<'a, 152>) = ("string", 1, _),
        Tcp(tcp::XtTcp<'a>) = ("tcp", 0, _),
        Tcpmss(tcpmss::XtTcpmssMatchInfo<'a>) = ("tcpmss", 0, _),
        Time(time::XtTimeInfo<'a>) = ("time", 0, _),
        Tos(tos::XtTosMatchInfo<'a>) = ("tos", 1, _),
        Ttl(ttl::IptTtlInfo<'a>) = ("ttl", 0, NFPROTO_IPV4),
        U32(Untyped<'a, 1984>) = ("u32", 0, _),
        Udp(udp::XtUdp<'a>) = ("udp", 0, _),
        Udplite(udp::XtUdp<'a>) = ("udplite", 0, _),
    }
}
