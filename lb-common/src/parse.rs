//! Frame -> segment of a virtual service, or what else becomes of it.

use crate::{
    checksum,
    frame::Frame,
    layout::{FlowKey, MacWord, NodeEntry},
    reason::{DropReason, PassReason, Verdict},
    tables::Tables,
    wire::{
        Arp, Be32, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, IPV4_FRAGMENT_MASK, IPV4_MIN_LEN,
        Ipv4, PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_MIN_LEN, TCP_RST, TCP_SYN, Tcp,
    },
};

/// A TCP segment for a VIP, with sound headers. Where they are, rather than what they hold: reading a field again
/// costs less than keeping it across a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its addresses and ports.
    pub key: FlowKey,
    /// Where the TCP header begins.
    pub tcp_offset: usize,
    /// Bytes of TCP payload.
    pub payload: u16,
    /// The TCP flags.
    pub flags: u8,
}

impl Segment {
    /// Whether any of the flags is set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Whether it opens a connection, rather than answers. A SYN with a FIN or a RST does neither.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN
    }

    /// Whether a sender can have meant these flags: SYN, FIN and RST exclude each other, and what has none of them, or
    /// a FIN, has an ACK (RFC 9293 §3.10.7).
    #[inline(always)]
    pub const fn flags_are_sane(&self) -> bool {
        match self.flags & (TCP_SYN | TCP_FIN | TCP_RST) {
            0 | TCP_FIN => self.has(TCP_ACK),
            TCP_SYN | TCP_RST => true,
            _ => false,
        }
    }
}

/// Finds the segment in a frame that is for a VIP.
///
/// # Errors
///
/// What becomes of any other frame.
#[inline(always)]
pub fn segment<F: Frame, T: Tables>(frame: &F, tables: &T, node: &NodeEntry) -> Result<Segment, Verdict> {
    const TOO_SHORT: Verdict = Verdict::Pass(PassReason::TooShort);
    let ethernet = frame.header::<Ethernet>(0).ok_or(TOO_SHORT)?;
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_ARP => return Err(arp(frame, tables, node)),
        _ => return Err(Verdict::Pass(PassReason::NotIpv4)),
    }
    let ip = frame.header::<Ipv4>(ETHERNET_LEN).ok_or(TOO_SHORT)?;
    if !node.may_be_vip(ip.dst) {
        return Err(Verdict::Pass(PassReason::NotVip));
    }
    if MacWord::new(ethernet.dst) != node.mac {
        return Err(Verdict::Pass(PassReason::OtherHost));
    }

    let header_len = ipv4_header_len(ip.version_ihl);
    let total_len = usize::from(ip.total_length.get());
    if ip.version_ihl >> 4 != 4
        || header_len < IPV4_MIN_LEN
        || total_len < header_len
        || total_len > frame.len() - ETHERNET_LEN
    {
        return Err(refuse(tables, ip.dst, DropReason::BadIpHeader));
    }
    if ip.protocol != PROTOCOL_TCP {
        return Err(Verdict::Pass(PassReason::NotTcp));
    }
    if ip.fragment.get() & IPV4_FRAGMENT_MASK != 0 {
        return Err(refuse(tables, ip.dst, DropReason::Fragment));
    }
    let header_len = if header_len == IPV4_MIN_LEN {
        if checksum::ipv4_header(ip).fold() != 0xffff {
            return Err(refuse(tables, ip.dst, DropReason::BadIpChecksum));
        }
        header_len
    } else {
        if !options_are_intact(frame, ip, header_len) {
            return Err(refuse(tables, ip.dst, DropReason::BadIpChecksum));
        }
        ipv4_header_len(frame.reread(ETHERNET_LEN).ok_or(TOO_SHORT)?)
    };

    let tcp_offset = ETHERNET_LEN + header_len;
    let Some(tcp) = frame.header::<Tcp>(tcp_offset) else {
        return Err(refuse(tables, ip.dst, DropReason::BadTcpHeader));
    };
    let tcp_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_len < TCP_MIN_LEN || header_len + tcp_len > total_len {
        return Err(refuse(tables, ip.dst, DropReason::BadTcpHeader));
    }
    Ok(Segment {
        key: FlowKey::new(ip.src, tcp.src_port, ip.dst, tcp.dst_port),
        tcp_offset,
        payload: (total_len - header_len - tcp_len) as u16,
        flags: tcp.flags,
    })
}

#[inline(always)]
const fn ipv4_header_len(version_ihl: u8) -> usize {
    (version_ihl & 0x0f) as usize * 4
}

/// Whether the checksum of a header with options is right. A frame that ends within them is not.
#[inline(always)]
fn options_are_intact<F: Frame>(frame: &F, ip: &Ipv4, header_len: usize) -> bool {
    let mut sum = checksum::ipv4_header(ip);
    for word in 0..10 {
        let offset = IPV4_MIN_LEN + word * 4;
        if offset >= header_len {
            break;
        }
        let Some(option) = frame.header::<[u8; 4]>(ETHERNET_LEN + offset) else { return false };
        sum = sum.be32(Be32::from_octets(*option));
    }
    sum.fold() == 0xffff
}

/// Drops a packet that is for a VIP; passes one that only hashes like one.
#[inline(always)]
fn refuse<T: Tables>(tables: &T, address: Be32, reason: DropReason) -> Verdict {
    match tables.vip(address) {
        Some(_) => Verdict::Drop(reason),
        None => Verdict::Pass(PassReason::NotVip),
    }
}

/// ARP is the host's, but for one case: while the controller is not running, another node may have taken the VIP, and
/// this host's kernel, which still has the address, must not answer for it.
#[inline(always)]
fn arp<F: Frame, T: Tables>(frame: &F, tables: &T, node: &NodeEntry) -> Verdict {
    const PASS: Verdict = Verdict::Pass(PassReason::Arp);
    let Some(arp) = frame.header::<Arp>(ETHERNET_LEN) else { return PASS };
    if !node.may_be_vip(arp.target) || tables.vip(arp.target).is_none_or(|vip| vip.fenced == 0) {
        return PASS;
    }
    let Some(pulse) = tables.pulse() else { return PASS };
    if tables.monotonic_ns().saturating_sub(pulse.heartbeat_ns) > node.lease_ns {
        Verdict::Drop(DropReason::Fenced)
    } else {
        PASS
    }
}
