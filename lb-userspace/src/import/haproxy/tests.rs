//! What becomes of whole files. Each `NAME.cfg` of `tests/golden/import/haproxy` has a `NAME.expected` beside it, which says
//! of each line what became of it, and then the model; `XVIP_BLESS=1` writes them anew, to be read before they are kept.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{is_blank, lint, read};
use crate::import::{
    incumbent::Incumbent,
    ledger::{Entry, Fate, Ledger},
    source::{FileId, Source},
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
    writeln!(out, "{incumbent:#?}").unwrap();
    out
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
