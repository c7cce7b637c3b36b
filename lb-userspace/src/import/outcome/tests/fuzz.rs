//! Files that nobody would write: whatever the bytes are, every line is accounted for, and what is written is a
//! configuration. The long run is in `import/fuzz.rs`.

use std::time::Duration;

use super::*;
use crate::import::fuzz::{self, Dice, Part, damage, noise};

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

fn options(dice: &mut Dice) -> Options {
    let vip = Vip { address: [192, 0, 2, 10].into(), prefix_len: 24 };
    Options {
        interface: dice.one_in(4).then(|| "eth9".to_owned()),
        vips: if dice.one_in(4) { vec![vip] } else { Vec::new() },
        keep_timeouts: dice.one_in(2),
    }
}

/// A customer's files with some changes, and what the user wants besides.
fn files(dice: &mut Dice, sets: &[Vec<Input>]) -> (Vec<Input>, Options) {
    let mut inputs = dice.of_all(sets).clone();
    for _ in 0..=dice.below(6) {
        let index = dice.below(inputs.len());
        damage(&mut inputs[index].bytes, VALUES, dice);
    }
    if dice.one_in(50) {
        let index = dice.below(inputs.len());
        inputs[index].bytes = noise(dice, 200);
    }
    if dice.one_in(20) {
        let index = dice.below(inputs.len());
        inputs[index].format =
            *dice.of_all(&[Format::Haproxy, Format::Keepalived, Format::Crm, Format::Corosync]);
    }
    (inputs, options(dice))
}

/// The election table has up to 4,096 rows, however few lines name what may fail.
fn allowed(bytes: usize) -> Duration {
    fuzz::linear(bytes) * 10
}

#[test]
fn whatever_is_in_the_files_it_is_accounted_for_and_what_is_written_is_a_configuration() {
    let sets: Vec<Vec<Input>> = SETS.iter().map(|(name, _)| set(name)).collect();
    let part = Part {
        name: "the whole import",
        share: fuzz::WHOLE,
        make: |dice: &mut Dice| files(dice, &sets),
        length: |(inputs, _): &(Vec<Input>, Options)| inputs.iter().map(|input| input.bytes.len()).sum(),
        allowed,
        judge: |(inputs, options): &(Vec<Input>, Options)| {
            let outcome = imported(inputs, options);
            accounted(inputs, &outcome);
            if let Err(refused) = &outcome.nodes {
                let own = refused.iter().any(|refusal| refusal.contains("mistake of xvip import"));
                assert!(!own, "{refused:#?}\n{}", told(inputs));
            }
            outcome.nodes.is_ok()
        },
    };
    let count = part.run();
    assert!(count.fruitful > count.inputs / 4, "{count:?}");
}

fn told(inputs: &[Input]) -> String {
    inputs
        .iter()
        .map(|input| format!("--- {}\n{}\n", input.name, String::from_utf8_lossy(&input.bytes)))
        .collect()
}
