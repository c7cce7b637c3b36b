//! Elections against the real keepalived, in both roles: what a node sees while a pair is migrated one by one.
//!
//! keepalived's state is read off its interface: it has the virtual address exactly while it is MASTER. Needs root,
//! iproute2 and keepalived 2.2.7 or later. Every run has its own namespaces and pid files.
//!
//! Runner: threads 4

#[path = "keepalived/lan.rs"]
mod lan;

use std::{
    fs,
    num::NonZeroU8,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lan::{A, B, INTERFACE, Lan, Netns, VIP, run, spawn, statuses, within};
use lb_userspace::{
    config::model::{VrrpInstance, VrrpVersion},
    vrrp::{fsm::VrrpState, router::Router, status::RouterStatus},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

const INTERVAL: Duration = Duration::from_secs(1);
/// The machine may be busy with other tests.
const GENEROUS: Duration = Duration::from_secs(20);
/// keepalived's down interval is at most 4 s at one advertisement a second; one that did not accept ours would be
/// MASTER by then.
const LONGER_THAN_DOWN: Duration = Duration::from_millis(5500);

#[derive(Clone, Copy, Debug)]
struct Speech {
    version: VrrpVersion,
    password: Option<&'static str>,
    unicast: bool,
}

const V3_UNICAST: Speech = Speech { version: VrrpVersion::V3, password: None, unicast: true };
const V3_MULTICAST: Speech = Speech { version: VrrpVersion::V3, password: None, unicast: false };
const V2_PASS_UNICAST: Speech = Speech { version: VrrpVersion::V2, password: Some("1111"), unicast: true };
const V2_PASS_MULTICAST: Speech =
    Speech { version: VrrpVersion::V2, password: Some("geheim42"), unicast: false };
const V2_UNICAST: Speech = Speech { version: VrrpVersion::V2, password: None, unicast: true };

impl Speech {
    fn instance(self, priority: u8) -> VrrpInstance {
        VrrpInstance {
            version: self.version,
            priority: NonZeroU8::new(priority).unwrap(),
            advert_interval: INTERVAL,
            unicast_peers: if self.unicast { vec![B.into()] } else { vec![] },
            auth_pass: self.password.map(str::to_owned),
            ..VrrpInstance::new("main", NonZeroU8::new(60).unwrap())
        }
    }

    /// A router of ours on side `a`.
    fn router(self, lan: &Lan, priority: u8) -> Router {
        lan.a.enter(|| spawn(&self.instance(priority), INTERFACE, &[VIP])).expect("our router")
    }

    /// keepalived on side `b`.
    fn keepalived(self, lan: &Lan, priority: u8) -> Keepalived {
        let unicast = format!("unicast_src_ip {B}\n unicast_peer {{\n  {A}\n }}");
        let authentication = self
            .password
            .map(|password| format!("authentication {{\n  auth_type PASS\n  auth_pass {password}\n }}"));
        let configuration = format!(
            "vrrp_instance main {{\n state BACKUP\n interface {INTERFACE}\n version {}\n virtual_router_id 60\n \
             priority {priority}\n advert_int 1\n {}\n {}\n virtual_ipaddress {{\n  {VIP}/24\n }}\n}}\n",
            u8::from(self.version),
            if self.unicast { &unicast } else { "" },
            authentication.as_deref().unwrap_or_default(),
        );
        Keepalived::start(&lan.b, &configuration)
    }
}

/// A running keepalived, ended on drop.
struct Keepalived {
    child: Child,
    directory: TempDir,
}

impl Keepalived {
    fn start(netns: &Netns, configuration: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("keepalived.conf"), configuration).expect("writing the configuration");
        let log = fs::File::create(path("log")).expect("a log");
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                netns.name(),
                "keepalived",
                "--dont-fork",
                "--log-console",
                "--vrrp",
                "-f",
            ])
            .arg(path("keepalived.conf"))
            .arg("-p")
            .arg(path("pid"))
            .arg("-r")
            .arg(path("vrrp.pid"))
            .arg("-c")
            .arg(path("checkers.pid"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("the log once more"))
            .stdout(log)
            .spawn()
            .expect("starting keepalived (apt-get install keepalived)");
        Self { child, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// It has read its configuration and takes part.
    fn wait_for_start(&mut self) {
        within(GENEROUS, "keepalived starts", || {
            assert!(matches!(self.child.try_wait(), Ok(None)), "keepalived ended: {}", self.log());
            self.log().contains("Startup complete")
        });
    }

    /// An orderly stop: a MASTER sends priority 0.
    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // `ip netns exec` becomes keepalived, so that this is its pid.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > GENEROUS {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("keepalived said:\n{}", self.log());
        }
    }
}

/// Whether keepalived in there is MASTER.
fn has_vip(netns: &Netns) -> bool {
    let shown = run(&format!("ip -n {} -4 -o addr show", netns.name())).stdout;
    String::from_utf8_lossy(&shown).contains(&format!(" {VIP}/"))
}

fn status(router: &Router) -> RouterStatus {
    statuses(router).borrow().clone()
}

fn wait_for_state(router: &Router, state: VrrpState) -> Duration {
    within(GENEROUS, &format!("{state}"), || status(router).state == state)
}

fn assert_understood(status: &RouterStatus) {
    assert!(status.discards.is_empty(), "discarded: {:?}", status.discards);
    assert_eq!(
        (status.address_mismatches, status.send_errors, status.receive_errors),
        (0, 0, 0),
        "{status:?}"
    );
}

