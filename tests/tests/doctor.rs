//! `xvip doctor`: each fault is made on purpose and has to be found, with its remedy, and nothing else with it; and on a
//! healthy lab there is none. Needs root, for the network namespaces, and keepalived, HAProxy and nft.
//!
//! Runner: threads 3

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lb_tests::addresses::{Family, host};
use lb_tests::incumbent::IncumbentNode;
use lb_tests::json_schema::validate;
use lb_tests::keepalived::{Keepalived, KeepalivedConfig};
use lb_tests::node::{BackendConfig, LbNode};
use lb_tests::topology::{Lab, LabBuilder};
use lb_tests::wait;
use lb_tests::xdp_stub::{Action, XdpStub};
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// What is about the machine that the tests run on, and no business of the lab.
const MACHINE: [&str; 4] = ["btf", "clock", "kernel", "memory"];
/// The host number of one more machine.
const OTHER: u8 = 7;

/// What a doctor said.
struct Told {
    code: Option<i32>,
    report: Value,
}

impl Told {
    /// The findings that are not fine.
    fn wrong(&self) -> impl Iterator<Item = &Value> {
        let all = self.report["findings"].as_array().into_iter().flatten();
        all.filter(|finding| finding["severity"] != "fine" && !MACHINE.iter().any(|id| finding["id"] == *id))
    }

    /// Checks that exactly these were found wrong, and the exit code with them.
    fn assert_wrong(&self, ids: &[&str]) {
        let found: BTreeSet<&str> = self.wrong().filter_map(|finding| finding["id"].as_str()).collect();
        assert_eq!(found, ids.iter().copied().collect(), "{:#}", self.report);
        let problems = self.report["findings"].as_array().into_iter().flatten();
        let problems = problems.filter(|finding| finding["severity"] == "problem").count();
        assert_eq!(self.code, Some(i32::from(problems > 0)));
        assert_eq!(self.report["problems"], problems);
    }

    /// The one finding with this id that is not fine: severity, and all words about it.
    fn one(&self, id: &str) -> (String, String) {
        let found: Vec<&Value> = self.wrong().filter(|finding| finding["id"] == id).collect();
        let [finding] = found[..] else { panic!("{id}: {:#}", self.report) };
        println!("{finding:#}");
        assert!(finding["cause"].is_string(), "{finding:#}");
        assert!(finding["remedy"].as_array().is_some_and(|remedy| !remedy.is_empty()), "{finding:#}");
        (finding["severity"].as_str().unwrap_or_default().to_owned(), finding.to_string())
    }

