//! `policy`: whether and how IPsec applies to the packet.
//!
//! `include/uapi/linux/netfilter/xt_policy.h`; `xt_policy.c`: `policy_mt`. Of an element (76 bytes) only the flags are
//! known here that say which of its fields are compared; addresses, SPIs and the rest are never read.

/// `XT_POLICY_MATCH_IN`
pub const XT_POLICY_MATCH_IN: u16 = 0x1;
/// `XT_POLICY_MATCH_NONE`
pub const XT_POLICY_MATCH_NONE: u16 = 0x4;

crate::netfilter::layout! {
    /// `struct xt_policy_info`
    XtPolicyInfo = 308 {
        /// `struct xt_policy_spec`: which fields of the first element are compared, as bits
        74 match_0: u8 => plain,
        /// The same for the second element
        150 match_1: u8 => plain,
        /// The same for the third element
        226 match_2: u8 => plain,
        /// The same for the fourth element
        302 match_3: u8 => plain,
        /// `XT_POLICY_MATCH_*`
        304 flags: u16 => plain,
        /// Number of elements
        306 len: u16 => plain,
    }
}
