use std::{fmt::Write as _, path::PathBuf};

use super::*;
use crate::import::{
    corosync,
    fuzz::{self, Corpus, Dice, Part, babble, damage, noise},
    incumbent::Cluster,
    ledger::Entry,
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/import/crm")
}

/// A text of `crm configure`, and perhaps a corosync.conf.
const GOLDEN: [(&str, Option<&str>); 3] =
    [("s3.crm", Some("s3-corosync.conf")), ("show.crm", None), ("typed.crm", None)];

fn sources(names: (&str, Option<&str>)) -> Vec<Source> {
    let open = |name: &str| Source::new(name, &std::fs::read(directory().join(name)).unwrap());
    std::iter::once(names.0).chain(names.1).map(open).collect()
}

type Lines = std::collections::BTreeMap<(FileId, usize), Vec<Entry>>;

fn read_all(sources: &[Source]) -> (Cluster, Lines) {
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    for (index, source) in sources.iter().enumerate() {
        match index {
            0 => read(source, FileId(index), &mut incumbent, &mut ledger),
            _ => corosync::read(source, FileId(index), &mut incumbent, &mut ledger),
        }
    }
    let blank =
        |file: FileId, line: &str| if file.0 == 0 { is_blank(line) } else { corosync::is_blank(line) };
    let (lines, _) = ledger.close(sources, blank);
    (incumbent.cluster.unwrap(), lines)
}

fn read_text(text: &str) -> (Cluster, Lines) {
    read_all(&[Source::new("crm", text.as_bytes())])
}

/// `XVIP_BLESS=1` writes what comes out; look at the difference.
#[test]
fn golden_files() {
    for names in GOLDEN {
        let sources = sources(names);
        let (cluster, lines) = read_all(&sources);
        let mut shown = String::new();
        for ((file, line), entries) in &lines {
            if *line == 1 {
                writeln!(shown, "== {}", sources[file.0].name).unwrap();
            }
            for Entry { place, fate, becomes, note } in
                entries.iter().filter(|entry| entry.fate != Fate::Blank)
            {
                let fate = serde_json::to_string(fate).unwrap();
                let becomes = if becomes.is_empty() { String::new() } else { format!(" {becomes}") };
                let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                writeln!(shown, "{place} {}:{becomes}{note}", fate.trim_matches('"')).unwrap();
            }
        }
        writeln!(shown, "== model").unwrap();
        for vip in &cluster.vips {
            writeln!(shown, "{:?}", vip.value).unwrap();
        }
        for node in &cluster.nodes {
            writeln!(shown, "{:?}", node.value).unwrap();
        }
        let value = |threshold: &At<u32>| threshold.value;
        writeln!(
            shown,
            "sticky {}, monitor {:?}, migration threshold {:?}, token {:?}",
            cluster.sticky.is_some(),
            cluster.monitor.as_ref().map(|monitor| monitor.value),
            cluster.migration_threshold.as_ref().map(value),
            cluster.token.as_ref().map(|token| token.value)
        )
        .unwrap();
        let path = directory().join(names.0).with_extension("expected");
        if std::env::var_os("XVIP_BLESS").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shown == expected, "{}:\n{shown}", path.display());
    }
}

const FORGOTTEN: &str = "nothing is known of this line";

#[test]
fn no_line_is_forgotten() {
    for names in GOLDEN {
        let sources = sources(names);
        let (_, lines) = read_all(&sources);
        assert_eq!(lines.len(), sources.iter().map(|source| source.lines().count()).sum::<usize>());
        for (place, entries) in &lines {
            for entry in entries {
                assert_ne!(entry.note, FORGOTTEN, "{place:?} of {names:?}");
                let silent = matches!(entry.fate, Fate::Exact | Fate::Blank);
                assert!(silent || !entry.note.is_empty(), "{place:?} {entry:?}");
            }
        }
    }
}

#[test]
fn the_same_cluster_typed_shown_or_commanded() {
    let typed = "primitive vip ocf:heartbeat:IPaddr2 params ip=10.0.0.10 cidr_netmask=24 nic=eth0 op monitor interval=20 timeout=60\n\
                 property default-resource-stickiness=100\n";
    let shown = "primitive vip IPaddr2 \\\n\tparams ip=10.0.0.10 cidr_netmask=255.255.255.0 nic=eth0 \\\n\top monitor interval=20s \
                 timeout=1m\nrsc_defaults rsc-options: \\\n\tresource-stickiness=100\n";
    let commanded = "crm configure primitive vip ocf:heartbeat:IPaddr2 params ip=\"10.0.0.10\" cidr_netmask='24' nic=eth0 \\\n \
                     op monitor interval=20s timeout=60s\nsudo crm configure rsc_defaults resource-stickiness=100\n";
    let pcs = "pcs resource create vip ocf:heartbeat:IPaddr2 ip=10.0.0.10 cidr_netmask=24 nic=eth0 op monitor interval=20s \
               timeout=60s\npcs resource defaults resource-stickiness=100\n";
    let meaning = |text: &str| {
        let (cluster, _) = read_text(text);
        let vips: Vec<_> = cluster.vips.into_iter().map(|vip| vip.value).collect();
        (vips, cluster.sticky.is_some(), cluster.monitor.map(|monitor| monitor.value))
    };
    let expected = meaning(typed);
    assert_eq!(expected.0[0].prefix_len, Some(24));
    assert!(expected.1);
    assert_eq!(expected.2, Some((Duration::from_secs(20), Duration::from_secs(60))));
    for text in [shown, commanded, pcs] {
        assert_eq!(meaning(text), expected, "{text}");
    }
}

