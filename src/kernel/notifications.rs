//! Detects changes of links, addresses, routes, forwarding databases and permanent neighbours by rtnetlink
//! notifications. Contents of notifications are ignored; only their arrival counts.
//!
//! Kernel sources: `do_one_broadcast`, `netlink_overrun` (a full buffer: `ENOBUFS` at the next receive),
//! `rtmsg_ifinfo`, `rtmsg_ifa`, `rtmsg_fib`, `notify_rule_change`, `vxlan_fdb_notify`, `__neigh_notify`,
//! `rtnetlink_send`. Listening needs no privilege.
//!
//! Not every change has a notification of its own: the kernel silently removes IPv4 routes along with a link, address
//! or next hop. So any notification invalidates all of these together. There are none at all for sysctls, BPF programs
//! attached as links, and sysfs.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use neli::consts::socket::NlFamily;
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::netlink::borrow;

/// Links (including bridge port states and `ethtool -K`), traffic control, and for both families addresses, routes,
/// policy rules and what `RTM_GETNETCONF` returns.
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
/// Since Linux 5.3; a kernel without the group has no next-hop objects.
const RTNLGRP_NEXTHOP: u32 = 32;
/// Receive buffer, bytes, which the kernel doubles: one notification is as good as a thousand.
const BUFFER: usize = 4 << 10;
/// Number of devices whose forwarding database can be monitored: each takes one BPF instruction, and jumps reach 255.
const MAX_DEVICES: usize = 200;

/// Listens for one thread, and thus in its network namespace.
#[derive(Default)]
pub(crate) struct Notifications {
    links: Option<NlSocket>,
    /// Receives only notifications about forwarding databases of `devices`.
    fdb: Option<NlSocket>,
    devices: Vec<u32>,
    epoch: u64,
    /// Receives only notifications about neighbours that are permanent or externally learned, or set by a program.
    neighbours: Option<NlSocket>,
    neighbours_epoch: u64,
}

impl Notifications {
    /// A number that changes whenever links or routing may have changed, or a notification may have been missed, and is
    /// never reused. `None`: listening is not possible.
    pub(crate) fn epoch(&mut self) -> Option<u64> {
        if !self.links.as_ref().is_some_and(is_silent) || !self.fdb.as_ref().is_none_or(is_silent) {
            let Self { neighbours, neighbours_epoch, .. } = std::mem::take(self);
            *self = Self { links: listen().ok(), epoch: next(), neighbours, neighbours_epoch, ..Self::default() };
        }
        self.links.as_ref().map(|_| self.epoch)
    }

    /// Like [`Self::epoch`], for neighbours that may have become exempt from their table's limit or ceased to be. Those
    /// removed along with a device or address are covered by the epoch. Starts listening on the first call.
    pub(crate) fn neighbours_epoch(&mut self) -> Option<u64> {
        if !self.neighbours.as_ref().is_some_and(is_silent) {
            self.neighbours = listen_to_neighbours(exempt_neighbours()).ok();
            self.neighbours_epoch = next();
        }
        self.neighbours.as_ref().map(|_| self.neighbours_epoch)
    }

    /// Includes these devices' forwarding databases in the epoch. `false`: not possible.
    pub(crate) fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        if self.devices != devices {
            self.fdb = None;
            devices.clone_into(&mut self.devices);
        }
        if self.fdb.is_none() && !devices.is_empty() {
            self.fdb = fdb_of(devices).and_then(|program| listen_to_neighbours(program).ok());
        }
        devices.is_empty() || self.fdb.is_some()
    }
}

/// Numbers are never reused, by any listener.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether nothing was received, not even an error.
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

/// A socket whose filter is attached before it joins the group, so that nothing else is received.
#[allow(unsafe_code, reason = "no safe interface knows this option")]
fn listen_to_neighbours(mut program: Vec<libc::sock_filter>) -> io::Result<NlSocket> {
    let socket = open()?;
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the value is a sock_fprog with the number of its instructions; both outlive the call, in which the kernel
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

/// Length of `struct nlmsghdr`, which `struct ndmsg` follows.
const NLMSGHDR: u32 = 16;
const NLMSG_PID: u32 = 12;
const NDM_FAMILY: u32 = NLMSGHDR;
const NDM_IFINDEX: u32 = NLMSGHDR + 4;
const NDM_STATE: u32 = NLMSGHDR + 8;
const NDM_FLAGS: u32 = NLMSGHDR + 10;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Values of more than a byte are loaded as big-endian.
fn load(size: u32, at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at)
}

