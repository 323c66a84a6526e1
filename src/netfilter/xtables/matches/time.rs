//! `time`: date and time of day.
//!
//! `include/uapi/linux/netfilter/xt_time.h`; `xt_time.c`: `time_mt`.

crate::netfilter::layout! {
    /// `struct xt_time_info`
    XtTimeInfo = 24 {
        0 date_start: u32 => plain, 4 date_stop: u32 => plain, 8 daytime_start: u32 => plain,
        12 daytime_stop: u32 => plain, 16 monthdays_match: u32 => plain, 20 weekdays_match: u8 => plain,
        21 flags: u8 => plain,
    }
}