#[test]
fn stickiness_of_zero_or_less_is_none() {
    for (text, sticky) in [
        ("property default-resource-stickiness=0\n", false),
        ("rsc_defaults resource-stickiness=1\n", true),
        ("rsc_defaults resource_stickiness=INFINITY\n", true),
        ("rsc_defaults resource-stickiness=-INFINITY\n", false),
        ("group g a b meta resource-stickiness=200\n", true),
        ("primitive a IPaddr2 params ip=10.0.0.1 meta resource-stickiness=5\n", true),
        ("primitive a mysql meta resource-stickiness=5\n", false),
    ] {
        assert_eq!(read_text(text).0.sticky.is_some(), sticky, "{text}");
    }
}

#[test]
fn names_and_addresses_of_nodes_come_together() {
    let crm = Source::new("crm", b"node 1: lb1\nnode 2: lb2\n");
    let conf = Source::new(
        "corosync.conf",
        b"nodelist {\n node {\n  ring0_addr: 10.0.0.2\n  name: lb2\n }\n node {\n  ring0_addr: 10.0.0.3\n }\n}\n",
    );
    let (cluster, _) = read_all(&[crm, conf]);
    let nodes: Vec<_> =
        cluster.nodes.iter().map(|node| (node.value.name.as_deref(), node.value.address)).collect();
    let address = |text: &str| Some(text.parse().unwrap());
    assert_eq!(nodes, [(Some("lb1"), None), (Some("lb2"), address("10.0.0.2")), (None, address("10.0.0.3"))]);
}

const TOKENS: [&str; 44] = [
    " ",
    " ",
    "\n",
    "\n",
    "\\\n",
    "\"",
    "'",
    "#",
    "=",
    ":",
    "crm",
    "configure",
    "crm(live)configure#",
    "sudo ",
    "pcs ",
    "primitive ",
    "ocf:heartbeat:IPaddr2",
    "params ",
    "ip=10.0.0.1",
    "ip=",
    "cidr_netmask=24",
    "nic=eth0:",
    "meta ",
    "op ",
    "monitor ",
    "interval=20",
    "timeout=99999999999999999999",
    "property ",
    "rsc_defaults ",
    "resource-stickiness=",
    "INF",
    "group ",
    "node ",
    "location ",
    "rule ",
    "order ",
    "colocation ",
    "resource ",
    "create ",
    "||",
    ">",
    "\u{e9}",
    "totem {\n",
    "}\n",
];

fn input(dice: &mut Dice, corpus: &Corpus) -> Vec<u8> {
    match dice.below(8) {
        0 => noise(dice, 400),
        1..4 => babble(dice, &TOKENS, 50),
        _ => {
            let mut bytes = corpus.excerpt(dice);
            for _ in 0..=dice.below(6) {
                damage(&mut bytes, &TOKENS, dice);
            }
            bytes
        }
    }
}

/// The long run is in `import/fuzz.rs`.
#[test]
fn no_input_panics_hangs_or_hides_a_line() {
    let corpus = Corpus::of(GOLDEN.into_iter().flat_map(sources).map(|source| source.text));
    let part = Part {
        name: "crm and corosync.conf",
        share: fuzz::CLUSTER,
        make: |dice: &mut Dice| input(dice, &corpus),
        length: Vec::len,
        allowed: fuzz::linear,
        // Each reader must bear each format.
        judge: |bytes: &Vec<u8>| {
            let both = [Source::new("a", bytes), Source::new("b", bytes)];
            let (cluster, lines) = read_all(&both);
            assert_eq!(lines.len(), both.iter().map(|source| source.lines().count()).sum::<usize>());
            for entry in lines.values().flatten() {
                assert!(entry.note != FORGOTTEN, "{entry:?}");
            }
            !cluster.vips.is_empty() || !cluster.nodes.is_empty()
        },
    };
    let count = part.run();
    assert!(count.fruitful > count.inputs / 30, "{count:?}");
}

#[test]
fn long_texts_take_linear_time() {
    for piece in [
        "a \\\n",
        "\"",
        "primitive a IPaddr2 ip=10.0.0.1\n",
        "node a\n",
        "node {\n",
        "a {\n",
        "}\n",
        "params ",
    ] {
        let text = piece.repeat(10_000 / piece.len());
        let begun = std::time::Instant::now();
        let source = Source::new("f", text.as_bytes());
        read_all(&[source.clone(), source]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?}: {:?}", begun.elapsed());
    }
}
