//! `connlabel`: a label of the connection.
//!
//! `include/uapi/linux/netfilter/xt_connlabel.h`; `xt_connlabel.c`: `connlabel_mt`.

crate::netfilter::layout! {
    /// `struct xt_connlabel_mtinfo`
    XtConnlabelMtinfo = 4 {
        0 bit: u16 => plain, 2 options: u16 => plain,
    }
}
