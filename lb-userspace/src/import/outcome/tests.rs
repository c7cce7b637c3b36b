mod fuzz;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use super::*;
use crate::{
    cli::colour::Colours,
    config::model::Vip,
    import::{
        report::{Page, Report, render},
        source::Place,
    },
    password::SAMPLE,
    status::table::Look,
};

/// The customers' file sets: the directory, and its files in the order in which they are given.
const SETS: [(&str, &[(Format, &str)]); 5] = [
    ("s0", &[(Format::Haproxy, "haproxy.cfg"), (Format::Keepalived, "keepalived-lb1.conf")]),
    (
        "s1",
        &[
            (Format::Haproxy, "haproxy.cfg"),
            (Format::Keepalived, "keepalived-master1.conf"),
            (Format::Keepalived, "keepalived-master2.conf"),
            (Format::Keepalived, "keepalived-master3.conf"),
        ],
    ),
    ("s2", &[(Format::Haproxy, "haproxy.cfg"), (Format::Keepalived, "keepalived.conf")]),
    (
        "s3",
        &[(Format::Haproxy, "haproxy.cfg"), (Format::Crm, "crm.txt"), (Format::Corosync, "corosync.conf")],
    ),
    (
        "s4",
        &[
            (Format::Haproxy, "haproxy.cfg"),
            (Format::Keepalived, "keepalived-lb1.conf"),
            (Format::Keepalived, "keepalived-lb2.conf"),
        ],
    ),
];

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/import")
}

fn input(format: Format, name: &str, bytes: &[u8]) -> Input {
    Input { format, name: name.to_owned(), bytes: bytes.to_vec() }
}

fn set(name: &str) -> Vec<Input> {
    let (dir, files) = SETS.iter().find(|(dir, _)| *dir == name).expect("a set");
    let files = files.iter().map(|(format, file)| {
        let bytes = fs::read(golden().join(dir).join(file)).expect("a golden file");
        input(*format, file, &bytes)
    });
    files.collect()
}

fn imported(inputs: &[Input], options: &Options) -> Outcome {
    read(inputs).finish(options, &|_| Some(SAMPLE.to_owned()))
}

fn nodes(outcome: &Outcome) -> &[NodeFile] {
    outcome.nodes.as_deref().unwrap_or_else(|refused| panic!("{refused:#?}"))
}

