//! A balancer that knows everything beforehand: an XDP program with the addresses of one client and three servers in its
//! instructions, which translates both ways and looks nothing up. What any program in this place costs at least: the way
//! through XDP itself, on this machine and these interfaces.
//!
//! It does not need to mend checksums: whatever is added to one address is taken off the other of the same packet.
//!
//! ```text
//!   client .100 -> VIP .60        becomes   .(160 - n) -> server .n      100 + 60 = (160 - n) + n
//!   server .n -> .(160 - n)       becomes   VIP .60 -> client .100
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::addresses::host;
use crate::bpf::{self, Instruction, XdpMode};
use crate::netns::Netns;
use crate::xdp_stub::Action;

/// Host numbers: of its VIP; of the client; of the first server, whose two others follow.
pub(super) const VIP: u8 = 60;
const CLIENT: u8 = 100;
const FIRST_SERVER: u8 = 4;
const SERVERS: u8 = 3;
/// The host number that requests to a server come from is this less the server's.
const SUM: u8 = CLIENT + VIP;
/// The host number of its machine, whose Ethernet address ends with it: the first of those that requests come from.
pub(super) const MACHINE: u8 = SUM - FIRST_SERVER;
/// `ETH_P_IP` as a little-endian machine reads it, and `IPPROTO_TCP`.
const IPV4: i32 = 0x0800_u16.swap_bytes() as i32;
const TCP: i32 = 6;
/// The first four bytes of all Ethernet addresses of the main network; zero and the host number follow.
const MAC: i32 = i32::from_le_bytes([0x02, 0x00, 0xac, 0x10]);

/// Where the bytes are: of an Ethernet frame with an IPv4 header without options.
const ETHER_TYPE: i16 = 12;
const PROTOCOL: i16 = 23;
const SOURCE: i16 = 29;
const DESTINATION: i16 = 33;
const SOURCE_PORT: i16 = 35;
const HEADERS: i32 = 54;

/// The program on its machine's interface; gone from there when this is dropped.
#[derive(Debug)]
pub(super) struct FixedNat {
    _link: OwnedFd,
}

impl FixedNat {
    /// Makes such a balancer of the machine with host number [`MACHINE`].
    ///
    /// # Errors
    /// When an address cannot be added, or the kernel refuses the program.
    pub(super) fn start(machine: &Netns, mode: XdpMode) -> anyhow::Result<Self> {
        for number in (MACHINE + 1 - SERVERS..MACHINE).chain([VIP]) {
            machine.ip(&format!("address add {}/24 dev eth0", host(number)))?;
        }
        let attach = || -> io::Result<OwnedFd> {
            let index = nix::net::if_::if_nametoindex("eth0")?;
            bpf::attach_xdp(bpf::load_xdp(&program())?, index, mode)
        };
        Ok(Self { _link: machine.run(attach)?? })
    }

    /// Where clients connect to.
    pub(super) fn address() -> Ipv4Addr {
        host(VIP)
    }
}

// Registers, and opcodes of the instruction set (Documentation/bpf/instruction-set.rst).
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
const LOAD_8: u8 = 0x71;
const LOAD_16: u8 = 0x69;
const LOAD_32: u8 = 0x61;
const STORE_8: u8 = 0x73;
const STORE_IMMEDIATE_8: u8 = 0x72;
const STORE_IMMEDIATE_32: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const SUBTRACT: u8 = 0x1f;
const MODULO_IMMEDIATE: u8 = 0x97;
const JUMP: u8 = 0x05;
const JUMP_IF_ABOVE: u8 = 0x2d;
const JUMP_IF_ABOVE_IMMEDIATE: u8 = 0x25;
const JUMP_IF_EQUAL_IMMEDIATE: u8 = 0x15;
const JUMP_IF_NOT_EQUAL_IMMEDIATE: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    [code, source << 4 | destination, o0, o1, i0, i1, i2, i3]
}

