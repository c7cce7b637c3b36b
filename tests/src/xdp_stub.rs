//! XDP programs of two instructions, for the lab's own interfaces.
//!
//! The kernel drops a frame that a veth transmits with `XDP_TX` or `XDP_REDIRECT` unless the other end of the pair
//! has an XDP program too. The bridge's end of each LB's cable therefore gets one that passes everything. Aya loads
//! programs from object files only; for `return XDP_PASS` the system call is shorter than any object.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_long, c_uint};

/// What such a program returns for each frame (`enum xdp_action`, include/uapi/linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Give the frame to the network stack.
    Pass = 2,
    /// Send the frame out of the interface that it came in by.
    Transmit = 3,
}

/// A program on an interface; gone from there when this is dropped, or this process ends.
#[derive(Debug)]
pub struct XdpStub {
    _link: OwnedFd,
}

// enum bpf_cmd, enum bpf_prog_type, enum bpf_attach_type, XDP_FLAGS_DRV_MODE.
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct bpf_insn`: opcode, two registers in one byte, offset, immediate value (the last two in host order).
type Instruction = [u8; 8];

impl XdpStub {
    /// Attaches a program that returns `action`, in native mode, to the interface of this index in the calling
    /// thread's network namespace. Kernel 5.9 or later (XDP links).
    ///
    /// # Errors
    /// When the kernel refuses: no `CAP_BPF`, another program is there already, or the driver has no native XDP.
    pub fn attach(interface_index: u32, action: Action) -> io::Result<Self> {
        let program = load(action)?;
        let attr = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: interface_index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        // SAFETY: LinkCreate is the head of the bpf_attr that BPF_LINK_CREATE reads, and holds no pointer.
        let link = unsafe { bpf(BPF_LINK_CREATE, &attr) }?;
        Ok(Self { _link: link })
    }
}

fn load(action: Action) -> io::Result<OwnedFd> {
    let [a, b, c, d] = (action as i32).to_ne_bytes();
    let program: [Instruction; 2] = [
        [0xb7, 0, 0, 0, a, b, c, d], // r0 = action
        [0x95, 0, 0, 0, 0, 0, 0, 0], // exit
    ];
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: ProgLoad is the head of the bpf_attr that BPF_PROG_LOAD reads; `insns` points to insn_cnt
    // instructions and `license` to a terminated string, both alive until the call returns.
    unsafe { bpf(BPF_PROG_LOAD, &attr) }
}

/// Calls bpf(2) for a command that returns a new file descriptor.
///
/// # Safety
/// `attr` must be the head of the `union bpf_attr` that `command` reads, and the pointers in it valid.
unsafe fn bpf<T>(command: c_long, attr: &T) -> io::Result<OwnedFd> {
    let size = size_of::<T>() as c_uint;
    // SAFETY: the kernel reads `size` bytes at `attr`, which are there; the rest is the caller's promise.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the call just made; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
