//! What `xvip import` makes of the customers' own files runs beside the real keepalived and HAProxy with the original files
//! on the other node: same VIP, VRID, priority, password and backends; the VIP goes there and back. And what people and
//! programs are told. Needs root, for the network namespaces, and HAProxy and keepalived.
//!
//! Runner: threads 2, minutes 5

use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Daemon, last_lines};
use lb_tests::json_schema::validate;
use lb_tests::netns::Netns;
use lb_tests::node::LbNode;
use lb_tests::pty::Pty;
use lb_tests::topology::Lab;
use lb_tests::wait;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// keepalived would have taken over by then, if it did not understand what it hears.
const SETTLED: Duration = Duration::from_secs(5);
const END_LIMIT: Duration = Duration::from_secs(10);

/// A customer's files, and where they are meant to run.
struct Files {
    dir: &'static str,
    keepalived: &'static str,
    vip: [u8; 4],
    port: u16,
    virtual_router_id: u64,
    /// What keepalived advertises while HAProxy runs.
    priority: u64,
    backends: [&'static str; 3],
    /// The machines' own addresses there: lb1, lb2, the client, and the masters; none where they are the lab's.
    addresses: Option<[&'static str; 6]>,
    /// What differs on the second node.
    second: &'static [(&'static str, &'static str)],
}

const S0: Files = Files {
    dir: "s0",
    keepalived: "keepalived-lb1.conf",
    vip: [172, 16, 0, 10],
    port: 6443,
    virtual_router_id: 60,
    priority: 102,
    backends: ["172.16.0.4:6443", "172.16.0.5:6443", "172.16.0.6:6443"],
    addresses: None,
    second: &[
        ("unicast_src_ip 172.16.0.2 ", "unicast_src_ip 172.16.0.3 "),
        ("    172.16.0.3  ", "    172.16.0.2  "),
    ],
};

const S2: Files = Files {
    dir: "s2",
    keepalived: "keepalived.conf",
    vip: [10, 10, 1, 108],
    port: 16443,
    virtual_router_id: 51,
    priority: 111,
    backends: ["10.10.1.83:6443", "10.10.1.84:6443", "10.10.1.85:6443"],
    addresses: Some(["10.10.1.81", "10.10.1.82", "10.10.1.100", "10.10.1.83", "10.10.1.84", "10.10.1.85"]),
    second: &[],
};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/import").join(file)
}

/// What the customers run, on a machine.
struct Original {
    dir: PathBuf,
    haproxy: Option<Daemon>,
    keepalived: Option<Daemon>,
}

impl Original {
    fn new(dir: &Path, files: &Files) -> Result<Self, Box<dyn Error>> {
        let dir = dir.to_owned();
        let haproxy = fs::read_to_string(golden(&format!("{}/haproxy.cfg", files.dir)))?;
        // The machine's own /run; /var is everybody's.
        fs::write(
            dir.join("original-haproxy.cfg"),
            haproxy.replace("/var/lib/haproxy/stats", "/run/haproxy-stats"),
        )?;
        let mut keepalived = fs::read_to_string(golden(&format!("{}/{}", files.dir, files.keepalived)))?;
        for (from, to) in files.second {
            let changed = keepalived.replacen(from, to, 1);
            assert_ne!(changed, keepalived, "{from:?} is in the file");
            keepalived = changed;
        }
        fs::write(dir.join("original-keepalived.conf"), keepalived)?;
        Ok(Self { dir, haproxy: None, keepalived: None })
    }

    fn start_haproxy(&mut self, machine: &Netns) -> TestResult {
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(self.dir.join("original-haproxy.cfg"));
        let log = self.dir.join("original-haproxy.log");
        self.haproxy = Some(Daemon::start(machine, "haproxy", &mut command, &log)?);
        Ok(())
    }

    fn start_keepalived(&mut self, machine: &Netns) -> TestResult {
        let mut command = Command::new("keepalived");
        command
            .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"])
            .arg(self.dir.join("original-keepalived.conf"));
        self.keepalived = Some(Daemon::start(machine, "keepalived", &mut command, &self.log())?);
        Ok(())
    }

