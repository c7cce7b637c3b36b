//! `[log]`: what is accepted and what is refused.

use super::{
    BASE, edited, parse,
    refused::{Mistake, each_is_refused, m},
};
use crate::config::{
    effective::effective,
    model::{Log, LogFormat, LogLevel, LogTarget},
};

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    m("[flows]", "[log]\ntarget = \"syslog\"\n[flows]", "target", "log.target", "must be \"auto\" or \"journal\" or \"stderr\", not \"syslog\"", "write: target = \"auto\""),
    m("[flows]", "[log]\nlevel = \"warning\"\n[flows]", "level", "log.level", "not \"warning\"", "write: level = \"info\""),
    m("[flows]", "[log]\nlevels = \"warn\"\n[flows]", "levels", "log.levels", "unknown key", "write: level = \"warn\""),
    m("[flows]", "[log]\ntarget = \"journal\"\nformat = \"json\"\n[flows]", "format", "log.format", "`format` is for stderr only", "remove it, or write: target = \"stderr\""),
    m("[flows]", "[[log]]\nlevel = \"warn\"\n[flows]", "[[log]]", "log", "has single brackets", "write: [log]"),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

#[test]
fn each_word_means_something_and_is_written_again() {
    assert_eq!(parse(BASE).expect("accepted").config.log, Log::default());
    for (keys, expected) in [
        ("target = \"journal\"\nlevel = \"error\"", (LogTarget::Journal, LogFormat::Text, LogLevel::Error)),
        (
            "target = \"stderr\"\nformat = \"json\"\nlevel = \"warn\"",
            (LogTarget::Stderr, LogFormat::Json, LogLevel::Warn),
        ),
        ("format = \"json\"\nlevel = \"debug\"", (LogTarget::Auto, LogFormat::Json, LogLevel::Debug)),
        (
            "target = \"auto\"\nformat = \"text\"\nlevel = \"trace\"",
            (LogTarget::Auto, LogFormat::Text, LogLevel::Trace),
        ),
    ] {
        let checked = parse(&edited("[flows]", &format!("[log]\n{keys}\n[flows]"))).expect("accepted");
        let (target, format, level) = expected;
        assert_eq!(checked.config.log, Log { target, format, level }, "{keys}");
        assert!(keys.contains(level.as_str()));
        let written = effective(&checked.config);
        assert_eq!(parse(&written).expect("accepted").config, checked.config, "{written}");
    }
}
