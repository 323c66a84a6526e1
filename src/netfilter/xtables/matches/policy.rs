//! `policy`: whether IPsec handles the packet, and how.
//!
//! `include/uapi/linux/netfilter/xt_policy.h`; `xt_policy.c`: `policy_mt`. Of an element (76 bytes) only which of its
//! fields count is known here: addresses, SPIs and the rest are never looked at.

/// `XT_POLICY_MATCH_IN`
pub const XT_POLICY_MATCH_IN: u16 = 0x1;
/// `XT_POLICY_MATCH_NONE`
pub const XT_POLICY_MATCH_NONE: u16 = 0x4;

crate::netfilter::layout! {
    /// `struct xt_policy_info`
    XtPolicyInfo = 308 {
        /// `struct xt_policy_spec`: fields of the first element that count, as bits
        74 match_0: u8 => plain,
        /// The same of the second
        150 match_1: u8 => plain,
        /// The same of the third
        226 match_2: u8 => plain,
        /// The same of the fourth
        302 match_3: u8 => plain,
        /// `XT_POLICY_MATCH_*`
        304 flags: u16 => plain,
        /// Elements
        306 len: u16 => plain,
    }
}
