//! A balancer that knows everything beforehand: a program with the addresses of one client and three servers in its
//! instructions, which translates both ways and looks nothing up. What any program in this place costs at least: the way
//! there and back, on this machine and these interfaces. The place is XDP, or the one after it, where frames have an
//! `sk_buff` already (tcx).
//!
//! It does not need to mend checksums: whatever is added to one address is taken off the other of the same packet.
//!
//! ```text
//!   client .100 -> VIP .v             becomes   .(100 + v - n) -> server .n
//!   server .n -> .(100 + v - n)       becomes   VIP .v -> client .100
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::addresses::host;
use crate::bpf::assembler::{
    Assembler, DATA, DATA_END, Function, R1, R2, R3, R4, R6, R7, SKB_DATA, SKB_DATA_END, Width,
};
use crate::bpf::{self, Instruction, XdpMode};
use crate::netns::Netns;
use crate::xdp_stub::Action;

/// Host numbers: of the client; of the first server, whose two others follow.
const CLIENT: u8 = 100;
const FIRST_SERVER: u8 = 4;
const SERVERS: u8 = 3;
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

/// What a program on tcx returns for a frame that is not for it (`TCX_NEXT`, include/uapi/linux/bpf.h).
const NEXT: u32 = u32::MAX;

/// Where the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// XDP.
    Xdp(XdpMode),
    /// A classifier at ingress (Linux 6.6 or later).
    Tcx,
}

impl Hook {
    /// The host number of the address that clients connect to.
    const fn vip(self) -> u8 {
        match self {
            Self::Xdp(_) => 60,
            Self::Tcx => 40,
        }
    }

    /// The host number that requests to a server come from is this less the server's.
    const fn sum(self) -> u8 {
        CLIENT + self.vip()
    }

    /// The host number of its machine, whose Ethernet address ends with it: the first of those that requests come from.
    pub(super) const fn machine(self) -> u8 {
        self.sum() - FIRST_SERVER
    }

    /// Where clients connect to.
    pub(super) fn address(self) -> Ipv4Addr {
        host(self.vip())
    }
}

/// The program on its machine's interface; gone from there when this is dropped.
#[derive(Debug)]
pub(super) struct FixedNat {
    _link: OwnedFd,
}

impl FixedNat {
    /// Makes such a balancer of the machine with host number [`Hook::machine`].
    ///
    /// # Errors
    /// When an address cannot be added, or the kernel refuses the program.
    pub(super) fn start(machine: &Netns, hook: Hook) -> anyhow::Result<Self> {
        for number in (hook.machine() + 1 - SERVERS..hook.machine()).chain([hook.vip()]) {
            machine.ip(&format!("address add {}/24 dev eth0", host(number)))?;
        }
        let attach = || -> io::Result<OwnedFd> {
            let index = nix::net::if_::if_nametoindex("eth0")?;
            let program = load(hook, index)?;
            match hook {
                Hook::Xdp(mode) => bpf::attach_xdp(program, index, mode),
                Hook::Tcx => bpf::attach_tcx(program, index),
            }
        };
        Ok(Self { _link: machine.run(attach)?? })
    }
}

fn load(hook: Hook, if_index: u32) -> io::Result<OwnedFd> {
    let program = program(hook, if_index);
    match hook {
        Hook::Xdp(_) => bpf::load_xdp(&program),
        Hook::Tcx => bpf::load_tcx(&program),
    }
}

