//! `[stats_socket]`: what is accepted and what is refused.

use std::{path::Path, time::Duration};

use super::{
    BASE, edited, parse,
    refused::{Mistake, each_is_refused, m},
};
use crate::config::{
    effective::effective,
    model::{DEFAULT_STATS_SOCKET_MODE, DEFAULT_STATS_SOCKET_TIMEOUT, StatsLevel, StatsSocket},
};

/// `[stats_socket]` with a good path and these keys.
macro_rules! socket {
    ($keys:literal) => {
        concat!("[stats_socket]\npath = \"/run/haproxy/admin.sock\"\n", $keys, "\n[flows]")
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    m("[flows]", "[stats_socket]\n[flows]", "[stats_socket]", "stats_socket.path", "`path` is missing", "write: path = \"/run/haproxy/admin.sock\""),
    m("[flows]", "[stats_socket]\npath = \"admin.sock\"\n[flows]", "path", "stats_socket.path", "must be an absolute path", "write: path = \"/run/haproxy/admin.sock\""),
    m("[flows]", "[stats_socket]\npath = \"/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n[flows]", "path = \"/run/aaa", "stats_socket.path", "must not be longer than 107 bytes", "write: path = \"/run/haproxy/admin.sock\""),
    m("[flows]", socket!("mode = 660"), "mode", "stats_socket.mode", "must be a mode like \"660\" in quotes, not a whole number", "write: mode = \"660\""),
    m("[flows]", socket!("mode = \"rw-rw----\""), "mode", "stats_socket.mode", "must be a mode from \"000\" to \"777\", not \"rw-rw----\"", "write: mode = \"660\""),
    m("[flows]", socket!("mode = \"668\""), "mode", "stats_socket.mode", "not \"668\"", "write: mode = \"660\""),
    m("[flows]", socket!("mode = \"4660\""), "mode", "stats_socket.mode", "not \"4660\"", "write: mode = \"660\""),
    m("[flows]", socket!("mode = \"+66\""), "mode", "stats_socket.mode", "not \"+66\"", "write: mode = \"660\""),
    m("[flows]", socket!("group = \"\""), "group", "stats_socket.group", "must not be empty", "write: group = \"haproxy\""),
    m("[flows]", socket!("level = \"root\""), "level", "stats_socket.level", "must be \"user\" or \"operator\" or \"admin\", not \"root\"", "write: level = \"operator\""),
    m("[flows]", socket!("timeout = \"0s\""), "timeout", "stats_socket.timeout", "must be 1s to 1h", "write: timeout = \"1s\""),
    m("[flows]", socket!("user = \"haproxy\""), "user", "stats_socket.user", "unknown key `user`", "remove it; the keys of [stats_socket] are path, mode, group, level, timeout"),
    m("[flows]", "[[stats_socket]]\npath = \"/run/a\"\n[flows]", "[[stats_socket]]", "stats_socket", "has single brackets", "write: [stats_socket]"),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

fn socket(keys: &str) -> StatsSocket {
    let text =
        edited("[flows]", &format!("[stats_socket]\npath = \"/run/haproxy/admin.sock\"\n{keys}\n[flows]"));
    let checked = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.warnings, []);
    let written = effective(&checked.config);
    assert_eq!(parse(&written).expect("accepted").config, checked.config, "{written}");
    checked.config.stats_socket.expect("it is there")
}

#[test]
fn each_key_means_something_and_is_written_again() {
    assert_eq!(parse(BASE).expect("accepted").config.stats_socket, None);
    let plain = StatsSocket {
        path: Path::new("/run/haproxy/admin.sock").to_owned(),
        mode: DEFAULT_STATS_SOCKET_MODE,
        group: None,
        level: StatsLevel::Operator,
        timeout: DEFAULT_STATS_SOCKET_TIMEOUT,
    };
    assert_eq!(socket(""), plain);
    let all = socket("mode = \"0600\"\ngroup = \"haproxy\"\nlevel = \"admin\"\ntimeout = \"2m\"");
    let timeout = Duration::from_secs(120);
    let group = Some("haproxy".to_owned());
    assert_eq!(all, StatsSocket { mode: 0o600, group, level: StatsLevel::Admin, timeout, ..plain.clone() });
    assert_eq!(
        socket("mode = \"000\"\nlevel = \"user\""),
        StatsSocket { mode: 0, level: StatsLevel::User, ..plain }
    );
    let told = serde_json::to_value(&all).expect("JSON");
    assert_eq!((told["mode"].as_str(), told["timeout"].as_str()), (Some("600"), Some("2m")));
    for level in [StatsLevel::User, StatsLevel::Operator, StatsLevel::Admin] {
        assert_eq!(serde_json::to_value(level).expect("JSON"), level.as_str());
    }
}

#[test]
fn a_socket_on_which_everybody_may_act_is_warned_about() {
    for (keys, expected) in [
        ("mode = \"666\"\nlevel = \"admin\"", &["stats_socket.mode"][..]),
        ("mode = \"666\"", &[]),
        ("mode = \"664\"\nlevel = \"admin\"", &[]),
    ] {
        let text = edited("[flows]", &format!("[stats_socket]\npath = \"/run/a\"\n{keys}\n[flows]"));
        let warnings = parse(&text).unwrap_or_else(|problems| panic!("{problems}")).warnings;
        let keys: Vec<&str> = warnings.iter().map(|found| found.key.as_str()).collect();
        assert_eq!(keys, expected);
    }
}
