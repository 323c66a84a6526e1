//! `CLASSIFY`: sets the class of traffic control.
//!
//! `include/uapi/linux/netfilter/xt_CLASSIFY.h`; `xt_CLASSIFY.c`: `classify_tg`.

crate::netfilter::layout! {
    /// `struct xt_classify_target_info`
    XtClassifyTargetInfo = 4 {
        0 priority: u32 => plain,
    }
}
