use super::*;
use crate::import::{
    keepalived::read,
    source::{FileId, Source},
};

/// Ids and messages for the files of several nodes.
fn findings(files: &[String]) -> Vec<(&'static str, String)> {
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    for (index, text) in files.iter().enumerate() {
        read(&Source::new("f", text.as_bytes()), FileId(index), &mut incumbent, &mut ledger);
    }
    lint(&incumbent, &mut ledger);
    ledger.findings().iter().map(|finding| (finding.id, finding.message.clone())).collect()
}

fn node(lines: &str) -> String {
    format!(
        "vrrp_instance VI {{\ninterface eth0\nvirtual_router_id 60\npriority 100\nvirtual_ipaddress {{ 10.0.0.10/24 }}\n{lines}\n}}\n"
    )
}

/// Messages of W11 about two nodes.
fn disagreements(one: &str, other: &str) -> Vec<String> {
    let files = [node(one), node(&format!("{other}\npriority 90"))];
    findings(&files).into_iter().filter(|(id, _)| *id == "W11").map(|(_, message)| message).collect()
}

#[test]
fn nodes_that_agree_have_no_finding() {
    let files = [
        node("unicast_src_ip 10.0.0.1\nunicast_peer { 10.0.0.2 }"),
        node("priority 90\nunicast_src_ip 10.0.0.2\nunicast_peer { 10.0.0.1 }"),
    ];
    assert_eq!(findings(&files), []);
}

#[test]
fn each_disagreement_is_found() {
    let password = |pass: &str| format!("authentication {{\nauth_type PASS\nauth_pass {pass}\n}}");
    for (one, other, what) in [
        ("", "virtual_router_id 61", "virtual_router_id"),
        ("", "version 3", "version"),
        ("", "advert_int 2", "advert_int"),
        ("", &password("abcdefgh"), "authentication"),
        (&password("abcdefgh"), &password("abcdefgi"), "authentication"),
        ("", "virtual_ipaddress { 10.0.0.11/24 }", "virtual_ipaddress"),
        ("", "unicast_peer { 10.0.0.1 }", "multicast or unicast"),
    ] {
        let found = disagreements(one, other);
        assert_eq!(found.len(), 1, "{one} {other}: {found:?}");
        assert!(found[0].contains(what), "{found:?}");
        assert!(!found[0].contains("abcdefg"), "a secret: {found:?}");
    }
    // keepalived sends eight bytes of it.
    assert_eq!(disagreements(&password("abcdefgh"), &password("abcdefgh9")), [""; 0]);
}

#[test]
fn peers_must_know_each_other() {
    let found = disagreements(
        "unicast_src_ip 10.0.0.1\nunicast_peer { 10.0.0.2 }",
        "unicast_src_ip 10.0.0.2\nunicast_peer { 10.0.0.3 }",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("10.0.0.1 is no unicast_peer"), "{found:?}");
    let own = disagreements(
        "unicast_src_ip 10.0.0.1\nunicast_peer {\n10.0.0.2\n10.0.0.1\n}",
        "unicast_src_ip 10.0.0.2\nunicast_peer { 10.0.0.1 }",
    );
    assert_eq!(own.len(), 1, "{own:?}");
    assert!(own[0].contains("its own"), "{own:?}");
}

#[test]
fn an_instance_that_one_node_lacks_is_found() {
    let second =
        "vrrp_instance B {\ninterface eth0\nvirtual_router_id 70\nvirtual_ipaddress { 10.0.0.20 }\n}\n";
    let files = [node("") + second, node("priority 90")];
    let found = findings(&files);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.contains("\"B\"") && found[0].1.contains("1 of 2 files"), "{found:?}");
}

#[test]
fn equal_priorities_weak_passwords_and_copied_vrids() {
    let ids = |files: &[String]| findings(files).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(&[node(""), node("")]), ["W6"]);
    assert_eq!(ids(&[node("virtual_router_id 51")]), ["W7"]);
    let password = |pass: &str| node(&format!("authentication {{\nauth_type PASS\nauth_pass {pass}\n}}"));
    assert_eq!(ids(&[password("1111")]), ["W5", "W9"]);
    assert_eq!(ids(&[password("Admin123")]), ["W5", "W9"]);
    assert_eq!(ids(&[password("uY7%kq2z")]), ["W9"]);
}
