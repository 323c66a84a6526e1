//! `iprange`: ranges of addresses.
//!
//! `include/uapi/linux/netfilter/xt_iprange.h`; `xt_iprange.c`: `iprange_mt4`, `iprange_mt6`.

use crate::netfilter::xtables::Inet;

crate::netfilter::layout! {
    /// `struct xt_iprange_mtinfo`
    XtIprangeMtinfo = 68 {
        0 src_min: Inet => range(src_max), 16 src_max: Inet => plain, 32 dst_min: Inet => range(dst_max),
        48 dst_max: Inet => plain, 64 flags: u8 => plain,
    }
}
