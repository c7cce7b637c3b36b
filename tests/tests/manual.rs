//! The manual says what is so: each command, option, key, reason, event and link in it exists, and each that exists is in it.
//!
//! What is made of the code lies between `<!-- begin generated: NAME -->` and `<!-- end generated: NAME -->`, and
//! `XVIP_BLESS=1 cargo test -p lb-tests --test manual` writes it anew.
//!
//! Runner: no root, threads 2

#[path = "manual/command_lines.rs"]
mod command_lines;
#[path = "manual/examples.rs"]
mod examples;
#[path = "manual/generated.rs"]
mod generated;
#[path = "manual/keys.rs"]
mod keys;
#[path = "manual/messages.rs"]
mod messages;
#[path = "manual/page.rs"]
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Once;

use lb_userspace::cli::schema;
use lb_userspace::history::Kind;
use lb_userspace::metrics;
use lb_userspace::status::Status;

use page::Page;

type TestResult = Result<(), Box<dyn Error>>;

/// Set to anything: generated parts are written rather than compared.
const BLESS: &str = "XVIP_BLESS";

/// Fails with every line.
fn none(wrong: Vec<String>) -> TestResult {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    Ok(())
}

/// The pages; where that is asked for, their generated parts are written first.
fn manual() -> Result<Vec<Page>, Box<dyn Error>> {
    static WRITTEN: Once = Once::new();
    if std::env::var_os(BLESS).is_some() {
        WRITTEN.call_once(|| {
            for (page, text) in regenerated(&mut Vec::new()).expect("the pages can be read") {
                fs::write(page::root().join(&page.path), &text).expect("a page can be written");
            }
        });
    }
    page::manual()
}

/// The pages that are not what the code says, with what they should be; what cannot be made is said to `wrong`.
fn regenerated(wrong: &mut Vec<String>) -> Result<Vec<(Page, String)>, Box<dyn Error>> {
    let parts: BTreeMap<&str, String> = generated::parts()?.into_iter().collect();
    let (mut stale, mut seen) = (Vec::new(), BTreeSet::new());
    for page in page::manual()? {
        let mut text = page.text.clone();
        // From the end, so that what is before stays where it is.
        for part in page.generated()?.into_iter().rev() {
            match parts.get(part.name) {
                Some(made) => text.replace_range(part.from..part.to, &format!("\n{made}\n")),
                None => wrong.push(format!("{}: nothing generates {:?}", page.path.display(), part.name)),
            }
            seen.insert(part.name.to_owned());
        }
        if text != page.text {
            stale.push((page, text));
        }
    }
    wrong.extend(
        parts.keys().filter(|name| !seen.contains(**name)).map(|name| format!("no page has {name:?}")),
    );
    Ok(stale)
}

#[test]
fn generated_parts_are_what_the_code_says() -> TestResult {
    // They are, where they have just been written.
    manual()?;
    let mut wrong = Vec::new();
    for (page, text) in regenerated(&mut wrong)? {
        let line = page.text.lines().zip(text.lines()).position(|(old, new)| old != new);
        let place = page.at(1 + line.unwrap_or_default());
        wrong
            .push(format!("{place}: not what the code says: {BLESS}=1 cargo test -p lb-tests --test manual"));
    }
    none(wrong)
}

#[test]
fn every_configuration_shown_is_accepted() -> TestResult {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in manual()? {
        for block in page.blocks.iter().filter(|block| block.language == "toml") {
            count += 1;
            if let Err(said) = examples::check(&block.text) {
                wrong.push(format!("{}: {said}", page.at(block.line)));
            }
        }
    }
    assert!(count >= 15, "only {count} examples were found");
    none(wrong)
}

#[test]
fn every_command_line_shown_is_taken() -> TestResult {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in manual()? {
        for line in command_lines::of_page(&page, "xvip") {
            count += 1;
            if let Err(said) = command_lines::check_xvip(&line) {
                wrong.push(format!("{}: `{}`: {said}", line.at, line.text));
            }
        }
    }
    assert!(count >= 100, "only {count} command lines were found");
    none(wrong)
}

