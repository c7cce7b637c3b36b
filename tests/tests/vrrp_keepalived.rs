//! Elections against the real keepalived, in both roles: what a node sees while a pair is migrated one by one.
//!
//! keepalived's state is read off its interface: it has the virtual address exactly while it is MASTER. Needs root,
//! iproute2 and keepalived 2.2.7 or later. Every run has its own namespaces and pid files. For signed advertisements
//! `SIGNING_KEEPALIVED` names a keepalived of version 2.4.2 or later; `tests/golden/vrrp/README.md` says how to build one.
//!
//! Runner: threads 4

#[path = "vrrp/lan.rs"]
mod lan;
#[path = "vrrp/routers.rs"]
mod routers;

use std::{
    env, fs,
    net::IpAddr,
    num::NonZeroU8,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lan::{A, B, INTERFACE, Lan, Netns, VIP, run, within};
use lb_userspace::{
    config::model::{AntiReplay, AuthHmac, AuthMode, HmacKey, HmacSecret, VrrpInstance, VrrpVersion},
    vrrp::{fsm::VrrpState, router::Router, status::RouterStatus},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use routers::{A6, B6, VIP6, dual_lan, link_local, spawn, statuses};
use tempfile::TempDir;

const INTERVAL: Duration = Duration::from_secs(1);
/// The machine may be busy with other tests.
const GENEROUS: Duration = Duration::from_secs(60);
/// keepalived's down interval is at most 4 s at one advertisement a second; one that did not accept ours would be
/// MASTER by then.
const LONGER_THAN_DOWN: Duration = Duration::from_millis(5500);

#[derive(Clone, Copy, Debug)]
struct Speech {
    version: VrrpVersion,
    password: Option<&'static str>,
    unicast: bool,
    ipv6: bool,
    signed: bool,
}

const V3_UNICAST: Speech =
    Speech { version: VrrpVersion::V3, password: None, unicast: true, ipv6: false, signed: false };
const V3_MULTICAST: Speech = Speech { unicast: false, ..V3_UNICAST };
const V2_UNICAST: Speech = Speech { version: VrrpVersion::V2, ..V3_UNICAST };
const V2_PASS_UNICAST: Speech = Speech { password: Some("1111"), ..V2_UNICAST };
const V2_PASS_MULTICAST: Speech = Speech { password: Some("geheim42"), unicast: false, ..V2_UNICAST };
const V3_IPV6_UNICAST: Speech = Speech { ipv6: true, ..V3_UNICAST };
const V3_IPV6_MULTICAST: Speech = Speech { ipv6: true, ..V3_MULTICAST };

impl Speech {
    /// Of side `a`, of side `b`, and the virtual one.
    fn addresses(self) -> (IpAddr, IpAddr, IpAddr) {
        if self.ipv6 { (A6.into(), B6.into(), VIP6.into()) } else { (A.into(), B.into(), VIP.into()) }
    }

    /// What the advertisements of side `b` come from.
    fn source(self, lan: &Lan) -> IpAddr {
        if self.ipv6 && !self.unicast {
            link_local(&lan.b).expect("a link-local address")
        } else {
            self.addresses().1
        }
    }

    fn lan(self) -> Lan {
        if self.ipv6 { dual_lan() } else { Lan::new() }
    }

    fn instance(self, priority: u8) -> VrrpInstance {
        VrrpInstance {
            version: self.version,
            priority: NonZeroU8::new(priority).unwrap(),
            advert_interval: INTERVAL,
            unicast_peers: if self.unicast { vec![self.addresses().1] } else { vec![] },
            auth_hmac: self.signed.then(auth_hmac),
            auth_pass: self.password.map(str::to_owned),
            ..VrrpInstance::new("main", NonZeroU8::new(60).unwrap())
        }
    }

    /// A router of ours on side `a`.
    fn router(self, lan: &Lan, priority: u8) -> Router {
        lan.a.enter(|| spawn(&self.instance(priority), INTERFACE, &[self.addresses().2])).expect("our router")
    }

    /// keepalived on side `b`.
    fn keepalived(self, lan: &Lan, priority: u8) -> Keepalived {
        let (a, b, vip) = self.addresses();
        let unicast = format!("unicast_src_ip {b}\n unicast_peer {{\n  {a}\n }}");
        let authentication = self
            .password
            .map(|password| format!("authentication {{\n  auth_type PASS\n  auth_pass {password}\n }}"));
        let configuration = format!(
            "vrrp_instance main {{\n state BACKUP\n interface {INTERFACE}\n version {}\n virtual_router_id 60\n \
             priority {priority}\n advert_int 1\n {}\n {}\n {}\n virtual_ipaddress {{\n  {vip}/{}\n }}\n}}\n",
            u8::from(self.version),
            if self.unicast { &unicast } else { "" },
            authentication.as_deref().unwrap_or_default(),
            if self.signed { SIGNING } else { "" },
            if self.ipv6 { 64 } else { 24 },
        );
        let program = if self.signed { signing_keepalived() } else { None };
        Keepalived::start(&lan.b, program.as_deref().unwrap_or("keepalived"), &configuration)
    }

    /// Whether keepalived is MASTER.
    fn has_vip(self, lan: &Lan) -> bool {
        let shown = run(&format!("ip -n {} -o addr show", lan.b.name())).stdout;
        String::from_utf8_lossy(&shown).contains(&format!(" {}/", self.addresses().2))
    }
}

/// The same as [`auth_hmac`].
const SIGNING: &str = "auth_hmac {\n  key 7 xvip-and-keepalived-share-this-secret\n  active_key 7\n }";

fn auth_hmac() -> AuthHmac {
    let id = NonZeroU8::new(7).unwrap();
    let secret = HmacSecret::new(b"xvip-and-keepalived-share-this-secret".to_vec()).expect("long enough");
    AuthHmac {
        keys: vec![HmacKey { id, secret }],
        active_key: id,
        mode: AuthMode::Enforce,
        anti_replay: AntiReplay::Time,
        time_window: Duration::from_secs(5),
    }
}

/// Debian's cannot.
fn signing_keepalived() -> Option<String> {
    env::var("SIGNING_KEEPALIVED").ok()
}

/// A running keepalived, ended on drop.
struct Keepalived {
    child: Child,
    directory: TempDir,
}

impl Keepalived {
    fn start(netns: &Netns, program: &str, configuration: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("keepalived.conf"), configuration).expect("writing the configuration");
        let log = fs::File::create(path("log")).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", netns.name(), program, "--dont-fork", "--log-console", "--vrrp", "-f"])
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
    let lan = speech.lan();
    let router = speech.router(&lan, 150);
    wait_for_state(&router, VrrpState::Active);
    let mut keepalived = speech.keepalived(&lan, 100);
    keepalived.wait_for_start();

    let watched = Instant::now();
    while watched.elapsed() < LONGER_THAN_DOWN {
        assert!(!speech.has_vip(&lan), "{speech:?}: keepalived became MASTER below us\n{}", keepalived.log());
        thread::sleep(Duration::from_millis(50));
    }
    let active = status(&router);
    assert_eq!(active.state, VrrpState::Active);
    assert_eq!(active.adverts_received, 0, "{speech:?}: a BACKUP is silent");
    assert_understood(&active);

    let changes = statuses(&router);
    let start = Instant::now();
    router.shutdown();
    assert_eq!(changes.borrow().state, VrrpState::Initialize);
    within(GENEROUS, "keepalived takes over", || speech.has_vip(&lan));
    let took = start.elapsed();
    println!("{speech:?}: keepalived took over {took:?} after our priority 0");
    // Its skew time is 0.61 s, its down interval 3.61 s: so it understood the farewell.
    assert!(took < Duration::from_secs(3), "{speech:?}: {took:?} is its down interval, not its skew time");
}

/// We stay Backup beside a MASTER that outranks us, take over when it leaves, and yield when it returns.
fn keepalived_outranks_us(speech: Speech) {
    let lan = speech.lan();
    let mut keepalived = speech.keepalived(&lan, 150);
    keepalived.wait_for_start();
    within(GENEROUS, "keepalived becomes MASTER", || speech.has_vip(&lan));
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
    assert_eq!((active.address, active.priority), (speech.source(&lan), 150));
    assert_eq!(backup.adverts_sent, 0);
    assert_understood(&backup);
    assert!(speech.has_vip(&lan));

    keepalived.stop();
    let took = wait_for_state(&router, VrrpState::Active);
    println!("{speech:?}: we took over {took:?} after keepalived had ended");
    assert_eq!(status(&router).reason, format!("priority 0 from {}", speech.source(&lan)));
    assert_eq!(status(&router).announce_generation, 1);

    let mut keepalived = speech.keepalived(&lan, 150);
    keepalived.wait_for_start();
    wait_for_state(&router, VrrpState::Backup);
    assert_eq!(
        status(&router).reason,
        format!("preempted by higher priority 150 from {}", speech.source(&lan))
    );
    within(GENEROUS, "keepalived is MASTER again", || speech.has_vip(&lan));
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
    v2_pass_multicast: super::V2_PASS_MULTICAST;
    v3_ipv6_multicast: super::V3_IPV6_MULTICAST;
}

/// Both sign, and each verifies what the other signed.
#[test]
fn signed_advertisements_are_understood_both_ways() {
    if signing_keepalived().is_none() {
        println!(
            "SKIP signed_advertisements_are_understood_both_ways: SIGNING_KEEPALIVED does not name keepalived 2.4.2 or later"
        );
        return;
    }
    thread::scope(|scope| {
        for plain in [V2_UNICAST, V3_UNICAST, V3_MULTICAST, V3_IPV6_UNICAST, V3_IPV6_MULTICAST] {
            let speech = Speech { signed: true, ..plain };
            scope.spawn(move || we_outrank_keepalived(speech));
            scope.spawn(move || keepalived_outranks_us(speech));
        }
    });
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
    within(GENEROUS, "keepalived becomes MASTER, too", || V2_PASS_UNICAST.has_vip(&lan));
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
    assert!(!V3_UNICAST.has_vip(&lan));
    let sent = status(&router).adverts_sent;
    thread::sleep(Duration::from_secs(2));
    let sent = status(&router).adverts_sent - sent;
    assert!((8..=12).contains(&sent), "{sent} advertisements in 2 s");
    router.shutdown();
    let took = within(GENEROUS, "keepalived takes over", || V3_UNICAST.has_vip(&lan));
    println!("keepalived took over {took:?} after our priority 0 at 200 ms");
    assert!(took < Duration::from_millis(550), "{took:?} is the skew time of its own interval");
}
