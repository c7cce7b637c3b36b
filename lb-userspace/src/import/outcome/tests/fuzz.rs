//! Files that nobody would write: whatever the bytes are, every line is accounted for, and what is written is a
//! configuration. `XVIP_FUZZ_INPUTS=10000000 cargo test --release -p lb-userspace --lib import::outcome` is the long run.

use std::time::{Duration, Instant};

use super::*;

/// A pseudo-random generator (SplitMix64), so that a failure is found again by its number.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).unwrap_or(0)
    }

    fn of<'a, T: ?Sized>(&mut self, choice: &[&'a T]) -> &'a T {
        choice[self.below(choice.len())]
    }
}

/// Values at the edges of what a directive takes.
const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "255",
    "256",
    "257",
    "65535",
    "65536",
    "4294967296",
    "99999999999999999999",
    "0.01",
    "1.5",
    "3600s",
    "1us",
    "25d",
    "\"",
    "'",
    "\\",
    "{",
    "}",
    "#",
    "!",
    "$",
    "@",
    "~",
    "::",
    "::1",
    "fd00::10/64",
    "fe80::1",
    "0.0.0.0",
    "127.0.0.1:1",
    "10.0.0.1",
    "172.16.0.10",
    "172.16.0.4:6443",
    "224.0.0.18",
    "255.255.255.255/32",
    "10.0.0.0/0",
    "eth0",
    "lo",
    "a/b",
    "averyveryverylonginterfacename",
    "kube apiserver",
    "http",
    "tcp",
    "MASTER",
    "haproxy",
    "killall",
    "check",
    "backup",
    "disabled",
    "*:0",
    "*:6443-6450",
    ":::6443",
    "host:port",
    "inf:",
    "=",
    "op",
    "\u{fffd}",
    "\u{0}",
    "\u{85}",
    "\r",
    "\t\t",
];

/// One step away from what a person wrote.
fn mutated(text: &mut Vec<u8>, dice: &mut Dice) {
    let at = |text: &[u8], dice: &mut Dice| dice.below(text.len() + 1);
    match dice.below(8) {
        0 if !text.is_empty() => {
            let index = dice.below(text.len());
            text[index] = dice.next().to_le_bytes()[0];
        }
        1 => {
            let (from, to) = (at(text, dice), at(text, dice));
            text.drain(from.min(to)..from.max(to).min(from.min(to) + 40));
        }
        2 => {
            let index = at(text, dice);
            let word = dice.of(VALUES).as_bytes();
            text.splice(index..index, word.iter().copied());
        }
        3 | 4 => replace_word(text, dice),
        5 => copy_line(text, dice),
        6 => {
            let index = at(text, dice);
            text.splice(index..index, *b"\n");
        }
        _ => {
            let index = at(text, dice);
            text.truncate(index.max(text.len() / 2));
        }
    }
}

/// A value in the place of another.
fn replace_word(text: &mut Vec<u8>, dice: &mut Dice) {
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let start = dice.below(text.len() + 1);
    let Some(from) = text[start..].iter().position(|byte| !blank(byte)).map(|at| start + at) else { return };
    let to = text[from..].iter().position(blank).map_or(text.len(), |at| from + at);
    let word = dice.of(VALUES).as_bytes();
    text.splice(from..to, word.iter().copied());
}

/// A line once more, somewhere else.
fn copy_line(text: &mut Vec<u8>, dice: &mut Dice) {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let (line, place) = (dice.below(lines.len()), dice.below(lines.len()));
    let copied = lines[line].to_vec();
    let index: usize = lines[..place].iter().map(|line| line.len()).sum();
    text.splice(index..index, copied);
}

fn options(dice: &mut Dice) -> Options {
    let some = dice.below(4) == 0;
    let vip = Vip { address: [192, 0, 2, 10].into(), prefix_len: 24 };
    Options {
        interface: some.then(|| "eth9".to_owned()),
        vips: if dice.below(4) == 0 { vec![vip] } else { Vec::new() },
        keep_timeouts: dice.below(2) == 0,
    }
}

/// How many of them had a configuration: a fuzz whose inputs are all refused tests little.
fn run(count: u64, seed: u64) -> u64 {
    let sets: Vec<Vec<Input>> = SETS.iter().map(|(name, _)| set(name)).collect();
    let mut written = 0;
    for number in 0..count {
        let mut dice = Dice(seed.wrapping_add(number.wrapping_mul(0x2545_f491_4f6c_dd1d)));
        let mut inputs = sets[dice.below(sets.len())].clone();
        for _ in 0..=dice.below(6) {
            let index = dice.below(inputs.len());
            mutated(&mut inputs[index].bytes, &mut dice);
        }
        if dice.below(50) == 0 {
            let index = dice.below(inputs.len());
            inputs[index].bytes = (0..dice.below(200)).map(|_| dice.next().to_le_bytes()[0]).collect();
        }
        if dice.below(20) == 0 {
            let index = dice.below(inputs.len());
            inputs[index].format =
                [Format::Haproxy, Format::Keepalived, Format::Crm, Format::Corosync][dice.below(4)];
        }
        let options = options(&mut dice);
        let begin = Instant::now();
        let outcome = imported(&inputs, &options);
        // Far from what it takes, also on a busy machine: a hang, or quadratic time.
        assert!(begin.elapsed() < Duration::from_secs(20), "input {number} took {:?}", begin.elapsed());
        accounted(&inputs, &outcome);
        match &outcome.nodes {
            Ok(_) => written += 1,
            Err(refused) => {
                let own = refused.iter().any(|refusal| refusal.contains("mistake of xvip import"));
                assert!(!own, "input {number}: {refused:#?}\n{}", told(&inputs));
            }
        }
    }
    written
}

fn told(inputs: &[Input]) -> String {
    inputs
        .iter()
        .map(|input| format!("--- {}\n{}\n", input.name, String::from_utf8_lossy(&input.bytes)))
        .collect()
}

#[test]
fn whatever_is_in_the_files_it_is_accounted_for_and_what_is_written_is_a_configuration() {
    let count = env::var("XVIP_FUZZ_INPUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16) as u64;
    let share = count / threads + 1;
    let written: u64 = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(share, thread << 40))).collect();
        runs.into_iter().map(|run| run.join().expect("no input panics")).sum()
    });
    println!("{} inputs, {written} of them were written", share * threads);
    assert!(written > count / 4, "only {written} of {count} came to a configuration");
}
