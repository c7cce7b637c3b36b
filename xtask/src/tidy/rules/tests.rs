use super::*;

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: Some(text.to_owned()) }
}

/// The places of the breaches of one rule in one file.
fn places(rule: fn(&[File]) -> Vec<Breach>, path: &str, text: &str) -> Vec<String> {
    rule(&[file(path, text)]).into_iter().map(|breach| breach.place).collect()
}

#[test]
fn empty_names_are_found_anywhere_but_not_inside_other_words() {
    for bad in
        ["a/src/utils.rs", "helpers.rs", "a/manager.rs", "x/net_utils.rs", "a/client_manager.rs", "common.rs"]
    {
        assert_eq!(places(names, bad, ""), [bad]);
    }
    for good in ["lb-common/src/lib.rs", "a/managers_guide.md", "a/utils.md", "a/uncommon.rs", "a/frame.rs"] {
        assert!(places(names, good, "").is_empty(), "{good}");
    }
}

#[test]
fn impure_names_are_found_however_they_are_spelled() {
    let cases = [
        ("use tokio::time::sleep;\n", 1),
        ("use std::{fmt, fs};\n", 1),
        ("use std::net::{IpAddr, UdpSocket};\n", 1),
        ("fn f() {\n    let now = Instant::now();\n}\n", 2),
        ("fn f() {\n    std::time::SystemTime::now();\n}\n", 2),
        ("fn f() { std::fs::read(\"x\"); }\n", 1),
        ("use aya::Pod;\n", 1),
    ];
    for (source, line) in cases {
        let path = "lb-userspace/src/maglev.rs";
        let places: Vec<_> = impurities(path, source).into_iter().map(|breach| breach.place).collect();
        assert_eq!(places, [format!("{path}:{line}")], "{source}");
    }
}

#[test]
fn pure_code_may_speak_of_addresses_times_and_of_io_in_comments() {
    let source = "//! Never calls Instant::now(), never imports tokio::time.\n\
        use std::net::{IpAddr, SocketAddr};\nuse std::time::{Duration, Instant};\n\
        fn f(now: Instant, nix: u8) -> &'static str { \"std::fs\" }\n\
        #[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert!(impurities("lb-userspace/src/maglev.rs", source).is_empty());
    assert!(impurities("lb-common/src/layout.rs", "unsafe impl aya::Pod for X {}").is_empty());
}

#[test]
fn purity_covers_submodules_but_not_their_tests_nor_the_exception() {
    let bad = "use std::fs;\n";
    let parent = "//! Words.\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod simulation;\nmod timers;\n";
    let breaches = |path: &str| {
        let tree = [file("lb-userspace/src/vrrp/fsm.rs", parent), file(path, bad)];
        let found = purity(&tree).into_iter().map(|breach| breach.place);
        found.filter(|place| place.starts_with(path) && place.contains(".rs:")).count()
    };
    assert_eq!(breaches("lb-userspace/src/vrrp/fsm.rs"), 1);
    assert_eq!(breaches("lb-userspace/src/vrrp/fsm/timers.rs"), 1);
    assert_eq!(breaches("lb-userspace/src/config/model.rs"), 1);
    assert_eq!(breaches("lb-userspace/src/vrrp/fsm/tests.rs"), 0);
    assert_eq!(breaches("lb-userspace/src/vrrp/fsm/simulation.rs"), 0);
    assert_eq!(breaches("lb-userspace/src/config/load.rs"), 0);
    assert_eq!(breaches("lb-userspace/src/vrrp/socket.rs"), 0);
}

#[test]
fn a_stale_list_of_pure_files_is_a_breach() {
    assert_eq!(purity(&[]).len(), PURE.len() + NOT_PURE.len());
}

#[test]
fn unfinished_work_is_found_in_code_only() {
    assert_eq!(places(unfinished, "a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"), ["a.rs:2"]);
    assert_eq!(places(unfinished, "a.rs", "fn a() { todo!() }"), ["a.rs:1"]);
    assert_eq!(places(unfinished, "a.rs", "fn a() { unimplemented!(\"x\") }"), ["a.rs:1"]);
    assert!(places(unfinished, "a.rs", "// todo!()\nlet a = \"#[ignore]\"; my_todo!();").is_empty());
    assert!(places(unfinished, "a.md", "todo!()").is_empty());
}

#[test]
fn unsafe_is_for_the_listed_files_and_for_other_crates() {
    let source = "//! unsafe?\nfn a() {\n    unsafe { b() }\n}\n";
    let at = |path: &str| places(unsafe_code, path, source);
    assert_eq!(at("lb-userspace/src/netlink.rs"), ["lb-userspace/src/netlink.rs:3"]);
    assert!(at("lb-userspace/src/dataplane.rs").is_empty());
    assert!(at("lb-userspace/src/dataplane/maps.rs").is_empty());
    assert!(at("lb-ebpf/src/main.rs").is_empty());
    assert!(places(unsafe_code, "lb-userspace/src/lib.rs", "#![deny(unsafe_op_in_unsafe_fn)]").is_empty());
}

#[test]
fn a_mod_rs_lists_modules_and_may_re_export() {
    let good =
        "//! Words about fn and struct.\npub mod a;\nmod b;\npub use b::Thing;\n#[cfg(test)]\nmod tests;\n";
    assert!(places(module_lists, "a/src/x/mod.rs", good).is_empty());
    assert_eq!(
        places(module_lists, "a/src/x/mod.rs", "mod a;\npub(crate) fn b() {}\n"),
        ["a/src/x/mod.rs:2"]
    );
    assert_eq!(places(module_lists, "a/src/x/mod.rs", "pub struct A;"), ["a/src/x/mod.rs:1"]);
    assert!(places(module_lists, "a/src/x.rs", "pub struct A;").is_empty());
}

#[test]
fn paths_of_one_machine_are_found_in_any_text() {
    let (home, work) = (concat!("/", "home/"), concat!("/", "work/"));
    assert_eq!(places(machine_paths, "README.md", &format!("x\nsee {home}me/x")), ["README.md:2"]);
    assert_eq!(places(machine_paths, "a.rs", &format!("let a = \"{work}x\";")), ["a.rs:1"]);
    for fine in [format!("$HOME{work}x"), format!("target{work}x"), "/etc/xvip/xvip.toml".to_owned()] {
        assert!(places(machine_paths, "a.toml", &fine).is_empty(), "{fine}");
    }
}

#[test]
fn binaries_are_known_by_content_and_by_name() {
    let data = File { path: "a/data".to_owned(), text: None };
    assert_eq!(binaries(&[data]).len(), 1);
    assert_eq!(places(binaries, "tests/golden/x.pcap", "text"), ["tests/golden/x.pcap"]);
    assert!(places(binaries, "tests/golden/x.hex", "00 01").is_empty());
}

#[test]
fn long_files_are_found() {
    assert!(places(length, "a.rs", &"\n".repeat(999)).is_empty());
    assert_eq!(places(length, "a.rs", &"\n".repeat(1000)), ["a.rs"]);
    assert!(places(length, "Cargo.lock", &"\n".repeat(5000)).is_empty());
}