/// R6 and R7 are the frame's ends, R2 the host number that the frame goes to.
fn program() -> Vec<Instruction> {
    let lowest = i32::from(MACHINE + 1 - SERVERS);
    let reply = [
        op(MOVE, R4, R3, 0, 0),
        op(ADD_IMMEDIATE, R4, 0, 0, -lowest),
        // Not ours: past the rest of this, past what requests have, and past the Ethernet header.
        op(JUMP_IF_ABOVE_IMMEDIATE, R4, 0, 4 + 7 + 8, i32::from(SERVERS) - 1),
        op(STORE_IMMEDIATE_8, R6, 0, SOURCE, VIP.into()),
        op(STORE_IMMEDIATE_8, R6, 0, DESTINATION, CLIENT.into()),
        op(MOVE_IMMEDIATE, R2, 0, 0, CLIENT.into()),
        op(JUMP, 0, 0, 7, 0),
    ];
    let request = [
        op(LOAD_8, R2, R6, SOURCE_PORT, 0),
        op(MODULO_IMMEDIATE, R2, 0, 0, SERVERS.into()),
        op(ADD_IMMEDIATE, R2, 0, 0, FIRST_SERVER.into()),
        op(STORE_8, R6, R2, DESTINATION, 0),
        op(MOVE_IMMEDIATE, R4, 0, 0, SUM.into()),
        op(SUBTRACT, R4, R2, 0, 0),
        op(STORE_8, R6, R4, SOURCE, 0),
    ];
    let ethernet = [
        op(STORE_IMMEDIATE_32, R6, 0, 0, MAC),
        op(STORE_IMMEDIATE_8, R6, 0, 4, 0),
        op(STORE_8, R6, R2, 5, 0),
        op(STORE_IMMEDIATE_32, R6, 0, 6, MAC),
        op(STORE_IMMEDIATE_8, R6, 0, 10, 0),
        op(STORE_IMMEDIATE_8, R6, 0, 11, MACHINE.into()),
        op(MOVE_IMMEDIATE, R0, 0, 0, Action::Transmit as i32),
        op(EXIT, 0, 0, 0, 0),
    ];
    let not_ours = [op(MOVE_IMMEDIATE, R0, 0, 0, Action::Pass as i32), op(EXIT, 0, 0, 0, 0)];
    let rest = (reply.len() + request.len() + ethernet.len()) as i16;
    let mut program = vec![
        op(LOAD_32, R6, R1, 0, 0),
        op(LOAD_32, R7, R1, 4, 0),
        op(MOVE, R2, R6, 0, 0),
        op(ADD_IMMEDIATE, R2, 0, 0, HEADERS),
        op(JUMP_IF_ABOVE, R2, R7, 6 + rest, 0),
        op(LOAD_16, R2, R6, ETHER_TYPE, 0),
        op(JUMP_IF_NOT_EQUAL_IMMEDIATE, R2, 0, 4 + rest, IPV4),
        op(LOAD_8, R2, R6, PROTOCOL, 0),
        op(JUMP_IF_NOT_EQUAL_IMMEDIATE, R2, 0, 2 + rest, TCP),
        op(LOAD_8, R3, R6, DESTINATION, 0),
        op(JUMP_IF_EQUAL_IMMEDIATE, R3, 0, reply.len() as i16, VIP.into()),
    ];
    program.extend(reply.iter().chain(&request).chain(&ethernet).chain(&not_ours));
    program
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn frame(source: u8, destination: u8, port: u16, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[ETHER_TYPE as usize] = 8;
        frame[PROTOCOL as usize] = protocol;
        frame[26..30].copy_from_slice(&host(source).octets());
        frame[30..34].copy_from_slice(&host(destination).octets());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    }

    fn sum(frame: &[u8]) -> u32 {
        frame[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
    }

    #[test]
    fn it_translates_both_ways_without_a_change_of_the_sum() {
        let program = bpf::load_xdp(&program()).unwrap();
        let run = |frame: &[u8]| {
            let mut out = [0; 60];
            let (action, length) = bpf::test_run::run_once(program.as_fd(), frame, &mut out).unwrap();
            assert_eq!(length, 60);
            (action, out)
        };
        for port in [40_000, 40_001, 40_002] {
            let request = frame(CLIENT, VIP, port, 6);
            let (action, out) = run(&request);
            let server = FIRST_SERVER + port.to_be_bytes()[1] % SERVERS;
            assert_eq!((action, out[33], out[29]), (3, server, SUM - server));
            assert_eq!((sum(&out), out[..6].to_vec()), (sum(&request), vec![2, 0, 0xac, 0x10, 0, server]));
            assert_eq!(out[6..12], [2, 0, 0xac, 0x10, 0, MACHINE]);

            let reply = frame(server, SUM - server, 7000, 6);
            let (action, out) = run(&reply);
            assert_eq!((action, out[29], out[33], out[5]), (3, VIP, CLIENT, CLIENT));
            assert_eq!(sum(&out), sum(&reply));
        }
        for other in [frame(CLIENT, VIP, 1, 17), frame(CLIENT, SUM - 3, 1, 6), frame(CLIENT, SUM - 7, 1, 6)] {
            let (action, out) = run(&other);
            assert_eq!((action, out.to_vec()), (2, other));
        }
    }
}
