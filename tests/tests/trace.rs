//! `xvip trace`, `xvip capture`, and what the data plane logs by itself, on a lab node. Needs root.

use std::error::Error;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError};
use etherparse::PacketBuilder;
use lb_common::{layout::LAYOUT_VERSION, trace::TraceEntry};
use lb_tests::capture::Captured;
use lb_tests::daemon::Daemon;
use lb_tests::node::NodeConfig;
use lb_tests::topology::{API_PORT, Family, Lab, Mode, VIP, host};
use lb_tests::wait;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn running_lab(masters: u8, change: impl FnOnce(&mut NodeConfig)) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(1).masters(masters).build()?;
    lab.lb(0).configure(change)?;
    lab.start_lbs()?;
    Ok(lab)
}

/// `xvip trace` or `xvip capture` on the LB node, with all that it prints.
struct Tool {
    process: Daemon,
    log: PathBuf,
}

impl Tool {
    /// Starts it; it sees each packet from when this returns.
    fn start(lab: &Lab, name: &str, words: &[&str]) -> Result<Self, Box<dyn Error>> {
        let log = lab.dir().join(format!("{name}.log"));
        let lb = lab.lb(0);
        let mut process = Daemon::start(lb.machine(), name, &mut lb.tool(words), &log)?;
        process.wait_ready("tracing to begin", SOON, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("Ctrl-C ends it"))
        })?;
        Ok(Self { process, log })
    }

    fn rows(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has shown a decision for this reason.
    fn wait_for(&self, reason: &str) -> Result<Value, Box<dyn Error>> {
        let found = wait::value(&format!("a decision {reason}"), SOON, || {
            self.rows().into_iter().find(|row| row["reason"] == reason)
        });
        found
            .map_err(|error| format!("{error}: {}", fs::read_to_string(&self.log).unwrap_or_default()).into())
    }

    fn stop(self) -> TestResult {
        let (status, _) = self.process.terminate(SOON)?;
        assert!(status.success(), "{status}");
        Ok(())
    }
}

/// Sends a lone TCP segment from the client to the service, with this flag.
fn send_segment(lab: &Lab, source_port: u16, is_reset: bool) -> TestResult {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (lab.client_address(Family::V4), Family::V4.vip()) else {
        return Err("the lab is of another family".into());
    };
    let tcp = PacketBuilder::ipv4(from.octets(), to.octets(), 64).tcp(source_port, API_PORT, 1000, 500);
    let mut packet = Vec::new();
    if is_reset { tcp.rst() } else { tcp.ack(77) }.write(&mut packet, b"lost")?;
    let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
    let socket = lab.client().run(open)??;
    let to = SockaddrStorage::from(SocketAddr::new(to.into(), 0));
    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    Ok(())
}