/// Compares, or writes anew with `XVIP_BLESS=1`.
fn same(path: PathBuf, text: &str) {
    if env::var_os("XVIP_BLESS").is_some() {
        fs::write(&path, text).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs (XVIP_BLESS=1 writes it anew):\n{text}", path.display());
}

#[test]
fn the_customers_files_become_what_they_always_became() {
    for (name, _) in SETS {
        let outcome = imported(&set(name), &Options::default());
        let files: BTreeSet<_> = nodes(&outcome).iter().map(|node| node.plan.file_name.clone()).collect();
        assert_eq!(files.len(), nodes(&outcome).len(), "each has a file of its own");
        for node in nodes(&outcome) {
            same(golden().join(name).join(format!("{}.toml", node.plan.file_name)), &node.text);
        }
        let page = Page { look: Look::Plain, width: 80, colours: Colours::Off };
        let report = render(&Report::new(&outcome), page);
        assert!(report.is_ascii() || name != "s0", "{report}");
        same(golden().join(name).join("report.txt"), &report);
    }
}

/// A cluster's haproxy.cfg with a page, whose listener has these words.
fn with_page(bind: &str) -> Outcome {
    let text = format!(
        "global\n crt-base /etc/haproxy/certs/\nfrontend api\n bind 172.16.0.10:6443\n mode tcp\n default_backend masters\n\
         backend masters\n mode tcp\n server m1 172.16.0.4:6443 check\n\
         listen stats\n mode http\n bind {bind}\n stats enable\n stats uri /stats\n stats auth admin:secret\n"
    );
    let vips = vec![Vip { address: [172, 16, 0, 10].into(), prefix_len: 24 }];
    let options = Options { interface: Some("eth0".to_owned()), vips, ..Options::default() };
    imported(&[input(Format::Haproxy, "haproxy.cfg", text.as_bytes())], &options)
}

#[test]
fn the_page_s_certificate_goes_with_it() {
    for (crt, file) in [("/etc/ssl/x.pem", "/etc/ssl/x.pem"), ("x.pem", "/etc/haproxy/certs/x.pem")] {
        let outcome = with_page(&format!("*:8404 ssl crt {crt} alpn h2,http/1.1"));
        let [node] = nodes(&outcome) else { panic!("one node") };
        for line in [format!("cert_file = {file:?}"), format!("key_file = {file:?}")] {
            assert!(node.text.lines().any(|found| found.starts_with(&line)), "{line} in\n{}", node.text);
        }
        let remedy = format!("chgrp xvip {file} && chmod 640 {file}");
        assert!(node.text.replace("\n# ", " ").contains(&remedy), "{}", node.text);
        assert!(!node.warnings.iter().any(|warning| warning.contains("without TLS")), "{:?}", node.warnings);
    }
    let plain = with_page("*:8404");
    assert!(!nodes(&plain)[0].text.contains("cert_file"));
    assert!(nodes(&plain)[0].warnings.iter().any(|warning| warning.contains("without TLS")));
    // A directory, a list, or nothing: which file it would be is not known.
    for words in ["ssl crt /etc/haproxy/certs/", "ssl crt-list /etc/list", "ssl", "ssl crt @store/x"] {
        let outcome = with_page(&format!("*:8404 {words}"));
        assert!(!nodes(&outcome)[0].text.contains("[http]"), "{words}");
        let notes: Vec<_> = outcome.lines.values().flatten().map(|entry| entry.note.as_str()).collect();
        assert!(
            notes.iter().any(|note| note.contains("write its cert_file and key_file")),
            "{words}: {notes:?}"
        );
    }
}

/// What the documents say of the sets, apart from the golden files.
#[test]
fn the_findings_are_those_that_were_measured() {
    let found = |name| {
        let outcome = imported(&set(name), &Options::default());
        outcome.findings.iter().map(|finding| finding.id).collect::<BTreeSet<_>>()
    };
    assert!(found("s1").is_superset(&BTreeSet::from(["E1", "E3", "W3", "W5", "W7", "W8", "W9", "W10"])));
    assert!(found("s2").is_superset(&BTreeSet::from(["E2", "W7", "W8", "W9", "W10"])));
    let s0 = found("s0");
    assert!(s0.is_superset(&BTreeSet::from(["W3", "W4", "W5", "W8", "W9", "W10"])));
    assert!(s0.is_disjoint(&BTreeSet::from(["E1", "E2", "E3", "W7"])), "{s0:?}");
    assert!(found("s4").is_superset(&BTreeSet::from(["W3", "W6", "W8", "W10"])));
    assert!(!found("s4").contains("E3"), "a weight of 20 and no gap");
}

#[test]
fn take_over_times_are_those_that_were_measured() {
    use crate::import::timing::Event;
    for (name, event, measured_ms) in [
        ("s0", Event::ProcessDies, 4600),
        ("s0", Event::NodeDies, 3500),
        ("s1", Event::ProcessDies, 11_000),
        ("s1", Event::ProcessDies, 10_400),
        ("s2", Event::ProcessDies, 6500),
        ("s4", Event::ProcessDies, 9400),
        ("s4", Event::NodeDies, 9300),
    ] {
        let outcome = imported(&set(name), &Options::default());
        let row = outcome.races[0].timing.iter().find(|row| row.event == event).expect("its row");
        let (least, most) = (row.old.at_least_ms.expect("ends"), row.old.at_most_ms.expect("ends"));
        assert!(least <= measured_ms && measured_ms <= most + 100, "{name} {event:?}: {least} to {most}");
    }
}

#[test]
fn of_each_file_the_same_virtual_router_comes() {
    let outcome = imported(&set("s1"), &Options::default());
    let instance = |node: usize| &nodes(&outcome)[node].plan.instances[0];
    for node in 0..3 {
        let instance = instance(node);
        assert_eq!(
            (instance.virtual_router_id.value, instance.auth_pass.as_ref().map(|key| key.value.as_str())),
            (50, Some("123456"))
        );
        // A negative weight is for the time of a failure, in which xvip does not take part.
        assert_eq!(usize::from(instance.priority.value), 100 - node);
        assert!(instance.tracks.is_empty());
    }
    let s2 = imported(&set("s2"), &Options::default());
    assert_eq!(nodes(&s2)[0].plan.instances[0].priority.value, 111, "100, and 11 while HAProxy runs");
}

/// Every line of every input file there is, each exactly once and in order.
#[test]
fn every_line_of_every_golden_input_is_accounted_for() {
    let mut all: Vec<Vec<Input>> = SETS.iter().map(|(name, _)| set(name)).collect();
    for (dir, format) in
        [("haproxy", Format::Haproxy), ("keepalived", Format::Keepalived), ("crm", Format::Crm)]
    {
        let Ok(entries) = fs::read_dir(golden().join(dir)) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            if path.is_file() && !name.ends_with(".md") {
                all.push(vec![input(format, &name, &fs::read(&path).expect("readable"))]);
            }
        }
    }
    assert!(all.len() > 10, "{}", all.len());
    for inputs in all {
        accounted(&inputs, &imported(&inputs, &Options::default()));
    }
}