    fn kill_haproxy(&mut self) {
        if let Some(haproxy) = self.haproxy.take() {
            haproxy.kill();
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("original-keepalived.log")
    }

    fn said(&self, what: &str) -> usize {
        fs::read_to_string(self.log()).unwrap_or_default().matches(what).count()
    }
}

/// The lab, with the imported configuration on its first node.
struct Beside {
    // Before the machine that it runs on.
    imported: Option<Daemon>,
    lab: Lab,
    vip: IpAddr,
    port: u16,
}

impl Beside {
    fn build(files: &Files) -> Result<Self, Box<dyn Error>> {
        let lab = Lab::builder().lbs(2).build()?;
        if let Some(addresses) = files.addresses {
            let machines = [lab.lb(0).machine(), lab.lb(1).machine(), lab.client()]
                .into_iter()
                .chain(lab.masters().iter().map(lb_tests::master::Master::machine));
            for (machine, address) in machines.zip(addresses) {
                machine.ip(&format!("address add {address}/24 dev eth0"))?;
            }
        }
        Ok(Self { imported: None, lab, vip: files.vip.into(), port: files.port })
    }

    fn config(&self) -> PathBuf {
        self.lab.dir().join("imported.toml")
    }

    /// Runs `xvip import` as the user does, and `xvip check` on what it wrote.
    fn import(&self, files: &Files) -> TestResult {
        let lb = self.lab.lb(0);
        let mut import = Command::new(lb.program());
        import
            .arg("import")
            .arg("--haproxy")
            .arg(golden(&format!("{}/haproxy.cfg", files.dir)))
            .arg("--keepalived")
            .arg(golden(&format!("{}/{}", files.dir, files.keepalived)))
            .arg("-o")
            .arg(self.config());
        let output = lb.machine().output(&mut import)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // As with the original's: the machine's own /run; /var is everybody's.
        let text = fs::read_to_string(self.config())?;
        fs::write(self.config(), text.replace("/var/lib/haproxy/stats", "/run/haproxy-stats"))?;
        let mut check = Command::new(lb.program());
        check.args(["check", "--json", "--config"]).arg(self.config());
        let output = lb.machine().output(&mut check)?;
        let checked: Value = serde_json::from_slice(&output.stdout)?;
        assert!(output.status.success(), "{checked:#}");
        let config = &checked["config"];
        let (vrrp, service) = (&config["vrrp"][0], &config["service"][0]);
        assert_eq!(vrrp["virtual_router_id"], files.virtual_router_id);
        assert_eq!(vrrp["priority"], files.priority);
        assert_eq!((&vrrp["version"], &vrrp["advert_interval"]), (&Value::from(2), &Value::from("1s")));
        assert_eq!(service["port"], self.port);
        assert!(service["vip"].as_str().is_some_and(|vip| vip.starts_with(&self.vip.to_string())));
        let backends: Vec<&str> = service["backend"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|backend| backend["address"].as_str())
            .collect();
        assert_eq!(backends, files.backends);
        Ok(())
    }

    /// Starts the daemon with the file as it was written.
    fn start(&mut self) -> TestResult {
        let lb = self.lab.lb(0);
        let mut command = Command::new(lb.program());
        command.arg("run").arg("--config").arg(self.config()).arg("--socket").arg(lb.socket_path());
        command.env("STATE_DIRECTORY", lb.state_dir());
        let mut daemon = Daemon::start(lb.machine(), "imported", &mut command, &self.log())?;
        daemon.wait_ready("xvip to answer", SOON, || lb.status().is_ok())?;
        self.imported = Some(daemon);
        wait::until("each backend to be up", SOON, || {
            lb.status().is_ok_and(|status| {
                let backends = &status.services[0].backends;
                backends.len() == 3 && backends.iter().all(|backend| backend.state == "up")
            })
        })?;
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.lab.dir().join("imported.log")
    }

    fn holds(&self, lb: usize) -> bool {
        self.lab.lb(lb).machine().addresses().is_ok_and(|addresses| addresses.contains(&self.vip))
    }

    /// Waits until this node alone has the VIP. How long that took.
    fn owned_by(&self, lb: usize) -> Result<Duration, Box<dyn Error>> {
        let begin = Instant::now();
        let what = format!("lb{} alone to have the VIP", lb + 1);
        wait::until(&what, SOON, || self.holds(lb) && !self.holds(1 - lb))?;
        Ok(begin.elapsed())
    }

