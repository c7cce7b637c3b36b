//! The few bpf(2) commands that the lab's own little XDP programs need. Aya loads programs from object files only; for
//! a handful of instructions the system call is shorter than any object.

pub(crate) mod assembler;
pub(crate) mod test_run;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_long, c_uint};

use self::assembler::Assembler;

/// `struct bpf_insn`: opcode, two registers in one byte (the destination in the low half), offset, immediate value
/// (the last two in host order).
pub(crate) type Instruction = [u8; 8];

/// How an XDP program is attached (`XDP_FLAGS_*`, include/uapi/linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum XdpMode {
    /// In the network stack, on any device.
    Generic = 2,
    /// In the driver.
    Native = 4,
}

// enum bpf_cmd, enum bpf_map_type, enum bpf_prog_type, enum bpf_attach_type.
const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_TEST_RUN: c_long = 10;
const BPF_LINK_CREATE: c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;

/// The head of `union bpf_attr` for `BPF_MAP_CREATE`; the kernel takes the rest as zero.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The head of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
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
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// An array map of 64-bit counters. A program adds to them; they are read here.
#[derive(Debug)]
pub(crate) struct Counters {
    map: OwnedFd,
}

impl Counters {
    /// `count` counters at zero.
    pub(crate) fn create(count: u32) -> io::Result<Self> {
        let attr = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<u64>() as u32,
            max_entries: count,
        };
        // SAFETY: MapCreate is the head of the bpf_attr that BPF_MAP_CREATE reads, and holds no pointer.
        Ok(Self { map: unsafe { bpf_fd(BPF_MAP_CREATE, &attr) }? })
    }

    /// The descriptor, for a program's `ld_imm64` with `BPF_PSEUDO_MAP_FD`.
    pub(crate) fn descriptor(&self) -> i32 {
        self.map.as_raw_fd()
    }

    /// Counter number `index`.
    pub(crate) fn read(&self, index: u32) -> io::Result<u64> {
        let mut value = 0_u64;
        let attr = MapElement {
            map_fd: self.map.as_raw_fd().cast_unsigned(),
            _padding: 0,
            key: std::ptr::from_ref(&index) as u64,
            value: std::ptr::from_mut(&mut value) as u64,
        };
        // SAFETY: MapElement is the head of the bpf_attr that BPF_MAP_LOOKUP_ELEM reads; `key` and `value` point to
        // variables of the sizes that the map was made with, both alive until the call returns.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attr) }?;
        Ok(value)
    }
}

/// An array map with one entry of bytes, for programs that reach its value without a look-up (`BPF_PSEUDO_MAP_VALUE`).
#[derive(Debug)]
pub(crate) struct Bytes {
    map: OwnedFd,
}

impl Bytes {
    /// Room for `length` bytes, all zero.
    pub(crate) fn create(length: usize) -> io::Result<Self> {
        Ok(Self { map: map_create(BPF_MAP_TYPE_ARRAY, u32::try_from(length).map_err(io::Error::other)?)? })
    }

    /// Its file descriptor, for `ld_imm64`.
    pub(crate) fn descriptor(&self) -> i32 {
        self.map.as_raw_fd()
    }

    /// Writes all of it; `bytes` are as many as it was made with.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the caller's slice is as long as the map's value, and alive until the call returns.
        unsafe { map_update(&self.map, bytes.as_ptr() as u64) }
    }
}

/// A program array with one entry.
#[derive(Debug)]
pub(crate) struct Target {
    map: OwnedFd,
}

impl Target {
    /// Without a program.
    pub(crate) fn create() -> io::Result<Self> {
        Ok(Self { map: map_create(BPF_MAP_TYPE_PROG_ARRAY, size_of::<u32>() as u32)? })
    }

    /// Its file descriptor, for `ld_imm64`.
    pub(crate) fn descriptor(&self) -> i32 {
        self.map.as_raw_fd()
    }

    /// The program that a tail call leads to from now on.
    pub(crate) fn set(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let value = program.as_raw_fd();
        // SAFETY: the value of a program array is a descriptor, and this one is alive until the call returns.
        unsafe { map_update(&self.map, &raw const value as u64) }
    }
}

/// A map with one entry under a key of four bytes.
fn map_create(map_type: u32, value_size: u32) -> io::Result<OwnedFd> {
    let attr = MapCreate { map_type, key_size: size_of::<u32>() as u32, value_size, max_entries: 1 };
    // SAFETY: MapCreate is the head of the bpf_attr that BPF_MAP_CREATE reads, and holds no pointer.
    unsafe { bpf_fd(BPF_MAP_CREATE, &attr) }
}

/// A hash that forgets what was not used for longest where it is full.
pub(crate) fn lru_hash(key_size: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let attr = MapCreate { map_type: BPF_MAP_TYPE_LRU_HASH, key_size, value_size, max_entries };
    // SAFETY: MapCreate is the head of the bpf_attr that BPF_MAP_CREATE reads, and holds no pointer.
    unsafe { bpf_fd(BPF_MAP_CREATE, &attr) }
}

