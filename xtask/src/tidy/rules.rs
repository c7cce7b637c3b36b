//! The rules. Each takes the whole tree and gives its breaches; adding one is one entry in [`RULES`].

use super::source::{before_tests, code_only, imports, lines_with, test_module_names};
use super::{Breach, File};

/// A rule with its name.
pub struct Rule {
    /// In words.
    pub name: &'static str,
    /// Finds every breach.
    pub check: fn(&[File]) -> Vec<Breach>,
}

/// Every rule.
pub const RULES: [Rule; 8] = [
    Rule { name: "files are named after what they own", check: names },
    Rule { name: "pure files do no I/O and read no clock", check: purity },
    Rule { name: "no test is ignored and nothing is left to do", check: unfinished },
    Rule { name: "unsafe only where it is needed", check: unsafe_code },
    Rule { name: "a mod.rs only lists modules", check: module_lists },
    Rule { name: "no path of one machine", check: machine_paths },
    Rule { name: "no binaries", check: binaries },
    Rule { name: "source files stay under 1,000 lines", check: length },
];

/// File stems that say nothing about what the file owns.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "helpers", "helper", "manager", "misc", "common"];

/// Files, and directories (with `/` at the end), that must stay pure.
const PURE: &[&str] = &[
    "lb-common/src/",
    "tests/load/src/latency.rs",
    "tests/load/src/message.rs",
    "lb-userspace/src/apportion.rs",
    "lb-userspace/src/certificate.rs",
    "lb-userspace/src/config/",
    "lb-userspace/src/connections/book.rs",
    "lb-userspace/src/connections/moment.rs",
    "lb-userspace/src/connections/record.rs",
    "lb-userspace/src/connections/snapshot.rs",
    "lb-userspace/src/connections/status.rs",
    "lb-userspace/src/connections/who.rs",
    "lb-userspace/src/controller/alerts.rs",
    "lb-userspace/src/controller/doubt.rs",
    "lb-userspace/src/controller/host_sockets.rs",
    "lb-userspace/src/controller/inheritance.rs",
    "lb-userspace/src/controller/reserved_ports.rs",
    "lb-userspace/src/desired.rs",
    "lb-userspace/src/doctor/adverts.rs",
    "lb-userspace/src/doctor/drivers.rs",
    "lb-userspace/src/doctor/facts.rs",
    "lb-userspace/src/doctor/findings.rs",
    "lb-userspace/src/doctor/findings/",
    "lb-userspace/src/doctor/firewall.rs",
    "lb-userspace/src/drift.rs",
    "lb-userspace/src/flows.rs",
    "lb-userspace/src/health/rise_fall.rs",
    "lb-userspace/src/health/tally.rs",
    "lb-userspace/src/history/event.rs",
    "lb-userspace/src/history/explain.rs",
    "lb-userspace/src/import/",
    "lb-userspace/src/maglev.rs",
    "lb-userspace/src/metrics.rs",
    "lb-userspace/src/pcapng.rs",
    "lb-userspace/src/peaks.rs",
    "lb-userspace/src/reasons.rs",
    "lb-userspace/src/rebalance/",
    "lb-userspace/src/reconcile.rs",
    "lb-userspace/src/replica.rs",
    "lb-userspace/src/resets/agenda.rs",
    "lb-userspace/src/resets/pace.rs",
    "lb-userspace/src/resets/segments.rs",
    "lb-userspace/src/round_robin.rs",
    "lb-userspace/src/slow_start.rs",
    "lb-userspace/src/status/text.rs",
    "lb-userspace/src/status/without_daemon.rs",
    "lb-userspace/src/steering.rs",
    "lb-userspace/src/succession.rs",
    "lb-userspace/src/sync/agreement.rs",
    "lb-userspace/src/sync/codec.rs",
    "lb-userspace/src/sync/join.rs",
    "lb-userspace/src/sync/noise.rs",
    "lb-userspace/src/sync/pace.rs",
    "lb-userspace/src/sync/peer.rs",
    "lb-userspace/src/sync/pulse.rs",
    "lb-userspace/src/sync/queue.rs",
    "lb-userspace/src/sync/receiver.rs",
    "lb-userspace/src/sync/record.rs",
    "lb-userspace/src/sync/sender.rs",
    "lb-userspace/src/sync/status.rs",
    "lb-userspace/src/top/draw.rs",
    "lb-userspace/src/top/rates.rs",
    "lb-userspace/src/top/state.rs",
    "lb-userspace/src/trace/",
    "lb-userspace/src/track/answers.rs",
    "lb-userspace/src/track/echo.rs",
    "lb-userspace/src/track/rise_fall.rs",
    "lb-userspace/src/track/weight.rs",
    "lb-userspace/src/vrrp/advert.rs",
    "lb-userspace/src/vrrp/auth.rs",
    "lb-userspace/src/vrrp/frame.rs",
    "lb-userspace/src/netlink/link.rs",
    "lb-userspace/src/vrrp/fsm.rs",
    "lb-userspace/src/vrrp/group.rs",
    "tests/src/bench/packet/cases.rs",
    "tests/src/bench/icount/record.rs",
    "tests/src/bench/plot.rs",
    "tests/src/bench/samples.rs",
    "tests/src/bench/series.rs",
    "tests/src/bench/wire/strangers.rs",
    "tests/src/bench/wire/walk.rs",
    "tests/src/guest/report.rs",
    "tests/src/outage.rs",
    "tests/src/vm/cpio.rs",
    "tests/src/vm/image.rs",
    "tests/src/vm/modules.rs",
    "lb-userspace/src/web/admission.rs",
    "lb-userspace/src/web/attempts.rs",
    "lb-userspace/src/web/page.rs",
    "lb-userspace/src/web/page/",
    "lb-userspace/src/web/samples.rs",
    "lb-userspace/src/web/sessions.rs",
    "lb-userspace/src/web/source.rs",
];
/// Inside those directories, but not pure: it reads the file.
const NOT_PURE: [&str; 1] = ["lb-userspace/src/config/load.rs"];

