//! The system calls that no library here has words for: a little of bpf(2), and adjtimex(2).

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use libc::{c_long, c_uint};

use crate::doctor::facts::Clock;

// enum bpf_cmd, bpf_prog_type, bpf_attach_type (linux/bpf.h); XDP_FLAGS_DRV_MODE (linux/if_link.h).
const BPF_PROG_LOAD: c_long = 5;
const BPF_OBJ_GET: c_long = 7;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_PASS: i32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// The head of `union bpf_attr` for each command; the kernel takes the rest as zero.
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

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// An XDP program that passes everything. It is gone when its descriptor is closed.
///
/// # Errors
/// Needs `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn pass_program() -> io::Result<OwnedFd> {
    let [a, b, c, d] = XDP_PASS.to_ne_bytes();
    // struct bpf_insn: r0 = XDP_PASS; exit.
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let license = c"GPL";
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: ProgLoad is the head of the bpf_attr that BPF_PROG_LOAD reads; its pointers are to `instructions`, of
    // `insn_cnt` entries, and to a text that ends with zero, both alive until the call returns.
    unsafe { bpf_fd(BPF_PROG_LOAD, &attr) }
}

/// Attaches an XDP program in native mode, until the link is closed or this process ends.
///
/// # Errors
/// Where the driver or the kernel refuses; without words.
pub fn attach_native(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: index,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: LinkCreate is the head of the bpf_attr that BPF_LINK_CREATE reads, and holds no pointer.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attr) }
}

/// Opens what is pinned at a path: a program, a map, or a link.
///
/// # Errors
/// Where nothing is pinned there, or it may not be opened.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: ObjGet is the head of the bpf_attr that BPF_OBJ_GET reads; the path ends with zero and is alive until the
    // call returns.
    unsafe { bpf_fd(BPF_OBJ_GET, &attr) }
}

/// Whether the clock is kept right, and how wrong it may be.
///
/// # Errors
/// What the kernel answers.
pub fn clock() -> io::Result<Clock> {
    let mut buffer = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all-zero is a timex that asks for nothing to be changed (`modes` is 0); the kernel fills it.
    let state = unsafe { libc::adjtimex(buffer.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and every field is an integer.
    let timex = unsafe { buffer.assume_init() };
    let synchronised = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    Ok(Clock { synchronised, error_us: timex.maxerror })
}

/// A command that gives a descriptor.
///
/// # Safety
/// `attr` must be the head of the `bpf_attr` of `command`, and each pointer in it must be valid for what the kernel does
/// with it.
unsafe fn bpf_fd<T>(command: c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for what `attr` means; it is alive, and as long as is said here.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>() as c_uint) };
    let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
