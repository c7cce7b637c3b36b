//! A flow as the nodes tell it each other, and in this node's own terms.
//!
//! Pure. The terms of a node are numbers: ids of backends, indices of interfaces, its own Ethernet addresses, the seconds of
//! its flow clock. None of them means anything to another node, so a [`FlowRecord`] has addresses and durations instead,
//! and everything that follows from them is computed anew.
//!
//! Some flows live and die with their node, and are not told. With NAT these are the flows whose backend is that very
//! node, since its host has them under the client's own address; and those with `snat = "node"`, since their replies go to
//! that node's own address. Likewise a flow whose backend is *this* node is not taken over with NAT: the host would see
//! its packets come from the VIP, which is the host's own address by then. What comes of these after a fail-over is a
//! packet of an unknown flow, which the client gets a RST for.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use lb_common::{
    family::Address,
    forward::flow_entry,
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, Hop, MODE_LOCAL, MODE_NAT, MacWord, SEEN_FIN, SEEN_RST,
        SEEN_SEVERED, SEEN_SYN, SERVICE_SNAT_NODE, Seen, ServiceEntry, ServiceKey, TO_BACKEND, TO_CLIENT,
        TagWord,
    },
    wire::{Be16, Mac},
};

use crate::{
    dataplane::Tables,
    desired::BackendIds,
    flows::{self, Phase},
    netlink::Link,
    sync::record::{Applied, Authority, ClientHop, Direction, FlowId, FlowRecord},
};

/// The flags that mean the same on every node.
const TOLD_FLAGS: u32 = SEEN_SYN | SEEN_FIN | SEEN_RST | SEEN_SEVERED;
/// For that long a new owner takes what others still have to say of its VIPs: what they had not told it when it took over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A longer time would be one in the future, as the flow clock is read.
const LONGEST: u32 = i32::MAX as u32;

/// What a node's own numbers stand for, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landmarks {
    services: BTreeMap<ServiceKey, ServiceEntry>,
    backends: BTreeMap<BackendId, BackendEntry>,
    ids: HashMap<(ServiceKey, SocketAddr), BackendId>,
    links: Vec<Leg>,
    held: BTreeMap<IpAddr, Instant>,
}

/// An interface, as far as a way to a client needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leg {
    /// Where XDP is attached.
    if_index: u32,
    mac: Mac,
    /// Of the interface itself, from the outside in; empty where frames say theirs.
    tags: Vec<TagWord>,
}

/// A flow in this node's own terms: the client's direction and, with NAT, the backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnFlow<A> {
    /// Of the client's packets.
    pub key: FlowKey<A>,
    /// See `key`.
    pub forward: FlowEntry<A>,
    /// Of the backend's packets; its key is `forward.rewritten`, reversed.
    pub reply: Option<FlowEntry<A>>,
}

/// What a record may do to what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is right, whatever is here.
    Right,
    /// It is added where nothing is in its way, and is news of a flow that is here where it is younger.
    Welcome,
    /// It is added where nothing is in its way.
    Addition,
    /// It changes nothing: the flow is here, or has ended since.
    Stale,
}

impl Landmarks {
    /// From what the maps should have, or have. `held`: the VIPs that are ours, and since when.
    pub fn new(tables: &Tables, ids: &BackendIds, links: &[Link], held: BTreeMap<IpAddr, Instant>) -> Self {
        let mut by_address = HashMap::new();
        // Those that new flows get come first; what is draining has only what nobody else has.
        for (id, identity) in ids.all() {
            // Of a predecessor's only the address may be known.
            let services: Vec<ServiceKey> = match identity.service {
                Some(service) => vec![service],
                None => tables.services.keys().copied().collect(),
            };
            for service in services {
                by_address.entry((service, identity.address)).or_insert(id);
            }
        }
        let links = links.iter().map(|link| Leg {
            if_index: link.parent,
            mac: link.mac.unwrap_or_default(),
            tags: link
                .tags
                .iter()
                .map(|tag| TagWord::new(Be16::new(tag.protocol), Be16::new(tag.id)))
                .collect(),
        });
        Self {
            services: tables.services.clone(),
            backends: tables.backends.clone(),
            ids: by_address,
            links: links.collect(),
            held,
        }
    }

