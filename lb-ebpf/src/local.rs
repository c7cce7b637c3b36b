//! The hooks for clients on the node itself: [`lb_common::local`] between the kernel's socket address and the maps.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{
    local::{Socket, connect, peer_name},
    wire::{Be16, Be32, Be128, PROTOCOL_TCP},
};

use crate::maps::Maps;

/// The system call goes on, with whatever address is in the context now.
const GO_ON: i32 = 1;
/// `SOCK_STREAM` of the kernel's include/linux/net.h.
const STREAM: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn xvip_connect4(context: SockAddrContext) -> i32 {
    connect(&mut Address4(context), &Maps);
    GO_ON
}

#[cgroup_sock_addr(connect6)]
pub fn xvip_connect6(context: SockAddrContext) -> i32 {
    connect(&mut Address6(context), &Maps);
    GO_ON
}

#[cgroup_sock_addr(getpeername4)]
pub fn xvip_getpeername4(context: SockAddrContext) -> i32 {
    peer_name(&mut Address4(context), &Maps);
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn xvip_getpeername6(context: SockAddrContext) -> i32 {
    peer_name(&mut Address6(context), &Maps);
    GO_ON
}

/// A socket whose address is a `sockaddr_in`.
struct Address4(SockAddrContext);

impl Socket for Address4 {
    #[inline(always)]
    fn target(&self) -> Option<(Be128, Be16)> {
        let context = self.0.sock_addr;
        if !is_tcp(context) {
            return None;
        }
        // SAFETY: the context is the one that the kernel called us with.
        let address = read(unsafe { &raw const (*context).user_ip4 });
        Some((Be128::mapped(Be32::from_octets(address.to_ne_bytes())), port(context)))
    }

    #[inline(always)]
    fn set_target(&mut self, address: Be128, port: Be16) {
        let context = self.0.sock_addr;
        // SAFETY: as above, and this field may be written.
        write(unsafe { &raw mut (*context).user_ip4 }, address.low().word());
        set_port(context, port);
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(&self.0)
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        namespace(&self.0)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }
}

/// A socket whose address is a `sockaddr_in6`, perhaps an IPv4 one in its mapped form.
struct Address6(SockAddrContext);

impl Socket for Address6 {
    #[inline(always)]
    fn target(&self) -> Option<(Be128, Be16)> {
        let context = self.0.sock_addr;
        if !is_tcp(context) {
            return None;
        }
        let word = |index: usize| {
            // SAFETY: the context is the one that the kernel called us with; the index is below four.
            read(unsafe { &raw const (*context).user_ip6[index] }).to_ne_bytes()
        };
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]) = (word(0), word(1), word(2), word(3));
        Some((Be128::from_octets([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]), port(context)))
    }

    #[inline(always)]
    fn set_target(&mut self, address: Be128, port: Be16) {
        let context = self.0.sock_addr;
        let words = address.words();
        // SAFETY: as above, and these fields may be written.
        unsafe {
            write(&raw mut (*context).user_ip6[0], words[0].word());
            write(&raw mut (*context).user_ip6[1], words[1].word());
            write(&raw mut (*context).user_ip6[2], words[2].word());
            write(&raw mut (*context).user_ip6[3], words[3].word());
        }
        set_port(context, port);
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(&self.0)
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        namespace(&self.0)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }
}

#[inline(always)]
fn is_tcp(context: *const bpf_sock_addr) -> bool {
    // SAFETY: the callers pass the context that the kernel called them with.
    let (kind, protocol) =
        unsafe { (read(&raw const (*context).type_), read(&raw const (*context).protocol)) };
    kind == STREAM && protocol == u32::from(PROTOCOL_TCP)
}

#[inline(always)]
fn port(context: *const bpf_sock_addr) -> Be16 {
    // SAFETY: the callers pass the context that the kernel called them with.
    Be16::from_word(read(unsafe { &raw const (*context).user_port }) as u16)
}

#[inline(always)]
fn set_port(context: *mut bpf_sock_addr, port: Be16) {
    // SAFETY: the callers pass the context that the kernel called them with; the field may be written.
    write(unsafe { &raw mut (*context).user_port }, u32::from(port.word()));
}

/// Reads a field of the context. Volatile: the verifier takes whole words at constant offsets, so LLVM must neither join
/// nor split them.
#[inline(always)]
fn read(field: *const u32) -> u32 {
    // SAFETY: private to this file, where every caller passes a field of the context.
    unsafe { field.read_volatile() }
}

/// Writes one likewise.
#[inline(always)]
fn write(field: *mut u32, value: u32) {
    // SAFETY: as in `read`.
    unsafe { field.write_volatile(value) }
}

#[inline(always)]
fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one that the kernel called us with; the helper is allowed in these hooks.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

#[inline(always)]
fn namespace(context: &SockAddrContext) -> u64 {
    // SAFETY: as in `cookie`.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper takes no argument and is allowed in these hooks.
    unsafe { bpf_get_prandom_u32() }
}
