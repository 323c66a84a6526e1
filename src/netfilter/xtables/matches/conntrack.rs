//! `conntrack`: properties of the packet's connection.
//!
//! `include/uapi/linux/netfilter/xt_conntrack.h`; `xt_conntrack.c`: `conntrack_mt_v1`, `conntrack_mt_v2`,
//! `conntrack_mt_v3`.

use crate::netfilter::xtables::{Be16, Inet};

crate::netfilter::layout! {
    /// `struct xt_conntrack_mtinfo1`
    XtConntrackMtinfo1 = 152 {
        0 origsrc_addr: Inet => masked(origsrc_mask), 16 origsrc_mask: Inet => plain,
        32 origdst_addr: Inet => masked(origdst_mask), 48 origdst_mask: Inet => plain,
        64 replsrc_addr: Inet => masked(replsrc_mask), 80 replsrc_mask: Inet => plain,
        96 repldst_addr: Inet => masked(repldst_mask), 112 repldst_mask: Inet => plain,
        128 expires_min: u32 => plain, 132 expires_max: u32 => plain, 136 l4proto: u16 => plain,
        138 origsrc_port: Be16 => plain, 140 origdst_port: Be16 => plain, 142 replsrc_port: Be16 => plain,
        144 repldst_port: Be16 => plain, 146 match_flags: u16 => plain, 148 invert_flags: u16 => plain,
        150 state_mask: u8 => plain, 151 status_mask: u8 => plain,
    }
    /// `struct xt_conntrack_mtinfo2`
    XtConntrackMtinfo2 = 156 {
        0 origsrc_addr: Inet => masked(origsrc_mask), 16 origsrc_mask: Inet => plain,
        32 origdst_addr: Inet => masked(origdst_mask), 48 origdst_mask: Inet => plain,
        64 replsrc_addr: Inet => masked(replsrc_mask), 80 replsrc_mask: Inet => plain,
        96 repldst_addr: Inet => masked(repldst_mask), 112 repldst_mask: Inet => plain,
        128 expires_min: u32 => plain, 132 expires_max: u32 => plain, 136 l4proto: u16 => plain,
        138 origsrc_port: Be16 => plain, 140 origdst_port: Be16 => plain, 142 replsrc_port: Be16 => plain,
        144 repldst_port: Be16 => plain, 146 match_flags: u16 => plain, 148 invert_flags: u16 => plain,
        150 state_mask: u16 => plain, 152 status_mask: u16 => plain,
    }
    /// `struct xt_conntrack_mtinfo3`
    XtConntrackMtinfo3 = 164 {
        0 origsrc_addr: Inet => masked(origsrc_mask), 16 origsrc_mask: Inet => plain,
        32 origdst_addr: Inet => masked(origdst_mask), 48 origdst_mask: Inet => plain,
        64 replsrc_addr: Inet => masked(replsrc_mask), 80 replsrc_mask: Inet => plain,
        96 repldst_addr: Inet => masked(repldst_mask), 112 repldst_mask: Inet => plain,
        128 expires_min: u32 => plain, 132 expires_max: u32 => plain, 136 l4proto: u16 => plain,
        138 origsrc_port: u16 => plain, 140 origdst_port: u16 => plain, 142 replsrc_port: u16 => plain,
        144 repldst_port: u16 => plain, 146 match_flags: u16 => plain, 148 invert_flags: u16 => plain,
        150 state_mask: u16 => plain, 152 status_mask: u16 => plain, 154 origsrc_port_high: u16 => plain,
        156 origdst_port_high: u16 => plain, 158 replsrc_port_high: u16 => plain,
        160 repldst_port_high: u16 => plain,
    }
}

/// Converts older revisions to revision 3.
macro_rules! third {
    ($($old:ident)*) => {$(
        impl From<$old<'_>> for XtConntrackMtinfo3<'_> {
            fn from(old: $old<'_>) -> Self {
                let [origsrc_port, origdst_port, replsrc_port, repldst_port] =
                    [old.origsrc_port.0, old.origdst_port.0, old.replsrc_port.0, old.repldst_port.0];
                Self {
                    origsrc_addr: old.origsrc_addr,
                    origsrc_mask: old.origsrc_mask,
                    origdst_addr: old.origdst_addr,
                    origdst_mask: old.origdst_mask,
                    replsrc_addr: old.replsrc_addr,
                    replsrc_mask: old.replsrc_mask,
                    repldst_addr: old.repldst_addr,
                    repldst_mask: old.repldst_mask,
                    expires_min: old.expires_min,
                    expires_max: old.expires_max,
                    l4proto: old.l4proto,
                    origsrc_port,
                    origdst_port,
                    replsrc_port,
                    repldst_port,
                    match_flags: old.match_flags,
                    invert_flags: old.invert_flags,
                    state_mask: old.state_mask.into(),
                    status_mask: old.status_mask.into(),
                    origsrc_port_high: origsrc_port,
                    origdst_port_high: origdst_port,
                    replsrc_port_high: replsrc_port,
                    repldst_port_high: repldst_port,
                    bytes: (&[]).into(),
                }
            }
        }
    )*};
}
third!(XtConntrackMtinfo1 XtConntrackMtinfo2);