    /// Checks that this alone was found wrong, a problem that is told with these words.
    fn assert_problem(&self, id: &str, words: &[&str]) {
        self.assert_wrong(&[id]);
        let (severity, text) = self.one(id);
        assert_eq!(severity, "problem");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
}

/// Asks on a node, and listens for so long.
fn ask(lb: &LbNode, listen: &str) -> Result<Told, Box<dyn Error>> {
    let output = lb.xvip_with_config(&["doctor", "--json", "--listen", listen])?;
    let report = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
    let schema = String::from_utf8(lb.machine().output(&mut lb.tool(&["doctor", "--json-schema"]))?.stdout)?;
    validate(&schema, &report)?;
    Ok(Told { code: output.status.code(), report })
}

/// The same, where it does not matter who is heard.
fn look(lb: &LbNode) -> Result<Told, Box<dyn Error>> {
    ask(lb, "1s")
}

/// A lab whose certificates are verified, so that `xvip check` has nothing to say.
fn build(builder: LabBuilder) -> Result<Lab, Box<dyn Error>> {
    let lab = builder.patience(3).build()?;
    for lb in lab.lbs() {
        lb.configure(|config| {
            config.small_tables();
            for service in &mut config.services {
                let ca = format!("ca_file = {:?}", lab.ca());
                service.health = ["check = \"https\"", "verify = \"ca\"", &ca].map(str::to_owned).to_vec();
            }
        })?;
    }
    Ok(lab)
}

/// One node with one backend, and nothing runs on it.
fn alone() -> Result<Lab, Box<dyn Error>> {
    build(Lab::builder().lbs(1).masters(1).multicast())
}

/// Runs a command on a machine that has to succeed.
fn run(machine: &lb_tests::netns::Netns, words: &[&str]) -> TestResult {
    let output = machine.output(Command::new(words[0]).args(&words[1..]))?;
    if output.status.success() { Ok(()) } else { Err(format!("{words:?}: {output:?}").into()) }
}

/// A keepalived of version 3 with our VRID and each second an advertisement.
fn keepalived(vip: &str) -> KeepalivedConfig {
    KeepalivedConfig {
        version: 3,
        virtual_router_id: 60,
        priority: 200,
        interval: Duration::from_secs(1),
        nopreempt: false,
        password: None,
        unicast: None,
        vips: vec![format!("{vip}/24")],
    }
}

#[test]
fn a_healthy_lab_has_no_finding_and_is_left_as_it_is() -> TestResult {
    let lab = build(Lab::builder())?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    // Before anything runs.
    let told = look(lb1)?;
    told.assert_wrong(&[]);
    assert_eq!(told.report["daemon_runs"], false);
    let shown = lb1.machine().output(Command::new("ip").args(["link", "show", "dev", "eth0"]))?;
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("xdp"), "{shown:?}");

    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    for lb in [lb1, lb2] {
        let up = || lb.status().is_ok_and(|status| status.service_up("kube-apiserver") == 3);
        wait::until("all backends to be up", SOON, up)?;
    }
    let program = || -> Result<String, Box<dyn Error>> {
        let shown = lb1.machine().output(Command::new("ip").args(["link", "show", "dev", "eth0"]))?;
        Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
    };
    let (before, states) =
        (program()?, [lb1.status()?.vrrp_state(), lb2.status()?.vrrp_state()].map(str::to_owned));
    for lb in [lb1, lb2] {
        let told = ask(lb, "2s")?;
        told.assert_wrong(&[]);
        assert_eq!(told.report["daemon_runs"], true);
        assert_eq!(told.report["node"], lb.name());
    }
    assert_eq!(program()?, before, "the program is the same");
    assert_eq!([lb1.status()?.vrrp_state(), lb2.status()?.vrrp_state()].map(str::to_owned), states);

    // For people: what is well takes a line each, and there is no escape sequence in a pipe.
    let output = lb1.xvip_with_config(&["doctor", "--listen", "100ms"])?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    assert!(text.lines().any(|line| line.starts_with("fine     interface")), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    Ok(())
}

#[test]
fn a_configuration_that_is_refused_is_code_2() -> TestResult {
    let lab = alone()?;
    fs::write(lab.lb(0).config_path(), "[node]\ninterfce = \"eth0\"\n")?;
    let output = lab.lb(0).xvip_with_config(&["doctor", "--json"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interfce"), "{output:?}");
    Ok(())
}

#[test]
fn an_mtu_that_is_too_large_for_native_xdp_in_the_kernel_s_words() -> TestResult {
    let lab = build(Lab::builder().lbs(1).masters(1).multicast().without_stubs())?;
    let lb = lab.lb(0);
    lab.switch().ip("link set dev p-lb1 mtu 9000")?;
    let told = look(lb)?;
    told.assert_wrong(&["mtu", "xdp-mode"]);
    for id in ["mtu", "xdp-mode"] {
        let (severity, text) = told.one(id);
        assert_eq!(severity, "advice", "xvip would run in generic mode");
        assert!(text.contains("Peer MTU is too large to set XDP"), "{text}");
        assert!(text.contains("ip link set dev PEER mtu 1500"), "{text}");
    }
    lb.configure(|config| config.xdp_mode = Some("native".to_owned()))?;
    let told = look(lb)?;
    told.assert_wrong(&["mtu", "xdp-mode"]);
    assert_eq!((told.one("mtu").0, told.one("xdp-mode").0), ("problem".to_owned(), "problem".to_owned()));
    lab.switch().ip("link set dev p-lb1 mtu 1500")?;
    look(lb)?.assert_wrong(&[]);
    Ok(())
}

#[test]
fn another_xdp_program() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let stub =
        lb.machine().run(|| XdpStub::attach(nix::net::if_::if_nametoindex("eth0")?, Action::Pass))??;
    look(lb)?.assert_problem("foreign-xdp", &["is attached", "(tag ", "eth0"]);
    drop(stub);
    wait::until("the program to be gone", SOON, || look(lb).is_ok_and(|told| told.wrong().next().is_none()))?;
    Ok(())
}

#[test]
fn an_interface_that_is_missing_or_down() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    lb.configure(|config| config.interface = "eth7".to_owned())?;
    let told = look(lb)?;
    assert!(told.one("interface").1.contains("interface eth7 does not exist"));
    lb.configure(|config| config.interface = "eth0".to_owned())?;
    lb.machine().ip("link set dev eth0 down")?;
    let told = look(lb)?;
    assert!(told.one("interface").1.contains("ip link set dev eth0 up"));
    lb.machine().ip("link set dev eth0 up")?;
    lab.cut("lb1")?;
    assert!(look(lb)?.one("interface").1.contains("has no carrier"));
    Ok(())
}

#[test]
fn a_packet_filter_that_drops_protocol_112() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let other = lab.add_machine("other", OTHER, false)?;
    let _keepalived = Keepalived::start(&other, lab.dir(), &keepalived("172.16.0.10"))?;
    let advertised = || ask(lb, "3s").map(|told| told.report.to_string().contains("one of ours"));
    wait::until("keepalived to advertise", SOON, || advertised().unwrap_or(false))?;
    ask(lb, "3s")?.assert_wrong(&[]);