#[test]
fn every_task_and_suite_named_exists() -> TestResult {
    let tasks = command_lines::Tasks::read()?;
    let mut pages = manual()?;
    pages.push(page::read(Path::new("ARCHITECTURE.md"))?);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in &pages {
        for line in command_lines::of_page(page, "cargo") {
            count += 1;
            if let Err(said) = tasks.check(&line.text) {
                wrong.push(format!("{}: `{}`: {said}", line.at, line.text));
            }
        }
    }
    assert!(count >= 10, "only {count} were found");
    none(wrong)
}

/// `a/./b/../c` -> `a/c`
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() -> TestResult {
    let mut pages = manual()?;
    pages.push(page::read(Path::new("ARCHITECTURE.md"))?);
    let anchors: BTreeMap<PathBuf, Vec<String>> =
        pages.iter().map(|page| (page.path.clone(), page.anchors.clone())).collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in &pages {
        for link in page.links.iter().filter(|link| !link.text.contains("://")) {
            count += 1;
            let (file, anchor) = link.text.split_once('#').unwrap_or((&link.text, ""));
            let beside = page.path.parent().unwrap_or(Path::new(""));
            let target = if file.is_empty() { page.path.clone() } else { plain(&beside.join(file)) };
            if !page::root().join(&target).exists() {
                wrong.push(format!("{}: {} is not there", page.at(link.line), target.display()));
            } else if !anchor.is_empty()
                && !anchors.get(&target).is_some_and(|known| known.iter().any(|known| known == anchor))
            {
                wrong.push(format!("{}: {} has no heading #{anchor}", page.at(link.line), target.display()));
            }
        }
    }
    assert!(count >= 50, "only {count} links were found");
    none(wrong)
}

/// `flows.max`, `[service.health]`, `mode = "nat"`, and the values of `xvip status --json`.
#[test]
fn every_key_named_exists() -> TestResult {
    let names = keys::names()?;
    let status: serde_json::Value = serde_json::from_str(&schema::text::<Status>())?;
    let in_status = properties(&status);
    let tables: BTreeSet<&str> = names.full.iter().filter_map(|name| name.split('.').next()).collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in manual()? {
        for code in &page.code {
            let text = code.text.trim();
            let is_dotted =
                text.contains('.') && text.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'));
            let known = if let Some(table) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let table = table.trim_matches(['[', ']']);
                // A list, as in `["10.0.0.0/8"]`, is no table.
                if !table.starts_with(|c: char| c.is_ascii_lowercase()) {
                    continue;
                }
                names.full.contains(table)
            } else if let Some((key, _)) = text.split_once(" = ") {
                if !key.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_')) {
                    continue;
                }
                match key.contains('.') {
                    true => names.full.contains(key) || is_sysctl(key),
                    false => names.last.contains_key(key),
                }
            } else if is_dotted && text.split('.').next().is_some_and(|first| tables.contains(first)) {
                let last = text.rsplit('.').next().unwrap_or_default();
                // A file's name is none, such as `vrrp.key`.
                names.full.contains(text) || in_status.contains(last) || matches!(last, "key" | "rs" | "toml")
            } else {
                continue;
            };
            count += 1;
            if !known {
                wrong.push(format!("{}: `{text}`: there is no such key", page.at(code.line)));
            }
        }
    }
    assert!(count >= 60, "only {count} keys were found");
    none(wrong)
}

fn is_sysctl(key: &str) -> bool {
    key.starts_with("net.") || key.starts_with("kernel.")
}

/// The names of all properties in a schema.
fn properties(schema: &serde_json::Value) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    match schema {
        serde_json::Value::Object(parts) => {
            for (name, part) in parts {
                if name == "properties" {
                    found.extend(part.as_object().into_iter().flat_map(|all| all.keys().map(String::as_str)));
                }
                found.extend(properties(part));
            }
        }
        serde_json::Value::Array(parts) => parts.iter().for_each(|part| found.extend(properties(part))),
        _ => {}
    }
    found
}

/// What the first column of a page's tables names.
fn first_column(page: &Page) -> BTreeSet<String> {
    page.first_column.iter().map(|code| code.text.clone()).collect()
}

