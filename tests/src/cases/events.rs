//! What is told about flows, for those who keep other nodes in step.

use std::net::{IpAddr, SocketAddr};

use lb_common::layout::{FLOW_ENDING, FLOW_ESTABLISHED, FLOW_MOVED, NODE_TELLS_FLOWS, SERVICE_REBUILDS};

use super::{
    Case, Connection, Script, Setting,
    settings::{ALL, EVERY_NAT, FORWARDING, NAT, one},
};
use crate::{
    frames::{ACK, FIN, PSH, RST, SYN},
    plane::{OTHER_ROUTER_MAC, World},
};

const NOTHING: [u32; 0] = [];

/// Somebody listens.
fn telling(setting: Setting) -> World {
    let mut world = one(setting);
    world.node.flags |= NODE_TELLS_FLOWS;
    world
}

/// And flows are rebuilt.
fn rebuilding(setting: Setting) -> World {
    telling(setting).with_flags(SERVICE_REBUILDS)
}

/// What the last frame told of this connection, and that it told of no other.
fn told(script: &Script<'_>, connection: &Connection) -> Vec<u32> {
    let of_it = |event: &lb_common::layout::FlowEvent| {
        let client = SocketAddr::new(IpAddr::from(event.client), event.client_port.get());
        let service = SocketAddr::new(IpAddr::from(event.vip), event.port.get());
        assert_eq!((client, service), (connection.client, connection.service));
        event.kind
    };
    script.notes.events.iter().map(of_it).collect()
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "life",
        "A flow is told when its handshake has completed, and at each FIN; data tells nothing",
        telling,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            assert_eq!(told(script, &connection), NOTHING);
            script.server(&mut connection, SYN | ACK, b"");
            assert_eq!(told(script, &connection), NOTHING);
            script.client(&mut connection, ACK, b"");
            assert_eq!(told(script, &connection), [FLOW_ESTABLISHED]);
            script.client(&mut connection, ACK | PSH, b"GET /version");
            assert_eq!(told(script, &connection), NOTHING);
            script.server(&mut connection, ACK | PSH, b"{}");
            assert_eq!(told(script, &connection), NOTHING);
            script.server(&mut connection, FIN | ACK, b"");
            assert_eq!(told(script, &connection), [FLOW_ENDING]);
            script.client(&mut connection, FIN | ACK, b"");
            assert_eq!(told(script, &connection), [FLOW_ENDING]);
            script.client(&mut connection, ACK, b"");
            assert_eq!(told(script, &connection), NOTHING);
        },
    )
    .on(EVERY_NAT),
    Case::new(
        "life, one direction",
        "Where replies are not seen, the client's packets tell it",
        telling,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            assert_eq!(told(script, &connection), NOTHING);
            script.client(&mut connection, ACK, b"");
            assert_eq!(told(script, &connection), [FLOW_ESTABLISHED]);
            script.client(&mut connection, ACK, b"data");
            assert_eq!(told(script, &connection), NOTHING);
            script.client(&mut connection, FIN | ACK, b"");
            let ending = if script.setting.mode == lb_common::layout::MODE_LOCAL { 0 } else { 1 };
            assert_eq!(told(script, &connection).len(), ending);
        },
    )
    .on(super::settings::DIRECT),
    Case::new(
        "resets",
        "A RST is told, and so is that its sender goes on: it was forged",
        telling,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.server(&mut connection.clone(), RST, b"");
            assert_eq!(told(script, &connection), [FLOW_ENDING]);
            script.server(&mut connection.clone(), RST, b"");
            assert_eq!(told(script, &connection), NOTHING, "nothing new");
            script.server(&mut connection, ACK, b"here I am");
            assert_eq!(told(script, &connection), [FLOW_ENDING]);
            script.client(&mut connection, RST | ACK, b"");
            assert_eq!(told(script, &connection), [FLOW_ENDING]);
        },
    )
    .on(EVERY_NAT),
    Case::new("half-open", "Nothing is told of what never became a flow", telling, |script| {
        let mut connection = script.connection(40_000);
        script.syn(&mut connection);
        script.client(&mut connection, RST, b"");
        assert_eq!(told(script, &connection), NOTHING);
        let mut refused = script.connection(40_001);
        script.syn(&mut refused);
        script.server(&mut refused, RST | ACK, b"");
        assert_eq!(told(script, &refused), NOTHING);
    })
    .on(FORWARDING),
    Case::new(
        "moved",
        "Where a client's packets come by another router, that is told once",
        telling,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            connection.client_mac = OTHER_ROUTER_MAC;
            script.client(&mut connection, ACK, b"data");
            assert_eq!(told(script, &connection), [FLOW_MOVED]);
            script.client(&mut connection, ACK, b"data");
            assert_eq!(told(script, &connection), NOTHING);
        },
    )
    .on(ALL),
    Case::new("rebuilt", "A rebuilt flow is told when its backend has proved it", rebuilding, |script| {
        let mut connection = Connection { nat_port: 40_000, ..script.connection(40_000) };
        script.client(&mut connection, ACK, b"in the middle");
        assert_eq!(told(script, &connection), NOTHING);
        script.server(&mut connection, ACK, b"");
        assert_eq!(told(script, &connection), [FLOW_ESTABLISHED]);
    })
    .on(EVERY_NAT),
    Case::new("not asked", "Where nobody listens nothing is told", one, |script| {
        let mut connection = script.connection(40_000);
        script.handshake(&mut connection);
        assert_eq!(told(script, &connection), NOTHING);
        connection.client_mac = OTHER_ROUTER_MAC;
        script.client(&mut connection, FIN | ACK, b"");
        assert_eq!(told(script, &connection), NOTHING);
    })
    .on(NAT),
];