    /// Whether this node holds a VIP.
    pub fn holds(&self, vip: IpAddr) -> bool {
        self.held.contains_key(&vip)
    }

    /// What a record of a flow that has been silent for so many seconds may do.
    ///
    /// Who holds a VIP is right about its flows. Another one that still has some may have been cut off since: of a flow whose
    /// last packet it saw before we took over, we were told then, and if it is not here any more, it has ended.
    pub fn standing(&self, vip: IpAddr, authority: Authority, silence: u32, now: Instant) -> Standing {
        match authority {
            Authority::Sender => Standing::Right,
            Authority::Nobody => Standing::Welcome,
            Authority::Receiver => {
                let Some(&since) = self.held.get(&vip) else { return Standing::Addition };
                let held = now.saturating_duration_since(since);
                // Whole seconds of another clock: it may have been one more.
                let silent = Duration::from_secs(u64::from(silence) + 1);
                if held < LAST_WORDS || silent <= held { Standing::Addition } else { Standing::Stale }
            }
        }
    }

    /// A flow as other nodes understand it. `None` for one that cannot live there, and for half of one.
    pub fn record<A: Address>(
        &self,
        key: &FlowKey<A>,
        forward: &FlowEntry<A>,
        reply: Option<&FlowEntry<A>>,
        clock: u32,
    ) -> Option<FlowRecord> {
        let service = self.services.get(&ServiceKey::new(key.dst.wide(), key.dst_port))?;
        let backend = self.backends.get(&forward.backend)?;
        let is_bound_to_its_node = service.mode == MODE_NAT
            && (forward.mode == MODE_LOCAL || service.flags & SERVICE_SNAT_NODE != 0);
        if forward.direction != TO_BACKEND
            || is_bound_to_its_node
            || flows::has_reply(forward) != reply.is_some()
        {
            return None;
        }
        Some(FlowRecord {
            id: id_of(key),
            backend: SocketAddr::new(backend.address.into(), backend.port.get()),
            mode: forward.mode,
            nat: reply.is_some().then(|| at(forward.rewritten.src, forward.rewritten.src_port)),
            hop: self.told_hop(&forward.client),
            age: passed(clock, forward.opened),
            attempt: forward.attempt,
            to_backend: direction(&forward.seen, clock),
            to_client: reply.map(|reply| direction(&reply.seen, clock)),
        })
    }

    /// A flow that another node has, in our own terms.
    ///
    /// # Errors
    ///
    /// Why it cannot be here.
    pub fn own<A: Address>(&self, record: &FlowRecord, clock: u32) -> Result<OwnFlow<A>, Applied> {
        let FlowId { client, service } = record.id;
        let service_key = ServiceKey::new(service.ip().into(), Be16::new(service.port()));
        let entry = self.services.get(&service_key).ok_or(Applied::UnknownService)?;
        let id = *self.ids.get(&(service_key, record.backend)).ok_or(Applied::UnknownBackend)?;
        let backend = self.backends.get(&id).ok_or(Applied::UnknownBackend)?;
        let mode = backend.mode_of_flows(entry);
        let key = FlowKey::new(
            narrow(client.ip()),
            Be16::new(client.port()),
            narrow(service.ip()),
            Be16::new(service.port()),
        );
        let hop = self.own_hop(&record.hop);
        let made = |key: &FlowKey<A>, rewritten: &FlowKey<A>, to: u8, told: &Direction| {
            let opened = clock.wrapping_sub(record.age.min(LONGEST));
            let mut made = flow_entry(key, rewritten, (to, mode), id, &hop, opened);
            made.seen = seen(told, clock);
            made
        };
        let (rewritten, reply) = if entry.mode == MODE_NAT {
            // As far as its own node is concerned, the flow may be another kind: it is configured otherwise.
            let (Some(nat), Some(to_client)) = (record.nat, record.to_client) else {
                return Err(Applied::NotHere);
            };
            let is_ours = mode == MODE_NAT
                && nat.ip() == service.ip()
                && nat.port() != 0
                && record.backend.is_ipv4() == service.is_ipv4();
            if !is_ours {
                return Err(Applied::NotHere);
            }
            let rewritten = FlowKey::new(
                narrow(nat.ip()),
                Be16::new(nat.port()),
                narrow(record.backend.ip()),
                Be16::new(record.backend.port()),
            );
            (rewritten, Some(made(&rewritten.reversed(), &key.reversed(), TO_CLIENT, &to_client)))
        } else if record.nat.is_some() {
            return Err(Applied::NotHere);
        } else {
            (key, None)
        };
        let mut forward = made(&key, &rewritten, TO_BACKEND, &record.to_backend);
        forward.attempt = record.attempt;
        Ok(OwnFlow { key, forward, reply })
    }

