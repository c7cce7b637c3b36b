//! What neighbours say in ARP, neighbour discovery and VRRP, right and wrong: whatever comes, nothing panics, nothing but a
//! frame of a valid form is noted or answered, and a VIP stays where it is. On the host alone millions of frames; with root on
//! host and kernel in step, which must agree on every byte and every map.
//!
//! Runner: once

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::{
    layout::{MacWord, VipEntry, virtual_mac},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
};
use lb_tests::{
    cases::{Script, Setting, check_outcome, describe},
    frames::{
        Advert, Arp, IcmpMessage, Link, Mac, Tag, checksum, fix_ip_checksum, ip_checksum_is_right,
        neighbour_advertisement, neighbour_solicitation, service_vlan, vlan,
    },
    host_tables::HostPlane,
    kernel_tables::{KernelPlane, can_load},
    plane::{
        Heartbeat, LINK, MAX_FLOWS, NODE, NODE_MAC, NODE6, OTHER_VIP, OTHER_VIP6, Outcome, Plane, ROUTER_MAC,
        SECOND_MAC, VIP, VIP6, World,
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};

const VRID: u8 = 51;
/// Frames in the fuzz, and how long it may take: a slow machine does with fewer, but never with none.
const FUZZED: u32 = 3_000_000;
const FUZZ_AT_MOST: Duration = Duration::from_secs(30);
const FUZZED_AT_LEAST: u32 = 100_000;

/// What the node is: it holds the VIPs of both families or not, with virtual Ethernet addresses or not.
#[derive(Clone, Copy, Debug)]
struct Node {
    v6: bool,
    holds: bool,
    is_stale: bool,
    in_vlan: bool,
}

impl Node {
    fn setting(self) -> Setting {
        if self.v6 { Setting::NAT6 } else { Setting::NAT }
    }

    fn world(self) -> World {
        let mut world = self.setting().world(1);
        if self.in_vlan {
            world = world.on_vlans(&[7], true);
        }
        if self.holds {
            let entry = VipEntry {
                if_index: LINK,
                virtual_mac: MacWord::new(virtual_mac(self.v6, VRID)),
                ..VipEntry::new(true)
            };
            world.tables.vips.insert(self.setting().service().ip(), entry);
            world.node.add_virtual_router(self.v6, VRID);
        }
        if self.is_stale {
            world.heartbeat = Heartbeat::Stale;
        }
        world
    }
}

fn macs() -> Vec<Mac> {
    vec![
        NODE_MAC,
        SECOND_MAC,
        ROUTER_MAC,
        [0x02, 0, 0, 0, 0, 0x03],
        virtual_mac(false, VRID),
        virtual_mac(true, VRID),
        [0xff; 6],
        [0; 6],
        [0x33, 0x33, 0xff, 0, 0, 0x10],
        [0x01, 0, 0x5e, 0, 0, 0x12],
    ]
}

fn addresses4() -> Vec<Ipv4Addr> {
    vec![VIP, OTHER_VIP, NODE, Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST]
}

fn addresses6() -> Vec<Ipv6Addr> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    vec![VIP6, OTHER_VIP6, NODE6, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3), Ipv6Addr::UNSPECIFIED, group]
}

/// A choice among few, made of some bits.
fn pick<T: Clone>(of: &[T], choice: u8) -> T {
    of[usize::from(choice) % of.len()].clone()
}

