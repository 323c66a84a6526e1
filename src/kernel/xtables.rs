//! Legacy x_tables tables by getsockopt, undecoded.
//!
//! Kernel sources: `do_ipt_get_ctl` (`net/ipv4/netfilter/ip_tables.c`), `do_ip6t_get_ctl`. Requesting a table that does
//! not exist creates it, so callers request only listed tables.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::capture::{NET_ADMIN_MISSING, Response, XtablesRequest};
use crate::facts::{Failure, Reading, SystemCall};
use crate::netfilter::xtables::{IptGetEntries, IptGetinfo, IptReplace, Structure, XtFamily};

/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`
const SO_GET_INFO: c_int = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`
const SO_GET_ENTRIES: c_int = 65;
/// `IPT_SO_SET_REPLACE`, `IP6T_SO_SET_REPLACE`
const SO_SET_REPLACE: c_int = 64;
/// Size of a table name including the final zero (`XT_TABLE_MAXNAMELEN`).
const NAME: usize = 32;
/// Size limit of a table, bytes: 100,000 rules of kube-proxy, twice what it writes for 10,000 Services.
const MAX_TABLE: usize = 64 << 20;
/// Number of attempts to read a table that changes meanwhile; kube-proxy writes it at most once a second.
const MAX_TRIES: usize = 64;

/// Reads a table: `struct ipt_getinfo`, then `struct ipt_get_entries`.
///
/// Replacing the table by one of equal size in between causes no error, but moves its chains. So the description is
/// read again afterwards and must be unchanged.
pub(crate) fn table(request: &XtablesRequest, in_time: &dyn Fn() -> io::Result<()>) -> Response {
    match read(request, in_time) {
        Ok(Some(bytes)) => Reading::Ok(bytes),
        Ok(None) => Reading::Failed(Failure::Changed { readings: MAX_TRIES as u32 }),
        Err(error) => failure(&error),
    }
}

fn read(request: &XtablesRequest, in_time: &dyn Fn() -> io::Result<()>) -> io::Result<Option<Vec<u8>>> {
    let (socket, level) = options_socket(request.family)?;
    let mut bytes = Vec::new();
    for _ in 0..MAX_TRIES {
        in_time()?;
        let before = info(&socket, level, &request.table)?;
        if request.only_info {
            return Ok(Some(before.to_vec()));
        }
        let size = u32::from_ne_bytes(std::array::from_fn(|at| before[IptGetinfo::size + at]));
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_TABLE {
            return Err(io::Error::other(Failure::too_large(MAX_TABLE, "bytes")));
        }
        bytes.clear();
        bytes.resize(IptGetinfo::SIZE + IptGetEntries::SIZE + size, 0);
        bytes[..IptGetinfo::SIZE].copy_from_slice(&before);
        let entries = &mut bytes[IptGetinfo::SIZE..];
        entries[..NAME].copy_from_slice(&name(&request.table)?);
        entries[IptGetEntries::size..][..4].copy_from_slice(&before[IptGetinfo::size..]);
        match get(&socket, level, SO_GET_ENTRIES, entries) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => continue, // its size has changed
            other => other?,
        }
        if info(&socket, level, &request.table)? == before {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Replaces a table: `struct ipt_replace` without its pointer, and the entries. Only [`crate::probe`] may use it, in a
/// network namespace of its own.
///
/// # Errors
/// The kernel's error.
#[allow(unsafe_code, reason = "no safe interface knows this option")]
pub(crate) fn replace(family: XtFamily, table: &str, mut replacement: Vec<u8>) -> io::Result<()> {
    /// `sizeof(struct xt_counters)`
    const COUNTERS: usize = 16;
    let (socket, level) = options_socket(family)?;
    // The kernel creates the table on this request, and returns the old table's counters on replacement.
    let info = info(&socket, level, table)?;
    let old: [u8; 4] = std::array::from_fn(|at| info[IptGetinfo::num_entries + at]);
    let mut counters = vec![0u8; u32::from_ne_bytes(old) as usize * COUNTERS];
    replacement[IptReplace::num_counters..][..old.len()].copy_from_slice(&old);
    let pointer = counters.as_mut_ptr().expose_provenance() as u64;
    replacement[IptReplace::counters..][..size_of::<u64>()].copy_from_slice(&pointer.to_ne_bytes());
    let length = libc::socklen_t::try_from(replacement.len()).map_err(io::Error::other)?;
    let at = replacement.as_ptr().cast::<c_void>();
    // SAFETY: `at` is valid for reads of `length` bytes. The kernel writes `num_counters` counters through the pointer
    // in them, for which `counters` has room: the number is the one that it gave, and it refuses a table that has
    // another one by now. Both outlive the call. The descriptor is open.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, SO_SET_REPLACE, at, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn options_socket(family: XtFamily) -> io::Result<(OwnedFd, c_int)> {
    let (domain, level) = match family {
        XtFamily::Ipv4 => (AddressFamily::INET, libc::IPPROTO_IP),
        XtFamily::Ipv6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    // On a raw socket, CAP_NET_RAW would be checked as well.
    let socket = socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok((socket, level))
}

fn info(socket: &OwnedFd, level: c_int, table: &str) -> io::Result<[u8; IptGetinfo::SIZE]> {
    let mut info = [0; IptGetinfo::SIZE];
    info[..NAME].copy_from_slice(&name(table)?);
    get(socket, level, SO_GET_INFO, &mut info)?;
    Ok(info)
}

/// The name with its terminating zero, as the kernel requires.
fn name(table: &str) -> io::Result<[u8; NAME]> {
    let mut name = [0; NAME];
    let place = name.get_mut(..table.len()).filter(|place| place.len() < NAME);
    place.ok_or_else(|| io::Error::other("the table's name is too long"))?.copy_from_slice(table.as_bytes());
    Ok(name)
}

/// `getsockopt` with a buffer that is both request and response; a response of another length is an error.
#[allow(unsafe_code, reason = "no safe interface knows these options")]
fn get(socket: &OwnedFd, level: c_int, option: c_int, buffer: &mut [u8]) -> io::Result<()> {
    let wanted = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    let mut length = wanted;
    let at = buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: `at` is valid for reads and writes of `length` bytes, which is the buffer's length, and `length` is a
    // valid socklen_t; both outlive the call, after which the kernel keeps neither. The descriptor is open.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, at, &raw mut length) };
    match result {
        0 if length == wanted => Ok(()),
        0 => Err(io::Error::other(format!("an answer of {length} bytes instead of {wanted}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The errno may be a sandbox's; only the kernel's list shows whether a table exists.
fn failure(error: &io::Error) -> Response {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => Reading::Denied(NET_ADMIN_MISSING.into()),
        _ => Reading::Failed(super::failure(SystemCall::GetSocketOption, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_a_zero() {
        assert_eq!(name("nat").unwrap()[..4], *b"nat\0");
        assert!(name(&"x".repeat(31)).is_ok());
        assert!(name(&"x".repeat(32)).is_err());
        assert!(name(&"x".repeat(33)).is_err());
    }

    #[test]
    fn what_an_error_means() {
        let of = |errno: Errno| failure(&errno.into());
        assert!(matches!(of(Errno::PERM), Reading::Denied(_)));
        for errno in [Errno::NOPROTOOPT, Errno::NOENT, Errno::NOMEM, Errno::AFNOSUPPORT] {
            let failure = Failure::SystemCall { call: SystemCall::GetSocketOption, errno: errno.raw_os_error() };
            assert_eq!(of(errno), Reading::Failed(failure), "never a fact");
        }
    }
}
