//! `realm`: the realm of the route.
//!
//! `include/uapi/linux/netfilter/xt_realm.h`; `xt_realm.c`: `realm_mt`.

crate::netfilter::layout! {
    /// `struct xt_realm_info`
    XtRealmInfo = 12 {
        0 id: u32 => plain, 4 mask: u32 => plain, 8 invert: u8 => plain,
    }
}
