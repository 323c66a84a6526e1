//! `SET`: adds to an ipset, deletes from one, or takes values from an element.
//!
//! `include/uapi/linux/netfilter/xt_set.h`; `xt_set.c`: `set_target_v0`, `set_target_v1`, `set_target_v2`,
//! `set_target_v3`.

crate::netfilter::layout! {
    /// `struct xt_set_info_target_v0`
    XtSetInfoTargetV0 = 64 {
        0 add_index: u16 => plain,
        /// One per dimension (`IPSET_*`), terminated by 0
        4 add_flags: [u32; 7] => plain, 32 del_index: u16 => plain, 36 del_flags: [u32; 7] => plain,
    }
    /// `struct xt_set_info_target_v1`
    XtSetInfoTargetV1 = 8 {
        0 add_index: u16 => plain, 2 add_dim: u8 => plain, 3 add_flags: u8 => plain, 4 del_index: u16 => plain,
        6 del_dim: u8 => plain, 7 del_flags: u8 => plain,
    }
    /// `struct xt_set_info_target_v2`
    XtSetInfoTargetV2 = 16 {
        0 add_index: u16 => plain, 2 add_dim: u8 => plain, 3 add_flags: u8 => plain, 4 del_index: u16 => plain,
        6 del_dim: u8 => plain, 7 del_flags: u8 => plain, 8 flags: u32 => plain, 12 timeout: u32 => plain,
    }
    /// `struct xt_set_info_target_v3`
    XtSetInfoTargetV3 = 20 {
        0 add_index: u16 => plain, 2 add_dim: u8 => plain, 3 add_flags: u8 => plain, 4 del_index: u16 => plain,
        6 del_dim: u8 => plain, 7 del_flags: u8 => plain, 8 map_index: u16 => plain, 10 map_dim: u8 => plain,
        11 map_flags: u8 => plain, 12 flags: u32 => plain, 16 timeout: u32 => plain,
    }
}
