//! `connlimit`: how many connections an address has.
//!
//! `include/uapi/linux/netfilter/xt_connlimit.h`; `xt_connlimit.c`: `connlimit_mt`.

use crate::netfilter::xtables::Inet;

crate::netfilter::layout! {
    /// `struct xt_connlimit_info`
    XtConnlimitInfo = 24 {
        /// Mask for addresses that are counted together
        0 mask: Inet => hidden, 16 limit: u32 => plain, 20 flags: u32 => plain,
    }
}
