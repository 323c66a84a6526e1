//! `owner`: user and group of the packet's socket.
//!
//! `include/uapi/linux/netfilter/xt_owner.h`; `xt_owner.c`: `owner_mt`.

crate::netfilter::layout! {
    /// `struct xt_owner_match_info`
    XtOwnerMatchInfo = 20 {
        0 uid_min: u32 => plain, 4 uid_max: u32 => plain, 8 gid_min: u32 => plain, 12 gid_max: u32 => plain,
        16 r#match: u8 => plain, 17 invert: u8 => plain,
    }
}
