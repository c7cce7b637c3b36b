//! XDP programs of two instructions, for the lab's own interfaces.
//!
//! The kernel drops a frame that a veth transmits with `XDP_TX` or `XDP_REDIRECT` unless the other end of the pair
//! has an XDP program too. The bridge's end of each LB's cable therefore gets one that passes everything.

use std::io;
use std::os::fd::OwnedFd;

use crate::bpf::{self, XdpMode, only_returning};

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

impl XdpStub {
    /// Attaches a program that returns `action`, in native mode, to the interface of this index in the calling
    /// thread's network namespace. Kernel 5.9 or later (XDP links).
    ///
    /// # Errors
    /// When the kernel refuses: no `CAP_BPF`, another program is there already, or the driver has no native XDP.
    pub fn attach(interface_index: u32, action: Action) -> io::Result<Self> {
        let program = only_returning(action as u32)?;
        Ok(Self { _link: bpf::attach_xdp(&program, interface_index, XdpMode::Native)? })
    }
}
