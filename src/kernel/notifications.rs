//! Whether links, addresses, routes or tunnels' forwarding databases may have changed: rtnetlink notifies of it, and of a
//! notification nothing is looked at but that there is one.
//!
//! Kernel sources: `do_one_broadcast`, `netlink_overrun` (a full buffer: `ENOBUFS` at the next receive), `rtmsg_ifinfo`,
//! `rtmsg_ifa`, `rtmsg_fib`, `notify_rule_change`, `vxlan_fdb_notify`, `rtnetlink_send`. Everyone may listen.
//!
//! Not every change is told: the kernel takes IPv4 routes along with a link, an address or a next hop without a word, so
//! whatever is told, all of these are stale together. Nothing at all is told of sysctls, of BPF programs that are attached
//! as links, and of what `/sys` shows.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use neli::consts::socket::NlFamily;
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::netlink::borrow;

/// Links, the state of their ports in a bridge and `ethtool -K` included; traffic control; and of both families addresses,
/// routes, policy rules and what `RTM_GETNETCONF` gives.
const GROUPS: [u32; 10] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV6_NETCONF,
];
/// Next-hop objects came with Linux 5.3; a kernel without the group has none.
const RTNLGRP_NEXTHOP: u32 = 32;
/// Bytes that may wait, which the kernel doubles: one notification is as good as a thousand.
const BUFFER: usize = 4 << 10;
/// Devices whose forwarding database can be listened to: each takes an instruction of a filter whose jumps are 255 long.
const MAX_DEVICES: usize = 200;

/// Listens for one thread, and so for the network namespace that it is in.
#[derive(Default)]
pub struct Notifications {
    links: Option<NlSocket>,
    /// Only what concerns the forwarding databases of `devices` gets there.
    fdb: Option<NlSocket>,
    devices: Vec<u32>,
    epoch: u64,
}

impl Notifications {
    /// A number that no other state of the node had, as far as it is notified of; another one after each change, and after
    /// whatever may have kept a notification from us. `None`: nobody listens, and nobody can.
    pub fn epoch(&mut self) -> Option<u64> {
        if !self.links.as_ref().is_some_and(is_silent) || !self.fdb.as_ref().is_none_or(is_silent) {
            *self = Self { links: listen().ok(), epoch: next(), ..Self::default() };
        }
        self.links.as_ref().map(|_| self.epoch)
    }

    /// From now on the epoch moves with the forwarding databases of these devices too. `false`: it cannot.
    pub fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        if self.devices != devices {
            self.fdb = None;
            devices.clone_into(&mut self.devices);
        }
        if self.fdb.is_none() && !devices.is_empty() {
            self.fdb = listen_to_fdb(devices).ok();
        }
        devices.is_empty() || self.fdb.is_some()
    }
}

/// Numbers are never used again, whoever listens.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether nothing has come, not even an error.
fn is_silent(socket: &NlSocket) -> bool {
    recv(borrow(socket), &mut [0; 1][..], RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
}

fn open() -> io::Result<NlSocket> {
    let socket = NlSocket::connect(NlFamily::Route, None, Groups::empty())?;
    socket.set_recv_buffer_size(BUFFER)?;
    Ok(socket)
}

fn listen() -> io::Result<NlSocket> {
    let socket = open()?;
    socket.add_mcast_membership(Groups::new_groups(&GROUPS))?;
    match socket.add_mcast_membership(Groups::new_groups(&[RTNLGRP_NEXTHOP])) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INVAL) => Err(error),
        _ => Ok(socket),
    }
}

/// Filtered before it joins, so that nothing else gets there.
#[allow(unsafe_code, reason = "no safe interface knows this option")]
fn listen_to_fdb(devices: &[u32]) -> io::Result<NlSocket> {
    let socket = open()?;
    let mut program = filter(devices).ok_or_else(|| io::Error::other("too many devices"))?;
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the value is a sock_fprog, whose instructions are as many as it says; both outlive the call, in which the kernel
    // copies them. The descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.add_mcast_membership(Groups::new_groups(&[libc::RTNLGRP_NEIGH]))?;
    Ok(socket)
}

/// Lets messages about neighbours pass whose `ndm_family` is `AF_BRIDGE` and whose `ndm_ifindex` is one of these.
fn filter(devices: &[u32]) -> Option<Vec<libc::sock_filter>> {
    /// Length of `struct nlmsghdr`, which `struct ndmsg` follows.
    const NLMSGHDR: u32 = 16;
    const NDM_FAMILY: u32 = NLMSGHDR;
    const NDM_IFINDEX: u32 = NLMSGHDR + 4;
    if devices.len() > MAX_DEVICES {
        return None;
    }
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let count = u8::try_from(devices.len()).ok()?;
    let load = |size: u32, at: u32| instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at);
    let equal = |to: u32, jt: u8, jf: u8| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, to);
    let end = |keep: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, keep);
    let mut program = vec![
        load(libc::BPF_B, NDM_FAMILY),
        equal(libc::AF_BRIDGE as u32, 0, count + 1),
        load(libc::BPF_W, NDM_IFINDEX), // as if it were big-endian
    ];
    program.extend((0..count).zip(devices).map(|(at, device)| equal(device.to_be(), count - at, 0)));
    program.extend([end(0), end(u32::MAX)]);
    Some(program)
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications")
            .field("devices", &self.devices)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with such a program.
    fn passes(program: &[libc::sock_filter], message: &[u8]) -> bool {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS => {
                    accumulator = u32::from(message[step.k as usize]);
                }
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let at = step.k as usize;
                    accumulator = u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
                }
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if accumulator == step.k { step.jt } else { step.jf });
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k != 0,
                code => panic!("{code:x}"),
            }
        }
    }

    #[test]
    fn only_the_forwarding_databases_of_these_devices_pass() {
        let message = |family: u8, device: u32| {
            let mut message = vec![0; 16];
            message.extend([family, 0, 0, 0]);
            message.extend(device.to_ne_bytes());
            message.extend([0; 4]);
            message
        };
        let devices: Vec<u32> = (0..MAX_DEVICES as u32).map(|at| 3 + 257 * at).collect();
        for count in [1, 2, MAX_DEVICES] {
            let program = filter(&devices[..count]).unwrap();
            for device in &devices[..count] {
                assert!(passes(&program, &message(7, *device)), "{device} of {count}");
                assert!(!passes(&program, &message(2, *device)), "a neighbour, not a forwarding entry");
            }
            assert!(!passes(&program, &message(7, 4)));
            assert!(!passes(&program, &message(7, 3u32.swap_bytes())));
        }
        assert!(filter(&[1; MAX_DEVICES + 1]).is_none());
    }
}
