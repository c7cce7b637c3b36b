//! `[stats_socket]`.

use std::{path::PathBuf, time::Duration};

use super::HOUR;
use crate::config::{
    kinds::{NAME, OneOf, PATH, Text, Time},
    model::{DEFAULT_STATS_SOCKET_MODE, DEFAULT_STATS_SOCKET_TIMEOUT, StatsLevel, StatsSocket, mode_text},
    reader::{Table, Wrong, quoted},
};

/// The longest path of a socket: `sun_path` has 108 bytes, the last one a zero (unix(7)).
const LONGEST_PATH: usize = 107;

const LEVEL: OneOf<StatsLevel> =
    OneOf(&[("user", StatsLevel::User), ("operator", StatsLevel::Operator), ("admin", StatsLevel::Admin)]);
const TIMEOUT: Time = Time::between(Duration::from_secs(1), HOUR);

const SOCKET_PATH: Text<PathBuf> = Text {
    what: "a path",
    parse: |text| match text.len() {
        0..=LONGEST_PATH => (PATH.parse)(text),
        length => Err(Wrong::new(format!(
            "must not be longer than {LONGEST_PATH} bytes, the kernel's limit for a socket; this has {length}"
        ))),
    },
    show: PATH.show,
};

/// The rights of a file in octal, as chmod(1) takes them.
const MODE: Text<u32> = Text {
    what: "a mode like \"660\"",
    parse: |text| {
        let is_octal =
            matches!(text.len(), 3 | 4) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        mode.filter(|mode| *mode <= 0o777).ok_or_else(|| {
            Wrong::new(format!("must be a mode from \"000\" to \"777\", not {}", quoted(text)))
        })
    },
    show: |mode| mode_text(*mode),
};

/// `[stats_socket]`; None where something of it is wrong, which was said.
pub(super) fn stats_socket(t: Table<'_>) -> Option<StatsSocket> {
    let path = t.read("path", SOCKET_PATH).required("\"/run/haproxy/admin.sock\"");
    let mode = t.read("mode", MODE).or(DEFAULT_STATS_SOCKET_MODE);
    let group = t.read("group", NAME).optional("\"haproxy\"");
    let level = t.read("level", LEVEL).or(StatsLevel::default()).value;
    let timeout = t.read("timeout", TIMEOUT).or(DEFAULT_STATS_SOCKET_TIMEOUT).value;
    if mode.value & 0o002 != 0 && level == StatsLevel::Admin {
        let message = "with this `mode` and level \"admin\", everybody on this machine may take backends out";
        t.reader.warning(
            &mode.place,
            message,
            "write: mode = \"660\" and a `group`, or level = \"operator\"",
        );
    }
    t.finish();
    Some(StatsSocket {
        path: path?.value,
        mode: mode.value,
        group: group.map(|group| group.value),
        level,
        timeout,
    })
}
