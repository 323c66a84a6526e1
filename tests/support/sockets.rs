//! Sockets with a fixed source, and a raised limit for many of them.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::router::Proto;

/// A non-blocking socket with a fixed source.
pub fn bound_socket(proto: Proto, source: SocketAddrV4) -> OwnedFd {
    let kind = match proto {
        Proto::Tcp => SocketType::STREAM,
        Proto::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, kind, flags, None).unwrap_or_else(|e| panic!("socket: {e}"));
    bind(&socket, &source).unwrap_or_else(|e| panic!("bind {source}: {e}"));
    socket
}

/// Raises this process's limit of open files to `wanted` if it is lower.
pub fn allow_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap_or_else(|e| panic!("{wanted} open files: {e}"));
}
