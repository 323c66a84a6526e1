//! Built-in targets of x_tables: the standard target (a verdict), which has no name, and `ERROR`, which begins a
//! user-defined chain or ends the table.
//!
//! `include/uapi/linux/netfilter/x_tables.h`; `ip_tables.c`: `ipt_do_table`, `ipt_error`.

crate::netfilter::layout! {
    /// `struct xt_standard_target` after its header
    XtStandardTarget = 4 {
        /// Negative: a verdict; else the offset of the entry to jump to
        0 verdict: i32 => plain,
    }
    /// `struct xt_error_target` after its header
    XtErrorTarget = 30 {
        0 errorname: [u8; 30] => chain,
    }
}

/// `NF_DROP`: verdicts are `-NF_* - 1`
pub const DROP: i32 = -1;
/// `NF_ACCEPT`
pub const ACCEPT: i32 = -2;
/// `NF_QUEUE`
pub const QUEUE: i32 = -4;
/// `XT_RETURN`: `-NF_REPEAT - 1`
pub const RETURN: i32 = -5;
