//! `cpu`: the CPU.
//!
//! `include/uapi/linux/netfilter/xt_cpu.h`; `xt_cpu.c`: `cpu_mt`.

crate::netfilter::layout! {
    /// `struct xt_cpu_info`
    XtCpuInfo = 8 {
        0 cpu: u32 => plain, 4 invert: u32 => plain,
    }
}
