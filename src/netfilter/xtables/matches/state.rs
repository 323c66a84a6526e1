//! `state`: state of the connection.
//!
//! `include/uapi/linux/netfilter/xt_state.h`; `xt_state.c`: `state_mt` (today in `xt_conntrack.c`).

crate::netfilter::layout! {
    /// `struct xt_state_info`
    XtStateInfo = 4 {
        0 statemask: u32 => plain,
    }
}
