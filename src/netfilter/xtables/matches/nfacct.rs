//! `nfacct`: counts packets in a named object.
//!
//! `include/uapi/linux/netfilter/xt_nfacct.h`; `xt_nfacct.c`: `nfacct_mt`, which holds for every packet, unless the
//! object has a quota.

crate::netfilter::layout! {
    /// `struct xt_nfacct_match_info`, with which `struct xt_nfacct_match_info_v1` begins
    XtNfacctMatchInfo = 32 {
        0 name: [u8; 32] => accounting,
    }
}
