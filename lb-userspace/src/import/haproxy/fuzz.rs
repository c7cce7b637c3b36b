//! Whatever the file is: no panic, each line accounted for, and time that grows with its length and no faster. The long run
//! is in `import/fuzz.rs`.

use std::time::Duration;

use super::{lint, read, tests};
use crate::import::{
    fuzz::{self, Corpus, Dice, Part, damage, noise, worked},
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

/// Words of the files, of which lines are made that nobody wrote.
fn vocabulary() -> Vec<&'static str> {
    let mut words: Vec<&str> = FILES.iter().flat_map(|file| file.split_whitespace()).collect();
    words.extend([
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
        "#",
        "=",
        "0",
        "-1",
        "99999999999",
        "1us",
        "25d",
        "::",
        ":::6443",
        "*:6443-6450",
        "0.0.0.0",
        "é\u{0}",
        "\u{85}",
        "\r",
        "\t",
    ]);
    words.sort_unstable();
    words.dedup();
    words
}

/// Beginnings of sections.
const HEADS: [&str; 8] = [
    "global\n",
    "defaults\n",
    "defaults d\n",
    "frontend f\n",
    "backend b\n",
    "listen l\n",
    "listen l2 from d\n",
    "\n",
];

fn input(dice: &mut Dice, corpus: &Corpus, words: &[&str]) -> Vec<u8> {
    match dice.below(8) {
        0 => noise(dice, 200),
        1..4 => {
            let mut text = String::new();
            for _ in 0..dice.below(5) {
                text.push_str(dice.of_all::<&str>(&HEADS));
                for _ in 0..dice.below(8) {
                    for _ in 0..dice.below(6) {
                        text.push(' ');
                        text.push_str(dice.of_all::<&str>(words));
                    }
                    text.push('\n');
                }
            }
            text.into_bytes()
        }
        _ => {
            let mut bytes = corpus.excerpt(dice);
            for _ in 0..=dice.below(8) {
                damage(&mut bytes, words, dice);
            }
            bytes
        }
    }
}

/// Whether a proxy came of it.
fn holds(bytes: &[u8]) -> bool {
    let source = Source::new("fuzz", bytes);
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    read(&source, FileId(0), &mut incumbent, &mut ledger);
    lint(&incumbent, &mut ledger);
    for finding in ledger.findings() {
        assert!(!finding.places.is_empty() && !finding.message.is_empty() && !finding.remedy.is_empty());
    }
    tests::unaccounted(&ledger, &source, "fuzz");
    !incumbent.proxies.is_empty()
}

#[test]
fn no_input_panics_hangs_or_hides_a_line() {
    let (corpus, words) = (Corpus::of(FILES), vocabulary());
    let part = Part {
        name: "haproxy.cfg",
        share: fuzz::HAPROXY,
        make: |dice: &mut Dice| input(dice, &corpus, &words),
        length: Vec::len,
        allowed: fuzz::linear,
        judge: |bytes: &Vec<u8>| holds(bytes),
    };
    let count = part.run();
    assert!(count.fruitful > count.inputs / 30, "{count:?}");
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
    let length = if fuzz::asked_for().is_none_or(|inputs| inputs < 10_000) { 50 } else { 5_000 };
    for (name, shape) in shapes {
        let fastest = |length: usize| (0..3).map(|_| time(&shape(length))).min().unwrap_or_default();
        let (small, large) = (fastest(length), fastest(length * 4));
        let bound = small * 12 + Duration::from_millis(200);
        assert!(large < bound, "{name}: {small:?} became {large:?}");
    }
}
