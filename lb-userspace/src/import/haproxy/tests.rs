//! What becomes of whole files. Each `NAME.cfg` of `tests/golden/import/haproxy` has a `NAME.expected` beside it, which says
//! of each line what became of it, and then the model; `XVIP_BLESS=1` writes them anew, to be read before they are kept.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{is_blank, lint, read};
use crate::import::{
    incumbent::{Incumbent, PoolServer, Proxy},
    ledger::{Entry, Fate, Ledger},
    source::{At, FileId, Place, Source},
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/import/haproxy")
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cfg"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn imported(text: &[u8]) -> (Incumbent, Ledger, Source) {
    let source = Source::new("haproxy.cfg", text);
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    read(&source, FileId(0), &mut incumbent, &mut ledger);
    lint(&incumbent, &mut ledger);
    (incumbent, ledger, source)
}

fn shown(text: &[u8]) -> String {
    let (incumbent, ledger, source) = imported(text);
    let mut out = String::new();
    let (lines, findings) = ledger.close(std::slice::from_ref(&source), |_, line| is_blank(line));
    for ((_, number), entries) in &lines {
        writeln!(out, "{number}: {}", source.lines().nth(number - 1).unwrap_or_default().trim()).unwrap();
        for Entry { place, fate, becomes, note } in entries.iter().filter(|entry| entry.fate != Fate::Blank) {
            let becomes = if becomes.is_empty() { String::new() } else { format!(" {becomes}") };
            let note = if note.is_empty() { String::new() } else { format!(" -- {note}") };
            writeln!(out, "    {:>3} {fate:?}{becomes}{note}", place.column).unwrap();
        }
    }
    for finding in findings {
        let places: Vec<_> = finding.places.iter().map(ToString::to_string).collect();
        let (id, severity) = (finding.id, finding.severity);
        writeln!(out, "{id} {severity:?} {}: {}\n    {}", places.join(" "), finding.message, finding.remedy)
            .unwrap();
    }
    out.push_str(&model(&incumbent));
    out
}

/// The model, a line for each thing, with the lines that it came from.
fn model(incumbent: &Incumbent) -> String {
    let mut out = String::new();
    if let Some(most) = &incumbent.max_connections {
        writeln!(out, "max_connections {} @{}", most.value, most.place.line).unwrap();
    }
    for proxy in &incumbent.proxies {
        let Proxy { name, http, client_timeout, max_connections, pool, .. } = proxy;
        let binds: Vec<_> = proxy.binds.iter().map(|bind| bind.value).collect();
        let allow: Vec<_> = proxy.allow.iter().map(|prefix| prefix.value.to_string()).collect();
        let line =
            |place: Option<Place>| place.map_or_else(|| "-".to_owned(), |place| format!("@{}", place.line));
        writeln!(
            out,
            "proxy {} @{} http={http} binds={binds:?} allow={allow:?}",
            name.value, name.place.line
        )
        .unwrap();
        writeln!(
            out,
            "  logs={} skips_empty={} max={} client={}",
            line(proxy.logs_connections),
            line(proxy.skips_empty),
            at(max_connections),
            at(client_timeout)
        )
        .unwrap();
        writeln!(
            out,
            "  pool {} @{} http={} balance={:?} check={:?} @{}",
            pool.name.value,
            pool.name.place.line,
            pool.http,
            pool.balance.value,
            pool.check.value,
            pool.check.place.line
        )
        .unwrap();
        writeln!(
            out,
            "  connect={} server={} tunnel={} check={} resets={}",
            at(&pool.connect_timeout),
            at(&pool.server_timeout),
            at(&pool.tunnel_timeout),
            at(&pool.check_timeout),
            pool.resets_when_down
        )
        .unwrap();
        for server in &pool.servers {
            let PoolServer { name, address, weight, max_connections, checked, backup, disabled, .. } = server;
            let PoolServer { interval, fast_interval, down_interval, rise, fall, slow_start, .. } = server;
            writeln!(
                out,
                "    {} @{} {address:?} weight={weight} max={max_connections} checked={checked} backup={backup} disabled={disabled} \
                 inter={interval:?}/{fast_interval:?}/{down_interval:?} rise={rise} fall={fall} slowstart={slow_start:?}",
                name.value, name.place.line
            )
            .unwrap();
        }
    }
    for page in &incumbent.stats {
        let binds: Vec<_> = page.binds.iter().map(|bind| bind.value).collect();
        let users: Vec<_> = page.users.iter().map(|user| &user.value).collect();
        let path = page.path.as_ref().map(|path| path.value.as_str());
        let admin = page.admin.map(|place| place.line);
        writeln!(
            out,
            "page {} @{} binds={binds:?} path={path:?} users={users:?} admin={admin:?} refresh={}",
            page.name.value,
            page.name.place.line,
            at(&page.refresh)
        )
        .unwrap();
    }
    out
}

