//! `TPROXY`: hands the packet to a local socket, and marks it.
//!
//! `include/uapi/linux/netfilter/xt_TPROXY.h`; `xt_TPROXY.c`: `tproxy_tg4_v0`, `tproxy_tg4_v1`, `tproxy_tg6_v1`.

use crate::netfilter::xtables::{Be16, Inet};

crate::netfilter::layout! {
    /// `struct xt_tproxy_target_info`
    XtTproxyTargetInfo = 16 {
        0 mark_mask: u32 => plain, 4 mark_value: u32 => plain, 8 laddr: [u8; 4] => address, 12 lport: Be16 => plain,
    }
    /// `struct xt_tproxy_target_info_v1`
    XtTproxyTargetInfoV1 = 28 {
        0 mark_mask: u32 => plain, 4 mark_value: u32 => plain, 8 laddr: Inet => address, 24 lport: Be16 => plain,
    }
}
