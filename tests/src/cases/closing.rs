//! How a connection ends, and packets of connections that are not known.

use lb_common::{
    layout::{SEEN_FIN, SEEN_RST},
    reason::{DropReason, PassReason, TransmitReason},
    tables::Level,
};

use super::{
    Case, Connection,
    settings::{one, three},
};
use crate::frames::{ACK, FIN, PSH, RST, SYN};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "client resets",
        "After the client's RST a SYN on the same ports opens a new flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, RST, b"");
            assert_ne!(script.directions(&connection).0.seen.flags & SEEN_RST, 0);
            script.handshake(&mut Connection { client_seq: 5, ..script.connection(40_000) });
            script.expect_flows(0, 1);
        },
    ),
    Case::new(
        "backend resets",
        "After the backend's RST a SYN on the same ports opens a new flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.server(&mut connection, RST | ACK, b"");
            assert_ne!(script.directions(&connection).1.seen.flags & SEEN_RST, 0);
            script.handshake(&mut Connection { client_seq: 5, ..script.connection(40_000) });
            script.expect_flows(0, 1);
        },
    ),
    Case::new(
        "one fin",
        "After a FIN from one side only, the flow is open: a SYN goes to its backend, which will object",
        three,
        |script| {
            for by_client in [true, false] {
                let mut connection = script.connection(40_000 + u16::from(by_client));
                script.handshake(&mut connection);
                if by_client {
                    script.client(&mut connection, FIN | ACK, b"");
                    script.server(&mut connection, ACK | PSH, b"the answer takes its time");
                } else {
                    script.server(&mut connection, FIN | ACK, b"");
                    script.client(&mut connection, ACK | PSH, b"still sending");
                }
                script.up(&connection, &connection.from_client(SYN, b"").bytes());
                script.expect_level(&connection, Level::Established);
            }
        },
    ),
    Case::new(
        "late packets",
        "After both FINs, retransmissions are still forwarded: the last ACK may have been lost",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection, FIN | ACK, b"");
            script.server(&mut connection, FIN | ACK, b"");
            script.server(&mut connection.clone(), FIN | ACK, b"");
            script.client(&mut connection, ACK, b"");
            let (client, backend) = script.directions(&connection);
            assert_eq!(client.seen.flags & backend.seen.flags & SEEN_FIN, SEEN_FIN);
        },
    ),
    Case::new(
        "forged rst",
        "Data after a RST from the same side shows that it did not send that RST: the flow is open",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.client(&mut connection.clone(), RST, b"");
            script.client(&mut connection, ACK, b"I am here");
            assert_eq!(script.directions(&connection).0.seen.flags & SEEN_RST, 0);
            script.server(&mut connection.clone(), RST, b"");
            script.client(&mut connection, ACK, b"I am here");
            assert_ne!(script.directions(&connection).1.seen.flags & SEEN_RST, 0, "the other side's stays");
            script.server(&mut connection, ACK, b"so am I");
            assert_eq!(script.directions(&connection).1.seen.flags & SEEN_RST, 0);
            script.up(&connection, &connection.from_client(SYN, b"").bytes());
        },
    ),
    Case::new(
        "restarted client",
        "A client that lost its memory: SYN, challenge ACK, RST, and the SYN again opens (RFC 9293 §3.10.7.4)",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let syn = Connection { client_seq: 12_345, ..connection.clone() }.from_client(SYN, b"").bytes();
            script.up(&connection, &syn);
            script.down(&connection, &connection.from_backend(ACK, b"").bytes());
            script.client(&mut connection, RST, b"");
            script.handshake(&mut Connection { client_seq: 12_345, ..script.connection(40_000) });
        },
    ),
    Case::new(
        "reopened elsewhere",
        "A closed flow that is opened anew forgets the NAT port of its old backend",
        one,
        |script| {
            let mut connection = script.connection(800);
            script.handshake(&mut connection);
            script.close(&mut connection);
            let key = script.backend_key(&connection);
            assert!(script.flows.established.contains_key(&key));
            script.syn(&mut script.connection(800));
            assert!(!script.flows.established.contains_key(&key));
        },
    ),
    Case::new(
        "unknown",
        "What is no SYN and of no flow gets the RST that RFC 9293 §3.10.7.1 says, from its ACK",
        one,
        |script| {
            let connection = script.connection(40_000);
            for (flags, payload) in
                [(ACK, &b""[..]), (ACK | PSH, b"data"), (FIN | ACK, b""), (SYN | ACK, b""), (FIN | ACK, b"x")]
            {
                let frame = connection.from_client(flags, payload).bytes();
                script.resets(&frame, TransmitReason::ResetUnknownFlow);
            }
        },
    ),
    Case::new("unknown rst", "Nobody answers a RST", one, |script| {
        for flags in [RST, RST | ACK, RST | PSH] {
            let frame = script.connection(40_000).from_client(flags, b"").bytes();
            script.drops(&frame, DropReason::UnknownFlow);
        }
    }),
    Case::new(
        "unknown reply",
        "A backend's packet of no flow is for a port of the VIP without a service: the host answers",
        one,
        |script| {
            let stray = Connection { nat_port: 40_000, ..script.connection(40_000) };
            for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
                script.passes(&stray.from_backend(flags, b"").bytes(), PassReason::NoService);
            }
        },
    ),
    Case::new(
        "wrong port",
        "Only the backend's own address and port, to exactly the NAT port, is a reply",
        three,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            let reply = connection.from_backend(ACK, b"data");
            let others = [
                crate::frames::Segment {
                    src: std::net::SocketAddr::new(reply.src.ip(), 6444),
                    ..reply.clone()
                },
                crate::frames::Segment {
                    src: script.setting.backend((connection.backend + 1) % 3),
                    ..reply.clone()
                },
                crate::frames::Segment {
                    dst: std::net::SocketAddr::new(reply.dst.ip(), connection.nat_port + 1),
                    ..reply.clone()
                },
            ];
            for other in others {
                script.passes(&other.bytes(), PassReason::NoService);
            }
            script.down(&connection, &reply.bytes());
        },
    ),
];
