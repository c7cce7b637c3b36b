//! Whole services that talk to each other over loopback, with flows in memory.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    memory::{Memory, VIP, flow},
    status::{PeerStatus, Refused, SendingState},
    *,
};

/// Generous: other tests run at the same time.
const LONG: Duration = Duration::from_secs(120);

struct Factory {
    flows: Memory,
    events: Mutex<Option<mpsc::UnboundedReceiver<FlowId>>>,
    lost: Arc<AtomicU64>,
}

struct Events(mpsc::UnboundedReceiver<FlowId>, Arc<AtomicU64>);

impl EventSource for Events {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Vec<FlowId>>> + '_>> {
        Box::pin(async {
            let mut ids = Vec::new();
            self.0.recv_many(&mut ids, 4096).await;
            if ids.is_empty() { std::future::pending().await } else { Ok(ids) }
        })
    }

    fn lost(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl StoreFactory for Factory {
    fn open(&self) -> Result<Box<dyn FlowStore>, StoreError> {
        Ok(Box::new(self.flows.clone()))
    }

    fn events(&self) -> Result<Box<dyn EventSource>, StoreError> {
        let events = self.events.lock().expect("no panic").take();
        let events = events.ok_or_else(|| StoreError("they are open".to_owned()))?;
        Ok(Box::new(Events(events, self.lost.clone())))
    }
}

/// A node of a test.
struct Lb {
    handle: SyncHandle,
    flows: Memory,
    events: mpsc::UnboundedSender<FlowId>,
    lost: Arc<AtomicU64>,
    settings: SyncSettings,
}

fn keys(secrets: &[u8]) -> SyncKeys {
    SyncKeys::new(secrets.iter().map(|byte| vec![*byte; 32]).collect()).expect("keys")
}

/// An address on loopback where nobody listens, and that nobody else is given: its port is none of those that the kernel
/// chooses from (32768 and more). One of these could become the source port of some connection, or another test's, before the
/// service listens there; and what has a port has it for as long as it lives, and a minute more (`TIME_WAIT`).
fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        // Other processes with these tests are elsewhere.
        let next = std::process::id().wrapping_mul(128).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(next % 20_000).expect("less than 20,000");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
}

fn settings(listen: SocketAddr, peers: &[SocketAddr], secrets: &[u8]) -> SyncSettings {
    SyncSettings {
        node: format!("lb{}", listen.port()),
        listen,
        peers: peers.to_vec(),
        keys: keys(secrets),
        bandwidth: 200,
        refresh: SyncSettings::REFRESH,
    }
}

