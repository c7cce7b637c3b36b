//! Whatever the file is: no panic, each line accounted for, and time that grows with its length and no faster.
//! `XVIP_FUZZ_INPUTS=N` is how many inputs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{lint, read, tests};
use crate::import::{
    incumbent::Incumbent,
    ledger::Ledger,
    source::{FileId, Source},
};

const FILES: [&str; 8] = [
    include_str!("../../../../tests/golden/import/haproxy/s0.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/s1.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/s2.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/s3.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/kubeadm.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/access.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/faults.cfg"),
    include_str!("../../../../tests/golden/import/haproxy/keywords-2.6.txt"),
];

fn inputs() -> u32 {
    std::env::var("XVIP_FUZZ_INPUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

fn holds(bytes: &[u8]) {
    let source = Source::new("fuzz", bytes);
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    read(&source, FileId(0), &mut incumbent, &mut ledger);
    lint(&incumbent, &mut ledger);
    for finding in ledger.findings() {
        assert!(!finding.places.is_empty() && !finding.message.is_empty() && !finding.remedy.is_empty());
    }
    tests::unaccounted(&ledger, &source, "fuzz");
}

fn run(strategy: impl Strategy<Value = Vec<u8>>) {
    let config = Config { cases: inputs(), failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |bytes| {
            holds(&bytes);
            Ok(())
        })
        .unwrap();
}

/// Words of the files, of which lines are made that nobody wrote.
fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> =
        FILES.iter().flat_map(|file| file.split_whitespace()).map(str::to_owned).collect();
    words.extend(
        [
            "\"",
            "'",
            "\\",
            "${",
            "$A",
            "\"$A\"",
            "\"${A-b}\"",
            "{",
            "}",
            "!",
            "0",
            "-1",
            "99999999999",
            "::",
            "é\u{0}",
        ]
        .map(String::from),
    );
    words.sort();
    words.dedup();
    words
}

#[test]
fn raw_bytes() {
    run(prop::collection::vec(any::<u8>(), 0..200));
}

#[test]
fn words_in_any_order() {
    let word = prop::sample::select(vocabulary());
    let line = prop::collection::vec(word, 0..6).prop_map(|words| words.join(" "));
    let head = prop::sample::select(vec![
        "global",
        "defaults",
        "defaults d",
        "frontend f",
        "backend b",
        "listen l",
        "listen l2 from d",
    ]);
    let section = (head, prop::collection::vec(line, 0..8))
        .prop_map(|(head, lines)| format!("{head}\n{}\n", lines.join("\n")));
    run(prop::collection::vec(section, 0..5).prop_map(|sections| sections.concat().into_bytes()));
}

#[test]
fn files_with_changes() {
    let change = (any::<prop::sample::Index>(), 0..5_u8, any::<u8>(), any::<prop::sample::Index>());
    let changed = (prop::sample::select(FILES.to_vec()), prop::collection::vec(change, 1..12)).prop_map(
        |(file, changes)| {
            let mut bytes = file.as_bytes().to_vec();
            for (at, kind, byte, other) in changes {
                if bytes.is_empty() {
                    break;
                }
                let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    3 => bytes.swap(at, other),
                    // A piece is moved.
                    _ => bytes.rotate_left(at),
                }
            }
            bytes
        },
    );
    run(changed);
}

/// What this thread has worked: the others of the machine do not count.
fn worked() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// A name, and a file of about so many lines.
type Shape = (&'static str, fn(usize) -> String);

/// A file that is some times as long may take as many times as long, and something for a busy machine. What grows with the
/// square shows best in long files: with many inputs they are longer.
#[test]
fn time_grows_with_the_length_alone() {
    let shapes: [Shape; 14] = [
        ("servers", |n| format!("listen a\n bind :1\n{}", " server s 10.0.0.1:1 check\n".repeat(n))),
        ("sections", |n| {
            (0..n).map(|at| format!("listen a{at}\n bind :1\n server s 10.0.0.1:1\n")).collect()
        }),
        ("frontends of one backend", |n| {
            let fronts: String =
                (0..n).map(|at| format!("frontend f{at}\n bind :1\n default_backend b\n")).collect();
            format!("{fronts}backend b\n{}", " server s 10.0.0.1:1\n".repeat(20))
        }),
        ("defaults", |n| {
            (0..n)
                .map(|at| format!("defaults d{} from d{at}\n option httpchk\n stats auth a:b\n", at + 1))
                .collect()
        }),
        ("defaults of all", |n| {
            format!(
                "defaults\n mode http\n{}{}",
                " stats auth a:b\n option httpchk\n http-check expect status 200-399\n".repeat(n),
                "listen a\n stats enable\n".repeat(n)
            )
        }),
        ("acls", |n| {
            format!(
                "frontend f\n acl a src{}\n{}",
                " 10.0.0.0/8".repeat(n),
                " tcp-request connection accept if a or a\n".repeat(n)
            )
        }),
        ("use_backend", |n| format!("frontend f\n{}", " use_backend b if x\n".repeat(n))),
        ("options", |n| format!("backend b\n{}", " option httpchk\n option tcp-check\n".repeat(n))),
        ("ports", |n| format!("listen a\n{}", " bind :1-64,:1-64\n".repeat(n))),
        ("words", |n| format!("listen a\n server s 10.0.0.1:1{}", " inter 1s".repeat(n))),
        ("braces", |n| format!("listen a\n bind {}\n bind \"{}\"", "${".repeat(n), "${".repeat(n))),
        ("variables", |n| format!("global\n{}", " setenv A \"$A$A.\"\n".repeat(n))),
        ("conditions", |n| format!("{}{}", ".if 0\n".repeat(n), "x\n".repeat(n))),
        ("quotes", |n| format!("global\n {}", "'\"".repeat(n))),
    ];
    let time = |text: &str| {
        let start = worked();
        holds(text.as_bytes());
        worked() - start
    };
    let length = if inputs() < 10_000 { 50 } else { 5_000 };
    for (name, shape) in shapes {
        let fastest = |length: usize| (0..3).map(|_| time(&shape(length))).min().unwrap_or_default();
        let (small, large) = (fastest(length), fastest(length * 4));
        let bound = small * 12 + Duration::from_millis(200);
        assert!(large < bound, "{name}: {small:?} became {large:?}");
    }
}