#[test]
fn every_capability_of_the_unit_is_explained() -> TestResult {
    let unit = fs::read_to_string(page::root().join("packaging/xvip.service"))?;
    let given = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let given: BTreeSet<&str> = given.ok_or("the unit gives everything")?.split(' ').collect();
    let mut wrong = Vec::new();
    for path in ["docs/security.md", "docs/install.md"] {
        let said = first_column(&page::read(Path::new(path))?);
        let said: BTreeSet<&str> =
            said.iter().map(String::as_str).filter(|word| word.starts_with("CAP_")).collect();
        wrong.extend(
            given.symmetric_difference(&said).map(|name| format!("{path}, or the unit, lacks {name}")),
        );
    }
    none(wrong)
}

#[test]
fn every_kind_of_event_is_explained() -> TestResult {
    let kinds: serde_json::Value = serde_json::from_str(&schema::text::<Kind>())?;
    let kinds: Vec<&str> =
        kinds["oneOf"].as_array().ok_or("no kinds")?.iter().filter_map(|one| one["const"].as_str()).collect();
    assert!(kinds.len() >= 18, "{kinds:?}");
    let said = first_column(&page::read(Path::new("docs/events.md"))?);
    none(
        kinds
            .into_iter()
            .filter(|kind| !said.contains(*kind))
            .map(|kind| format!("docs/events.md lacks {kind}"))
            .collect(),
    )
}

#[test]
fn every_finding_of_the_doctor_is_explained() -> TestResult {
    let directory = page::root().join("lb-userspace/src/doctor/findings");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let source = fs::read_to_string(&path)?;
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for before in ["const ID: &str = \"", "Finding::fine(\"", "Finding::problem(\"", "Finding::advice(\""]
        {
            ids.extend(
                code.split(before).skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())),
            );
        }
    }
    assert!(ids.len() >= 30, "{ids:?}");
    let said = first_column(&page::read(Path::new("docs/doctor.md"))?);
    let missing = ids.iter().filter(|id| !said.contains(*id)).map(|id| format!("docs/doctor.md lacks {id}"));
    let is_id = |word: &str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !word.starts_with('-')
    };
    let unknown = said
        .iter()
        .filter(|word| is_id(word) && !ids.contains(*word))
        .map(|id| format!("{id} is no finding"));
    none(missing.chain(unknown).collect())
}

#[test]
fn every_reason_to_refuse_an_advertisement_is_explained() -> TestResult {
    let source = fs::read_to_string(page::root().join("lb-userspace/src/vrrp/advert.rs"))?;
    let names = source.split("pub const fn name(&self)").nth(1).and_then(|rest| rest.split("\n    }").next());
    let names: BTreeSet<&str> =
        names.ok_or("no names")?.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 24, "{names:?}");
    let page = page::read(Path::new("docs/reasons.md"))?;
    let said = first_column(&page);
    let missing = names
        .iter()
        .filter(|name| !said.contains(**name))
        .map(|name| format!("docs/reasons.md lacks {name}"));
    let unknown =
        said.iter().filter(|name| !names.contains(name.as_str())).map(|name| format!("{name} is no reason"));
    none(missing.chain(unknown).collect())
}

#[test]
fn every_message_in_the_troubleshooting_is_one_that_xvip_says() -> TestResult {
    let said = messages::Said::read()?;
    let page = page::read(Path::new("docs/troubleshooting.md"))?;
    let messages: Vec<_> = page.first_column.iter().filter(|code| messages::is_message(&code.text)).collect();
    assert!(messages.len() >= 25, "only {} messages were found", messages.len());
    let strange = messages.into_iter().filter(|code| !said.contains(&code.text));
    none(strange.map(|code| format!("{}: nobody says {:?}", page.at(code.line), code.text)).collect())
}

/// In queries, too.
#[test]
fn every_metric_named_exists() -> TestResult {
    let catalogue = metrics::catalogue();
    let known: BTreeSet<String> =
        catalogue.iter().flat_map(|metric| [metric.series(), vec![metric.name.clone()]].concat()).collect();
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for page in manual()? {
        for (index, line) in page.text.lines().enumerate() {
            for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                // `xvip_` and `process_` are what they begin with; `xvip_0.1.0.deb` is a file.
                let is_name = word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let rest = word.strip_prefix("xvip_").or(word.strip_prefix("process_")).unwrap_or_default();
                if rest.is_empty() || !is_name {
                    continue;
                }
                if !known.contains(word) {
                    wrong.push(format!("{}: there is no metric {word}", page.at(1 + index)));
                }
                seen.insert(word.to_owned());
            }
        }
    }
    let missing = catalogue.iter().filter(|metric| !seen.contains(&metric.name));
    wrong.extend(missing.map(|metric| format!("no page has {}", metric.name)));
    none(wrong)
}

