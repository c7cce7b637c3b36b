use super::*;

fn read_text(text: &str) -> (Incumbent, Ledger) {
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    read(&Source::new("corosync.conf", text.as_bytes()), FileId(0), &mut incumbent, &mut ledger);
    (incumbent, ledger)
}

#[test]
fn nodes_and_token() {
    let (incumbent, ledger) = read_text(
        "totem {\n token: 3000\n}\nnodelist {\n node {\n  ring0_addr: 10.0.0.1\n  nodeid: 1\n }\n node {\n  ring0_addr: lb2\n }\n}\n",
    );
    let cluster = incumbent.cluster.unwrap();
    assert_eq!(cluster.token.unwrap().value, Duration::from_secs(3));
    let nodes: Vec<_> = cluster.nodes.into_iter().map(|node| (node.value.name, node.value.address)).collect();
    assert_eq!(nodes, [(None, Some("10.0.0.1".parse().unwrap())), (Some("lb2".into()), None)]);
    assert!(ledger.entries().iter().all(|entry| !matches!(entry.fate, Fate::Unknown | Fate::SyntaxError)));
}

#[test]
fn errors_name_their_place() {
    for (text, place) in [
        ("}\n", (1, 1)),
        ("totem {\n", (1, 1)),
        ("totem {\n  token: soon\n}\n", (2, 3)),
        ("totem {\n  token\n}\n", (2, 3)),
        ("token: 3000\n", (1, 1)),
    ] {
        let (_, ledger) = read_text(text);
        let errors: Vec<_> = ledger
            .entries()
            .iter()
            .filter(|entry| entry.fate == Fate::SyntaxError)
            .map(|entry| (entry.place.line, entry.place.column))
            .collect();
        assert_eq!(errors, [place], "{text}");
    }
    let (_, ledger) = read_text("flubber {\n x: y\n}\nnodelist {\n colour: blue\n}\n");
    let unknown = ledger.entries().iter().filter(|entry| entry.fate == Fate::Unknown).count();
    assert_eq!(unknown, 3);
}
