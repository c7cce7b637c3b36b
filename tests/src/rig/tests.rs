use super::*;

fn frame() -> [u8; 64] {
    let mut frame = [0; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    // The worked example of a well-known RFC 1071 header: its checksum is 0xb861 with source 192.168.0.1.
    frame[14..34].copy_from_slice(&[
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x12, 0x34, 1, 2, 3, 4, 0xc0, 0xa8, 0x00,
        0xc7,
    ]);
    frame
}

#[test]
fn a_flow_has_the_checksum_that_its_packets_need() {
    let flow = Flow::v4(Ipv4Addr::new(192, 168, 0, 1), 443, &frame());
    assert_eq!(flow.bytes(), [192, 168, 0, 1, 0x01, 0xbb, 0xb8, 0x61]);
}

#[test]
fn clients_are_many_and_their_order_has_each_once() {
    let mut clients: Vec<_> = scattered(1 << 18).map(client).collect();
    assert_eq!(clients[1], client(0x9e37_79b1 & 0x3_ffff));
    clients.sort_unstable();
    clients.dedup();
    assert_eq!(clients.len(), 1 << 18);
    assert_eq!(client(0x1_0001), (Ipv4Addr::new(100, 64, 0, 1), 1024 + 4100));
}