/// What a pure file must not name. In `lb-common`, aya is allowed: the feature `user` implements its `Pod` there.
const IMPURE: [&str; 20] = [
    "tokio",
    "aya",
    "rtnetlink",
    "nix",
    "libc",
    "socket2",
    "hyper",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::io::stdin",
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
];

/// Where `lb-userspace` may be unsafe: map access and sockets that the standard library has no words for.
const UNSAFE: [&str; 7] = [
    "lb-userspace/src/announce.rs",
    "lb-userspace/src/announce/",
    "lb-userspace/src/dataplane.rs",
    "lb-userspace/src/dataplane/",
    "lb-userspace/src/doctor/gather/system_calls.rs",
    "lb-userspace/src/privileges.rs",
    "lb-userspace/src/vrrp/socket.rs",
];

const BINARY_ENDINGS: [&str; 9] = [".o", ".so", ".a", ".rlib", ".elf", ".bin", ".pcap", ".pcapng", ".bc"];
const LONGEST: usize = 1000;

fn names(files: &[File]) -> Vec<Breach> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    let empty = rust.filter(|file| {
        let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        stem.rsplit('_').next().is_some_and(|last| EMPTY_NAMES.contains(&last))
    });
    empty.map(|file| breach(&file.path, None, "this name says nothing: name it after what it owns")).collect()
}

fn purity(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for listed in PURE.iter().chain(&NOT_PURE) {
        if !files.iter().any(|file| covers(listed, &file.path)) {
            let what =
                "listed as pure (or as an exception), but not there: correct the list in tidy/rules.rs";
            breaches.push(breach(listed, None, what));
        }
    }
    let for_tests = test_modules(files);
    for file in files {
        let pure =
            PURE.iter().any(|listed| covers(listed, &file.path)) && !NOT_PURE.contains(&file.path.as_str());
        if let Some(source) =
            file.rust().filter(|_| pure && !for_tests.iter().any(|tests| covers(tests, &file.path)))
        {
            breaches.extend(impurities(&file.path, source));
        }
    }
    breaches
}

fn impurities(path: &str, source: &str) -> Vec<Breach> {
    let code = code_only(source);
    let code = before_tests(&code);
    let imports = imports(code);
    let mut breaches = Vec::new();
    for name in IMPURE {
        if name == "aya" && path.starts_with("lb-common/") {
            continue;
        }
        let imported = imports.iter().filter(|(_, path)| is_below(path, name)).map(|(line, _)| *line);
        // A crate is only named with a path after it: `tokio::`, not a variable called `nix`.
        let spelled = if name.contains("::") { name.to_owned() } else { format!("{name}::") };
        let mut lines: Vec<usize> = imported.chain(lines_with(code, &spelled)).collect();
        lines.sort_unstable();
        lines.dedup();
        let what = format!("{name} in a pure file: let the caller do it and pass in the result");
        breaches.extend(lines.iter().map(|line| breach(path, Some(*line), &what)));
    }
    breaches
}