pub(super) fn accounted(inputs: &[Input], outcome: &Outcome) {
    let report = Report::new(outcome);
    assert_eq!(report.files.len(), inputs.len());
    for (file, input) in report.files.iter().zip(inputs) {
        let text = String::from_utf8_lossy(&input.bytes);
        let numbers: Vec<usize> = file.lines.iter().map(|line| line.line).collect();
        let count = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().count();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{}", input.name);
        assert!(file.lines.iter().all(|line| !line.words.is_empty()), "{}", input.name);
    }
    let lines: usize = report.files.iter().map(|file| file.lines.len()).sum();
    assert_eq!(report.summary.values().sum::<usize>(), lines);
}

#[test]
fn nothing_of_the_customers_files_is_unknown_and_each_note_says_why() {
    for (name, _) in SETS {
        let outcome = imported(&set(name), &Options::default());
        assert_eq!(outcome.syntax_errors().count(), 0, "{name}");
        for ((file, line), entries) in &outcome.lines {
            for entry in entries {
                assert!(entry.fate != Fate::Unknown, "{name} {} {line}: {entry:?}", file.0);
                let silent = matches!(entry.fate, Fate::Exact | Fate::Blank);
                assert!(silent || !entry.note.is_empty(), "{name} {line}: {entry:?}");
            }
        }
    }
}

/// More than fits is refused, and soon.
#[test]
fn huge_files_are_refused() {
    use std::fmt::Write as _;
    let mut haproxy = String::from("listen api\n mode tcp\n");
    for number in 0..1000_u32 {
        let _ = writeln!(
            haproxy,
            " bind *:{}\n server s{number} 10.1.{}.{}:6443 check weight 3",
            1000 + number,
            number >> 8,
            number & 255
        );
    }
    let mut keepalived =
        String::from("vrrp_instance a {\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {\n");
    for number in 0..500_u32 {
        let _ = writeln!(keepalived, " 10.2.{}.{}", number >> 8, number & 255);
    }
    keepalived.push_str(" }\n}\n");
    let inputs = [
        input(Format::Haproxy, "h", haproxy.as_bytes()),
        input(Format::Keepalived, "k", keepalived.as_bytes()),
    ];
    let begin = std::time::Instant::now();
    let outcome = imported(&inputs, &Options::default());
    assert!(begin.elapsed() < std::time::Duration::from_secs(60), "{:?}", begin.elapsed());
    let refused = outcome.nodes.as_ref().expect_err("too many");
    assert!(refused[0].contains("has room for"), "{refused:?}");
    accounted(&inputs, &outcome);
}

