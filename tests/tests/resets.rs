//! How long it takes to tell 300 clients of a dead backend among 100,000 flows of others, and what they are sent: on the real
//! maps, with flows that real frames have opened, frames caught on a loopback interface. Needs root.
//!
//! Runner: alone, threads 1, minutes 3

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::layout::BackendId;
use lb_tests::mass::{CLIENT_MAC, Mass, Service, VIP, VIP6, client};
use lb_tests::wait;
use lb_userspace::config::model::{Flows, default_half_open_max};
use lb_userspace::resets::{FlowId, Progress, ResetOrder, ResetReason, ResetReport, Resets, What};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

type TestResult = Result<(), Box<dyn Error>>;

const OTHERS: u32 = 100_000;
const CONDEMNED: u32 = 300;
const SOON: Duration = Duration::from_secs(60);
/// 50 ms on a machine that has nothing else to do.
const TOLD: Duration = Duration::from_secs(1);
const DEAD: BackendId = 50;
const OTHER_BACKENDS: std::ops::Range<BackendId> = 0..10;

fn first(v6: bool, of: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd20, 0, 0, of.into(), 0, 0, 0, 0).into()
    } else {
        Ipv4Addr::new(10, of, 0, 0).into()
    }
}

fn vip(v6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(if v6 { VIP6.into() } else { VIP.into() }, port)
}

/// Tables with the flows of the others at port 6443, and those of the one backend at port 7443, all open.
fn mass(v6: bool) -> Result<Mass, Box<dyn Error>> {
    let max = 1 << 20;
    let flows = Flows {
        max,
        half_open_max: default_half_open_max(max),
        sources_max: 1024,
        idle_timeout: Duration::from_secs(3600),
        rebuild: Duration::ZERO,
    };
    let services = [Service::nat(vip(v6, 6443), OTHER_BACKENDS), Service::nat(vip(v6, 7443), DEAD..DEAD + 1)];
    let mass = Mass::load(&flows, &services)?;
    let mut runner = mass.runner();
    for (first, service, count) in
        [(first(v6, 1), services[0].at, OTHERS), (first(v6, 2), services[1].at, CONDEMNED)]
    {
        for n in 0..count {
            let opened = runner.open(client(first, n), service)?;
            opened.map_err(|action| format!("{service}, flow {n}: action {action}"))?;
        }
    }
    Ok(mass)
}

