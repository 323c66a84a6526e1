//! `pkttype`: unicast, broadcast, multicast.
//!
//! `include/uapi/linux/netfilter/xt_pkttype.h`; `xt_pkttype.c`: `pkttype_mt`.

crate::netfilter::layout! {
    /// `struct xt_pkttype_info`
    XtPkttypeInfo = 8 {
        0 pkttype: u32 => plain, 4 invert: u32 => plain,
    }
}