    /// The interface by its place in the configuration, the same on every node.
    fn told_hop(&self, hop: &Hop) -> ClientHop {
        let tags: Vec<TagWord> = [hop.outer, hop.inner].into_iter().filter(|tag| tag.is_some()).collect();
        let vlans = |tags: &[TagWord]| tags.iter().map(|tag| tag.vlan()).collect::<Vec<_>>();
        let on = |leg: &&(usize, &Leg)| leg.1.if_index == hop.if_index;
        let legs: Vec<(usize, &Leg)> = self.links.iter().enumerate().collect();
        let exact = legs.iter().filter(on).find(|(_, leg)| vlans(&leg.tags) == vlans(&tags));
        let link = exact.or_else(|| legs.iter().find(on)).map_or(0, |(index, _)| *index);
        ClientHop {
            mac: hop.mac.octets(),
            link: link as u8,
            outer: hop.outer.octets(),
            inner: hop.inner.octets(),
        }
    }

    /// The same way from our own interface: good until the client's first packet tells.
    fn own_hop(&self, told: &ClientHop) -> Hop {
        let Some(leg) = self.links.get(usize::from(told.link)).or(self.links.first()) else {
            return Hop::NONE;
        };
        let own = |n: usize, told: [u8; 4]| {
            if leg.tags.is_empty() {
                TagWord::from_octets(told)
            } else {
                leg.tags.get(n).copied().unwrap_or(TagWord::NONE)
            }
        };
        Hop {
            mac: MacWord::new(told.mac),
            source: MacWord::new(leg.mac),
            if_index: leg.if_index,
            outer: own(0, told.outer),
            inner: own(1, told.inner),
            flags: 0,
        }
    }
}

/// Whether two entries of one direction are of the same flow: it has not been opened anew with another backend or port.
pub fn is_same<A: Address>(one: &FlowEntry<A>, other: &FlowEntry<A>) -> bool {
    (one.rewritten, one.backend, one.mode) == (other.rewritten, other.backend, other.mode)
}

/// Whether a flow counts for its backend's load no more.
pub fn has_ended<A: Address>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> bool {
    match flows::phase(forward, reply) {
        Phase::Open => false,
        Phase::HalfClosed => !flows::has_reply(forward),
        Phase::Closed | Phase::Reset => true,
    }
}

/// What a client's direction of a flow is called among the nodes.
pub fn id_of<A: Address>(key: &FlowKey<A>) -> FlowId {
    FlowId { client: at(key.src, key.src_port), service: at(key.dst, key.dst_port) }
}

fn at<A: Address>(address: A, port: Be16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address.wide()), port.get())
}

fn narrow<A: Address>(address: IpAddr) -> A {
    A::narrow(address.into())
}

/// Seconds between two readings of the flow clock; another CPU may be a moment ahead.
const fn passed(now: u32, then: u32) -> u32 {
    let passed = now.wrapping_sub(then);
    if passed > i32::MAX as u32 { 0 } else { passed }
}

const fn direction(seen: &Seen, clock: u32) -> Direction {
    Direction {
        packets: seen.packets,
        bytes: seen.bytes,
        next_seq: seen.next_seq,
        ack: seen.ack,
        flags: seen.flags & TOLD_FLAGS,
        silence: seen.silence(clock),
    }
}

const fn seen(told: &Direction, clock: u32) -> Seen {
    Seen {
        packets: told.packets,
        bytes: told.bytes,
        next_seq: told.next_seq,
        ack: told.ack,
        flags: told.flags & TOLD_FLAGS,
        at: clock.wrapping_sub(if told.silence < LONGEST { told.silence } else { LONGEST }),
    }
}

#[cfg(test)]
mod tests;