fn is_below(path: &str, name: &str) -> bool {
    path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
}

fn unfinished(files: &[File]) -> Vec<Breach> {
    let cases = [
        ("#[ignore", "an ignored test checks nothing: fix it, or assert what is wrong today and say why"),
        ("todo!", "finish it, or leave it out"),
        ("unimplemented!", "finish it, or leave it out"),
    ];
    in_code(files, &cases)
}

fn in_code(files: &[File], cases: &[(&str, &str)]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in files {
        let Some(source) = file.rust() else { continue };
        let code = code_only(source);
        for (word, what) in cases {
            let lines = lines_with(&code, word);
            breaches
                .extend(lines.iter().map(|line| breach(&file.path, Some(*line), &format!("{word}: {what}"))));
        }
    }
    breaches
}

fn unsafe_code(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("lb-userspace/")) {
        let Some(source) = file.rust() else { continue };
        if UNSAFE.iter().any(|listed| covers(listed, &file.path)) {
            continue;
        }
        let what = format!("unsafe is only for {}", UNSAFE.join(", "));
        let lines = lines_with(&code_only(source), "unsafe");
        breaches.extend(lines.iter().map(|line| breach(&file.path, Some(*line), &what)));
    }
    breaches
}

fn module_lists(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("/mod.rs")) {
        let Some(source) = file.rust() else { continue };
        let code = code_only(source);
        let definition =
            ["fn ", "struct ", "enum ", "trait ", "impl ", "impl<", "const ", "static ", "macro_rules!"];
        for (number, line) in code.lines().enumerate() {
            let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let line = line.trim_start_matches("pub ").trim_start_matches("async ");
            if definition.iter().any(|word| line.starts_with(word)) {
                let what = "a mod.rs only lists modules: move this to a file of its own";
                breaches.push(breach(&file.path, Some(number + 1), what));
            }
        }
    }
    breaches
}

fn machine_paths(files: &[File]) -> Vec<Breach> {
    // Put together here, or this file would be the first breach.
    let roots = ["home", "root", "Users", "work"].map(|name| format!("/{name}/"));
    let mut breaches = Vec::new();
    for file in files {
        for (number, line) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
            for root in &roots {
                // A directory further down (`a/work/b`, `$HOME/work/`) is somebody else's business.
                let absolute = line.match_indices(root.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back().unwrap_or(' ');
                    !(before.is_alphanumeric() || "_-./}*~".contains(before))
                });
                if absolute {
                    let what = format!("{root}... only exists on some machine");
                    breaches.push(breach(&file.path, Some(number + 1), &what));
                }
            }
        }
    }
    breaches
}

fn binaries(files: &[File]) -> Vec<Breach> {
    let is_binary =
        |file: &&File| file.text.is_none() || BINARY_ENDINGS.iter().any(|ending| file.path.ends_with(ending));
    let what = "not text: build it, or generate it in the test";
    files.iter().filter(is_binary).map(|file| breach(&file.path, None, what)).collect()
}

fn length(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in files {
        let lines = file.rust().map_or(0, |source| source.lines().count());
        if lines >= LONGEST {
            breaches.push(breach(&file.path, None, &format!("{lines} lines: split it along what it owns")));
        }
    }
    breaches
}

/// `listed` is a file, whose submodules (`NAME/...`) it covers as well, or a directory with `/` at its end.
fn covers(listed: &str, path: &str) -> bool {
    let directory = listed.strip_suffix(".rs").map(|stem| format!("{stem}/"));
    path == listed || path.starts_with(directory.as_deref().unwrap_or(listed))
}

/// The files of the modules that are declared with `#[cfg(test)] mod NAME;`; what is below them is for tests, too.
fn test_modules(files: &[File]) -> Vec<String> {
    let mut paths = Vec::new();
    for file in files {
        let Some(source) = file.rust() else { continue };
        let (directory, name) = file.path.rsplit_once('/').unwrap_or_default();
        let own = name.trim_end_matches(".rs");
        let directory = match own {
            "mod" | "lib" | "main" => directory.to_owned(),
            _ => format!("{directory}/{own}"),
        };
        let code = code_only(source);
        let modules = test_module_names(&code);
        paths.extend(modules.iter().map(|module| format!("{directory}/{module}.rs")));
    }
    paths
}

fn breach(path: &str, line: Option<usize>, what: &str) -> Breach {
    let place = line.map_or_else(|| path.to_owned(), |line| format!("{path}:{line}"));
    Breach { place, what: what.to_owned() }
}

#[cfg(test)]
mod tests;
