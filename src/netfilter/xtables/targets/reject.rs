//! `REJECT`: drops the packet and sends an error to the sender.
//!
//! `include/uapi/linux/netfilter_ipv4/ipt_REJECT.h`, `include/uapi/linux/netfilter_ipv6/ip6t_REJECT.h`; `ipt_REJECT.c`:
//! `reject_tg`, `ip6t_REJECT.c`: `reject_tg6`.

crate::netfilter::layout! {
    /// `struct ipt_reject_info`, `struct ip6t_reject_info`
    IptRejectInfo = 4 {
        0 with: u32 => plain,
    }
}
