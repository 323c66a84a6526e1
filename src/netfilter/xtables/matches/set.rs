//! `set`: an ipset.
//!
//! `include/uapi/linux/netfilter/xt_set.h`; `xt_set.c`: `set_match_v0`, `set_match_v1`, `set_match_v3`, `set_match_v4`.

crate::netfilter::layout! {
    /// `struct xt_set_info_match_v0`
    XtSetInfoMatchV0 = 32 {
        0 index: u16 => plain,
        /// One per dimension (`IPSET_*`), terminated by 0
        4 flags: [u32; 7] => plain,
    }
    /// `struct xt_set_info_match_v1`, also of revision 2
    XtSetInfoMatchV1 = 4 {
        0 index: u16 => plain, 2 dim: u8 => plain, 3 flags: u8 => plain,
    }
    /// `struct xt_set_info_match_v3`
    XtSetInfoMatchV3 = 48 {
        0 index: u16 => plain, 2 dim: u8 => plain, 3 flags: u8 => plain, 8 packets_op: u8 => plain,
        16 packets: u64 => plain, 24 bytes_op: u8 => plain, 32 octets: u64 => plain, 40 cmdflags: u32 => plain,
    }
    /// `struct xt_set_info_match_v4`
    XtSetInfoMatchV4 = 48 {
        0 index: u16 => plain, 2 dim: u8 => plain, 3 flags: u8 => plain, 8 packets: u64 => plain,
        16 packets_op: u8 => plain, 24 octets: u64 => plain, 32 bytes_op: u8 => plain, 40 cmdflags: u32 => plain,
    }
}