fn curl(lab: &Lab) -> TestResult {
    let output = lab.curl(&[&lab.vip_url("/version")])?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

#[test]
fn each_decision_is_told_in_order_with_both_packets_and_its_reason() -> TestResult {
    // A lone packet is nobody's then, instead of one of the former owner's flows.
    let lab = running_lab(2, |node| node.flows.push("rebuild = \"0s\"".to_owned()))?;
    let client = lab.client_address(Family::V4).to_string();
    let trace = Tool::start(&lab, "trace", &["trace", "--json", "--client", &client])?;
    curl(&lab)?;
    send_segment(&lab, 4001, true)?;
    send_segment(&lab, 4002, false)?;
    let reset = trace.wait_for("unknown-flow")?;
    assert_eq!(
        (text(&reset, "/verdict"), &reset["sent"], &reset["leaves_by"]),
        ("drop", &Value::Null, &Value::Null)
    );
    assert_eq!(text(&reset, "/received/tcp/flags"), "R");
    assert_eq!(text(&reset, "/description"), "A RST of a flow that is not known.");
    let answer = trace.wait_for("reset-unknown-flow")?;
    assert_eq!(text(&answer, "/received/source"), format!("{client}:4002"));
    assert_eq!(text(&answer, "/sent/destination"), format!("{client}:4002"));
    assert_eq!(answer["sent"]["tcp"]["seq"], 77);

    let mut rows = trace.rows();
    // The lab's own request of a moment ago may still be closing.
    let syn = rows.iter().position(|row| text(row, "/received/tcp/flags") == "S").ok_or("no SYN")?;
    rows.drain(..syn);
    let [first, second, third, ..] = rows.as_slice() else { panic!("only {rows:?}") };
    assert_eq!((text(first, "/verdict"), text(first, "/reason")), ("transmit", "to-backend"));
    assert_eq!(text(first, "/received/tcp/flags"), "S");
    assert_eq!(text(first, "/received/destination"), format!("{VIP}:{API_PORT}"));
    assert_eq!((text(first, "/interface"), text(first, "/leaves_by")), ("eth0", "eth0"));
    let backend = lab.masters().iter().find(|master| master.name() == text(first, "/backend"));
    let backend = backend.ok_or("no such backend")?.socket_address().to_string();
    assert_eq!(text(first, "/sent/destination"), backend);
    assert_eq!(first["received"]["tcp"]["seq"], first["sent"]["tcp"]["seq"]);
    assert_eq!(second["reason"], "to-client");
    assert_eq!(
        (text(second, "/received/tcp/flags"), text(second, "/received/source")),
        ("S.", backend.as_str())
    );
    assert_eq!(text(second, "/sent/destination"), text(first, "/received/source"));
    assert_eq!(second["backend"], first["backend"]);
    assert_eq!((text(third, "/reason"), text(third, "/received/tcp/flags")), ("to-backend", "."));
    assert!(rows.is_sorted_by_key(|row| text(row, "/time").to_owned()), "{rows:?}");
    let fin = rows.iter().filter(|row| text(row, "/received/tcp/flags").starts_with('F'));
    assert!(fin.count() >= 2, "both sides end the connection: {rows:?}");
    trace.stop()
}

#[test]
fn only_the_client_that_was_asked_for_is_shown() -> TestResult {
    let lab = running_lab(1, |_| ())?;
    let other = lab.add_machine("other", 101, false)?;
    let address = host(101).to_string();
    let trace = Tool::start(&lab, "trace", &["trace", "--json", "--client", &address])?;
    curl(&lab)?;
    let output = lab.on(&other).curl(&[&lab.vip_url("/version")])?;
    assert!(output.status.success(), "{output:?}");
    trace.wait_for("to-client")?;
    let begins = format!("{address}:");
    for row in trace.rows().iter().filter(|row| row["reason"] != "arp") {
        let ends = ["/received/source", "/sent/destination"].map(|end| text(row, end).starts_with(&begins));
        assert!(ends.contains(&true), "{row}");
    }
    // A port is a filter, too, and a count an end.
    let words = ["trace", "--client", &format!("{address}:9"), "--seconds", "1"];
    let output = lab.lb(0).machine().output(&mut lab.lb(0).tool(&words))?;
    assert_eq!(output.status.code(), Some(1), "two at a time: {output:?}");
    trace.stop()?;
    let output = lab.lb(0).machine().output(&mut lab.lb(0).tool(&words))?;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
    Ok(())
}

#[test]
fn a_second_tracer_is_refused_until_the_first_is_gone_however_it_went() -> TestResult {
    let lab = running_lab(1, |_| ())?;
    let words = ["trace", "--client", "172.16.0.0/24", "--count", "1", "--json"];
    let first = Tool::start(&lab, "first", &["capture", "-o", "/dev/null"])?;
    let output = lab.lb(0).machine().output(&mut lab.lb(0).tool(&words))?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("running already (pid "), "{complaint}");
    first.process.kill();

    let second = Tool::start(&lab, "second", &words)?;
    curl(&lab)?;
    second.wait_for("to-backend")?;
    // The daemon may go meanwhile, and come back.
    drop(second);
    lab.lb(0).stop()?;
    let third = Tool::start(&lab, "third", &["trace", "--client", "172.16.0.0/24", "--json"])?;
    send_segment(&lab, 4001, true)?;
    third.wait_for("unknown-flow")?;
    lab.start_lbs()?;
    wait::until("tracing to go on with the new programs", SOON, || {
        let before = third.rows().len();
        curl(&lab).is_ok()
            && wait::until("a row", Duration::from_secs(1), || third.rows().len() > before).is_ok()
    })?;
    third.stop()
}

