//! `[log]`.

use super::OneOf;
use crate::config::{
    model::{Log, LogFormat, LogLevel, LogTarget},
    reader::Table,
};

const TARGET: OneOf<LogTarget> =
    OneOf(&[("auto", LogTarget::Auto), ("journal", LogTarget::Journal), ("stderr", LogTarget::Stderr)]);
const FORMAT: OneOf<LogFormat> = OneOf(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
const LEVEL: OneOf<LogLevel> = OneOf(&[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
]);

/// `[log]`
pub(super) fn log(t: Table<'_>) -> Log {
    let target = t.read("target", TARGET).or(LogTarget::default()).value;
    let format = t.read("format", FORMAT).or(LogFormat::default());
    let level = t.read("level", LEVEL).or(LogLevel::default()).value;
    let mut log = Log { target, format: format.value, level };
    if format.given && target == LogTarget::Journal {
        let message = "`format` is for stderr only: the journal has every field by itself";
        t.reader.error(&format.place, message, "remove it, or write: target = \"stderr\"");
        log.format = LogFormat::default();
    }
    t.finish();
    log
}
