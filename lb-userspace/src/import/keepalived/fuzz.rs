//! Whatever a file holds, reading it neither panics nor hangs, and no line is forgotten: noise, tokens of the format, and real
//! files damaged.
//!
//! `XVIP_FUZZ_INPUTS=10000000 cargo test --release -p lb-userspace --lib import::keepalived::fuzz` is the long form.

use std::time::{Duration, Instant};

use super::{
    tests::{FORGOTTEN, golden_sources},
    *,
};

const FILES: [&str; 7] = [
    "s0-lb1.conf",
    "s1-master1.conf",
    "s4-lb1.conf",
    "hosts.conf",
    "lvs.conf",
    "broken.conf",
    "everything-else.conf",
];

const TOKENS: [&str; 64] = [
    " ",
    " ",
    " ",
    "\n",
    "\n",
    "\n",
    "{",
    "}",
    " {\n",
    "}\n",
    "\"",
    "'",
    "\\",
    "#",
    "!",
    "@",
    "@^",
    "@main ",
    "$",
    "$X=",
    "$X",
    "${X}",
    "${X}${X}",
    "$Y= \\\n",
    "\\\n",
    "~SEQ(A, 1, 9) ",
    "global_defs",
    "vrrp_instance",
    "vrrp_instance VI_1 {\n",
    "vrrp_script",
    "vrrp_script s {\n",
    "virtual_server",
    "virtual_server 10.0.0.1 80 {\n",
    "real_server",
    "virtual_server_group g",
    "vrrp_sync_group g {\n",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "track_script",
    "track_process",
    "unicast_peer",
    "authentication",
    "auth_type PASS\n",
    "auth_pass ",
    "auth_hmac",
    "priority",
    "virtual_router_id 51\n",
    "advert_int",
    "interface eth0\n",
    "state MASTER\n",
    "script",
    "weight",
    "10.0.0.1/24",
    "fe80::1",
    "-254",
    "4294967296",
    "0.5",
    "\u{e9}",
    "\u{0}",
    "\r\n",
    "\t",
    "include x\n",
    "nopreempt\n",
    "HTTP_GET",
];

/// SplitMix64: reproducible, and good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

fn input(random: &mut Random, files: &[Source]) -> Vec<u8> {
    match random.below(4) {
        0 => (0..random.below(200)).flat_map(|_| random.next().to_le_bytes()).collect(),
        1 => {
            (0..random.below(60)).map(|_| TOKENS[random.below(TOKENS.len())]).collect::<String>().into_bytes()
        }
        _ => {
            let mut bytes = files[random.below(files.len())].text.clone().into_bytes();
            for _ in 0..=random.below(8) {
                damage(random, &mut bytes);
            }
            bytes
        }
    }
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let until = (at + random.below(40)).min(bytes.len());
    match random.below(4) {
        0 => drop(bytes.drain(at..until)),
        1 => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..at, token.bytes());
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next().to_le_bytes()[0];
            }
        }
        _ => {
            let copy = bytes[at..until].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
    }
}

fn judge(bytes: &[u8]) -> Incumbent {
    let source = Source::new("fuzz", bytes);
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    read(&source, FileId(0), &mut incumbent, &mut ledger);
    lint(&incumbent, &mut ledger);
    let sources = [source];
    let (lines, findings) = ledger.close(&sources, |_, line| is_blank(line));
    let count = sources[0].lines().count();
    assert_eq!(lines.len(), count, "{bytes:?}");
    for entry in lines.values().flatten() {
        assert!(entry.note != FORGOTTEN, "{entry:?} of {:?}", sources[0].text);
        assert!((1..=count).contains(&entry.place.line), "{entry:?}");
    }
    for finding in findings {
        assert!(!finding.places.is_empty() && !finding.message.is_empty(), "{finding:?}");
    }
    incumbent
}

#[test]
fn no_input_panics_hangs_or_hides_a_line() {
    let inputs = std::env::var("XVIP_FUZZ_INPUTS").ok().and_then(|number| number.parse().ok()).unwrap_or(500);
    let files = golden_sources(&FILES);
    let mut random = Random(60);
    let mut instances = 0;
    for number in 0..inputs {
        let bytes = input(&mut random, &files);
        let begun = Instant::now();
        let incumbent = judge(&bytes);
        assert!(begun.elapsed() < Duration::from_secs(10), "input {number} takes too long: {bytes:?}");
        instances += incumbent.routers.iter().map(|node| node.instances.len()).sum::<usize>();
    }
    // What never yields anything would prove nothing.
    assert!(instances > inputs / 10, "{instances} instances of {inputs} inputs");
}

/// Sizes ten times as large take about ten times as long, not a hundred times.
#[test]
fn long_files_take_linear_time() {
    let shapes: [(&str, &str); 9] = [
        ("{", ""),
        ("}", ""),
        ("a { ", ""),
        ("a\n", ""),
        ("\"", "\n"),
        ("$A=$A\n", "$A x\n"),
        ("@h a\n", ""),
        ("vrrp_instance a {\n}\n", ""),
        ("$B= \\\n", "\n$B\n"),
    ];
    for (piece, end) in shapes {
        let text = piece.repeat(20_000 / piece.len()) + end;
        let begun = Instant::now();
        judge(text.as_bytes());
        assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?}: {:?}", begun.elapsed());
    }
}
