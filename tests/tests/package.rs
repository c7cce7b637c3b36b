//! The packages: what is in them, that the same sources give the same bytes, and what installing, upgrading, removing and purging the one
//! for Debian does on a node of the lab that has a Debian 12 of its own. Needs root, and Debian's mirror the first time.
//!
//! Runner: threads 1, minutes 15

#[path = "forwarding/streams.rs"]
mod streams;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_packaging::{Source, VERSION, deb, rpm};
use lb_tests::{
    packages,
    system::{System, base},
    topology::Lab,
    wait,
};
use serde_json::Value;
use tempfile::tempdir;

use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;

const UNIT: &str = "xvip.service";

fn output(program: &str, words: &[&str], file: &Path) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).args(words).arg(file).output()?;
    if !output.status.success() {
        return Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The files that both kinds have, by path in the one for Debian.
const FILES: [&str; 14] = [
    "./etc/xvip/",
    "./lib/systemd/system/xvip.service",
    "./usr/bin/xvip",
    "./usr/lib/sysusers.d/xvip.conf",
    "./usr/share/bash-completion/completions/xvip",
    "./usr/share/doc/xvip/README.md",
    "./usr/share/doc/xvip/xvip.toml",
    "./usr/share/fish/vendor_completions.d/xvip.fish",
    "./usr/share/man/man1/xvip.1.gz",
    "./usr/share/man/man1/xvip-backend-drain.1.gz",
    "./usr/share/man/man1/xvip-run.1.gz",
    "./usr/share/man/man5/xvip.toml.5.gz",
    "./usr/share/xvip/kubernetes/xvip.yaml",
    "./usr/share/zsh/vendor-completions/_xvip",
];

#[test]
fn the_packages_have_all_that_a_node_needs_and_are_the_same_each_time() -> TestResult {
    let directory = tempdir()?;
    // A small program in the place of a large one: what is packed does not matter here.
    let binary = directory.path().join("xvip");
    fs::copy("/bin/true", &binary)?;
    let source = Source { binary, ..packages_source(directory.path()) };
    let write = |name: &str| -> Result<(PathBuf, PathBuf), Box<dyn Error>> {
        let to = directory.path().join(name);
        Ok((deb::write(&source, &to)?, rpm::write(&source, &to)?))
    };
    let ((first_deb, first_rpm), (second_deb, second_rpm)) = (write("one")?, write("two")?);
    assert!(fs::read(&first_deb)? == fs::read(second_deb)?, "two packages for Debian differ");
    assert!(fs::read(&first_rpm)? == fs::read(second_rpm)?, "two RPM packages differ");

    let listed = output("dpkg-deb", &["--contents"], &first_deb)?;
    for file in FILES {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {file}"))).ok_or(file)?;
        assert!(line.contains("root/root"), "{line}");
    }
    assert!(!listed.contains("/etc/xvip/xvip.toml"), "a configuration would start it:\n{listed}");
    let control = output("dpkg-deb", &["--field"], &first_deb)?;
    for field in ["Package: xvip", &format!("Version: {VERSION}"), "libc6 (>= 2.", "dbus-system-bus"] {
        assert!(control.contains(field), "{field}: {control}");
    }

    let listed = output("rpm", &["--query", "--package", "--list"], &first_rpm)?;
    for file in FILES {
        let file = file.trim_start_matches('.').trim_end_matches('/');
        let file =
            file.replace("/lib/systemd", "/usr/lib/systemd").replace("vendor-completions", "site-functions");
        assert!(listed.lines().any(|line| line == file), "{file}: {listed}");
    }
    let scripts = output("rpm", &["--query", "--package", "--scripts"], &first_rpm)?;
    assert!(scripts.contains("try-restart") && scripts.contains("xvip cleanup"), "{scripts}");
    let needs = output("rpm", &["--query", "--package", "--requires"], &first_rpm)?;
    assert!(needs.contains("libc.so.6(GLIBC_2.") && needs.contains("systemd"), "{needs}");
    output("rpm", &["--checksig", "--nosignature"], &first_rpm)?;
    Ok(())
}

/// What kubectl makes of the manifest, as JSON, without asking any API server.
fn manifest(words: &[&str]) -> Result<Value, Box<dyn Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes/xvip.yaml");
    let words = [words, &["--local", "--output=json", "--filename"]].concat();
    Ok(serde_json::from_str(&output("kubectl", &words, &file)?)?)
}

/// Where `written` says something that `known` does not: Kubernetes has no such field there, or means another value.
fn unknown(written: &Value, known: &Value, path: &str) -> Vec<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(_)) => {
            let below =
                written.iter().map(|(key, value)| unknown(value, &known[key], &format!("{path}.{key}")));
            below.flatten().collect()
        }
        (Value::Array(written), Value::Array(there)) if written.len() == there.len() => {
            let below = written.iter().zip(there).map(|(value, known)| unknown(value, known, path));
            below.flatten().collect()
        }
        _ if written == known => Vec::new(),
        _ => vec![format!("{path}: {written}, and Kubernetes reads {known}")],
    }
}

