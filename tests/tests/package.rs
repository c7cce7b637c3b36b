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
    system::{
        System,
        service::{UNIT, system_with_package, wait_active, wait_logged},
    },
    topology::Lab,
};
use serde_json::Value;
use tempfile::tempdir;

use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;

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
    let sums = Command::new("dpkg-deb").args(["--info"]).arg(&first_deb).arg("md5sums").output()?;
    assert_eq!(
        String::from_utf8(sums.stdout)?.lines().count(),
        listed.lines().filter(|line| line.starts_with('-')).count()
    );
    let control = output("dpkg-deb", &["--field"], &first_deb)?;
    for field in ["Package: xvip", &format!("Version: {VERSION}"), "libc6 (>= 2.", "dbus-system-bus"] {
        assert!(control.contains(field), "{field}: {control}");
    }

    // Debian's own judge of packages. `systemd` is what it is made for, and there is no other.
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--tag-display-limit", "0"]).arg(&first_deb);
    let judged = lintian.output()?;
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));

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
    let mut known = manifest(&["set", "image", "xvip=to-be-printed"])?;
    known["spec"]["containers"][0]["image"] = written["spec"]["containers"][0]["image"].clone();
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

/// The words behind an instruction of `packaging/Containerfile`, one line each.
fn instruction<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

/// Does what the Containerfile says, without a tool for containers: what it copies and runs, and then what the image would start.
fn the_image_works(system: &System, deb: &Path) -> TestResult {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/Containerfile"))?;
    assert_eq!(instruction(&text, "FROM"), ["debian:bookworm-slim"], "the system here is that Debian");
    let [copy] = instruction(&text, "COPY")[..] else { return Err("one COPY".into()) };
    let (pattern, to) = copy.split_once(' ').ok_or("COPY has two words")?;
    let (prefix, suffix) = pattern.split_once('*').ok_or("COPY has a pattern")?;
    let name = deb.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
    if cfg!(target_arch = "x86_64") {
        assert!(name.starts_with(prefix) && name.ends_with(suffix), "{pattern} does not find {name}");
    }
    system.write(to, fs::read(deb)?)?;
    for run in instruction(&text, "RUN") {
        system.run(&["sh", "-c", run])?;
    }
    assert!(!system.path(to).exists(), "the package is left in the image");
    let words = |name: &str| -> Result<Vec<String>, Box<dyn Error>> {
        Ok(serde_json::from_str(instruction(&text, name).first().ok_or("missing")?)?)
    };
    let (entry, command) = (words("ENTRYPOINT")?, words("CMD")?);
    let version = system.run(&[entry[0].as_str(), "--version"])?;
    assert!(version.contains(VERSION), "{version}");
    // Without the configuration that is mounted there it says so.
    let start: Vec<&str> = entry.iter().chain(&command).map(String::as_str).collect();
    let started = system.output(&start)?;
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(started.status.code() == Some(2) && said.contains("/etc/xvip/xvip.toml"), "{said}");
    system.run(&["rm", &entry[0]])?;
    Ok(())
}

/// The same on a system of RPM's. Debian has its `rpm`, which wants to be told that we know where we are; nobody has told it what
/// is installed there.
fn the_rpm_comes_and_goes(system: &System, lab: &Lab, package: &Path) -> TestResult {
    const DEBIAN: [&str; 2] = ["--force-debian", "--nodeps"];
    let rpm = |words: &[&str]| system.run(&[&["rpm"][..], words].concat());
    system.write("/tmp/xvip.rpm", fs::read(package)?)?;
    system.run(&["rm", "/etc/xvip/xvip.toml"])?;
    let said = rpm(&[&["--install"], &DEBIAN[..], &["/tmp/xvip.rpm"]].concat())?;
    assert!(said.contains("xvip is installed and not started"), "{said}");
    assert_eq!(system.run(&["stat", "--format=%U:%G %a", "/etc/xvip"])?.trim(), "root:xvip 2750");
    assert!(system.property(UNIT, "FragmentPath")?.ends_with("/lib/systemd/system/xvip.service"));
    // All but the mode of /etc/xvip is as it was packed.
    let differs = system.output(&["rpm", "--verify", "--nodeps", "xvip"])?;
    let differs = String::from_utf8(differs.stdout)?;
    assert!(differs.lines().all(|line| line.ends_with(" /etc/xvip")), "{differs}");
    let verified = system.run(&["systemd-analyze", "verify", UNIT])?;
    assert!(!verified.contains("xvip"), "{verified}");
    assert_eq!(system.property(UNIT, "ActiveState")?, "inactive");
    system.write("/etc/xvip/xvip.toml", lab.lb(0).config().to_toml())?;
    system.run(&["systemctl", "enable", "--now", "xvip"])?;
    wait_active(system)?;

    let pid = system.property(UNIT, "MainPID")?;
    rpm(&[&["--upgrade", "--replacepkgs"], &DEBIAN[..], &["/tmp/xvip.rpm"]].concat())?;
    wait_active(system)?;
    assert_ne!(system.property(UNIT, "MainPID")?, pid, "the daemon was not restarted");
    wait_logged(system, "succeeding a daemon that left")?;

    rpm(&["--erase", "--nodeps", "xvip"])?;
    assert_eq!(system.property(UNIT, "ActiveState")?, "inactive");
    assert!(!lab.lb(0).holds_vip());
    assert!(!system.path("/sys/fs/bpf/xvip").exists(), "the data plane is still there");
    for gone in ["/usr/bin/xvip", "/usr/share/doc/xvip", "/usr/share/xvip", "/usr/share/licenses/xvip"] {
        assert!(!system.path(gone).exists(), "{gone} is left");
    }
    assert!(system.path("/etc/xvip/xvip.toml").exists());
    Ok(())
}

#[test]
fn it_is_installed_upgraded_removed_and_purged() -> TestResult {
    let lab = Lab::builder().lbs(1).patience(4).build()?;
    let system = system_with_package(&lab)?;

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

    let source = packages::source(lab.dir())?;
    the_rpm_comes_and_goes(&system, &lab, &rpm::write(&source, lab.dir())?)?;
    system.run(&["rm", "/etc/xvip/xvip.toml"])?;
    the_image_works(&system, &deb::write(&source, lab.dir())?)?;
    Ok(())
}
