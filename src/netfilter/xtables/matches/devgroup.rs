//! `devgroup`: groups of devices.
//!
//! `include/uapi/linux/netfilter/xt_devgroup.h`; `xt_devgroup.c`: `devgroup_mt`.

crate::netfilter::layout! {
    /// `struct xt_devgroup_info`
    XtDevgroupInfo = 20 {
        0 flags: u32 => plain, 4 src_group: u32 => plain, 8 src_mask: u32 => plain, 12 dst_group: u32 => plain,
        16 dst_mask: u32 => plain,
    }
}
