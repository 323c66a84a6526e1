//! `CT`: chooses how the connection is tracked.
//!
//! `include/uapi/linux/netfilter/xt_CT.h`; `xt_CT.c`: `xt_ct_target_v0`, `xt_ct_target_v1`.

crate::netfilter::layout! {
    /// `struct xt_ct_target_info`
    XtCtTargetInfo = 32 {
        0 flags: u16 => plain, 2 zone: u16 => plain, 4 ct_events: u32 => plain, 8 exp_events: u32 => plain,
        12 helper: [u8; 16] => hidden,
    }
    /// `struct xt_ct_target_info_v1`
    XtCtTargetInfoV1 = 64 {
        0 flags: u16 => plain, 2 zone: u16 => plain, 4 ct_events: u32 => plain, 8 exp_events: u32 => plain,
        12 helper: [u8; 16] => hidden, 28 timeout: [u8; 32] => comment,
    }
}