    /// It stays where it is.
    fn stays_at(&self, lb: usize) -> TestResult {
        let end = Instant::now() + SETTLED;
        while Instant::now() < end {
            assert!(self.holds(lb) && !self.holds(1 - lb), "the VIP has moved");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// API servers answer at the VIP, more than one of them.
    fn served(&self) -> TestResult {
        let url = format!("https://{}:{}/version", self.vip, self.port);
        let ask = || {
            let output =
                self.lab.curl(&["--insecure", "--max-time", "2", "--write-out", "%{http_code}", &url]);
            output.is_ok_and(|output| output.stdout.ends_with(b"200"))
        };
        wait::until("an answer at the VIP", SOON, ask)?;
        for number in 0..20 {
            assert!(ask(), "request {number}");
        }
        Ok(())
    }

    fn forwarded(&self) -> u64 {
        let status = self.lab.lb(0).status().ok();
        status.and_then(|status| status.packets.transmitted.get("to-backend").copied()).unwrap_or_default()
    }
}

/// Both directions: keepalived hands over when its HAProxy dies, xvip when it is stopped, and again xvip takes over when
/// keepalived's node is gone.
fn turns(beside: &mut Beside, original: &mut Original) -> TestResult {
    original.start_haproxy(beside.lab.lb(1).machine())?;
    original.start_keepalived(beside.lab.lb(1).machine())?;
    beside.owned_by(1)?;
    beside.served()?;

    // The same priority: whoever has the VIP keeps it. Neither would, if one did not understand the other.
    beside.start()?;
    beside.stays_at(1)?;
    assert_eq!(beside.lab.lb(0).status()?.vrrp_state(), "backup");
    assert_eq!(beside.forwarded(), 0, "HAProxy serves");

    let backups = original.said("Entering BACKUP STATE");
    original.kill_haproxy();
    println!("HAProxy killed on the other node: xvip had the VIP after {:?}", beside.owned_by(0)?);
    beside.served()?;
    assert!(beside.forwarded() > 100, "xvip serves");
    assert_eq!(original.said("Entering BACKUP STATE"), backups + 1, "keepalived believes our advertisements");
    original.start_haproxy(beside.lab.lb(1).machine())?;
    beside.stays_at(0)?;

    let Some(imported) = beside.imported.take() else { return Err("xvip does not run".into()) };
    let begin = Instant::now();
    let (status, _) = imported.terminate(END_LIMIT)?;
    assert!(status.success(), "{status}");
    beside.owned_by(1)?;
    println!("xvip stopped: keepalived had the VIP after {:?}", begin.elapsed());
    beside.served()?;

    beside.start()?;
    beside.stays_at(1)?;
    beside.lab.cut("lb2")?;
    let begin = Instant::now();
    wait::until("xvip to have the VIP", SOON, || beside.holds(0))?;
    println!("the other node's cable cut: xvip had the VIP after {:?}", begin.elapsed());
    beside.served()
}

fn there_and_back(files: &Files) -> TestResult {
    let mut beside = Beside::build(files)?;
    beside.import(files)?;
    let mut original = Original::new(beside.lab.dir(), files)?;
    let ended = turns(&mut beside, &mut original);
    if let Err(failure) = &ended {
        println!("{failure}\n{}\n{}", last_lines(&original.log(), 40), last_lines(&beside.log(), 40));
    }
    ended
}

#[test]
fn the_files_of_s0_run_beside_the_original() -> TestResult {
    there_and_back(&S0)
}

#[test]
fn the_files_of_s2_run_beside_the_original() -> TestResult {
    there_and_back(&S2)
}

/// The customers' files, each with its option.
const SETS: [(&str, &[(&str, &str)]); 5] = [
    ("s0", &[("--haproxy", "haproxy.cfg"), ("--keepalived", "keepalived-lb1.conf")]),
    (
        "s1",
        &[
            ("--haproxy", "haproxy.cfg"),
            ("--keepalived", "keepalived-master1.conf"),
            ("--keepalived", "keepalived-master2.conf"),
            ("--keepalived", "keepalived-master3.conf"),
        ],
    ),
    ("s2", &[("--haproxy", "haproxy.cfg"), ("--keepalived", "keepalived.conf")]),
    ("s3", &[("--haproxy", "haproxy.cfg"), ("--crm", "crm.txt"), ("--corosync", "corosync.conf")]),
    (
        "s4",
        &[
            ("--haproxy", "haproxy.cfg"),
            ("--keepalived", "keepalived-lb1.conf"),
            ("--keepalived", "keepalived-lb2.conf"),
        ],
    ),
];

/// `xvip import` of files, with these words besides.
fn import_of(lb: &LbNode, dir: &str, files: &[(&str, &str)], words: &[&str]) -> Command {
    let mut command = Command::new(lb.program());
    command.arg("import");
    for (option, file) in files {
        command.arg(option).arg(golden(dir).join(file));
    }
    command.args(words);
    command
}

#[test]
fn what_programs_are_told_is_as_the_schema_says() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).build()?;
    let lb = lab.lb(0);
    let schema = lb.machine().output(Command::new(lb.program()).args(["import", "--json-schema"]))?;
    assert!(schema.status.success(), "{schema:?}");
    let schema = String::from_utf8(schema.stdout)?;
    let out = format!("{}/nodes/", lab.dir().display());
    for (dir, files) in SETS {
        for words in [&["--json"][..], &["--json", "-o", &out, "--keep-timeouts"]] {
            let output = lb.machine().output(&mut import_of(lb, dir, files, words))?;
            assert!(output.status.success() && output.stderr.is_empty(), "{dir}: {output:?}");
            let report: Value = serde_json::from_slice(&output.stdout)?;
            validate(&schema, &report).map_err(|why| format!("{dir} {words:?}: {why}"))?;
            let nodes = report["nodes"].as_array().ok_or("no nodes")?;
            assert!(!nodes.is_empty() && report["refused"] == Value::Array(Vec::new()), "{dir}");
            assert!(report["elections"][0]["rows"].as_array().is_some_and(|rows| rows.len() > 2), "{dir}");
            for node in nodes {
                let written = node["written_to"].as_str();
                assert_eq!(written.is_some(), words.len() > 1, "{dir}: {written:?}");
                let text = written.map(fs::read_to_string).transpose()?;
                assert!(text.is_none_or(|text| node["toml"] == text), "{dir}: {written:?}");
            }
        }
    }
    // Files with every fault there is: nothing is written, and all is told.
    let faulty = [("--haproxy", "haproxy/faults.cfg"), ("--keepalived", "keepalived/broken.conf")];
    let output = lb.machine().output(&mut import_of(lb, ".", &faulty, &["--json", "--vip", "10.0.0.1"]))?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    validate(&schema, &report)?;
    for fate in ["syntax-error", "unknown", "not-possible", "blank"] {
        assert!(report["summary"][fate].as_u64() > Some(0), "{fate}: {}", report["summary"]);
    }
    // And files of which nothing can be made.
    let nothing = [("--corosync", "s3/corosync.conf")];
    let output = lb.machine().output(&mut import_of(lb, ".", &nothing, &["--json"]))?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    validate(&schema, &report)?;
    assert!(report["refused"][0].is_string() && report["nodes"] == Value::Array(Vec::new()), "{report}");
    Ok(())
}

/// A line as it is seen: without what colours it.
fn without_colour(line: &str) -> String {
    let mut seen = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once("\u{1b}[") {
        seen.push_str(before);
        rest = escape.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, after)| after);
    }
    seen + rest.trim_end_matches('\r')
}