/// A frame as a neighbour could mean it, made of a few choices.
fn said(v6: bool, kind: u8, choices: [u8; 8]) -> Vec<u8> {
    let [source, destination, from, to, about, tags, a, b] = choices;
    let (macs, v4s, v6s) = (macs(), addresses4(), addresses6());
    let tags: &[Tag] = match tags % 8 {
        0..5 => &[],
        5 => &[vlan(7)],
        6 => &[vlan(8)],
        _ => &[service_vlan(7), vlan(7)],
    };
    let link =
        Link { destination: pick(&macs, destination), source: pick(&macs, source), tags: tags.to_vec() };
    match (v6, kind % 4) {
        (false, 0..2) => {
            let mut arp = Arp::request(pick(&macs, about), pick(&v4s, from), pick(&v4s, to));
            (arp.link, arp.operation) = (link, u16::from(a % 4));
            arp.bytes()
        }
        (true, kind @ 0..2) => {
            let target = pick(&v6s, about);
            let mut message = if kind == 0 {
                neighbour_solicitation(pick(&macs, a), pick(&v6s, from), target)
            } else {
                neighbour_advertisement(pick(&macs, a), pick(&v6s, from), target, None)
            };
            if b % 4 == 0 {
                message.dst = pick(&v6s, to).into();
            }
            match b % 7 {
                0 => message.body.truncate(16),
                1 => message.body.extend([14, 1, 1, 2, 3, 4, 5, 6]),
                2 => message.rest = [0x60, 0, 0, 0],
                3 => message.ttl = 64,
                _ => {}
            }
            let group = message.link.destination;
            message.link = Link { destination: if b % 2 == 0 { group } else { link.destination }, ..link };
            message.bytes()
        }
        _ => {
            let src: IpAddr = if v6 { pick(&v6s, from).into() } else { pick(&v4s, from).into() };
            let vip: IpAddr = if v6 { VIP6.into() } else { VIP.into() };
            let mut advert = Advert::new(pick(&macs, source), src, &vec![vip; usize::from(about % 5)]);
            (advert.vrid, advert.priority) = (VRID.wrapping_add(a % 3), b);
            advert.link.tags = link.tags;
            advert.version = if a % 5 == 0 { 2 } else { 3 };
            advert.ttl = if b % 16 == 1 { 254 } else { 255 };
            advert.pseudo_header = b % 4 != 0;
            if to % 2 == 0 {
                advert.link.destination = link.destination;
            }
            advert.trailer = vec![a; usize::from(to % 3) * 4];
            advert.bytes()
        }
    }
}

/// What a frame may do, read by `etherparse`: whose VIP it claims, and whether it is an advertisement.
struct Form {
    claims: bool,
    advertises: bool,
}

impl Form {
    fn of(world: &World, frame: &[u8]) -> Self {
        let is_vip = |address: IpAddr| world.tables.vips.contains_key(&address);
        let arp = Arp::read(frame);
        let by_arp = arp.is_some_and(|arp| is_vip(arp.sender.into()) && matches!(arp.operation, 1 | 2));
        let by_neighbour = IcmpMessage::read(frame).is_some_and(|message| {
            let target = message.body.get(..16).and_then(|target| <[u8; 16]>::try_from(target).ok());
            let claimed = match message.kind {
                135 => Some(message.src),
                136 => target.map(|target| Ipv6Addr::from(target).into()),
                _ => None,
            };
            message.ttl == 255 && message.code == 0 && claimed.is_some_and(is_vip)
        });
        Self { claims: by_arp || by_neighbour, advertises: is_advert(frame) }
    }
}

/// Whether it is an advertisement with hop limit 255 and, where it is short, a right checksum.
fn is_advert(frame: &[u8]) -> bool {
    let Some(datagram) = lb_tests::frames::Datagram::read(frame) else { return false };
    let ip = &datagram.ip;
    let message = &datagram.payload;
    // Of the bytes, since `etherparse` has no place for the reserved bit.
    let header_is_right =
        ip.src().is_ipv6() || Link::read(frame).is_some_and(|(.., packet)| ip_checksum_is_right(packet));
    let is_of_vrrp = ip.protocol().0 == 112 && ip.hops() == 255 && header_is_right && message.len() >= 8;
    if !is_of_vrrp || !matches!(message[0], 0x21 | 0x31) || message[1] == 0 {
        return false;
    }
    let v6 = ip.src().is_ipv6();
    let length =
        8 + usize::from(message[3]) * if v6 { 16 } else { 4 } + if message[0] == 0x21 { 8 } else { 0 };
    let covered = if v6 { message.len() } else { length };
    if covered > message.len() {
        return false;
    }
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut with_pseudo = [octets(ip.src()), octets(ip.dst())].concat();
    with_pseudo.extend((covered as u32).to_be_bytes());
    with_pseudo.extend([0, 0, 0, 112]);
    with_pseudo.extend(&message[..covered]);
    covered > 256 || checksum(&message[..covered]) == [0, 0] || checksum(&with_pseudo) == [0, 0]
}

