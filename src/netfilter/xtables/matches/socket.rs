//! `socket`: whether there is a socket for the packet.
//!
//! `include/uapi/linux/netfilter/xt_socket.h`; `xt_socket.c`: `socket_mt4_v0`, `socket_mt4_v1_v2_v3`.

crate::netfilter::layout! {
    /// `struct xt_socket_mtinfo1`, `struct xt_socket_mtinfo2`, `struct xt_socket_mtinfo3`
    XtSocketMtinfo1 = 1 {
        0 flags: u8 => plain,
    }
}