/// Writes entry 0 of a map that [`map_create`] made.
///
/// # Safety
/// `value` is the address of as many readable bytes as the map's values have.
unsafe fn map_update(map: &OwnedFd, value: u64) -> io::Result<()> {
    let key = 0_u32;
    let attr = MapElement {
        map_fd: map.as_raw_fd().cast_unsigned(),
        _padding: 0,
        key: &raw const key as u64,
        value,
    };
    // SAFETY: MapElement is the head of the bpf_attr that BPF_MAP_UPDATE_ELEM reads, the flags after it zero; `key` is
    // alive until the call returns, and the caller answers for `value`.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }?;
    Ok(())
}

/// Loads an XDP program. With an error of the verifier its log is the message.
pub(crate) fn load_xdp(program: &[Instruction]) -> io::Result<OwnedFd> {
    load_xdp_as(program, ExpectedAttach::Nothing)
}

/// What a program says about where it will be attached. From Linux 6.18 a tail call leads only to programs that say the
/// same (`bpf_prog_map_compatible`, kernel/bpf/core.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedAttach {
    /// Nothing, which any kernel takes as an interface.
    Nothing,
    /// An interface.
    Interface,
}

/// As [`load_xdp`].
pub(crate) fn load_xdp_as(program: &[Instruction], expected: ExpectedAttach) -> io::Result<OwnedFd> {
    let expected = match expected {
        ExpectedAttach::Nothing => 0,
        ExpectedAttach::Interface => BPF_XDP,
    };
    load(program, BPF_PROG_TYPE_XDP, expected)
}

/// Loads a classifier for [`attach_tcx`].
pub(crate) fn load_tcx(program: &[Instruction]) -> io::Result<OwnedFd> {
    load(program, BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_INGRESS)
}

fn load(program: &[Instruction], prog_type: u32, expected_attach_type: u32) -> io::Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let attr = ProgLoad {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type,
    };
    // SAFETY: ProgLoad is the head of the bpf_attr that BPF_PROG_LOAD reads; `insns` points to insn_cnt
    // instructions, `license` to a terminated string and `log_buf` to log_size bytes that nobody else uses, all alive
    // until the call returns.
    unsafe { bpf_fd(BPF_PROG_LOAD, &attr) }.map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        if end == 0 {
            return error;
        }
        io::Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(&log[..end])))
    })
}

/// An XDP program of two instructions: it returns that action.
pub(crate) fn only_returning(action: u32) -> io::Result<OwnedFd> {
    let mut code = Assembler::default();
    code.end_with(action);
    load_xdp(&code.finish())
}

/// Attaches an XDP program to the interface of this index in the calling thread's network namespace; it is detached
/// when the descriptor is closed. Kernel 5.9 or later (XDP links).
pub(crate) fn attach_xdp(program: impl AsFd, interface_index: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    attach(program, interface_index, BPF_XDP, mode as u32)
}

/// Attaches a classifier to what the interface of this index receives; as [`attach_xdp`] else. Kernel 6.6 or later.
pub(crate) fn attach_tcx(program: impl AsFd, interface_index: u32) -> io::Result<OwnedFd> {
    attach(program, interface_index, BPF_TCX_INGRESS, 0)
}

fn attach(program: impl AsFd, target_ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    let attr = LinkCreate { prog_fd, target_ifindex, attach_type, flags };
    // SAFETY: LinkCreate is the head of the bpf_attr that BPF_LINK_CREATE reads, and holds no pointer.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attr) }
}

/// Calls bpf(2) for a command that returns a new file descriptor.
///
/// # Safety
/// `attr` must be the head of the `union bpf_attr` that `command` reads, the pointers in it valid, and `command` one
/// that makes a descriptor.
unsafe fn bpf_fd<T>(command: c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: a descriptor that the call just made; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` must be the head of the `union bpf_attr` that `command` reads, and the pointers in it valid.
unsafe fn bpf<T>(command: c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: the kernel only reads at `attr`; the rest is the caller's promise.
    unsafe { syscall(command, std::ptr::from_ref(attr).cast_mut()) }
}

/// Calls bpf(2) for a command that writes its results into `attr`.
///
/// # Safety
/// `attr` must be the head of the `union bpf_attr` that `command` reads and writes, and the pointers in it valid.
unsafe fn bpf_mut<T>(command: c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    unsafe { syscall(command, std::ptr::from_mut(attr)) }
}

/// # Safety
/// As for [`bpf_mut`]; `attr` may be written to where the command does that.
unsafe fn syscall<T>(command: c_long, attr: *mut T) -> io::Result<i32> {
    let size = size_of::<T>() as c_uint;
    // SAFETY: the kernel reads, and perhaps writes, `size` bytes at `attr`, which are there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    i32::try_from(result).ok().filter(|value| *value >= 0).ok_or_else(io::Error::last_os_error)
}
