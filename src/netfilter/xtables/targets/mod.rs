//! Targets of x_tables: one file each, with their structures; those of NAT share theirs.

use super::{Untyped, extensions};
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

pub mod checksum;
pub mod classify;
pub mod connmark;
pub mod ct;
pub mod dscp;
pub mod hl;
pub mod hmark;
pub mod mark;
pub mod nat;
pub mod nfqueue;
pub mod reject;
pub mod set;
pub mod tcpmss;
pub mod tos;
pub mod tproxy;
pub mod ttl;
pub mod verdict;

extensions! {
    /// A target.
    Target {
        Standard(verdict::XtStandardTarget<'a>) = ("", 0, _),
        Error(verdict::XtErrorTarget<'a>) = ("ERROR", 0, _),
        Audit(Untyped<'a, 1>) = ("AUDIT", 0, _),
        Checksum(checksum::XtChecksumInfo<'a>) = ("CHECKSUM", 0, _),
        Classify(classify::XtClassifyTargetInfo<'a>) = ("CLASSIFY", 0, _),
        ConnmarkV1(connmark::XtConnmarkTginfo1<'a>) = ("CONNMARK", 1, _),
        Connmark(connmark::XtConnmarkTginfo2<'a>) = ("CONNMARK", 2, _),
        Connsecmark(Untyped<'a, 1>) = ("CONNSECMARK", 0, _),
        CtV0(ct::XtCtTargetInfo<'a>) = ("CT", 0, _),
        Ct(ct::XtCtTargetInfoV1<'a>) = ("CT", 1 | 2, _),
        DnatV0(nat::NfNatIpv4MultiRangeCompat<'a>) = ("DNAT", 0, NFPROTO_IPV4),
        DnatV1(nat::NfNatRange<'a>) = ("DNAT", 1, _),
        Dnat(nat::NfNatRange2<'a>) = ("DNAT", 2, _),
        Dscp(dscp::XtDscpInfo<'a>) = ("DSCP", 0, _),
        Ecn(Untyped<'a, 3>) = ("ECN", 0, _),
        Hl(hl::Ip6tHlInfo<'a>) = ("HL", 0, _),
        Hmark(hmark::XtHmarkInfo<'a>) = ("HMARK", 0, _),
        IdletimerV0(Untyped<'a, 32>) = ("IDLETIMER", 0, _),
        Idletimer(Untyped<'a, 40>) = ("IDLETIMER", 1, _),
        Led(Untyped<'a, 32>) = ("LED", 0, _),
        Log(Untyped<'a, 32>) = ("LOG", 0, _),
        Mark(mark::XtMarkTginfo2<'a>) = ("MARK", 2, _),
        Masquerade4(nat::NfNatIpv4MultiRangeCompat<'a>) = ("MASQUERADE", 0, NFPROTO_IPV4),
        Masquerade6(nat::NfNatRange<'a>) = ("MASQUERADE", 0, NFPROTO_IPV6),
        Netmap4(nat::NfNatIpv4MultiRangeCompat<'a>) = ("NETMAP", 0, NFPROTO_IPV4),
        Netmap6(nat::NfNatRange<'a>) = ("NETMAP", 0, NFPROTO_IPV6),
        Nflog(Untyped<'a, 76>) = ("NFLOG", 0, _),
        NfqueueV0(nfqueue::XtNfqInfo<'a>) = ("NFQUEUE", 0, _),
        NfqueueV1(nfqueue::XtNfqInfoV1<'a>) = ("NFQUEUE", 1, _),
        Nfqueue(nfqueue::XtNfqInfoV3<'a>) = ("NFQUEUE", 2 | 3, _),
        Notrack(Untyped<'a, 0>) = ("NOTRACK", 0, _),
        Rateest(Untyped<'a, 24>) = ("RATEEST", 0, _),
        Redirect4(nat::NfNatIpv4MultiRangeCompat<'a>) = ("REDIRECT", 0, NFPROTO_IPV4),
        Redirect6(nat::NfNatRange<'a>) = ("REDIRECT", 0, NFPROTO_IPV6),
        Reject(reject::IptRejectInfo<'a>) = ("REJECT", 0, _),
        SecmarkV0(Untyped<'a, 264>) = ("SECMARK", 0, _),
        Secmark(Untyped<'a, 260>) = ("SECMARK", 1, _),
        SetV0(set::XtSetInfoTargetV0<'a>) = ("SET", 0, _),
        SetV1(set::XtSetInfoTargetV1<'a>) = ("SET", 1, _),
        SetV2(set::XtSetInfoTargetV2<'a>) = ("SET", 2, _),
        Set(set::XtSetInfoTargetV3<'a>) = ("SET", 3, _),
        SnatV0(nat::NfNatIpv4MultiRangeCompat<'a>) = ("SNAT", 0, NFPROTO_IPV4),
        SnatV1(nat::NfNatRange<'a>) = ("SNAT", 1, _),
        Snat(nat::NfNatRange2<'a>) = ("SNAT", 2, _),
        Synproxy(Untyped<'a, 4>) = ("SYNPROXY", 0, _),
        Tcpmss(tcpmss::XtTcpmssInfo<'a>) = ("TCPMSS", 0, _),
        Tcpoptstrip(Untyped<'a, 32>) = ("TCPOPTSTRIP", 0, _),
        Tee(Untyped<'a, 32>) = ("TEE", 1, _),
        Tos(tos::XtTosTargetInfo<'a>) = ("TOS", 1, _),
        TproxyV0(tproxy::XtTproxyTargetInfo<'a>) = ("TPROXY", 0, NFPROTO_IPV4),
        Tproxy(tproxy::XtTproxyTargetInfoV1<'a>) = ("TPROXY", 1, _),
        Trace(Untyped<'a, 0>) = ("TRACE", 0, _),
        Ttl(ttl::IptTtlInfo<'a>) = ("TTL", 0, _),
        Ulog(Untyped<'a, 56>) = ("ULOG", 0, _),
    }
}
