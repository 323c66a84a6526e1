//! `rpfilter`: whether replies would leave by the same device.
//!
//! `include/uapi/linux/netfilter/xt_rpfilter.h`; `ipt_rpfilter.c`, `ip6t_rpfilter.c`: `rpfilter_mt`.

crate::netfilter::layout! {
    /// `struct xt_rpfilter_info`
    XtRpfilterInfo = 1 {
        0 flags: u8 => plain,
    }
}
