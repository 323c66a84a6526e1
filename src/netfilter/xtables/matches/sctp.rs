//! `sctp`: ports and chunks of SCTP.
//!
//! `include/uapi/linux/netfilter/xt_sctp.h`; `xt_sctp.c`: `sctp_mt`.

crate::netfilter::layout! {
    /// `struct xt_sctp_info`
    XtSctpInfo = 292 {
        0 dpts: [u16; 2] => plain, 4 spts: [u16; 2] => plain, 8 chunkmap: [u32; 64] => plain,
        264 chunk_match_type: u32 => plain,
        /// `chunktype`, `flag`, `flag_mask`
        268 flag_info: [[u8; 3]; 4] => plain, 280 flag_count: u32 => plain, 284 flags: u32 => plain,
        288 invflags: u32 => plain,
    }
}