/// What a frame of neighbours may come to.
fn is_possible(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Pass(_)
            | Verdict::Transmit(TransmitReason::ArpReply | TransmitReason::NeighbourReply)
            | Verdict::Drop(
                DropReason::Fenced
                    | DropReason::BadIpHeader
                    | DropReason::BadIpChecksum
                    | DropReason::BadExtension
                    | DropReason::BadTcpHeader
                    | DropReason::BadTcpFlags
                    | DropReason::BadFragment
                    | DropReason::FragmentUnknown
                    | DropReason::BadIcmp
                    | DropReason::BadSource
                    | DropReason::UnknownFlow
            )
    )
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit
    }
}

/// Damages a frame: bytes, its end, bytes more.
fn damage(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        let at = random.below(frame.len());
        frame[at] =
            if random.below(2) == 0 { random.next() as u8 } else { frame[at] ^ (1 << random.below(8)) };
    }
    match random.below(12) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => frame.extend((0..random.below(64)).map(|n| n as u8)),
        // Else hardly any damaged IPv4 packet would get past its checksum.
        2..6 if frame.len() > 34 && frame[12..14] == [0x08, 0x00] => fix_ip_checksum(frame),
        _ => {}
    }
}

#[test]
fn millions_of_damaged_frames_move_nothing() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let nodes = (0..16u8).map(|bits| Node {
        v6: bits & 1 != 0,
        holds: bits & 2 != 0,
        is_stale: bits & 4 != 0,
        in_vlan: bits & 8 != 0,
    });
    let worlds: Vec<(Node, World)> = nodes.map(|node| (node, node.world())).collect();
    // Frames to damage; to make each anew would take most of the time.
    let seeds: Vec<Vec<Vec<u8>>> = [false, true]
        .map(|v6| (0..4_000).map(|n| said(v6, n as u8, random.next().to_be_bytes())).collect())
        .into();
    let begin = Instant::now();
    let (mut frames, mut claims, mut adverts, mut answers) = (0u32, 0u32, 0u32, 0u32);
    while frames < FUZZED && (frames < FUZZED_AT_LEAST || begin.elapsed() < FUZZ_AT_MOST) {
        let (node, world) = &worlds[random.below(worlds.len())];
        let mut plane = HostPlane::new(world);
        for _ in 0..1_000 {
            let mut frame = seeds[usize::from(node.v6)][random.below(4_000)].clone();
            damage(&mut frame, &mut random);
            let before = plane.tables.sightings();
            let Outcome { verdict, frame: after, redirected } = plane.run(&frame);
            let noted = plane.tables.sightings();
            frames += 1;
            assert!(is_possible(verdict) && !redirected, "{verdict:?}: {}", describe(&frame));
            let (new_claims, new_adverts) = (noted.0 - before.0, noted.1 - before.1);
            if new_claims + new_adverts != 0 {
                let form = Form::of(world, &frame);
                assert!(
                    new_claims == 0 || (new_claims == 1 && form.claims),
                    "no claim: {}",
                    describe(&frame)
                );
                assert!(new_adverts == 0 || (new_adverts == 1 && form.advertises), "no advert: {frame:02x?}");
                claims += new_claims as u32;
                adverts += new_adverts as u32;
            }
            if let Verdict::Transmit(_) = verdict {
                assert!(
                    node.holds && !node.is_stale,
                    "nobody answers for what is not held: {}",
                    describe(&frame)
                );
                answers += 1;
            }
            if frame.len() >= 14 {
                check_outcome(world, &frame, &Outcome { verdict, frame: after, redirected });
            }
        }
        assert!(plane.flows().half_open.is_empty() && plane.flows().established.is_empty());
        assert!(plane.tables.claims_are_of_vips(), "only VIPs are claimed");
    }
    println!(
        "{frames} frames in {:?}: {claims} claims, {adverts} adverts, {answers} answers",
        begin.elapsed()
    );
    assert!(
        [claims, adverts, answers].into_iter().all(|count| count > frames / 10_000),
        "the fuzz gets through to what it is about"
    );
}

/// Something a neighbour says, and what becomes of it on the way.
#[derive(Clone, Debug)]
struct Talk {
    kind: u8,
    choices: [u8; 8],
    damage: Vec<(Index, u8)>,
    cut: Option<Index>,
}