/// keepalived accepts our advertisements and stays BACKUP below us; it takes over at once when we leave.
fn we_outrank_keepalived(speech: Speech) {
    let lan = Lan::new();
    let router = speech.router(&lan, 150);
    wait_for_state(&router, VrrpState::Active);
    let mut keepalived = speech.keepalived(&lan, 100);
    keepalived.wait_for_start();

    let watched = Instant::now();
    while watched.elapsed() < LONGER_THAN_DOWN {
        assert!(!has_vip(&lan.b), "{speech:?}: keepalived became MASTER below us\n{}", keepalived.log());
        thread::sleep(Duration::from_millis(50));
    }
    let active = status(&router);
    assert_eq!(active.state, VrrpState::Active);
    assert_eq!(active.adverts_received, 0, "{speech:?}: a BACKUP is silent");
    assert_understood(&active);

    let changes = statuses(&router);
    router.shutdown();
    let start = Instant::now();
    assert_eq!(changes.borrow().state, VrrpState::Initialize);
    within(GENEROUS, "keepalived takes over", || has_vip(&lan.b));
    let took = start.elapsed();
    println!("{speech:?}: keepalived took over {took:?} after our priority 0");
    // Its skew time is 0.61 s, its down interval 3.61 s: so it understood the farewell.
    assert!(took < Duration::from_secs(3), "{speech:?}: {took:?} is its down interval, not its skew time");
}

/// We stay Backup beside a MASTER that outranks us, take over when it leaves, and yield when it returns.
fn keepalived_outranks_us(speech: Speech) {
    let lan = Lan::new();
    let mut keepalived = speech.keepalived(&lan, 150);
    keepalived.wait_for_start();
    within(GENEROUS, "keepalived becomes MASTER", || has_vip(&lan.b));
    let router = speech.router(&lan, 100);

    let watched = Instant::now();
    while watched.elapsed() < LONGER_THAN_DOWN {
        assert_ne!(status(&router).state, VrrpState::Active, "{speech:?}: {}", status(&router).reason);
        thread::sleep(Duration::from_millis(50));
    }
    let backup = status(&router);
    assert_eq!(backup.state, VrrpState::Backup);
    assert!(backup.adverts_received >= 4, "{speech:?}: heard {} only", backup.adverts_received);
    let active = backup.active_router.clone().expect("an active router");
    assert_eq!((active.address, active.priority), (B.into(), 150));
    assert_eq!(backup.adverts_sent, 0);
    assert_understood(&backup);
    assert!(has_vip(&lan.b));

    keepalived.stop();
    let took = wait_for_state(&router, VrrpState::Active);
    println!("{speech:?}: we took over {took:?} after keepalived had ended");
    assert_eq!(status(&router).reason, format!("priority 0 from {B}"));
    assert_eq!(status(&router).announce_generation, 1);

    let mut keepalived = speech.keepalived(&lan, 150);
    keepalived.wait_for_start();
    wait_for_state(&router, VrrpState::Backup);
    assert_eq!(status(&router).reason, format!("preempted by higher priority 150 from {B}"));
    within(GENEROUS, "keepalived is MASTER again", || has_vip(&lan.b));
    assert_understood(&status(&router));
    router.shutdown();
}

macro_rules! elections {
    ($($name:ident: $speech:expr;)*) => {$(
        mod $name {
            #[test]
            fn we_outrank_keepalived() {
                super::we_outrank_keepalived($speech);
            }

            #[test]
            fn keepalived_outranks_us() {
                super::keepalived_outranks_us($speech);
            }
        }
    )*};
}

elections! {
    v3_unicast: super::V3_UNICAST;
    v3_multicast: super::V3_MULTICAST;
    v2_pass_unicast: super::V2_PASS_UNICAST;
    v2_pass_multicast: super::V2_PASS_MULTICAST;
    v2_unicast: super::V2_UNICAST;
}

/// The tests above can fail: with another password neither hears the other, and both have the address.
#[test]
fn another_password_splits_the_election() {
    let lan = Lan::new();
    let mut keepalived = V2_PASS_UNICAST.keepalived(&lan, 100);
    keepalived.wait_for_start();
    let speech = Speech { password: Some("2222"), ..V2_PASS_UNICAST };
    let router = speech.router(&lan, 150);
    wait_for_state(&router, VrrpState::Active);
    within(GENEROUS, "keepalived becomes MASTER, too", || has_vip(&lan.b));
    within(GENEROUS, "the password is refused", || status(&router).discards.contains_key("auth"));
    assert_eq!(status(&router).adverts_received, 0);
}

/// A sub-second interval reaches keepalived as it was meant: a Backup adopts it (RFC 9568 §6.4.2).
#[test]
fn a_short_interval_is_adopted() {
    let lan = Lan::new();
    let instance = VrrpInstance { advert_interval: Duration::from_millis(200), ..V3_UNICAST.instance(150) };
    let router = lan.a.enter(|| spawn(&instance, INTERFACE, &[VIP])).expect("our router");
    wait_for_state(&router, VrrpState::Active);
    // Configured for one second, it would wait 0.61 s after our farewell; with our interval it is 0.12 s.
    let mut keepalived = V3_UNICAST.keepalived(&lan, 100);
    keepalived.wait_for_start();
    thread::sleep(Duration::from_secs(2));
    assert!(!has_vip(&lan.b));
    let sent = status(&router).adverts_sent;
    thread::sleep(Duration::from_secs(2));
    let sent = status(&router).adverts_sent - sent;
    assert!((8..=12).contains(&sent), "{sent} advertisements in 2 s");
    router.shutdown();
    let took = within(GENEROUS, "keepalived takes over", || has_vip(&lan.b));
    println!("keepalived took over {took:?} after our priority 0 at 200 ms");
    assert!(took < Duration::from_millis(550), "{took:?} is the skew time of its own interval");
}
