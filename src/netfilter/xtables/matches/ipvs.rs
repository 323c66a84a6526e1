//! `ipvs`: what IPVS does with the packet.
//!
//! `include/uapi/linux/netfilter/xt_ipvs.h`; `xt_ipvs.c`: `ipvs_mt`.

use crate::netfilter::xtables::{Be16, Inet};

crate::netfilter::layout! {
    /// `struct xt_ipvs_mtinfo`
    XtIpvsMtinfo = 40 {
        0 vaddr: Inet => masked(vmask), 16 vmask: Inet => plain, 32 vport: Be16 => plain, 34 l4proto: u8 => plain,
        35 fwd_method: u8 => plain, 36 vportctl: Be16 => plain, 38 invert: u8 => plain, 39 bitmask: u8 => plain,
    }
}
