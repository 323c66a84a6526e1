//! `comment`: a text, which tests nothing.
//!
//! `include/uapi/linux/netfilter/xt_comment.h`; `xt_comment.c`: `comment_mt`.

crate::netfilter::layout! {
    /// `struct xt_comment_info`
    XtCommentInfo = 256 {
        0 comment: [u8; 256] => comment,
    }
}