#[test]
fn without_a_vip_the_way_out_is_named() {
    let haproxy = set("s0").remove(0);
    let outcome = imported(std::slice::from_ref(&haproxy), &Options::default());
    let refused = outcome.nodes.expect_err("there is no VIP");
    assert!(refused.len() == 1 && refused[0].contains("--vip"), "{refused:?}");
    let vip = Vip { address: [10, 0, 0, 1].into(), prefix_len: 24 };
    let options = Options { vips: vec![vip], ..Options::default() };
    let refused =
        imported(std::slice::from_ref(&haproxy), &options).nodes.expect_err("there is no interface");
    assert!(refused[0].contains("--interface"), "{refused:?}");
    let options = Options { interface: Some("eth1".to_owned()), ..options };
    let outcome = imported(&[haproxy], &options);
    let node = &nodes(&outcome)[0];
    assert!(node.text.contains("vip = \"10.0.0.1/24\"") && !node.text.contains("\nvrrp ="), "{}", node.text);
    assert_eq!(node.plan.interface.value, "eth1");
}

#[test]
fn without_haproxy_there_is_nothing_to_forward() {
    let keepalived = set("s0").remove(1);
    let refused = imported(&[keepalived], &Options::default()).nodes.expect_err("no proxy");
    assert!(refused[0].contains("--haproxy"), "{refused:?}");
}

#[test]
fn idle_timeouts_are_kept_where_that_is_asked_for() {
    let options = Options { keep_timeouts: true, ..Options::default() };
    let outcome = imported(&set("s1"), &options);
    assert!(nodes(&outcome)[0].text.contains("\nidle_timeout = \"1m\""), "{}", nodes(&outcome)[0].text);
    // xvip cuts nothing that is idle for less than a minute.
    let outcome = imported(&set("s0"), &options);
    assert!(nodes(&outcome)[0].text.contains("\nidle_timeout = \"1m\""), "{}", nodes(&outcome)[0].text);
}

#[test]
fn a_syntax_error_has_its_place_and_the_rest_is_told() {
    let mut inputs = set("s0");
    inputs[0].bytes =
        b"frontend api\n  bind *:6443\n  mode tcp\n  default_backend \"api\n\nbackend api\n  mode tcp\n"
            .to_vec();
    let outcome = imported(&inputs, &Options::default());
    let errors: Vec<Place> = outcome.syntax_errors().map(|entry| entry.place).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!((errors[0].file, errors[0].line), (FileId(0), 4));
    accounted(&inputs, &outcome);
}

#[test]
fn names_become_addresses_where_they_are_looked_up() {
    let inputs = set("s3");
    let outcome = imported(&inputs, &Options::default());
    let of = |outcome: &Outcome| nodes(outcome)[0].plan.services[0].backends.len();
    assert_eq!(of(&outcome), 2);
    let mut reading = read(&inputs);
    let names = reading.names();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["kube-mast03.kube.demo"]);
    reading.resolve(&names.into_iter().map(|name| (name, IpAddr::from([192, 168, 4, 28]))).collect());
    let outcome = reading.finish(&Options::default(), &|_| None);
    assert_eq!(of(&outcome), 3);
    assert!(nodes(&outcome)[0].text.contains("CHECK: the password of admin could not be hashed"));
}

/// No password of the files is in the report or the configuration but where it is used.
#[test]
fn passwords_are_not_told() {
    for (name, secret) in
        [("s0", "1111"), ("s1", "admin123"), ("s1", "123456"), ("s2", "Admin123"), ("s3", "admin:admin")]
    {
        let outcome = imported(&set(name), &Options::default());
        let report = Report::new(&outcome);
        let text = render(&report, Page { look: Look::Plain, width: 200, colours: Colours::Off });
        assert!(!text.contains(secret), "{name}: {secret}");
        let files = serde_json::to_string(&(&report.files, &report.findings)).expect("JSON");
        assert!(!files.contains(secret), "{name}: {secret}");
    }
}