#[test]
fn tracing_that_nobody_renews_ends() -> TestResult {
    let lab = running_lab(1, |_| ())?;
    Tool::start(&lab, "killed", &["capture", "-o", "/dev/null"])?.process.kill();
    let session = || -> Option<u32> {
        let pin = format!("/sys/fs/bpf/xvip/maps-v{LAYOUT_VERSION}/TRACE");
        let read = || -> Result<u32, MapError> {
            let map: Array<MapData, TraceEntry> = Array::try_from(Map::Array(MapData::from_pin(pin)?))?;
            Ok(map.get(&0, 0)?.session)
        };
        lab.lb(0).machine().run(read).ok()?.ok()
    };
    assert!(session().is_some_and(|session| session > 0), "on while the lease lasts");
    wait::until("the lease to end", SOON, || curl(&lab).is_ok() && session() == Some(0))?;
    Ok(())
}

#[test]
fn tunnels_and_ipv6_are_shown_to_the_inside() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).mode(Mode::DsrIpip).ipv6().families(&Family::BOTH).build()?;
    lab.start_lbs()?;
    for family in Family::BOTH {
        let client = lab.client_address(family);
        let name = format!("trace-{family:?}");
        let words = ["trace", "--verbose", "--client", &client.to_string(), "--count", "3"];
        let trace = Tool::start(&lab, &name, &words)?;
        let output = lab.curl(&["-g", &lab.vip_url_of(family, "/version")])?;
        assert!(output.status.success(), "{output:?}");
        let read = || fs::read_to_string(&trace.log).unwrap_or_default();
        wait::until("three decisions", SOON, || {
            read().matches("Forwarded from a client to a backend").count() == 3
        })?;
        let log = read();
        let (vip, backend) = (SocketAddr::new(family.vip(), API_PORT), lab.master(0).address_of(family));
        let first = log.lines().find(|line| line.contains("=>")).unwrap_or_default();
        let tunnelled = format!(
            "=> transmit to-backend (master1) => eth0 {} > {backend} (",
            lab.lb(0).address_of(family)
        );
        assert!(first.contains(&tunnelled), "{first}");
        assert_eq!(first.matches(&format!(" > {vip} [S] seq ")).count(), 2, "{first}");
    }
    Ok(())
}

#[test]
fn the_backend_of_direct_server_return_is_told_by_its_ethernet_address() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(2).mode(Mode::DsrL2).build()?;
    lab.start_lbs()?;
    let client = lab.client_address(Family::V4).to_string();
    let trace = Tool::start(&lab, "trace", &["trace", "--json", "--client", &client])?;
    let version = lab.curl(&[&lab.vip_url("/version")])?;
    trace.wait_for("to-backend")?;
    let rows = trace.rows();
    // The lab's own request of a moment ago may still be closing.
    let row = rows.iter().find(|row| text(row, "/received/tcp/flags") == "S").ok_or("no SYN")?;
    assert_eq!(text(row, "/sent/destination"), format!("{VIP}:{API_PORT}"));
    let answered = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(answered.contains(&format!("+{}", text(row, "/backend"))), "{row} {answered}");
    trace.stop()
}

