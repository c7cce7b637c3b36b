//! Answering a segment with a RST, in place (RFC 9293 §3.10.7.1).

use crate::{
    checksum,
    frame::Frame,
    wire::{
        Be16, Be32, ETHERNET_LEN, Ethernet, IPV4_DONT_FRAGMENT, IPV4_MIN_LEN, Ipv4, PROTOCOL_TCP, TCP_ACK,
        TCP_FIN, TCP_MIN_LEN, TCP_RST, TCP_SYN, Tcp,
    },
};

/// Where the padding of the answer begins.
const RESET_LEN: usize = ETHERNET_LEN + IPV4_MIN_LEN + TCP_MIN_LEN;
/// The shortest frame on Ethernet, without its check sequence.
const ETHERNET_MIN: usize = 60;
const RESET_TTL: u8 = 64;

/// Turns a frame into the RST that answers it. Its TCP header is at `tcp_offset`, and it has `payload` bytes of TCP
/// payload. False where the frame could not be resized; it is garbage then.
///
/// The segment must not be a RST itself: nobody answers those.
#[inline(always)]
pub fn answer<F: Frame>(frame: &mut F, tcp_offset: usize, payload: u16) -> bool {
    let Some(ip) = frame.header::<Ipv4>(ETHERNET_LEN).copied() else { return false };
    let Some(tcp) = frame.header::<Tcp>(tcp_offset).copied() else { return false };
    let kept = if frame.len() >= ETHERNET_MIN { ETHERNET_MIN } else { RESET_LEN };
    if frame.len() > kept && !frame.truncate(kept) {
        return false;
    }
    let Some(ethernet) = frame.header_mut::<Ethernet>(0) else { return false };
    (ethernet.dst, ethernet.src) = (ethernet.src, ethernet.dst);

    let mut ip_answer = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: Be16::new((IPV4_MIN_LEN + TCP_MIN_LEN) as u16),
        id: Be16::new(0),
        fragment: Be16::new(IPV4_DONT_FRAGMENT),
        ttl: RESET_TTL,
        protocol: PROTOCOL_TCP,
        checksum: Be16::new(0),
        src: ip.dst,
        dst: ip.src,
    };
    ip_answer.checksum = checksum::ipv4_header(&ip_answer).checksum();

    let (seq, ack, flags) = if tcp.flags & TCP_ACK != 0 {
        (tcp.ack, Be32::new(0), TCP_RST)
    } else {
        (Be32::new(0), Be32::new(next_seq(&tcp, payload)), TCP_RST | TCP_ACK)
    };
    let mut tcp_answer = Tcp {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        seq,
        ack,
        data_offset: ((TCP_MIN_LEN / 4) << 4) as u8,
        flags,
        ..Tcp::default()
    };
    tcp_answer.checksum = checksum::tcp_header(&ip_answer, &tcp_answer, TCP_MIN_LEN as u16).checksum();

    let Some(ip_place) = frame.header_mut::<Ipv4>(ETHERNET_LEN) else { return false };
    *ip_place = ip_answer;
    let Some(tcp_place) = frame.header_mut::<Tcp>(ETHERNET_LEN + IPV4_MIN_LEN) else { return false };
    *tcp_place = tcp_answer;
    // What is left of the client's bytes must not travel back as padding.
    if let Some(padding) = frame.header_mut::<[u8; ETHERNET_MIN - RESET_LEN]>(RESET_LEN) {
        *padding = [0; ETHERNET_MIN - RESET_LEN];
    }
    true
}

/// The sequence number after a segment: SYN and FIN take one each (host byte order).
#[inline(always)]
pub const fn next_seq(tcp: &Tcp, payload: u16) -> u32 {
    let syn = (tcp.flags & TCP_SYN != 0) as u32;
    let fin = (tcp.flags & TCP_FIN != 0) as u32;
    tcp.seq.get().wrapping_add(payload as u32).wrapping_add(syn).wrapping_add(fin)
}
