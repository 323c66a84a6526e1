//! `quota`: bytes that are left.
//!
//! `include/uapi/linux/netfilter/xt_quota.h`; `xt_quota.c`: `quota_mt`.

crate::netfilter::layout! {
    /// `struct xt_quota_info`
    XtQuotaInfo = 16 {
        0 flags: u32 => plain, 8 quota: u64 => plain,
    }
}