    run(lb.machine(), &["nft", "add", "table", "inet", "t"])?;
    run(
        lb.machine(),
        &["nft", "add", "chain", "inet", "t", "in", "{ type filter hook input priority 0; policy accept; }"],
    )?;
    run(lb.machine(), &["nft", "add", "rule", "inet", "t", "in", "ip", "protocol", "112", "drop"])?;
    let told = ask(lb, "4s")?;
    told.assert_problem("firewall-vrrp", &["none of them through the packet filter", "172.16.0.7 ("]);
    // The remedy is the command that mends it.
    let remedy = told.wrong().next().and_then(|finding| finding["remedy"][0].as_str()).unwrap_or_default();
    assert!(remedy.starts_with("nft delete rule inet t in handle "), "{remedy}");
    run(lb.machine(), &remedy.split(' ').collect::<Vec<_>>())?;
    ask(lb, "4s")?.assert_wrong(&[]);

    // A chain that lets nothing through but what it names.
    run(lb.machine(), &["nft", "add", "chain", "inet", "t", "in", "{ policy drop; }"])?;
    run(lb.machine(), &["nft", "add", "rule", "inet", "t", "in", "meta", "l4proto", "!=", "112", "accept"])?;
    let told = ask(lb, "4s")?;
    told.assert_problem("firewall-vrrp", &["nft insert rule inet t in ip protocol 112 accept"]);
    Ok(())
}

#[test]
fn a_vrid_that_somebody_else_uses() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let other = lab.add_machine("other", OTHER, false)?;
    let _keepalived = Keepalived::start(&other, lab.dir(), &keepalived("172.16.0.77"))?;
    let advertised = || ask(lb, "3s").is_ok_and(|told| told.wrong().next().is_some());
    wait::until("keepalived to advertise", SOON, advertised)?;
    ask(lb, "3s")?.assert_problem(
        "vrid-in-use",
        &["VRID 60", "172.16.0.7 (02:00:ac:10:00:07)", "virtual_router_id = 61"],
    );
    Ok(())
}

#[test]
fn reverse_path_filtering_that_drops_a_peer() -> TestResult {
    let lab = build(Lab::builder().masters(1))?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    lb2.start()?;
    wait::until("lb2 to own the VIP", SOON, || lb2.holds_vip())?;
    look(lb1)?.assert_wrong(&[]);
    lb1.machine().ip("link add elsewhere type bridge")?;
    lb1.machine().ip("link set elsewhere up")?;
    lb1.machine().ip(&format!("route add {} dev elsewhere", host(3)))?;
    lb1.machine().sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
    let told = look(lb1)?;
    told.assert_problem(
        "rp-filter",
        &["172.16.0.3", "its way back is elsewhere", "sysctl -w net.ipv4.conf.eth0.rp_filter=2"],
    );
    lb1.machine().sysctl("net/ipv4/conf/eth0/rp_filter", "2")?;
    look(lb1)?.assert_wrong(&[]);
    Ok(())
}