fn equal(to: u32, jt: u8, jf: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, to)
}

fn has(bit: u32, jt: u8, jf: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, jt, jf, bit)
}

fn end(keep: bool) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, if keep { u32::MAX } else { 0 })
}

/// Accepts neighbour messages with `ndm_family` `AF_BRIDGE` and `ndm_ifindex` one of these. `None`: too many.
fn fdb_of(devices: &[u32]) -> Option<Vec<libc::sock_filter>> {
    if devices.len() > MAX_DEVICES {
        return None;
    }
    let count = u8::try_from(devices.len()).ok()?;
    let mut program = vec![
        load(libc::BPF_B, NDM_FAMILY),
        equal(libc::AF_BRIDGE as u32, 0, count + 1),
        load(libc::BPF_W, NDM_IFINDEX),
    ];
    program.extend((0..count).zip(devices).map(|(at, device)| equal(device.to_be(), count - at, 0)));
    program.extend([end(false), end(true)]);
    Some(program)
}

/// Accepts messages about IPv4 and IPv6 neighbours that are permanent, externally learned, or set by a program: only so
/// can a permanent one change, and then the message has the `nlmsg_pid` of the requester.
fn exempt_neighbours() -> Vec<libc::sock_filter> {
    const NUD_PERMANENT: u16 = 0x80;
    const NTF_EXT_LEARNED: u32 = 0x10;
    vec![
        load(libc::BPF_B, NDM_FAMILY),
        equal(libc::AF_INET as u32, 1, 0),
        equal(libc::AF_INET6 as u32, 0, 6),
        load(libc::BPF_W, NLMSG_PID),
        equal(0, 0, 5),
        load(libc::BPF_H, NDM_STATE),
        has(NUD_PERMANENT.to_be().into(), 3, 0),
        load(libc::BPF_B, NDM_FLAGS),
        has(NTF_EXT_LEARNED, 1, 0),
        end(false),
        end(true),
    ]
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
                code if code == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS => {
                    let at = step.k as usize;
                    accumulator = u16::from_be_bytes(message[at..at + 2].try_into().unwrap()).into();
                }
                code if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                    at += usize::from(if accumulator & step.k != 0 { step.jt } else { step.jf });
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
            let program = fdb_of(&devices[..count]).unwrap();
            for device in &devices[..count] {
                assert!(passes(&program, &message(7, *device)), "{device} of {count}");
                assert!(!passes(&program, &message(2, *device)), "a neighbour, not a forwarding entry");
            }
            assert!(!passes(&program, &message(7, 4)));
            assert!(!passes(&program, &message(7, 3u32.swap_bytes())));
        }
        assert!(fdb_of(&[1; MAX_DEVICES + 1]).is_none());
    }

    #[test]
    fn neighbours_pass_that_may_be_exempt_or_cease_to_be() {
        const REACHABLE: u16 = 2;
        const PERMANENT: u16 = 0x80;
        let program = exempt_neighbours();
        for (family, pid, state, flags, expected) in [
            (2, 0u32, REACHABLE, 0u8, false), // confirmed by the kernel
            (10, 0, REACHABLE, 0, false),
            (2, 0, PERMANENT, 0, true),
            (10, 0, PERMANENT, 0, true),
            (2, 0, REACHABLE, 0x10, true),
            (2, 4711, REACHABLE, 0, true), // set by someone
            (10, 1 << 24, REACHABLE, 0, true),
            (7, 4711, PERMANENT, 0x10, false), // a forwarding entry
        ] {
            let mut message = vec![0; 12];
            message.extend(pid.to_ne_bytes());
            message.extend([family, 0, 0, 0, 1, 0, 0, 0]);
            message.extend(state.to_ne_bytes());
            message.extend([flags, 1]);
            assert_eq!(passes(&program, &message), expected, "{family} {pid} {state} {flags}");
        }
    }
}
