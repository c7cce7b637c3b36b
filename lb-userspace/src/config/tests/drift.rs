//! `packaging/xvip.toml` says every key and every default, and says them right.

use std::{collections::BTreeSet, path::Path};

use super::{facts, parse};
use crate::config::{
    model::{
        DEFAULT_ADVERT_INTERVAL_V3, DEFAULT_CONNECTION_LOG, DEFAULT_CONNECTION_LOG_DIRECTORY,
        DEFAULT_CONNECTION_LOG_FILES, DEFAULT_CONNECTION_LOG_SIZE, DEFAULT_EXPECT_STATUS, DEFAULT_FLOWS_MAX,
        DEFAULT_HEALTH_PATH, DEFAULT_IDLE_TIMEOUT, DEFAULT_INTERVAL, DEFAULT_MAX_CONNECTIONS,
        DEFAULT_NEW_CONNECTIONS_PER_SOURCE, DEFAULT_PIN_PATH, DEFAULT_PRIORITY, DEFAULT_SLOW_START,
        DEFAULT_SOURCES_MAX, DEFAULT_TRACK_COUNT, DEFAULT_TRACK_INTERVAL, DEFAULT_TRACK_USER,
        DEFAULT_VIRTUAL_MAC, DEFAULT_WEIGHT, default_half_open_max, default_new_connections_burst,
        default_time_window, duration_text, size_text,
    },
    parse::parse_with_schema,
};

const PACKAGED: &str = include_str!("../../../../packaging/xvip.toml");

/// What ends a commented-out line that is not a default.
const EXAMPLE: &str = "(no default)";

/// A line that is a key or a table, but for the `#` before it; prose has a blank there.
fn uncommented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
}

fn packaged(uncomment: impl Fn(&str) -> bool) -> String {
    PACKAGED
        .lines()
        .map(|line| format!("{}\n", uncommented(line).filter(|_| uncomment(line)).unwrap_or(line)))
        .collect()
}

fn key_of(line: &str) -> &str {
    line.split(['=', ' ']).next().unwrap_or_default()
}

#[test]
fn the_packaged_file_is_accepted() {
    let checked = parse(PACKAGED).unwrap_or_else(|problems| panic!("{problems}"));
    let keys: Vec<&str> = checked.warnings.iter().map(|found| found.key.as_str()).collect();
    assert_eq!(keys, ["service[0].health.check"], "only that certificates are not verified");
}

#[test]
fn its_commented_defaults_are_the_model_s() {
    let plain = parse(PACKAGED).expect("accepted");
    let written_out =
        parse(&packaged(|line| !line.ends_with(EXAMPLE))).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(written_out.config, plain.config);
    // A value of a later feature that were not its default would warn.
    assert_eq!(written_out.warnings.len(), plain.warnings.len(), "{:#?}", written_out.warnings);
    // That the lines are there at all, so that the comparison above has something to compare.
    for line in [
        format!("#pin_path = {DEFAULT_PIN_PATH:?}"),
        format!("#path = {DEFAULT_HEALTH_PATH:?}"),
        format!("#expect_status = [{DEFAULT_EXPECT_STATUS}]"),
        format!("#interval = {:?}", duration_text(DEFAULT_INTERVAL)),
        format!("#weight = {DEFAULT_WEIGHT}"),
        format!("#priority = {DEFAULT_PRIORITY}"),
        format!("#virtual_mac = {DEFAULT_VIRTUAL_MAC}"),
        format!("#user = {DEFAULT_TRACK_USER:?}"),
        format!("#interval = {:?}", duration_text(DEFAULT_TRACK_INTERVAL)),
        format!("#rise = {DEFAULT_TRACK_COUNT} "),
        format!("#fall = {DEFAULT_TRACK_COUNT} "),
        format!("#time_window = {:?}", duration_text(default_time_window(DEFAULT_ADVERT_INTERVAL_V3))),
        format!("#advert_interval = {:?}", duration_text(DEFAULT_ADVERT_INTERVAL_V3)),
        format!("#max = {DEFAULT_FLOWS_MAX}"),
        format!("#connection_log = {DEFAULT_CONNECTION_LOG}"),
        format!("#directory = {DEFAULT_CONNECTION_LOG_DIRECTORY:?}"),
        format!("#max_size = {:?}", size_text(DEFAULT_CONNECTION_LOG_SIZE)),
        format!("#files = {DEFAULT_CONNECTION_LOG_FILES}"),
        format!("#half_open_max = {}", default_half_open_max(DEFAULT_FLOWS_MAX)),
        format!("#sources_max = {DEFAULT_SOURCES_MAX}"),
        format!("#new_connections_per_source = {DEFAULT_NEW_CONNECTIONS_PER_SOURCE}"),
        format!("#new_connections_burst = {}", default_new_connections_burst(0)),
        format!("#max_connections = {DEFAULT_MAX_CONNECTIONS}"),
        format!("#slow_start = {:?}", duration_text(DEFAULT_SLOW_START)),
        format!("#idle_timeout = {:?}", duration_text(DEFAULT_IDLE_TIMEOUT)),
    ] {
        assert!(PACKAGED.lines().any(|shown| shown.starts_with(&line)), "{line}");
    }
}

#[test]
fn it_has_every_key_of_the_schema_and_no_other() {
    let all = packaged(|_| true);
    let (outcome, schema) = parse_with_schema(&all, Path::new("packaging/xvip.toml"), &facts());
    let problems = outcome.expect_err("version 3 with a password, among others");
    let keys: Vec<&str> = problems.errors().map(|found| found.key.as_str()).collect();
    // These stand beside the defaults that they exclude; anything else is a key that does not exist.
    let excluded = [
        "node.interfaces",
        "service[0].new_connections_burst",
        "service[0].health.ca_file",
        "vrrp[0].auth_pass",
        "vrrp[0].auth_hmac",
        // A secret that everybody can read here is none.
        "vrrp[0].auth_hmac.key[1].value",
        "http.user[0].password_hash",
    ];
    assert_eq!(keys, excluded, "{problems}");

    let mut table = String::new();
    let mut shown = BTreeSet::new();
    for line in all.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned();
            shown.insert(table.clone());
        } else if line.contains('=') {
            shown.insert(format!("{table}.{}", key_of(line)));
        }
    }
    let missing: Vec<&String> = schema.iter().filter(|key| !shown.contains(*key)).collect();
    assert!(missing.is_empty(), "packaging/xvip.toml does not say {missing:?}");
    // The test would be blind if the schema were not recorded.
    assert!(
        schema.contains("service.backend.weight") && schema.contains("vrrp.auth_hmac.key.value"),
        "{schema:?}"
    );
}
