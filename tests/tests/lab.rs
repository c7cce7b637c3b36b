//! The lab itself, without xvip: does it carry packets, tell the truth about outages, and leave nothing behind?
//! Needs root, for the network namespaces.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lb_tests::apiserver::{Stats, pattern};
use lb_tests::netns::Netns;
use lb_tests::topology::{Lab, Load, VIP, host};
use lb_tests::wait;
use lb_tests::xdp_stub::{Action, XdpStub};
use nix::net::if_::if_nametoindex;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

fn lab(masters: u8) -> Lab {
    Lab::builder().lbs(0).masters(masters).build().expect("the lab comes up (it needs root)")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stats(lab: &Lab, index: usize) -> Stats {
    let output = lab.curl(&[&lab.master_url(index, "/lab/stats")]).unwrap();
    serde_json::from_str(&text(&output)).unwrap()
}

/// Whether a datagram from one machine reaches the other.
fn reaches(from: &Netns, to: &Netns, to_host: u8) -> bool {
    let receiver = to.run(|| UdpSocket::bind((host(to_host), 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let address = receiver.local_addr().unwrap();
    let sender = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    // Sending fails while there is no carrier, which is an answer, too.
    let _ = sender.send_to(b"x", address);
    receiver.recv(&mut [0; 8]).is_ok()
}

#[test]
fn two_labs_at_once_have_the_same_addresses_and_do_not_meet() -> TestResult {
    let (one, two) = (lab(1), lab(1));
    for each in [&one, &two] {
        let version = text(&each.curl(&[&each.master_url(0, "/version")])?);
        assert!(version.contains("\"gitVersion\":\"v1.31.0+master1\""), "{version}");
    }
    // What happens in one is not seen in the other.
    one.master(0).kill();
    assert!(!one.curl(&[&one.master_url(0, "/version")])?.status.success());
    assert_eq!(text(&two.curl(&[&two.master_url(0, "/livez")])?), "ok");
    Ok(())
}

#[test]
fn a_machine_has_its_own_name_processes_run_and_bpf_file_system() -> TestResult {
    // Making the directory would fail in the second one if the file system were not its own.
    for _ in 0..2 {
        alone()?;
    }
    assert!(!Path::new("/sys/fs/bpf/lab-test").exists(), "seen by the host");
    Ok(())
}

fn alone() -> TestResult {
    let machine = Netns::create("alone", false)?;
    let output = machine.output(Command::new("sh").args([
        "-c",
        "hostname; ls /run; mkdir /sys/fs/bpf/lab-test; ls /sys/class/net; cat /proc/1/comm; echo /proc/[0-9]*; \
         cat /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || echo 1",
    ]))?;
    assert!(output.stderr.is_empty(), "{output:?}");
    let got = text(&output);
    let lines: Vec<&str> = got.lines().collect();
    assert_eq!(lines[..3], ["alone", "lo", "cat"]);
    assert!(lines[3].split(' ').count() <= 3, "processes of others are seen: {}", lines[3]);
    assert_eq!(lines[4..], ["1"]);
    Ok(())
}

#[test]
fn api_server_speaks_http1_and_http2_and_tells_its_name() -> TestResult {
    let lab = lab(2);
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let url = lab.master_url(1, "/livez");
        let output = lab.curl(&[flag, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", &url])?;
        assert_eq!(text(&output), format!("{version} 200"));
        let headers = text(&lab.curl(&[flag, "-I", "-X", "GET", &url])?);
        assert!(headers.contains("x-served-by: master2"), "{headers}");
        assert!(headers.contains("x-peer: 172.16.0.100:"), "{headers}");
    }
    assert_eq!(
        text(&lab.curl(&["-w", "%{http_code}", "-o", "/dev/null", &lab.master_url(0, "/nothing")])?),
        "404"
    );
    Ok(())
}

#[test]
fn certificate_is_valid_for_the_vip_and_for_nobody_without_our_authority() -> TestResult {
    let lab = lab(1);
    lab.master(0).machine().ip(&format!("address add {VIP}/24 dev eth0"))?;
    assert_eq!(text(&lab.curl(&[&lab.vip_url("/readyz")])?), "ok");

    let before = stats(&lab, 0).tls_handshake_errors;
    let mut stranger = Command::new("curl");
    stranger.args(["--silent", &lab.vip_url("/readyz")]);
    assert_eq!(lab.client().output(&mut stranger)?.status.code(), Some(60), "certificate problem");
    // A connection without a handshake is what real API servers complain about.
    drop(lab.client().run(|| TcpStream::connect(lab.master(0).socket_address()))??);
    wait::until("both to be counted", SOON, || stats(&lab, 0).tls_handshake_errors == before + 2)?;
    let log = fs::read_to_string(lab.master(0).log())?;
    assert!(log.contains("http: TLS handshake error from 172.16.0.100:"), "{log}");
    Ok(())
}

#[test]
fn readyz_can_be_switched_while_everything_else_goes_on() -> TestResult {
    let lab = lab(2);
    let code = |index, path: &str| -> String {
        text(&lab.curl(&["-o", "/dev/null", "-w", "%{http_code}", &lab.master_url(index, path)]).unwrap())
    };
    assert_eq!(code(0, "/readyz"), "200");
    lab.master(0).set_ready(false)?;
    assert_eq!(
        (code(0, "/readyz"), code(0, "/livez"), code(1, "/readyz")),
        ("500".into(), "200".into(), "200".into())
    );
    lab.master(0).set_ready(true)?;
    assert_eq!(code(0, "/readyz"), "200");
    Ok(())
}

#[test]
fn bytes_come_and_come_back_exactly() -> TestResult {
    let lab = lab(1);
    let expected: Vec<u8> = (0..1_000_003).map(pattern).collect();
    for flag in ["--http1.1", "--http2"] {
        let got = lab.curl(&[flag, &lab.master_url(0, "/bytes/1000003")])?;
        assert!(got.status.success() && got.stdout == expected, "{flag}: {} bytes", got.stdout.len());
        let file = lab.dir().join("upload");
        fs::write(&file, &expected)?;
        let data = format!("@{}", file.display());
        let got = lab.curl(&[flag, "--data-binary", &data, &lab.master_url(0, "/echo")])?;
        assert!(got.status.success() && got.stdout == expected, "{flag}: {} bytes back", got.stdout.len());
    }
    Ok(())
}

#[test]
fn a_cut_an_isolated_and_a_healed_cable() -> TestResult {
    let lab = lab(0);
    let extra = lab.add_machine("extra", 50, false)?;
    let both = || reaches(lab.client(), &extra, 50) && reaches(&extra, lab.client(), 100);
    wait::until("datagrams both ways", SOON, both)?;
    lab.cut("extra")?;
    assert!(!reaches(lab.client(), &extra, 50) && !reaches(&extra, lab.client(), 100));
    let carrier = |expected: &str| {
        extra
            .run(|| fs::read_to_string("/sys/class/net/eth0/carrier"))
            .unwrap()
            .is_ok_and(|c| c.trim() == expected)
    };
    wait::until("the carrier to go", SOON, || carrier("0"))?;
    lab.heal("extra")?;
    wait::until("datagrams both ways", SOON, both)?;
    lab.isolate("extra")?;
    assert!(carrier("1"));
    assert!(!reaches(lab.client(), &extra, 50) && !reaches(&extra, lab.client(), 100));
    lab.heal("extra")?;
    wait::until("datagrams both ways", SOON, both)?;
    assert!(lab.cut("nobody").is_err());
    Ok(())
}

#[test]
fn the_request_loop_measures_an_outage_and_who_served() -> TestResult {
    let lab = lab(2);
    let move_vip = |from: Option<usize>, to: usize| -> TestResult {
        if let Some(from) = from {
            lab.master(from).machine().ip(&format!("address delete {VIP}/24 dev eth0"))?;
        }
        lab.master(to).machine().ip(&format!("address add {VIP}/24 dev eth0"))?;
        // Nobody here announces the move.
        let _ = lab.client().ip(&format!("neighbour delete {VIP} dev eth0"));
        Ok(())
    };
    move_vip(None, 0)?;
    for http2 in [false, true] {
        let load = lab.load(&Load { interval: Duration::from_millis(10), http2, ..Load::default() })?;
        let begin = load.mark();
        load.wait_answered(begin, 20, SOON)?;
        assert_eq!(load.by_server(begin).keys().collect::<Vec<_>>(), ["master1"]);

        let mark = load.mark();
        lab.cut("master1")?;
        wait::until("requests to fail", SOON, || load.failed(mark) >= 5)?;
        let outage = load.longest_gap(mark);
        assert!(outage >= Duration::from_secs(1), "five requests timed out, but the gap is {outage:?}");
        move_vip(Some(0), 1)?;
        let moved = load.mark();
        load.wait_answered(moved, 20, SOON)?;
        load.wait_steady(moved, 20, SOON)?;
        let gap = load.longest_gap(mark);
        assert!(gap >= outage, "{gap:?} is less than what had passed before the address moved ({outage:?})");
        assert_eq!(load.by_server(moved).keys().collect::<Vec<_>>(), ["master2"]);

        lab.heal("master1")?;
        move_vip(Some(1), 0)?;
        load.wait_steady(load.mark(), 5, SOON)?;
        let after = load.mark();
        load.wait_answered(after, 20, SOON)?;
        let steady = load.longest_gap(after);
        assert!(steady < gap, "a later mark must not see the old outage: {steady:?}");
    }
    Ok(())
}

#[test]
fn the_request_loop_stops_after_its_count() -> TestResult {
    let lab = lab(1);
    let readyz = Load { url: Some(lab.master_url(0, "/readyz")), ..Load::default() };
    let load = lab.load(&Load { interval: Duration::from_millis(1), count: Some(50), ..readyz.clone() })?;
    load.wait_done(SOON)?;
    assert_eq!((load.answered(0), load.failed(0)), (50, 0));
    assert_eq!(stats(&lab, 0).requests, 50);
    assert_eq!(stats(&lab, 0).tls_handshake_errors, 0, "our own client closes properly");

    lab.master(0).set_ready(false)?;
    let load = lab.load(&Load { count: Some(3), ..readyz })?;
    load.wait_done(SOON)?;
    assert_eq!((load.answered(0), load.failed(0)), (0, 3), "an answer that is not 200 is a failure");
    Ok(())
}

#[test]
fn watch_streams_are_checked_line_by_line_and_a_break_is_seen() -> TestResult {
    let lab = lab(1);
    let url = lab.master_url(0, "/api/v1/watch");
    let watch = lab.watch(Some(&url), 3, Duration::from_secs(10))?;
    let each = |lines| watch.streams().values().filter(|stream| stream.lines >= lines).count() == 3;
    wait::until("five lines on each stream", SOON, || each(5))?;
    assert_eq!(watch.breaks(0), 0);
    assert_eq!(stats(&lab, 0).open_watches, 3);

    let mark = watch.mark();
    lab.master(0).kill();
    wait::until("all three to break", SOON, || watch.breaks(mark) >= 3)?;
    lab.master(0).start()?;
    let healed = watch.mark();
    wait::until("lines on all three again", SOON, || {
        watch.streams().values().all(|stream| stream.last_line_us.is_some_and(|at| at > healed))
    })?;

    // A frozen server is silent, not gone.
    let short = lab.watch(Some(&url), 1, Duration::from_secs(1))?;
    wait::until("a line", SOON, || short.streams().values().any(|stream| stream.lines > 0))?;
    lab.master(0).freeze()?;
    wait::until("the silence to be noticed", SOON, || short.breaks(0) > 0)?;
    lab.master(0).thaw()?;
    Ok(())
}

#[test]
fn a_frame_that_xdp_transmits_out_of_a_veth_arrives_only_with_the_stub() -> TestResult {
    let lab = lab(0);
    for (name, number, stub) in [("with", 50, true), ("without", 51, false)] {
        let machine = lab.add_machine(name, number, stub)?;
        wait::until("a datagram", SOON, || reaches(lab.client(), &machine, number))?;
        let received = || -> u64 {
            let path = format!("/sys/class/net/p-{name}/statistics/rx_packets");
            lab.switch().run(|| fs::read_to_string(path)).unwrap().unwrap().trim().parse().unwrap()
        };
        let _transmit =
            machine.run(|| XdpStub::attach(if_nametoindex("eth0").unwrap(), Action::Transmit))??;
        let sender = lab.client().run(|| UdpSocket::bind("0.0.0.0:0"))??;
        let before = received();
        let came_back = wait::until("frames to come back", Duration::from_secs(2), || {
            sender.send_to(b"x", (host(number), 9)).unwrap();
            received() >= before + 5
        });
        assert_eq!(came_back.is_ok(), stub, "{name}: {came_back:?}");
    }
    Ok(())
}

#[test]
fn offloads_are_off_and_bulk_data_passes() -> TestResult {
    let lab = lab(1);
    for machine in [lab.client(), lab.master(0).machine()] {
        let features = text(&machine.output(Command::new("ethtool").args(["-k", "eth0"]))?);
        for line in
            ["tx-checksumming: off", "tcp-segmentation-offload: off", "generic-segmentation-offload: off"]
        {
            assert!(features.contains(line), "{}: no {line:?} in {features}", machine.name());
        }
    }
    // Sockets of this very process, one on either machine.
    let listener = lab.client().run(|| TcpListener::bind((host(100), 0)))??;
    let address = listener.local_addr()?;
    let got = std::thread::scope(|scope| -> Result<Vec<u8>, Box<dyn Error>> {
        scope.spawn(|| {
            let mut stream = lab.master(0).machine().run(|| TcpStream::connect(address)).unwrap().unwrap();
            stream.write_all(&vec![0x5a; 300_000]).unwrap();
        });
        let mut got = Vec::new();
        listener.accept()?.0.read_to_end(&mut got)?;
        Ok(got)
    })?;
    assert!(got.len() == 300_000 && got.iter().all(|byte| *byte == 0x5a));
    Ok(())
}

#[test]
fn dropping_the_lab_leaves_no_process_and_no_file() -> TestResult {
    let lab = lab(2);
    let load = lab.load(&Load::default())?;
    let dir = lab.dir().to_owned();
    let machines =
        [lab.client(), lab.switch(), lab.master(0).machine()].map(|m| format!("/proc/{}", m.init_id()));
    assert!(dir.is_dir() && machines.iter().all(|path| Path::new(path).exists()));
    drop(load);
    drop(lab);
    assert!(!dir.exists());
    assert!(machines.iter().all(|path| !Path::new(path).exists()));
    Ok(())
}

#[test]
fn a_lab_that_is_killed_takes_its_machines_with_it() -> TestResult {
    let files = tempfile::tempdir()?;
    let mut lab = Command::new(env!("CARGO_BIN_EXE_xvip-lab"))
        .args(["idle", "--lbs", "0"])
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let mut machines = Vec::new();
    for line in BufReader::new(lab.stdout.take().expect("piped")).lines() {
        let line = line?;
        if line == "ready" {
            break;
        }
        // `NAME ADDRESS nsenter --all --target ID`
        if let Some((_, id)) = line.split_once(" --target ") {
            machines.push(format!("/proc/{}", id.trim()));
        }
    }
    assert_eq!(machines.len(), 5, "{machines:?}");
    assert!(machines.iter().all(|path| Path::new(path).exists()));
    lab.kill()?;
    lab.wait()?;
    wait::until("its machines to be gone", SOON, || machines.iter().all(|path| !Path::new(path).exists()))?;
    Ok(())
}