impl Lb {
    fn start(settings: SyncSettings, flows: Memory) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        let lost = Arc::new(AtomicU64::new(0));
        let factory =
            Factory { flows: flows.clone(), events: Mutex::new(Some(receiver)), lost: lost.clone() };
        let handle = SyncService::spawn(settings.clone(), Box::new(factory), Agreement::default());
        Self { handle: handle.expect("a thread"), flows, events, lost, settings }
    }

    fn opens(&self, number: u32) {
        let record = flow(number);
        self.flows.put(record);
        self.events.send(record.id).expect("the service runs");
    }

    fn peer(&self) -> PeerStatus {
        let status = self.handle.status();
        status.peers.first().cloned().unwrap_or_else(|| PeerStatus::new(self.settings.listen))
    }

    fn refused(&self, why: Refused) -> u64 {
        let status = self.handle.status();
        let of_peers = status.peers.iter().filter_map(|peer| peer.refused.get(&why));
        status.refused.get(&why).into_iter().chain(of_peers).sum()
    }

    fn is_up(&self) -> bool {
        self.peer().sending.state == SendingState::Up
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

/// Two nodes that are each other's peers; the first holds the VIP.
fn pair(first: Memory, second: Memory) -> (Lb, Lb) {
    let (one, other) = (free_address(), free_address());
    let first = Lb::start(settings(one, &[other], &[1]), first);
    first.handle.set_holdings(BTreeSet::from([VIP]));
    (first, Lb::start(settings(other, &[one], &[1]), second))
}

#[test]
fn a_hundred_thousand_flows_join() {
    let (holder, joiner) = pair(Memory::with(0..100_000), Memory::default());
    let took = until("the flows are there", || joiner.handle.synced() && joiner.flows.len() == 100_000);
    println!("100,000 flows joined in {took:?}, {} bytes", holder.peer().sending.bytes);
    // What is asked of the release; tests run in debug builds, many at a time.
    assert!(took < if cfg!(debug_assertions) { LONG } else { Duration::from_secs(5) }, "{took:?}");
    assert!(*joiner.flows.lock() == *holder.flows.lock());
}

#[test]
fn five_thousand_new_flows_a_second_lag_little() {
    let (holder, standby) = pair(Memory::default(), Memory::default());
    until("up", || holder.is_up());
    let start = Instant::now();
    for number in 0..15_000 {
        holder.opens(number);
        let due = start + Duration::from_micros(200) * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let took = start.elapsed();
    until("all are there", || standby.flows.len() == 15_000);
    until("all are acknowledged", || holder.peer().sending.lag_ms == 0);
    let sending = holder.peer().sending;
    println!("15,000 flows in {took:?}: lag p50 {} ms, max {} ms", sending.lag_p50_ms, sending.lag_max_ms);
    assert_eq!((sending.full_syncs, sending.overflows), (1, 0));
    assert!(sending.lag_p50_ms < 200, "{sending:?}");
}

#[test]
fn a_peer_that_comes_back_gets_everything() {
    let (holder, standby) = pair(Memory::with(0..100), Memory::default());
    until("joined", || standby.flows.len() == 100);
    let Lb { handle, settings, .. } = standby;
    handle.shutdown();
    until("noticed", || !holder.is_up());
    for number in 100..20_000 {
        holder.opens(number);
    }
    until("read", || holder.handle.status().events == 19_900);
    assert_eq!(holder.peer().sending.queued, 0, "nothing is kept for a peer that is down");
    let standby = Lb::start(settings, Memory::default());
    until("joined again", || standby.flows.len() == 20_000);
}

#[test]
fn lost_events_and_rejoining_bring_full_syncs() {
    let (holder, standby) = pair(Memory::with(0..10), Memory::default());
    until("joined", || standby.flows.len() == 10 && holder.is_up());
    holder.flows.put(flow(10));
    holder.lost.store(1, Ordering::Relaxed);
    until("the one whose event was lost", || standby.flows.len() == 11);
    let before = standby.peer().receiving.full_syncs;
    standby.handle.rejoin();
    until("not joined", || !standby.handle.synced() || standby.peer().receiving.full_syncs > before);
    until("joined again", || standby.handle.synced() && standby.peer().receiving.full_syncs > before);
}

#[test]
fn what_the_holder_does_not_know_is_forgotten() {
    let (one, other) = (free_address(), free_address());
    // Nobody answers there, so the holder is told nothing.
    let _mute = TcpListener::bind(one).expect("a port");
    // It may be told what it holds after it has joined.
    let settings_of_holder =
        SyncSettings { refresh: Duration::from_millis(500), ..settings(one, &[other], &[1]) };
    let holder = Lb::start(settings_of_holder, Memory::with(0..10));
    holder.handle.set_holdings(BTreeSet::from([VIP]));
    let standby = Lb::start(settings(other, &[one], &[1]), Memory::with(50..70));
    until("the same", || *standby.flows.lock() == *holder.flows.lock());
    assert_eq!(holder.flows.len(), 10);
    until("counted", || standby.peer().receiving.retired == 20);
}

#[test]
fn without_peers_that_answer_it_is_synced_after_a_second() {
    let alone = Lb::start(settings(free_address(), &[free_address()], &[1]), Memory::default());
    thread::sleep(Duration::from_millis(500));
    assert!(!alone.handle.synced());
    let took = until("synced", || alone.handle.synced());
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn another_key_changes_nothing_and_is_counted() {
    let (one, other) = (free_address(), free_address());
    let victim = Lb::start(settings(one, &[other], &[1]), Memory::default());
    let forger = Lb::start(settings(other, &[one], &[2]), Memory::with(0..1000));
    forger.handle.set_holdings(BTreeSet::from([VIP]));
    until("both have refused", || {
        victim.refused(Refused::WrongKey) > 1 && forger.refused(Refused::WrongKey) > 1
    });
    assert_eq!((victim.flows.len(), victim.peer().receiving.received), (0, 0));
    let error = forger.peer().sending.last_error.unwrap_or_default();
    assert!(error.contains("are the keys the same"), "{error}");
}

#[test]
fn keys_are_changed_one_node_after_the_other() {
    let (one, other) = (free_address(), free_address());
    let first = Lb::start(settings(one, &[other], &[1]), Memory::with(0..10));
    let second = Lb::start(settings(other, &[one], &[1]), Memory::default());
    until("up", || first.is_up() && second.is_up());
    // Both accept the new one; both use it; both forget the old one. No connection ends on the way but those of the old key.
    for (secrets, lasts) in [(&[1, 2][..], true), (&[2, 1][..], true), (&[2][..], false)] {
        for lb in [&first, &second] {
            let before = lb.peer().sending.full_syncs;
            lb.handle.reconfigure(SyncSettings { keys: keys(secrets), ..lb.settings.clone() });
            thread::sleep(Duration::from_millis(300));
            if lasts {
                assert_eq!(lb.peer().sending.full_syncs, before, "{secrets:?}");
            }
        }
        until("up", || first.is_up() && second.is_up());
    }
    assert_eq!((first.refused(Refused::WrongKey), second.refused(Refused::WrongKey)), (0, 0));
    until("up with the new key", || first.peer().sending.full_syncs >= 2);
}

#[test]
fn what_is_unchanged_goes_on() {
    let (first, second) = pair(Memory::with(0..10), Memory::default());
    until("up", || first.is_up() && second.is_up());
    let third = free_address();
    let mut more = first.settings.clone();
    more.peers.insert(0, third);
    more.bandwidth = 1000;
    first.handle.reconfigure(more.clone());
    let third = Lb::start(settings(third, &[first.settings.listen], &[1]), Memory::default());
    until("the third has joined", || third.flows.len() == 10);
    // The flows are there sooner than the status says so.
    until("and says so", || third.peer().receiving.connected);
    let status = first.handle.status();
    let peer = status.peers.iter().find(|peer| peer.address == second.settings.listen).expect("the second");
    assert_eq!(peer.sending.full_syncs, 1);
    more.peers.remove(1);
    first.handle.reconfigure(more);
    until("the second is none any more", || !second.peer().receiving.connected);
    until("and is refused", || first.refused(Refused::NotAPeer) > 0);
    assert!(third.peer().receiving.connected);
}

#[test]
fn a_node_does_not_talk_to_itself() {
    let listen = free_address();
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
    let narcissus = Lb::start(settings(everywhere, &[listen], &[1]), Memory::with(0..10));
    until("refused", || narcissus.refused(Refused::Ourselves) > 0);
    assert_eq!(narcissus.peer().receiving.received, 0);
}

#[test]
fn an_address_that_is_not_there_yet_will_do() {
    // RFC 5737 §3: nobody has it.
    let listen = SocketAddr::from(([192, 0, 2, 77], free_address().port()));
    let early = Lb::start(settings(listen, &[free_address()], &[1]), Memory::default());
    until("listening", || early.handle.status().listening == Some(listen));
    // A port that is taken is tried again.
    let address = free_address();
    let taken = TcpListener::bind(address).expect("a port");
    early.handle.reconfigure(SyncSettings { listen: address, ..early.settings.clone() });
    until("an error", || early.handle.status().listen_error.is_some());
    drop(taken);
    until("listening", || early.handle.status().listening == Some(address));
}

#[test]
fn drift_is_told() {
    let (first, second) = pair(Memory::default(), Memory::default());
    let agreement =
        |hash| Agreement { total: [hash; 32], parts: [("flows".to_owned(), u64::from(hash))].into() };
    first.handle.set_agreement(agreement(1));
    second.handle.set_agreement(agreement(2));
    until("both know", || first.peer().drift == ["flows"] && second.peer().drift == ["flows"]);
    second.handle.set_agreement(agreement(1));
    until("both agree", || first.peer().drift.is_empty() && second.peer().drift.is_empty());
}

/// Passes bytes on between two nodes, and keeps those from who dials; breaks the connection after `limit` of them.
fn tap(to: SocketAddr, limit: usize) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (address, heard) = (listener.local_addr().expect("an address"), Arc::new(Mutex::new(Vec::new())));
    let keep = heard.clone();
    thread::spawn(move || {
        for dialler in listener.incoming() {
            // Nobody may listen there yet: the next dial will do.
            let (Ok(mut dialler), Ok(mut called)) = (dialler, TcpStream::connect(to)) else { continue };
            let (mut back, mut forth) =
                (called.try_clone().expect("a clone"), dialler.try_clone().expect("a clone"));
            thread::spawn(move || {
                let _ = io::copy(&mut back, &mut forth);
                let _ = forth.shutdown(Shutdown::Both);
            });
            let (mut bytes, mut passed) = ([0; 4096], 0);
            while let Ok(length @ 1..) = dialler.read(&mut bytes) {
                let length = length.min(limit - passed);
                passed += length;
                keep.lock().expect("no panic").extend_from_slice(&bytes[..length]);
                if called.write_all(&bytes[..length]).is_err() || passed == limit {
                    break;
                }
            }
            let _ = called.shutdown(Shutdown::Both);
            let _ = dialler.shutdown(Shutdown::Both);
        }
    });
    (address, heard)
}

#[test]
fn a_recorded_or_changed_connection_changes_nothing() {
    let (one, other) = (free_address(), free_address());
    let (tapped, heard) = tap(other, usize::MAX);
    let sender = Lb::start(settings(one, &[tapped], &[1]), Memory::with(0..1000));
    let victim = Lb::start(settings(other, &[one], &[1]), Memory::default());
    until("joined", || victim.peer().receiving.received >= 1000);
    sender.handle.shutdown();
    until("gone", || !victim.peer().receiving.connected);
    victim.flows.lock().clear();
    let received = victim.peer().receiving.received;
    let recorded = heard.lock().expect("no panic").clone();
    // The handshake repeats, but what follows was for another key of the moment.
    for change in [None, Some(10), Some(60), Some(recorded.len() - 1)] {
        let mut bytes = recorded.clone();
        if let Some(at) = change {
            bytes[at] ^= 1;
        }
        let before = victim.refused(Refused::NotAuthentic) + victim.refused(Refused::WrongKey);
        let mut replay = TcpStream::connect(other).expect("it listens");
        // It may hang up in the middle.
        let _ = replay.write_all(&bytes);
        until("counted", || {
            victim.refused(Refused::NotAuthentic) + victim.refused(Refused::WrongKey) > before
        });
    }
    assert!(victim.refused(Refused::WrongKey) > 0, "a changed handshake");
    assert_eq!((victim.flows.len(), victim.peer().receiving.received), (0, received));
}

#[test]
fn a_connection_that_breaks_anywhere_leaves_whole_flows() {
    // The last byte of the handshake, the Hello, the middle of records.
    for limit in [1, 49, 50, 80, 200, 5_000, 40_001] {
        let (one, other) = (free_address(), free_address());
        let (tapped, _) = tap(other, limit);
        let sender = Lb::start(settings(one, &[tapped], &[1]), Memory::with(0..2000));
        sender.handle.set_holdings(BTreeSet::from([VIP]));
        let victim = Lb::start(settings(other, &[one], &[1]), Memory::with(5000..5010));
        until("broken", || sender.peer().sending.last_error.is_some());
        thread::sleep(Duration::from_millis(100));
        let flows = victim.flows.lock();
        assert!(flows.values().all(|record| *record == flow(record.to_backend.next_seq)), "{limit}");
        assert!(flows.len() < 2000, "{limit}");
        assert!((5000..5010).all(|number| flows.contains_key(&flow(number).id)), "{limit}: none is retired");
    }
}

#[test]
fn strangers_cannot_keep_peers_out() {
    let (one, other) = (free_address(), free_address());
    let victim = Lb::start(settings(one, &[other], &[1]), Memory::default());
    until("listening", || victim.handle.status().listening.is_some());
    // Loopback has more addresses than one: these are strangers'.
    let stranger = |number: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, number], 0)).into())?;
        socket.connect(&one.into())?;
        io::Result::Ok(TcpStream::from(socket))
    };
    let mut crowd: Vec<TcpStream> = (2..60).map(|number| stranger(number).expect("it listens")).collect();
    until("too many", || victim.refused(Refused::TooMany) >= 40);
    // Nobody gets more time by dripping bytes.
    for stranger in &mut crowd {
        let _ = stranger.write_all(&[0]);
    }
    let peer = Lb::start(settings(other, &[one], &[1]), Memory::with(0..10));
    let took = until("the peer is let in", || victim.flows.len() == 10);
    println!("let in after {took:?}");
    until("thrown out", || victim.refused(Refused::TooSlow) >= 10);
    let mut garbage = stranger(77).expect("it listens");
    garbage.write_all(&[0x5a; 4096]).expect("written");
    until("garbage", || victim.refused(Refused::WrongKey) > 0);
    drop(peer);
}