/// Files of this tree that are named in `code`.
#[test]
fn every_file_named_exists() -> TestResult {
    let mut wrong = Vec::new();
    for page in manual()? {
        for code in &page.code {
            let is_ours =
                ["docs/", "packaging/", "tests/", "xtask/", "lb-userspace/", "lb-common/", "lb-ebpf/"]
                    .iter()
                    .any(|directory| code.text.starts_with(directory));
            let is_file = code.text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_ours && is_file && !page::root().join(&code.text).exists() {
                wrong.push(format!("{}: {} is not there", page.at(code.line), code.text));
            }
        }
    }
    none(wrong)
}

/// Whose web pages may be named: of others' software, and those that are nobody's.
const HOSTS: [&str; 8] = [
    "rustup.rs",
    "toml.io",
    "example.com",
    "kubernetes.io",
    "k8s.io",
    "prometheus.io",
    "grafana.com",
    "rfc-editor.org",
];

#[test]
fn nobody_is_named() -> TestResult {
    let mut wrong = Vec::new();
    for page in manual()? {
        for (index, line) in page.text.lines().enumerate() {
            let mut no = |what: &str| wrong.push(format!("{}: {what}: {line}", page.at(1 + index)));
            for rest in line.split("://").skip(1) {
                let host =
                    rest.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))).next();
                // Without a dot it is a node of an example.
                let host = host.unwrap_or_default();
                let is_known =
                    HOSTS.iter().any(|known| host == *known || host.ends_with(&format!(".{known}")));
                if host.contains('.') && !is_known && host.parse::<std::net::IpAddr>().is_err() {
                    no("somebody's web page");
                }
            }
            for word in
                line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '-' | '_')))
            {
                if word.split_once('@').is_some_and(|(user, host)| {
                    !user.is_empty() && host.contains('.') && !host.ends_with(".service")
                }) {
                    no("an address for letters");
                }
                if let Ok(address) = word.trim_end_matches('.').parse::<std::net::Ipv4Addr>()
                    && !is_for_documents(address)
                {
                    no("somebody's address");
                }
            }
            if ["home", "root", "work"].iter().any(|top| line.contains(&format!("/{top}/"))) {
                no("a path of one machine");
            }
        }
    }
    none(wrong)
}

/// Private, for documents (RFC 5737), for groups, or nobody's.
fn is_for_documents(address: std::net::Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_documentation()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_link_local()
}

#[test]
fn headings_become_anchors_as_they_do_elsewhere() {
    for (heading, expected) in [
        ("Restart and upgrade", "restart-and-upgrade"),
        ("Moving over: `xvip import`", "moving-over-xvip-import"),
        ("[[vrrp.auth_hmac.key]]", "vrrpauth_hmackey"),
        ("Who was it?", "who-was-it"),
        ("HAProxy's, keepalived's", "haproxys-keepaliveds"),
    ] {
        assert_eq!(page::anchor(&heading.replace('`', "")), expected);
    }
    let twice = Page::of(Path::new("a.md"), "# Same\n\n# Same\n\n# Same same\n\n# Same\n".to_owned());
    assert_eq!(twice.anchors, ["same", "same-1", "same-same", "same-2"]);
}

#[test]
fn a_marker_without_an_end_is_found() {
    let page = |text: &str| Page::of(Path::new("a.md"), text.to_owned());
    let good = page("<!-- begin generated: one -->\nx\n<!-- end generated: one -->\n");
    let parts = good.generated().expect("well-formed");
    assert_eq!((parts.len(), parts[0].name, &good.text[parts[0].from..parts[0].to]), (1, "one", "\nx\n"));
    for bad in [
        "<!-- begin generated: one -->\n",
        "<!-- begin generated: one -->\n<!-- end generated: two -->\n",
        "<!-- begin generated: one -->\n<!-- begin generated: two -->\n<!-- end generated: two -->\n<!-- end generated: one -->\n",
    ] {
        assert!(page(bad).generated().is_err(), "{bad}");
    }
}
