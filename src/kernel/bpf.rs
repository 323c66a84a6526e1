//! Number of BPF programs attached to a device: `BPF_PROG_QUERY` (`bpf_prog_query`, `tcx_prog_query`,
//! `netkit_prog_query`).
//!
//! Requires `CAP_NET_ADMIN` in the initial user namespace and changes nothing. Sandboxes (seccomp, SystemCallFilter)
//! may refuse it.

use std::ffi::{c_int, c_long};
use std::io;

use crate::capture::{ProgramsRequest, Response};
use crate::facts::{Reading, SystemCall};

/// `BPF_PROG_QUERY`
const BPF_PROG_QUERY: c_int = 16;

/// `union bpf_attr` for `BPF_PROG_QUERY`. Without a buffer for ids, the kernel returns only their number.
///
/// The kernel ignores the given size when it answers: `bpf_mprog_query` (tcx, netkit) writes `query.revision` at byte
/// 56 in any case. So this struct is longer than any kernel's union; bytes unknown to the kernel must be zero.
#[repr(C, align(8))]
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    rest: [u64; 28],
}

/// A line per device with this hook: index and number of programs. Absent: the kernel has no such hook.
pub(crate) fn programs(request: &ProgramsRequest, in_time: &dyn Fn() -> io::Result<()>) -> Response {
    let mut lines = String::new();
    for device in &request.devices {
        let mut query = Query { target_ifindex: *device, attach_type: request.hook, ..Query::default() };
        match in_time().and_then(|()| ask(&mut query)) {
            Ok(count) => lines.push_str(&format!("{device} {count}\n")),
            Err(error) => match error.raw_os_error() {
                // Removed, of another kind, or reported by its netkit peer.
                Some(libc::ENODEV | libc::ENXIO | libc::EACCES) => {}
                Some(libc::EINVAL) => return Reading::Absent("this kernel has no such hook".into()),
                Some(libc::EPERM | libc::ENOSYS) => {
                    return Reading::Denied("bpf(2) is not permitted here".into());
                }
                _ => return Reading::Failed(super::failure(SystemCall::Bpf, &error)),
            },
        }
    }
    Reading::Ok(lines.into_bytes())
}

#[allow(unsafe_code, reason = "no safe interface knows this command")]
fn ask(query: &mut Query) -> io::Result<u32> {
    // SAFETY: the structure lives until the call returns, has the size that is passed, and contains no pointer: `prog_ids`
    // is 0, so the kernel writes numbers, flags and a revision, all of them within its union, and this is longer.
    let result: c_long = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut *query, size_of::<Query>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(query.prog_cnt) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_as_the_kernel_reads_it() {
        assert_eq!(std::mem::offset_of!(Query, prog_ids), 16);
        assert_eq!(std::mem::offset_of!(Query, prog_cnt), 24);
        assert_eq!(size_of::<Query>(), 256);
    }

    /// Where bpf(2) is permitted; otherwise it writes nothing.
    #[test]
    fn the_kernel_writes_into_it_alone() {
        const BPF_TCX_INGRESS: u32 = 46;
        let query = || Query { target_ifindex: 1, attach_type: BPF_TCX_INGRESS, ..Query::default() };
        let mut memory = [Query::default(), query(), Query::default()];
        let _ = ask(&mut memory[1]);
        assert_eq!(memory[0], Query::default());
        assert_eq!(memory[2], Query::default());
    }
}