fn talk() -> impl Strategy<Value = Talk> {
    let damage = prop_oneof![3 => Just(vec![]), 1 => vec((any::<Index>(), any::<u8>()), 1..3)];
    let cut = prop_oneof![9 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (any::<u8>(), any::<[u8; 8]>(), damage, cut).prop_map(|(kind, choices, damage, cut)| Talk {
        kind,
        choices,
        damage,
        cut,
    })
}

#[derive(Clone, Debug)]
struct Story {
    node: Node,
    talks: Vec<Talk>,
}

fn story() -> impl Strategy<Value = Story> {
    let node = (any::<bool>(), prop::bool::weighted(0.7), select(vec![false, false, true]), any::<bool>())
        .prop_map(|(v6, holds, is_stale, in_vlan)| Node { v6, holds, is_stale, in_vlan });
    (node, vec(talk(), 1..60)).prop_map(|(node, talks)| Story { node, talks })
}

impl Story {
    fn play(&self, plane: &mut dyn Plane) -> Vec<(Outcome, lb_tests::plane::Notes)> {
        let world = self.node.world();
        plane.reset(&world);
        let mut script = Script::new(plane, world, self.node.setting());
        let mut steps = vec![];
        for talk in &self.talks {
            let mut frame = said(self.node.v6, talk.kind, talk.choices);
            for (at, value) in &talk.damage {
                *at.get_mut(&mut frame) = *value;
            }
            if let Some(cut) = talk.cut {
                // The kernel runs nothing shorter.
                frame.truncate(14 + cut.index(frame.len() - 13));
            }
            let before = script.notes.clone();
            let outcome = script.frame(&frame);
            assert!(is_possible(outcome.verdict), "{:?}: {}", outcome.verdict, describe(&frame));
            let form = Form::of(&script.world, &frame);
            assert!(form.claims || script.notes.claims == before.claims, "no claim: {}", describe(&frame));
            assert!(form.advertises || script.notes.adverts == before.adverts, "no advert: {frame:02x?}");
            steps.push((outcome, script.notes.clone()));
        }
        steps
    }
}

#[test]
fn what_neighbours_say_is_judged_by_its_form() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let play = |story: Story| {
        story.play(&mut HostPlane::new(&story.node.world()));
        Ok(())
    };
    runner.run(&story(), play).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn host_and_kernel_agree_on_what_neighbours_say() {
    if !can_load("host_and_kernel_agree_on_what_neighbours_say") {
        return;
    }
    let kernel = RefCell::new(
        KernelPlane::load(MAX_FLOWS)
            .unwrap_or_else(|error| panic!("the XDP programs do not load\n{error:?}")),
    );
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    let play = |story: Story| {
        let on_host = story.play(&mut HostPlane::new(&story.node.world()));
        let in_kernel = story.play(&mut *kernel.borrow_mut());
        prop_assert_eq!(in_kernel, on_host);
        Ok(())
    };
    runner.run(&story(), play).unwrap_or_else(|error| panic!("{error}"));
}

/// `PassReason`s of neighbours are all met, or the properties above would say little.
#[test]
fn every_reason_of_neighbours_is_met() {
    let mut random = Random(7);
    let mut missing = vec![
        Verdict::Pass(PassReason::Arp),
        Verdict::Pass(PassReason::BadArp),
        Verdict::Pass(PassReason::ForeignClaim),
        Verdict::Pass(PassReason::NeighbourSolicitation),
        Verdict::Pass(PassReason::NeighbourAdvertisement),
        Verdict::Pass(PassReason::BadNeighbour),
        Verdict::Pass(PassReason::Vrrp),
        Verdict::Pass(PassReason::BadVrrp),
        Verdict::Pass(PassReason::OtherHost),
        Verdict::Drop(DropReason::Fenced),
        Verdict::Transmit(TransmitReason::ArpReply),
        Verdict::Transmit(TransmitReason::NeighbourReply),
    ];
    for n in 0..20_000u32 {
        let node = Node { v6: n & 1 != 0, holds: true, is_stale: n & 2 != 0, in_vlan: false };
        let mut plane = HostPlane::new(&node.world());
        let verdict = plane.run(&said(node.v6, (n >> 2) as u8, random.next().to_be_bytes())).verdict;
        missing.retain(|other| *other != verdict);
        if missing.is_empty() {
            return;
        }
    }
    panic!("never met: {missing:?}");
}
