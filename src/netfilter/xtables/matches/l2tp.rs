//! `l2tp`: tunnel and session of L2TP.
//!
//! `include/uapi/linux/netfilter/xt_l2tp.h`; `xt_l2tp.c`: `l2tp_mt4`, `l2tp_mt6`.

crate::netfilter::layout! {
    /// `struct xt_l2tp_info`
    XtL2tpInfo = 12 {
        0 tid: u32 => plain, 4 sid: u32 => plain, 8 version: u8 => plain, 9 r#type: u8 => plain,
        10 flags: u8 => plain,
    }
}
