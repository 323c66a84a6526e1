//! A packet socket: frames that arrive at devices of this network namespace, with their offload state. Used by `probe`.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::readable::readable;

/// Maximum length of a frame, bytes.
const MAX_FRAME: usize = 4096;

/// Receives frames of one EtherType, each preceded by `struct virtio_net_hdr`. Requires CAP_NET_RAW.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel's error.
    #[allow(unsafe_code, reason = "no safe interface knows this option")]
    pub(crate) fn open(ethertype: u16) -> io::Result<Self> {
        const PACKET_VNET_HDR: c_int = 15;
        let protocol = Protocol::from_raw(u32::from(ethertype.to_be()).try_into().map_err(io::Error::other)?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol))?;
        let (on, length) = (1 as c_int, size_of::<c_int>() as libc::socklen_t);
        // SAFETY: the value is an int that outlives the call, and its length is an int's. The descriptor is open.
        let result = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), length)
        };
        if result == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// The next frame; `None` if none arrives before the deadline.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; MAX_FRAME];
        loop {
            match recv(&self.0, &mut frame[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    frame.truncate(length);
                    return Ok(Some(frame));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !readable(&self.0, deadline)? {
                return Ok(None);
            }
        }
    }
}