/// Everything on the loopback interface of the calling thread's network.
fn listen() -> std::io::Result<Socket> {
    // ETH_P_ALL in network byte order.
    let all = Protocol::from(i32::from(0x0003u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
    socket.set_recv_buffer_size(32 << 20)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The RSTs to clients that were caught: by client, their sequence numbers.
fn caught(mut socket: &Socket) -> BTreeMap<SocketAddr, Vec<u32>> {
    let mut resets: BTreeMap<SocketAddr, Vec<u32>> = BTreeMap::new();
    let mut frame = [0; 2048];
    while let Ok(length) = socket.read(&mut frame) {
        let Ok(packet) = SlicedPacket::from_ethernet(&frame[..length]) else { continue };
        let (Some(net), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else { continue };
        if frame[..6] != CLIENT_MAC || !tcp.rst() {
            continue;
        }
        let to: IpAddr = match net {
            NetSlice::Ipv4(ip) => ip.header().destination_addr().into(),
            NetSlice::Ipv6(ip) => ip.header().destination_addr().into(),
            _ => continue,
        };
        let to = SocketAddr::new(to, tcp.destination_port());
        let numbers = resets.entry(to).or_default();
        if !numbers.contains(&tcp.sequence_number()) {
            numbers.push(tcp.sequence_number());
        }
    }
    resets
}

fn finished(resets: &Resets, why: ResetReason) -> Result<ResetReport, Box<dyn Error>> {
    let last = |progress: &Progress| progress.orders.get(&(DEAD, why)).copied().filter(|report| report.last);
    Ok(wait::value("the order to end", SOON, || last(&resets.progress().borrow()))?)
}

fn all_are_told(v6: bool) -> TestResult {
    let mut mass = mass(v6)?;
    let resets = Resets::spawn(Arc::new(Notify::new()))?;
    resets.use_tables(Some(mass.dataplane().sever_tables()?));
    let socket = listen()?;
    let order = |what| ResetOrder { backend: DEAD, what, rate: 0, why: ResetReason::BackendDead };

    let begin = Instant::now();
    resets.submit(order(What::All));
    let report = finished(&resets, ResetReason::BackendDead)?;
    println!(
        "{CONDEMNED} flows among {OTHERS} others: told in {:.1?}, seen so after {:.1?}",
        report.took,
        begin.elapsed()
    );
    assert_eq!((report.done, report.left, report.order), (u64::from(CONDEMNED), 0, 1));
    assert!(report.took < TOLD, "{:?}", report.took);
    let told = caught(&socket);
    assert_eq!(told.len(), CONDEMNED as usize);
    assert!((0..CONDEMNED).all(|n| told.contains_key(&client(first(v6, 2), n))), "to others than its own");
    assert!(told.values().all(|numbers| numbers.len() == 1), "an idle one has one number");

    // Nothing is left of them, and the others are as they were.
    resets.submit(order(What::All));
    let again = wait::value("another order to end", SOON, || {
        let progress = resets.progress();
        let progress = progress.borrow();
        progress
            .orders
            .get(&(DEAD, ResetReason::BackendDead))
            .copied()
            .filter(|report| report.order == 2 && report.last)
    })?;
    assert_eq!((again.done, again.left), (0, 0));
    println!("a walk that finds nothing: {:.1?}", again.took);
    let mut runner = mass.runner();
    let other = client(first(v6, 1), 7);
    assert!(runner.syn(client(first(v6, 3), 1), vip(v6, 6443))?.is_ok(), "new ones pass");
    assert!(runner.ack(other, vip(v6, 6443), 1)?.is_ok(), "a flow of another backend goes on");
    Ok(())
}

fn in_a_network(work: impl FnOnce() -> TestResult + Send) -> TestResult {
    if !geteuid().is_root() {
        println!("SKIP: loading XDP programs needs root");
        return Ok(());
    }
    // A thread of its own: what it enters, nobody else is in. Not a machine of the lab, where no thread can be started.
    let done = std::thread::scope(|scope| {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
            if up.success() { work() } else { Err(format!("ip link: {up}").into()) }
        };
        scope.spawn(|| enter().map_err(|error: Box<dyn Error>| error.to_string())).join()
    });
    done.map_err(|_| "the test panicked")?.map_err(Into::into)
}

#[test]
fn all_clients_of_a_dead_backend_are_told_v4() -> TestResult {
    in_a_network(|| all_are_told(false))
}

#[test]
fn all_clients_of_a_dead_backend_are_told_v6() -> TestResult {
    in_a_network(|| all_are_told(true))
}

#[test]
fn some_are_told_as_ordered_and_no_faster() -> TestResult {
    in_a_network(|| {
        let mut mass = mass(false)?;
        let resets = Resets::spawn(Arc::new(Notify::new()))?;
        resets.use_tables(Some(mass.dataplane().sever_tables()?));
        let socket = listen()?;
        let named = (0..20).map(|n| FlowId { client: client(first(false, 2), n), service: vip(false, 7443) });
        let strangers =
            (0..20).map(|n| FlowId { client: client(first(false, 1), n), service: vip(false, 6443) });
        let flows: Vec<FlowId> = named.chain(strangers).collect();
        let order = |what, rate, why| ResetOrder { backend: DEAD, what, rate, why };
        resets.submit(order(What::Flows(flows), 0, ResetReason::DrainDeadline));
        let report = finished(&resets, ResetReason::DrainDeadline)?;
        assert_eq!(report.done, 20, "only those that are the backend's");
        let told = caught(&socket);
        assert!(told.len() == 20 && (0..20).all(|n| told.contains_key(&client(first(false, 2), n))));

        resets.submit(order(What::Excess(30), 50, ResetReason::Rebalance));
        let report = finished(&resets, ResetReason::Rebalance)?;
        assert_eq!(report.done, 30);
        assert!(report.took >= Duration::from_millis(29 * 20), "30 at 50 per second in {:?}", report.took);

        resets.submit(order(What::All, 1, ResetReason::Disabled));
        wait::until("the first of them", SOON, || {
            resets.progress().borrow().orders.get(&(DEAD, ResetReason::Disabled)).is_some_and(|r| r.done == 1)
        })?;
        resets.cancel(DEAD, ResetReason::Disabled);
        let report = finished(&resets, ResetReason::Disabled)?;
        assert_eq!((report.done, report.left), (1, 0));
        let totals = resets.progress().borrow().totals.clone();
        assert_eq!(totals.values().sum::<u64>(), 51, "{totals:?}");
        Ok(())
    })
}