fn at<T: std::fmt::Debug>(what: &Option<At<T>>) -> String {
    what.as_ref().map_or_else(|| "-".to_owned(), |what| format!("{:?}@{}", what.value, what.place.line))
}

#[test]
fn files_are_read_as_expected() {
    let mut wrong = Vec::new();
    for path in files() {
        let found = shown(&std::fs::read(&path).unwrap());
        let expected = path.with_extension("expected");
        if std::env::var_os("XVIP_BLESS").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if let Some((line, (found, wanted))) = found
            .lines()
            .chain(["(the end)"])
            .zip(wanted.lines().chain(["(the end)"]))
            .enumerate()
            .find(|(_, (a, b))| a != b)
        {
            wrong.push(format!(
                "{} line {}:\n  found    {found}\n  expected {wanted}",
                expected.display(),
                line + 1
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_line_of_each_file_is_accounted_for() {
    for path in files() {
        let (_, ledger, source) = imported(&std::fs::read(&path).unwrap());
        unaccounted(&ledger, &source, &path.display().to_string());
    }
}

/// Fails where a line is known to nobody because nobody has noted it.
pub(super) fn unaccounted(ledger: &Ledger, source: &Source, name: &str) {
    let noted: std::collections::BTreeSet<_> =
        ledger.entries().iter().map(|entry| entry.place.line).collect();
    for (index, line) in source.lines().enumerate() {
        assert!(noted.contains(&(index + 1)) != is_blank(line), "{name} line {}: {line:?}", index + 1);
    }
    let lines = source.lines().count();
    for entry in ledger.entries() {
        assert!((1..=lines).contains(&entry.place.line) && entry.place.column > 0, "{name}: {entry:?}");
        let said = matches!(entry.fate, Fate::Exact | Fate::Approximate) || !entry.note.is_empty();
        assert!(said, "{name}: nothing is said: {entry:?}");
    }
}

#[test]
fn each_keyword_of_haproxy_is_known() {
    let list = std::fs::read_to_string(golden().join("keywords-2.6.txt")).unwrap();
    let (mut known, mut unknown) = (0, Vec::new());
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (section, keyword) = line.split_once(' ').unwrap();
        let keyword = keyword.replace("VALUE", "1s");
        let text = match section {
            "global" => format!("global\n {keyword}\n"),
            "proxy" => format!("listen a\n {keyword}\n"),
            "page" => format!("listen a\n mode http\n {keyword}\n"),
            "option" => format!("listen a\n {line}\n"),
            "timeout" => format!("listen a\n {line} 1s\n"),
            "bind" => format!("listen a\n bind :1 {keyword}\n"),
            "server" => format!("listen a\n server a 10.0.0.1:1 {keyword}\n"),
            _ => panic!("{line}"),
        };
        let (_, ledger, _) = imported(text.as_bytes());
        if ledger.entries().iter().any(|entry| entry.fate == Fate::Unknown) {
            unknown.push(line.to_owned());
        }
        known += 1;
    }
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(known > 500);
}

#[test]
fn no_more_servers_are_taken_than_anybody_could_use() {
    let fronts: String =
        (0..200).map(|at| format!("frontend f{at}\n bind :1\n default_backend b\n")).collect();
    let file = format!("{fronts}backend b\n{}", " server s 10.0.0.1:1\n".repeat(200));
    let (incumbent, ledger, source) = imported(file.as_bytes());
    let servers: usize = incumbent.proxies.iter().map(|proxy| proxy.pool.servers.len()).sum();
    assert_eq!(servers, 8000);
    unaccounted(&ledger, &source, "many");
    assert!(ledger.entries().iter().any(|entry| entry.note.contains("more servers")));
}

#[test]
fn a_page_of_its_own_has_nothing_of_the_defaults() {
    let file = "defaults\n mode http\n stats auth a:b\n stats uri /x\nlisten own\n bind :1\n stats enable\n\
                listen inherits\n bind :2\n";
    let (incumbent, ..) = imported(file.as_bytes());
    let seen: Vec<_> = incumbent
        .stats
        .iter()
        .map(|page| (page.name.value.as_str(), page.path.is_some(), page.users.len()))
        .collect();
    assert_eq!(seen, [("own", false, 0), ("inherits", true, 1)]);
}