#[test]
fn the_static_pod_is_what_kubernetes_has_types_for() -> TestResult {
    // The first as it is written, the second through the types of Kubernetes' own API, which leave out what they do not know.
    // (kubectl prints what it has changed, and nothing else.)
    let mut written = manifest(&["label", "to-be-printed=yes"])?;
    written["metadata"]["labels"].as_object_mut().ok_or("no labels")?.remove("to-be-printed");
    let image = written["spec"]["containers"][0]["image"].as_str().ok_or("no image")?;
    let known = manifest(&["set", "image", &format!("xvip={image}")])?;
    assert_eq!(unknown(&written, &known, ""), Vec::<String>::new());

    let spec = &written["spec"];
    assert_eq!(
        (&spec["hostNetwork"], &spec["priorityClassName"]),
        (&true.into(), &"system-node-critical".into())
    );
    // The pod may do what the unit lets the daemon do.
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/xvip.service"))?;
    let unit =
        unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).ok_or("no capabilities")?;
    let unit: Vec<&str> = unit.split(' ').map(|name| name.trim_start_matches("CAP_")).collect();
    let capabilities = &spec["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(capabilities["add"], Value::from(unit));
    assert_eq!(capabilities["drop"], Value::from(vec!["ALL"]));
    // Each mount has its volume, and what the daemon keeps outlives the container.
    let volumes = spec["volumes"].as_array().ok_or("no volumes")?;
    let mounts = spec["containers"][0]["volumeMounts"].as_array().ok_or("no mounts")?;
    for mount in mounts {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .ok_or("a mount without a volume")?;
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
    }
    for path in ["/sys/fs/bpf", "/sys/fs/cgroup", "/run/xvip", "/var/lib/xvip", "/etc/xvip"] {
        assert!(mounts.iter().any(|mount| mount["mountPath"] == path), "{path}");
    }
    Ok(())
}

fn packages_source(directory: &Path) -> Source {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Source { root, binary: directory.join("xvip"), epoch: 1_700_000_000, fast: true }
}

fn wait_active(system: &System) -> TestResult {
    let active = wait::until("it to be active", 4 * SOON, || {
        let status = system.output(&["xvip", "status", "--json"]).ok();
        let status: Option<Value> = status.and_then(|output| serde_json::from_slice(&output.stdout).ok());
        status.is_some_and(|status| status["vrrp"][0]["state"] == "active")
    });
    active.map_err(|error| format!("{error}\n{}", system.journal(UNIT)).into())
}

#[test]
fn it_is_installed_upgraded_removed_and_purged() -> TestResult {
    let lab = Lab::builder().lbs(1).patience(4).build()?;
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/xtask/system");
    let system = System::boot(lab.lb(0).machine(), &base::directory(&scratch)?, &lab.dir().join("system"))?;
    system.write("/tmp/xvip.deb", fs::read(packages::deb(lab.dir())?)?)?;

    // Where there is a configuration, it begins at once.
    system.write("/etc/xvip/xvip.toml", lab.lb(0).config().to_toml())?;
    let said = system.run(&["dpkg", "--install", "/tmp/xvip.deb"])?;
    assert!(!said.contains("not started"), "{said}");
    wait_active(&system)?;
    assert_eq!(system.run(&["stat", "--format=%U:%G %a", "/etc/xvip"])?.trim(), "root:xvip 2750");
    for page in ["xvip", "xvip-status", "xvip.toml"] {
        let page = system.run(&["man", "--warnings=all", page])?;
        assert!(page.contains("DESCRIPTION") && !page.contains("warning:"), "{page}");
    }

    // An upgrade: nobody notices.
    let streams = Streams::open(&lab, 6)?;
    let load = lab.steady_load(SOON)?;
    let (mark, pid) = (load.mark(), system.property(UNIT, "MainPID")?);
    system.run(&["dpkg", "--install", "/tmp/xvip.deb"])?;
    wait_active(&system)?;
    assert_ne!(system.property(UNIT, "MainPID")?, pid, "the daemon was not restarted");
    load.wait_answered(mark, 50, SOON)?;
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    assert_eq!(streams.go_on()?, 6);
    drop((streams, load));

    // Whoever has stopped it does not have it started by an upgrade.
    system.run(&["systemctl", "stop", "xvip"])?;
    system.run(&["dpkg", "--install", "/tmp/xvip.deb"])?;
    assert_eq!(system.property(UNIT, "ActiveState")?, "inactive");

    // Removed, nothing is left at work; what was written stays until it is purged, and the configuration even then.
    system.run(&["dpkg", "--remove", "xvip"])?;
    assert!(!lab.lb(0).holds_vip());
    assert!(!system.path("/sys/fs/bpf/xvip").exists(), "the data plane is still there");
    let links = lab.lb(0).machine().output(Command::new("ip").args(["link", "show", "eth0"]))?;
    assert!(!String::from_utf8_lossy(&links.stdout).contains("xdp"), "{links:?}");
    assert!(system.path("/var/lib/xvip").exists());
    system.run(&["dpkg", "--purge", "xvip"])?;
    for gone in ["/var/lib/xvip", "/var/log/xvip", "/run/xvip", "/usr/bin/xvip", "/usr/share/doc/xvip"] {
        assert!(!system.path(gone).exists(), "{gone} is left");
    }
    assert!(system.path("/etc/xvip/xvip.toml").exists());
    Ok(())
}