#[test]
fn wireshark_reads_a_capture_with_the_verdicts_beside_the_packets() -> TestResult {
    let lab = running_lab(2, |_| ())?;
    let file = lab.dir().join("capture.pcapng");
    let path = file.display().to_string();
    let capture = Tool::start(&lab, "capture", &["capture", "-o", &path])?;
    curl(&lab)?;
    send_segment(&lab, 4001, true)?;
    let captured = Captured { file, frames: 0, lost: 0 };
    let comments = || captured.ask("frame", &["frame.comment"]).unwrap_or_default();
    wait::until("the capture to have all", SOON, || {
        comments().iter().any(|line| line.starts_with("drop: unknown-flow: A RST"))
    })?;
    capture.stop()?;
    assert_eq!(captured.bad_frames()?, []);

    let fields = [
        "frame.packet_flags_direction",
        "frame.packet_id",
        "frame.comment",
        "frame.interface_name",
        "ip.src",
        "tcp.seq_raw",
    ];
    let of_service = captured.ask("tcp.port == 6443", &fields)?;
    let lines: Vec<Vec<&str>> = of_service.iter().map(|line| line.split('\t').collect()).collect();
    let mut pairs = 0;
    for pair in lines.windows(2) {
        let ([direction, id, comment, interface, _, seq], [next, next_id, sent, _, source, next_seq]) =
            (pair[0].as_slice(), pair[1].as_slice())
        else {
            panic!("{pair:?}")
        };
        if !comment.starts_with("transmit: to-backend") {
            continue;
        }
        assert_eq!((next_id, next_seq, *sent), (id, seq, "sent: to-backend"), "{pair:?}");
        assert_eq!((*source, *interface), (VIP.to_string().as_str(), "eth0"), "{pair:?}");
        assert_ne!(direction, next, "{pair:?}");
        pairs += 1;
    }
    assert!(pairs >= 4, "SYN, ACK, ClientHello, request: {of_service:?}");
    // Health checks go to the host, and nothing is sent in their place.
    assert!(!captured.ask("frame.comment contains \"pass: not-vip\"", &["frame.number"])?.is_empty());

    let words = ["capture", "--headers", "-o", "-", "--count", "1"];
    let output = lab.lb(0).machine().output(&mut lab.lb(0).tool(&words))?;
    assert_eq!(&output.stdout[..4], [0x0a, 0x0d, 0x0d, 0x0a], "{output:?}");
    Ok(())
}

#[test]
fn the_daemon_logs_who_was_turned_away_once_a_second() -> TestResult {
    let lab = running_lab(1, |config| {
        let service = &mut config.services[0];
        service.on_all_full = Some("drop".to_owned());
        service.backends[0].max_connections = Some(1);
    })?;
    let client = lab.client_address(Family::V4).to_string();
    let address = SocketAddr::new(VIP.into(), API_PORT);
    let connect = || -> TestResult {
        let results = lab.client().run(|| {
            let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(300));
            (0..8).map(connect).collect::<Vec<_>>()
        })?;
        let refused = results.iter().filter(|result| result.is_err()).count();
        assert!(refused >= 4, "one connection at a time: {results:?}");
        Ok(())
    };
    connect()?;
    let lines = || -> Vec<String> {
        let log = fs::read_to_string(lab.lb(0).log()).unwrap_or_default();
        let is_ours = |line: &&str| line.contains("dropped a packet") && line.contains("all-backends-full");
        log.lines().filter(is_ours).map(str::to_owned).collect()
    };
    wait::until("a line of the data plane", SOON, || !lines().is_empty())?;
    let first = lines();
    assert!(first[0].contains(&format!("{client}:")) && first[0].contains(&address.to_string()), "{first:?}");
    let cpus = std::thread::available_parallelism()?.get();
    assert!(
        first.len() <= cpus * 5,
        "eight attempts, and what they repeat, in under four seconds: {first:?}"
    );

    // A daemon that adopts the data plane reads the log of its own programs.
    lab.lb(0).stop()?;
    lab.start_lbs()?;
    let before = lines().len();
    connect()?;
    wait::until("a line of the new data plane", SOON, || lines().len() > before)?;
    Ok(())
}