/// R6 and R7 are the frame's ends, R2 is the host number that the frame goes to.
fn program(hook: Hook, if_index: u32) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let [request, reply, ethernet, not_ours] = code.labels();
    let (begin, end) = match hook {
        Hook::Xdp(_) => (DATA, DATA_END),
        Hook::Tcx => (SKB_DATA, SKB_DATA_END),
    };
    code.load(Width::Word, R6, R1, begin);
    code.load(Width::Word, R7, R1, end);
    code.copy(R2, R6);
    code.add(R2, HEADERS);
    code.jump_if_greater(R2, R7, not_ours);
    code.load(Width::Half, R2, R6, ETHER_TYPE);
    code.jump_unless_equal(R2, IPV4, not_ours);
    code.load(Width::Byte, R2, R6, PROTOCOL);
    code.jump_unless_equal(R2, TCP, not_ours);
    code.load(Width::Byte, R3, R6, DESTINATION);
    code.jump_if_equal(R3, hook.vip().into(), request);
    for number in hook.machine() + 1 - SERVERS..=hook.machine() {
        code.jump_if_equal(R3, number.into(), reply);
    }
    code.jump(not_ours);

    code.place(reply);
    code.store_value(Width::Byte, R6, SOURCE, hook.vip().into());
    code.store_value(Width::Byte, R6, DESTINATION, CLIENT.into());
    code.set(R2, CLIENT.into());
    code.jump(ethernet);

    code.place(request);
    code.load(Width::Byte, R2, R6, SOURCE_PORT);
    code.remainder(R2, SERVERS.into());
    code.add(R2, FIRST_SERVER.into());
    code.store(Width::Byte, R6, DESTINATION, R2);
    code.set(R4, hook.sum().into());
    code.subtract_register(R4, R2);
    code.store(Width::Byte, R6, SOURCE, R4);

    code.place(ethernet);
    code.store_value(Width::Word, R6, 0, MAC);
    code.store_value(Width::Byte, R6, 4, 0);
    code.store(Width::Byte, R6, 5, R2);
    code.store_value(Width::Word, R6, 6, MAC);
    code.store_value(Width::Byte, R6, 10, 0);
    code.store_value(Width::Byte, R6, 11, hook.machine().into());
    match hook {
        Hook::Xdp(_) => code.end_with(Action::Transmit as u32),
        Hook::Tcx => {
            code.set(R1, if_index.cast_signed());
            code.set(R2, 0);
            code.call(Function::Redirect);
            code.exit();
        }
    }
    code.place(not_ours);
    code.end_with(if hook == Hook::Tcx { NEXT } else { Action::Pass as u32 });
    code.finish()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    /// `TC_ACT_REDIRECT` (include/uapi/linux/pkt_cls.h).
    const REDIRECTED: u32 = 7;

    fn frame(source: u8, destination: u8, port: u16, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[ETHER_TYPE as usize] = 8;
        frame[14] = 0x45;
        frame[PROTOCOL as usize] = protocol;
        frame[26..30].copy_from_slice(&host(source).octets());
        frame[30..34].copy_from_slice(&host(destination).octets());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    }

    fn sum(frame: &[u8]) -> u32 {
        frame[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
    }

    fn translates_both_ways(hook: Hook, sent: u32, passed: u32) {
        // The loopback's index; nothing is attached to it.
        let program = load(hook, 1).unwrap();
        let run = |frame: &[u8]| {
            let mut out = [0; 60];
            let (action, length) = bpf::test_run::run_once(program.as_fd(), frame, &mut out).unwrap();
            assert_eq!(length, 60);
            (action, out)
        };
        for port in [40_000, 40_001, 40_002] {
            let request = frame(CLIENT, hook.vip(), port, 6);
            let (action, out) = run(&request);
            let server = FIRST_SERVER + port.to_be_bytes()[1] % SERVERS;
            assert_eq!((action, out[33], out[29]), (sent, server, hook.sum() - server));
            assert_eq!((sum(&out), out[..6].to_vec()), (sum(&request), vec![2, 0, 0xac, 0x10, 0, server]));
            assert_eq!(out[6..12], [2, 0, 0xac, 0x10, 0, hook.machine()]);

            let reply = frame(server, hook.sum() - server, 7000, 6);
            let (action, out) = run(&reply);
            assert_eq!((action, out[29], out[33], out[5]), (sent, hook.vip(), CLIENT, CLIENT));
            assert_eq!(sum(&out), sum(&reply));
        }
        let others = [
            frame(CLIENT, hook.vip(), 1, 17),
            frame(CLIENT, hook.sum() - 3, 1, 6),
            frame(CLIENT, hook.sum() - 7, 1, 6),
        ];
        for other in others {
            let (action, out) = run(&other);
            assert_eq!((action, out.to_vec()), (passed, other));
        }
    }

    #[test]
    fn in_xdp_it_translates_both_ways_without_a_change_of_the_sum() {
        translates_both_ways(Hook::Xdp(XdpMode::Generic), Action::Transmit as u32, Action::Pass as u32);
    }

    #[test]
    fn so_it_does_on_tcx() {
        translates_both_ways(Hook::Tcx, REDIRECTED, NEXT);
    }
}
