//! `CONNMARK`: sets, saves or restores the mark of the connection.
//!
//! `include/uapi/linux/netfilter/xt_connmark.h`; `xt_connmark.c`: `connmark_tg`, `connmark_tg_v2`.

crate::netfilter::layout! {
    /// `struct xt_connmark_tginfo1`
    XtConnmarkTginfo1 = 16 {
        0 ctmark: u32 => plain, 4 ctmask: u32 => plain, 8 nfmask: u32 => plain, 12 mode: u8 => plain,
    }
    /// `struct xt_connmark_tginfo2`
    XtConnmarkTginfo2 = 16 {
        0 ctmark: u32 => plain, 4 ctmask: u32 => plain, 8 nfmask: u32 => plain, 12 shift_dir: u8 => plain,
        13 shift_bits: u8 => plain, 14 mode: u8 => plain,
    }
}

impl From<XtConnmarkTginfo1<'_>> for XtConnmarkTginfo2<'_> {
    fn from(XtConnmarkTginfo1 { ctmark, ctmask, nfmask, mode, .. }: XtConnmarkTginfo1<'_>) -> Self {
        Self { ctmark, ctmask, nfmask, mode, ..Self::default() }
    }
}