#[test]
fn a_neighbour_that_does_not_answer_and_one_behind_another_interface() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    lb.configure(|config| {
        let backends = &mut config.services[0].backends;
        backends.push(BackendConfig::new("nobody", (host(99), 6443).into()));
        backends.push(BackendConfig::new("behind", ([10, 9, 0, 1], 6443).into()));
        backends.push(BackendConfig::new("nowhere", ([10, 8, 0, 1], 6443).into()));
    })?;
    lb.machine().ip("link add elsewhere type bridge")?;
    lb.machine().ip("address add 10.9.0.2/24 dev elsewhere")?;
    lb.machine().ip("link set elsewhere up")?;
    let told = look(lb)?;
    told.assert_wrong(&["neighbour", "backend"]);
    let of = |name: &str| {
        let subject = format!("kube-apiserver/{name}");
        told.wrong()
            .find(|one| one["id"] == "neighbour" && one["subject"] == subject)
            .map(ToString::to_string)
    };
    for (name, word) in [
        ("nobody", "arping -c 3 -I eth0 172.16.0.99"),
        ("behind", "interfaces = [\\\"eth0\\\", \\\"elsewhere\\\"]"),
        ("nowhere", "there is no route to 10.8.0.1"),
    ] {
        let text = of(name).unwrap_or_default();
        assert!(text.contains(word), "{word} is not in {text}: {:#}", told.report);
    }
    assert_eq!(of("master1"), None);
    Ok(())
}

#[test]
fn a_backend_that_is_not_ready() -> TestResult {
    let lab = alone()?;
    lab.master(0).set_ready(false)?;
    look(lab.lb(0))?.assert_problem("backend", &["500", "curl -vk https://172.16.0.4:6443/readyz"]);
    Ok(())
}

#[test]
fn kube_proxy_that_has_the_vip() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    // A dummy interface on a real node; not every kernel has that kind.
    lb.machine().ip("link add kube-ipvs0 type bridge")?;
    lb.machine().ip("address add 10.96.0.1/32 dev kube-ipvs0")?;
    look(lb)?.assert_wrong(&[]);
    lb.machine().ip("address add 172.16.0.10/32 dev kube-ipvs0")?;
    look(lb)?.assert_problem("kube-proxy-vip", &["kube-ipvs0", "excludeCIDRs", "kubectl get services"]);
    lb.machine().ip("link delete kube-ipvs0")?;
    run(lb.machine(), &["nft", "add", "table", "ip", "nat"])?;
    run(lb.machine(), &["nft", "add", "chain", "ip", "nat", "KUBE-SERVICES"])?;
    run(
        lb.machine(),
        &["nft", "add", "rule", "ip", "nat", "KUBE-SERVICES", "ip", "daddr", "172.16.0.10", "accept"],
    )?;
    look(lb)?.assert_problem("kube-proxy-vip", &["chain KUBE-SERVICES of table ip nat"]);
    Ok(())
}

#[test]
fn another_machine_that_has_the_vip() -> TestResult {
    for family in Family::BOTH {
        let lab = build(Lab::builder().lbs(1).masters(1).multicast().families(&[family]))?;
        lab.lb(0).configure(|config| config.services.truncate(1))?;
        look(lab.lb(0))?.assert_wrong(&[]);
        let other = lab.add_machine("other", OTHER, false)?;
        let nodad = if family == Family::V6 { "nodad" } else { "" };
        other.ip(&format!("address add {}/{} dev eth0 {nodad}", family.vip(), family.host_length()))?;
        look(lab.lb(0))?.assert_problem("vip-answered", &["02:00:ac:10:00:07", &family.vip().to_string()]);
    }
    Ok(())
}

#[test]
fn a_vip_that_was_left_behind() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    lb.machine().ip("address add 172.16.0.10/24 dev eth0")?;
    look(lb)?.assert_problem("vip-left", &["xvip cleanup", "ip addr del 172.16.0.10/24 dev eth0"]);
    lb.machine().ip("address del 172.16.0.10/24 dev eth0")?;
    lb.machine().ip("address add 172.16.0.10/32 dev lo")?;
    look(lb)?.assert_problem("vip-left", &["is an address of lo"]);
    Ok(())
}

#[test]
fn haproxy_and_keepalived_on_the_same_node() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let mut node = IncumbentNode::beside(&lab, 0, &[Family::V4])?;
    node.start()?;
    wait::until("keepalived to have the VIP", SOON, || node.holds_vip())?;
    // Its plain service is not in our configuration, its API service is.
    let told = ask(lb, "3s")?;
    println!("{:#}", told.report);
    let (severity, text) = told.one("keepalived");
    assert_eq!(severity, "problem");
    assert!(text.contains("has VRID 60") && text.contains("systemctl disable --now keepalived"), "{text}");
    assert!(!told.wrong().any(|finding| finding["id"] == "vip-left"), "the VIP is keepalived's");
    Ok(())
}