#[test]
fn the_report_fits_the_terminal_in_colour_and_without() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).build()?;
    let lb = lab.lb(0);
    let out = format!("{}/nodes/", lab.dir().display());
    let (dir, files) = SETS[1];
    for columns in [80, 200] {
        for (variable, value, coloured) in
            [("NO_COLOR", "", true), ("NO_COLOR", "1", false), ("TERM", "dumb", false)]
        {
            let mut command = import_of(lb, dir, files, &["-o", &out]);
            command.env(variable, value);
            let mut pty = Pty::start(lb.machine(), &command, columns, 100)?;
            let status = pty.wait_end(SOON)?;
            let written = pty.written();
            assert!(status.success(), "{status}: {written}");
            println!("{columns} columns, {variable}={value}:\n{written}\n");
            let lines: Vec<String> = written.lines().map(without_colour).collect();
            // The files' names are as long as their paths are on this machine.
            let golden = golden("").display().to_string();
            let own = lines.iter().filter(|line| !line.contains(&golden));
            let widest = own.map(|line| line.chars().count()).max().unwrap_or_default();
            assert!(widest <= usize::from(columns), "{widest} columns:\n{written}");
            assert!(widest > usize::from(columns) * 3 / 4, "only {widest} columns:\n{written}");
            let whole = lines.join("\n");
            for part in [
                "What was wrong or weak before",
                "E1 ",
                "Who owns 192.",
                "not served",
                "Summary",
                "written: ",
            ] {
                assert!(whole.contains(part), "{part:?} in\n{whole}");
            }
            let has_colours = ["\u{1b}[3", "\u{1b}[1"].iter().any(|code| written.contains(code));
            assert_eq!((has_colours, written.contains('\u{1b}')), (coloured, coloured), "{written:?}");
        }
    }
    Ok(())
}
