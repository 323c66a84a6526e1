//! `HMARK`: marks by a hash of the flow.
//!
//! `include/uapi/linux/netfilter/xt_HMARK.h`; `xt_HMARK.c`: `hmark_tg_v4`, `hmark_tg_v6`.

use crate::netfilter::xtables::Inet;

crate::netfilter::layout! {
    /// `struct xt_hmark_info`
    XtHmarkInfo = 60 {
        0 src_mask: Inet => hidden, 16 dst_mask: Inet => hidden, 32 port_mask: [u16; 2] => hidden,
        36 port_set: [u16; 2] => hidden, 40 flags: u32 => hidden, 44 proto_mask: u16 => hidden,
        48 hashrnd: u32 => hidden, 52 hmodulus: u32 => hidden, 56 hoffset: u32 => hidden,
    }
}
