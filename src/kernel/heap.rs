//! Memory that a reading of many rules leaves behind is given back. glibc keeps it otherwise: 30 MiB after rules of 50,000
//! Services were decoded, of which 0.2 MiB is in use. musl gives it back by itself.

/// Allocations of this size and more are given back at once, for good: glibc would else move the limit up to whatever was
/// freed last. It is what it begins with.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 128 << 10;

/// Says so to the allocator, once, at start. And that all threads share one heap: one of them reads, and a heap of its own grows
/// by a system call for every few pages.
#[allow(unsafe_code, reason = "no safe interface knows the allocator's options")]
pub(crate) fn set_up() {
    // SAFETY: it takes two numbers and changes how later allocations are made.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back whatever is free. It takes up to 90 ms after a large set of rules was decoded.
#[allow(unsafe_code, reason = "no safe interface knows this function")]
pub(crate) fn give_back() {
    // SAFETY: it takes a number, and touches only what is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