#[test]
fn a_proxy_that_listens_at_the_vip() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let mut node = IncumbentNode::beside(&lab, 0, &[Family::V4])?;
    node.start_haproxy()?;
    lb.configure(|config| config.services.push(lab.plain_service(Family::V4)))?;
    let told = look(lb)?;
    println!("{:#}", told.report);
    let (severity, text) = told.one("listener");
    assert_eq!(severity, "advice");
    assert!(text.contains("haproxy (pid "), "{text}");
    Ok(())
}

#[test]
fn a_second_interface_in_the_vip_s_network() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    lb.machine().ip("link add second type bridge")?;
    lb.machine().ip("address add 172.16.0.99/24 dev second noprefixroute")?;
    lb.machine().ip("link set second up")?;
    let told = look(lb)?;
    told.assert_wrong(&["arp"]);
    assert!(told.one("arp").1.contains("net.ipv4.conf.second.arp_ignore=1"));
    Ok(())
}

#[test]
fn ipv6_that_is_switched_off() -> TestResult {
    let lab = build(Lab::builder().lbs(1).masters(1).multicast().families(&[Family::V6]))?;
    let lb = lab.lb(0);
    lb.configure(|config| config.services.truncate(1))?;
    lb.machine().sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
    let told = look(lb)?;
    assert!(told.one("ipv6").1.contains("sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"));
    Ok(())
}

#[test]
fn a_state_directory_that_is_read_only_no_unit_and_no_right_to_listen() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let ask = |command: &mut Command| -> Result<Told, Box<dyn Error>> {
        let output = lb.machine().output(command)?;
        let report =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
        Ok(Told { code: output.status.code(), report })
    };
    let words = ["doctor", "--json", "--listen", "500ms"];
    run(lb.machine(), &["mount", "-t", "tmpfs", "-o", "ro", "none", "/mnt"])?;
    let told = ask(lb.tool(&words).env("STATE_DIRECTORY", "/mnt"))?;
    told.assert_problem("state-directory", &["/mnt cannot be written to", "install -d -m 0750 /mnt"]);

    // `/run` is the machine's own; who runs xvip by systemd has a unit all the same.
    run(lb.machine(), &["mkdir", "-p", "/run/systemd/system"])?;
    let installed = ["/etc", "/usr/lib", "/lib"];
    if !installed.iter().any(|prefix| Path::new(prefix).join("systemd/system/xvip.service").exists()) {
        let told = look(lb)?;
        told.assert_wrong(&["unit"]);
        assert!(told.one("unit").1.contains("systemctl enable xvip"));
    }
    run(lb.machine(), &["rmdir", "/run/systemd/system"])?;

    let tool = lb.tool(&words);
    let mut limited = Command::new("setpriv");
    limited.args(["--bounding-set", "-net_raw"]).arg(tool.get_program()).args(tool.get_args());
    let told = ask(&mut limited)?;
    told.assert_wrong(&["permissions", "vrid-in-use"]);
    assert!(told.one("permissions").1.contains("CAP_NET_RAW"));
    Ok(())
}

#[test]
fn pins_cgroups_and_keys_that_are_not_as_they_should_be() -> TestResult {
    let lab = alone()?;
    let lb = lab.lb(0);
    let (pins, key) = (lab.dir().join("pins"), lab.dir().join("sync.key"));
    fs::write(&key, "a key of the lab, of 32 bytes or more\n")?;
    run(lb.machine(), &["chown", "1:1", key.to_str().unwrap_or_default()])?;
    run(lb.machine(), &["chmod", "600", key.to_str().unwrap_or_default()])?;
    lb.configure(|config| {
        config.node.push(format!("pin_path = {pins:?}"));
        config.exchange_flows((host(2), 7946).into(), &[(host(3), 7946).into()], &key);
    })?;
    run(lb.machine(), &["umount", "/sys/fs/cgroup"])?;
    let told = look(lb)?;
    told.assert_wrong(&["bpf-fs", "cgroup2", "sync-key"]);
    for (id, word) in
        [("bpf-fs", "mount -t bpf bpf"), ("cgroup2", "mount -t cgroup2"), ("sync-key", "chmod 640")]
    {
        let (severity, text) = told.one(id);
        assert_eq!(severity, "problem");
        assert!(text.contains(word), "{text}");
    }
    Ok(())
}
