//! TCP segments that no socket would send, built from a connection's state.

use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket, sockopt};

const TCP_REPAIR: c_int = 19;
const TCP_REPAIR_QUEUE: c_int = 20;
const TCP_QUEUE_SEQ: c_int = 21;
const TCP_REPAIR_OFF_NO_WP: c_int = -1;
const RECEIVE_QUEUE: c_int = 1;
const SEND_QUEUE: c_int = 2;
/// Ahead of any window. A segment as far behind would be translated by recent kernels, as data acknowledged already
/// (`tcp_in_window`).
const BEYOND: u32 = 100_000_000;

#[allow(unsafe_code, reason = "no safe interface knows these options")]
fn set(stream: &TcpStream, option: c_int, value: c_int) {
    // SAFETY: the value lives until the call returns, and its length is passed along.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "option {option}: {}", std::io::Error::last_os_error());
}

/// The sequence number of the next byte in a queue.
#[allow(unsafe_code, reason = "no safe interface knows this option")]
fn next(stream: &TcpStream, queue: c_int) -> u32 {
    set(stream, TCP_REPAIR_QUEUE, queue);
    let (mut value, mut length) = (0u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the value and its length live until the call returns.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, TCP_QUEUE_SEQ, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    value
}

/// Sends a segment of this connection far outside its window. A host without that connection responds with a reset that
/// fits it. Call it in the socket's namespace.
pub fn send_out_of_window(stream: &TcpStream) {
    let [from, to] = [stream.local_addr(), stream.peer_addr()].map(|address| address.expect("an address"));
    set(stream, TCP_REPAIR, 1);
    let (sequence, acknowledged) = (next(stream, SEND_QUEUE), next(stream, RECEIVE_QUEUE));
    set(stream, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    // Leaving repair mode has cleared it (`SK_NO_REUSE`).
    sockopt::set_socket_reuseaddr(stream, true).expect("the port again");
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.wrapping_add(BEYOND).to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([0x50, 0x18]); // five words; PSH, ACK
    segment.extend(1024u16.to_be_bytes());
    segment.extend([0; 4]); // checksum, urgent
    segment.push(b'x');
    let checksum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let raw = socket(family, SocketType::RAW, Some(ipproto::TCP)).expect("a raw socket");
    // The source address, of several.
    bind(&raw, &SocketAddr::new(from.ip(), 0)).expect("the connection's own address");
    let sent = sendto(&raw, &segment, SendFlags::empty(), &SocketAddr::new(to.ip(), 0)).expect("a segment is sent");
    assert_eq!(sent, segment.len());
}

fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(segment.len()).expect("a short segment");
    let mut bytes = [&octets(from)[..], &octets(to), &[0, 6], &length.to_be_bytes(), segment].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let sum = bytes.chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
