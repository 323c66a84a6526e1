//! Attaches BPF programs to devices other than by tc.

use std::ffi::{c_int, c_long};
use std::io;

use super::netns::Netns;

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;

#[repr(C, align(8))]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

#[repr(C, align(8))]
struct Attach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[allow(unsafe_code, reason = "no safe interface knows this system call")]
fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_int> {
    // SAFETY: the structure and everything it points to live until the call returns.
    let result: c_long =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

/// Marks every packet that arrives on this device. The program stays attached as long as the device exists.
pub fn mark_on_the_way_in(ns: &Netns, device: &str, mark: u32) {
    let index = ns.link_json(device)["ifindex"].as_u64().expect("an index") as u32;
    let instruction = |code: u8, registers: u8, offset: i16, number: u32| {
        let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&number.to_ne_bytes());
        bytes
    };
    let program = [
        instruction(0xb7, 0x02, 0, mark),         // r2 = mark
        instruction(0x63, 0x21, 8, 0),            // *(u32 *)(r1 + offsetof(struct __sk_buff, mark)) = r2
        instruction(0xb7, 0x00, 0, -1i32 as u32), // r0 = TCX_NEXT
        instruction(0x95, 0x00, 0, 0),            // exit
    ]
    .concat();
    let license = c"GPL";
    ns.enter(|| {
        let load = Load {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: (program.len() / 8) as u32,
            insns: program.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
        };
        let program = bpf(BPF_PROG_LOAD, &load).expect("a program that the kernel takes");
        let attach = Attach {
            target_ifindex: index,
            attach_bpf_fd: program as u32,
            attach_type: BPF_TCX_INGRESS,
            attach_flags: 0,
        };
        bpf(BPF_PROG_ATTACH, &attach).expect("a device with tcx");
    });
}
