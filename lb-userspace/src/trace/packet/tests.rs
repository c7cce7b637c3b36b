use etherparse::{IpNumber, PacketBuilder};

use super::*;

fn summary(frame: &[u8]) -> String {
    Packet::read(frame, frame.len() as u32).summary
}

#[test]
fn a_segment_reads_as_tcpdump_writes_it() {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 7], [10, 0, 0, 10], 63);
    let mut frame = Vec::new();
    builder.tcp(4000, 6443, 1000, 500).syn().ack(7).write(&mut frame, &[]).expect("a frame");
    let packet = Packet::read(&frame, frame.len() as u32);
    assert_eq!(packet.summary, "10.0.0.7:4000 > 10.0.0.10:6443 [S.] seq 1000 ack 7 len 0");
    assert_eq!((packet.source.as_deref(), packet.ttl), (Some("10.0.0.7:4000"), Some(63)));
    let expected = Tcp { flags: "S.".to_owned(), seq: 1000, ack: Some(7), payload: 0 };
    assert_eq!(packet.tcp, Some(expected));
}

#[test]
fn tags_and_ipv6_are_shown_and_a_cut_frame_keeps_its_payload_length() {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .single_vlan(9.try_into().expect("an id"))
        .ipv6([0xfd; 16], [0xfe; 16], 64);
    let mut frame = Vec::new();
    builder.tcp(1, 2, 3, 4).write(&mut frame, &[0; 1000]).expect("a frame");
    let packet = Packet::read(&frame[..192], frame.len() as u32);
    assert_eq!((packet.vlans.as_slice(), packet.length), (&[9_u16][..], 1078));
    assert!(
        packet.summary.starts_with("vlan 9 [fdfd:") && packet.summary.ends_with(" [none] seq 3 len 1000")
    );
}

#[test]
fn what_is_inside_a_tunnel_or_an_error_is_shown() {
    let mut inner = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 7], [10, 0, 0, 10], 63)
        .tcp(1, 2, 3, 4)
        .syn()
        .write(&mut inner, &[])
        .expect("a packet");
    let mut tunnelled = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([1, 1, 1, 1], [2, 2, 2, 2], 64)
        .write(&mut tunnelled, IpNumber::IPV4, &inner)
        .expect("a frame");
    assert_eq!(summary(&tunnelled), "1.1.1.1 > 2.2.2.2 (10.0.0.7:1 > 10.0.0.10:2 [S] seq 3 len 0)");
    assert_eq!(Packet::read(&tunnelled, 0).destination.as_deref(), Some("2.2.2.2"));
    let mut error = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([1, 1, 1, 1], [10, 0, 0, 10], 64)
        .icmpv4_raw(3, 4, [0; 4])
        .write(&mut error, &inner)
        .expect("a frame");
    assert_eq!(summary(&error), "1.1.1.1 > 10.0.0.10 icmp 3/4 (10.0.0.7:1 > 10.0.0.10:2 [S] seq 3 len 0)");
}

#[test]
fn hostile_bytes_are_described_and_never_panic() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 7], [10, 0, 0, 10], 63)
        .tcp(1, 2, 3, 4)
        .write(&mut frame, &[1; 40])
        .expect("a frame");
    for len in 0..frame.len() {
        assert!(!summary(&frame[..len]).is_empty(), "{len}");
    }
    for at in 0..frame.len() {
        for byte in [0, 0x0f, 0x4f, 0x81, 0xff] {
            let mut frame = frame.clone();
            frame[at] = byte;
            assert!(!summary(&frame).is_empty(), "{at} {byte}");
        }
    }
    assert_eq!(summary(&[0; 13]), "too short for Ethernet");
    assert_eq!(summary(&[&[0; 12][..], &[0x88, 0xcc, 1, 2]].concat()), "ethertype 0x88cc");
}
