//! What of the manual is made of the code.

use std::error::Error;
use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};
use lb_common::reason::{DropReason, PassReason, TransmitReason};
use lb_userspace::cli::command::Cli;
use lb_userspace::metrics;
use lb_userspace::reasons::{Advice, dropped, passed, transmitted};

use super::{keys, page};

/// Every part by its name.
pub fn parts() -> Result<Vec<(&'static str, String)>, Box<dyn Error>> {
    Ok(vec![
        ("contents", contents()?),
        ("commands", commands()?),
        ("configuration", configuration()?),
        ("metrics", format!("\n{}", metrics::catalogue::markdown())),
        ("packets passed", reasons(PassReason::ALL.iter().map(|r| (r.name(), r.description(), passed(*r))))?),
        (
            "packets dropped",
            reasons(DropReason::ALL.iter().map(|r| (r.name(), r.description(), dropped(*r))))?,
        ),
        (
            "packets transmitted",
            reasons(TransmitReason::ALL.iter().map(|r| (r.name(), r.description(), transmitted(*r))))?,
        ),
    ])
}

/// The pages in the order in which they are read; one that is not here comes last, so that it is found.
const CONTENTS: [(&str, &[(&str, &str)]); 3] = [
    (
        "Begin",
        &[
            (
                "quick-start.md",
                "two nodes, three masters, another port, Pacemaker users, VLAN: whole configurations",
            ),
            ("install.md", "packages, the systemd unit, its user and capabilities"),
            ("kubernetes.md", "as a static pod, with kubeadm, before the first API server exists"),
            ("import.md", "write the configuration from HAProxy's, keepalived's or Pacemaker's files"),
            ("migration.md", "node by node, with what to look at after each step and the way back"),
            ("direct-server-return.md", "what backends need in the dsr modes"),
        ],
    ),
    (
        "Run",
        &[
            ("operations.md", "drain, restart, upgrade, reload, backup, keys"),
            ("troubleshooting.md", "what you see, what it is, what to do"),
            ("doctor.md", "what on this node or its network will not work"),
            ("json.md", "`status`, `flows`, `top`, and the forms of `--json`"),
            ("web-page.md", "the page where HAProxy's stats page was"),
            ("metrics.md", "Prometheus: every metric, alerts, dashboard"),
            ("stats-socket.md", "HAProxy's runtime socket for scripts that know it"),
            ("events.md", "the log, `xvip explain`, and who is told"),
            ("connection-log.md", "whose connection had that NAT port"),
            ("tuning.md", "take-over times, memory, network cards, limits"),
            ("performance.md", "what a packet costs, where that goes, and what was tried"),
            ("security.md", "who may do what, what listens, what the daemon may"),
        ],
    ),
    (
        "Look up",
        &[
            ("command-line.md", "every command and option, exit codes"),
            ("configuration.md", "every key"),
            ("reasons.md", "why a packet was passed, dropped or sent, and why an advertisement was not used"),
        ],
    ),
];

/// A list of the pages that there are.
fn contents() -> Result<String, Box<dyn Error>> {
    let mut pages: Vec<String> = Vec::new();
    for page in page::manual()? {
        let name = page.path.strip_prefix("docs").ok().and_then(|name| name.to_str());
        pages.extend(name.filter(|name| *name != "README.md").map(ToOwned::to_owned));
    }
    let mut out = String::new();
    for (group, listed) in CONTENTS {
        writeln!(out, "\n## {group}\n")?;
        for (name, about) in listed.iter().filter(|(name, _)| pages.iter().any(|page| page == name)) {
            writeln!(out, "- [{}]({name}): {about}", name.trim_end_matches(".md"))?;
        }
    }
    pages.retain(|page| !CONTENTS.iter().any(|(_, listed)| listed.iter().any(|(name, _)| name == page)));
    if !pages.is_empty() {
        out.push_str("\n## More\n\n");
    }
    pages.iter().try_for_each(|name| writeln!(out, "- [{}]({name})", name.trim_end_matches(".md")))?;
    Ok(out)
}

/// The command line with every command below it, in the order of `xvip --help`.
fn commands() -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    let mut xvip = Cli::command().disable_help_subcommand(true);
    xvip.build();
    for command in xvip.get_subcommands() {
        describe(&mut out, command, "xvip")?;
    }
    Ok(out)
}

fn describe(out: &mut String, command: &Command, above: &str) -> Result<(), Box<dyn Error>> {
    let name = format!("{above} {}", command.get_name());
    writeln!(out, "\n## {name}\n\n{}.", command.get_about().map(ToString::to_string).unwrap_or_default())?;
    let mut inner: Vec<&Command> = command.get_subcommands().collect();
    inner.retain(|command| !command.is_hide_set());
    let shown: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if inner.is_empty() {
        let usage = command.clone().bin_name(&name).render_usage().to_string();
        writeln!(out, "\n```text\n{}\n```", usage.trim_start_matches("Usage: ").trim())?;
    }
    if !shown.is_empty() {
        out.push_str("\n| | | default |\n|---|---|---|\n");
    }
    for arg in shown {
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let words: Vec<String> = (arg.get_possible_values().iter())
            .filter(|value| !value.is_hide_set() && arg.get_action().takes_values())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        let words = if words.is_empty() { String::new() } else { format!("; one of {}", words.join(", ")) };
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        let default = match (defaults.is_empty(), arg.is_required_set()) {
            (_, true) => "required".to_owned(),
            (false, false) if arg.get_action().takes_values() => defaults.join(", "),
            _ => String::new(),
        };
        writeln!(out, "| {} | {}{words} | {default} |", cell(&spelling(arg)), cell(&help))?;
    }
    inner.iter().try_for_each(|command| describe(out, command, &name))
}

/// `` `-o`, `--output FILE` ``
fn spelling(arg: &Arg) -> String {
    let values: Vec<String> = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => names.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match arg.get_long() {
        Some(long) => format!("{short}`{}`", [&[format!("--{long}")], values.as_slice()].concat().join(" ")),
        None => format!("`{}`", values.join(" ")),
    }
}

/// Each table with its keys.
fn configuration() -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    for table in keys::tables()? {
        writeln!(out, "\n## {}\n", table.header)?;
        if !table.about.is_empty() {
            writeln!(out, "{}\n", table.about)?;
        }
        out.push_str("| key | default | example | |\n|---|---|---|---|\n");
        for key in table.keys {
            let value = format!("`{}`", cell(&key.value));
            let (default, example) = match (key.is_default, key.is_required) {
                (true, _) => (value, String::new()),
                (false, true) => ("required".to_owned(), value),
                (false, false) => (String::new(), value),
            };
            writeln!(out, "| `{}` | {default} | {example} | {} |", key.name, cell(&key.meaning))?;
        }
    }
    Ok(out)
}

/// A section for each, so that there is something to link to.
fn reasons<'r>(reasons: impl Iterator<Item = (&'r str, &'r str, Advice)>) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    for (name, description, Advice { normal, remedy }) in reasons {
        writeln!(out, "\n### {name}\n\n{}\n\n- Normal: {}", description.trim(), lowered(normal))?;
        if !remedy.is_empty() {
            writeln!(out, "- Otherwise: {remedy}")?;
        }
    }
    Ok(out)
}

/// A sentence that follows a colon.
fn lowered(sentence: &str) -> String {
    let mut chars = sentence.chars();
    // Abbreviations stay as they are.
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(chars).collect(),
        _ => sentence.to_owned(),
    }
}

/// A text that a table's cell can have.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
