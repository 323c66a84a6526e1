//! `TCPMSS`: sets the largest segment that a SYN announces.
//!
//! `include/uapi/linux/netfilter/xt_TCPMSS.h`; `xt_TCPMSS.c`: `tcpmss_tg4`, `tcpmss_tg6`.

crate::netfilter::layout! {
    /// `struct xt_tcpmss_info`
    XtTcpmssInfo = 2 {
        0 mss: u16 => plain,
    }
}
