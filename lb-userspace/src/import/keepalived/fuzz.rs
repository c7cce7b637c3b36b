//! Whatever a file holds, reading it neither panics nor hangs, and no line is forgotten: noise, tokens of the format, and real
//! files damaged. The long run is in `import/fuzz.rs`.

use std::time::{Duration, Instant};

use super::{
    tests::{FORGOTTEN, golden_sources},
    *,
};
use crate::import::fuzz::{self, Corpus, Dice, Part, babble, damage, noise};

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

fn input(dice: &mut Dice, corpus: &Corpus) -> Vec<u8> {
    match dice.below(8) {
        0 => noise(dice, 200),
        1..4 => babble(dice, &TOKENS, 60),
        _ => {
            let mut bytes = corpus.excerpt(dice);
            for _ in 0..=dice.below(8) {
                damage(&mut bytes, &TOKENS, dice);
            }
            bytes
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
    let corpus = Corpus::of(golden_sources(&FILES).into_iter().map(|source| source.text));
    let part = Part {
        name: "keepalived.conf",
        share: fuzz::KEEPALIVED,
        make: |dice: &mut Dice| input(dice, &corpus),
        length: Vec::len,
        allowed: fuzz::linear,
        judge: |bytes: &Vec<u8>| {
            let incumbent = judge(bytes);
            incumbent.routers.iter().any(|node| !node.instances.is_empty()) || !incumbent.proxies.is_empty()
        },
    };
    let count = part.run();
    assert!(count.fruitful > count.inputs / 30, "{count:?}");
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
        let text = piece.repeat(10_000 / piece.len()) + end;
        let begun = Instant::now();
        judge(text.as_bytes());
        assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?}: {:?}", begun.elapsed());
    }
}
