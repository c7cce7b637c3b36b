//! The import as a whole: files in; files, a report and findings out. No file is read or written here.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    corosync, crm, haproxy,
    incumbent::{Incumbent, ServerAddress},
    keepalived,
    ledger::{Entry, Fate, Finding, Ledger},
    plan::{self, CheckPlan, NodePlan, Options},
    races::{self, Race},
    source::{FileId, Source},
    write,
};
use crate::config::{self, Facts};

/// A certificate and its key, nobody's, that the check of what was written takes for the files of certificates, which need not be on this
/// machine.
const SPECIMEN: &[u8] = include_bytes!("specimen.pem");

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// haproxy.cfg
    Haproxy,
    /// keepalived.conf
    Keepalived,
    /// What `crm configure` is told.
    Crm,
    /// corosync.conf
    Corosync,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is.
    pub format: Format,
    /// As the user named it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// All files, read.
#[derive(Clone, Debug)]
pub struct Reading {
    sources: Vec<Source>,
    formats: Vec<Format>,
    incumbent: Incumbent,
    ledger: Ledger,
}

/// A file that can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// What it says.
    pub plan: NodePlan,
    /// Its text; [`config::parse`] accepts it.
    pub text: String,
    /// What `xvip check` will warn of.
    pub warnings: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The files, in the order of the input.
    pub sources: Vec<Source>,
    /// What they are.
    pub formats: Vec<Format>,
    /// What became of each line of each file.
    pub lines: BTreeMap<(FileId, usize), Vec<Entry>>,
    /// What was wrong before.
    pub findings: Vec<Finding>,
    /// A file for each node, or why there is none.
    pub nodes: Result<Vec<NodeFile>, Vec<String>>,
    /// The elections.
    pub races: Vec<Race>,
}

/// Reads the files. Whatever is wrong with them is in the report later.
pub fn read(inputs: &[Input]) -> Reading {
    let sources: Vec<Source> =
        inputs.iter().map(|input| Source::new(input.name.clone(), &input.bytes)).collect();
    let formats: Vec<Format> = inputs.iter().map(|input| input.format).collect();
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    for (index, (source, format)) in sources.iter().zip(&formats).enumerate() {
        let read = match format {
            Format::Haproxy => haproxy::read,
            Format::Keepalived => keepalived::read,
            Format::Crm => crm::read,
            Format::Corosync => corosync::read,
        };
        read(source, FileId(index), &mut incumbent, &mut ledger);
    }
    haproxy::lint(&incumbent, &mut ledger);
    keepalived::lint(&incumbent, &mut ledger);
    Reading { sources, formats, incumbent, ledger }
}

impl Reading {
    /// The names of servers that have no address, each once.
    pub fn names(&self) -> BTreeSet<String> {
        let servers = self.incumbent.proxies.iter().flat_map(|proxy| &proxy.pool.servers);
        servers
            .filter_map(|server| match &server.address {
                ServerAddress::Name(name, _) => Some(name.clone()),
                ServerAddress::Ip(_) => None,
            })
            .collect()
    }

    /// Puts addresses in the place of names.
    pub fn resolve(&mut self, addresses: &BTreeMap<String, IpAddr>) {
        for server in self.incumbent.proxies.iter_mut().flat_map(|proxy| &mut proxy.pool.servers) {
            if let ServerAddress::Name(name, port) = &server.address
                && let Some(address) = addresses.get(name)
            {
                let note = format!("{name} is {address} now; xvip does not look it up again");
                let becomes = format!("service.backend.address = \"{address}:{port}\"");
                self.ledger.note(server.name.place, Fate::Approximate, becomes, note);
                server.address = ServerAddress::Ip((*address, *port).into());
            }
        }
    }

    /// Makes the files. `hash` makes what `[[http.user]]` has of a password.
    pub fn finish(self, options: &Options, hash: &dyn Fn(&str) -> Option<String>) -> Outcome {
        let Self { sources, formats, incumbent, mut ledger } = self;
        let planned = plan::plan(&incumbent, &sources, options, &mut ledger);
        let races = races::races(&incumbent, planned.as_deref().unwrap_or_default());
        races::lint(&races, &mut ledger);
        let nodes = match planned {
            Err(refusals) => Err(refusals.iter().map(ToString::to_string).collect()),
            Ok(plans) => plans.into_iter().map(|plan| node_file(plan, &sources, hash)).collect(),
        };
        let of_format = formats.clone();
        let (lines, findings) = ledger.close(&sources, |file, line| {
            let format = of_format.get(file.0).copied().unwrap_or(Format::Haproxy);
            is_blank(format, line)
        });
        Outcome { sources, formats, lines, findings, nodes, races }
    }
}

fn is_blank(format: Format, line: &str) -> bool {
    match format {
        Format::Haproxy => haproxy::is_blank(line),
        Format::Keepalived => keepalived::is_blank(line),
        Format::Crm => crm::is_blank(line),
        Format::Corosync => corosync::is_blank(line),
    }
}

impl Outcome {
    /// The lines that could not be read.
    pub fn syntax_errors(&self) -> impl Iterator<Item = &Entry> {
        self.lines.values().flatten().filter(|entry| entry.fate == Fate::SyntaxError)
    }
}

/// The file of a node, and the proof that it is one.
fn node_file(
    plan: NodePlan,
    sources: &[Source],
    hash: &dyn Fn(&str) -> Option<String>,
) -> Result<NodeFile, Vec<String>> {
    let text = write::write(&plan, sources, hash);
    let certificates = certificate_files(&plan);
    let read_file = |path: &Path| -> io::Result<Vec<u8>> {
        // What is on the node is not known here, so that each file is what it should be.
        if certificates.contains(path) { Ok(SPECIMEN.to_vec()) } else { Ok(vec![b'k'; 32]) }
    };
    let file_mode = |_: &Path| -> io::Result<u32> { Ok(0o700) };
    let facts = Facts { host_name: "node".to_owned(), read_file: &read_file, file_mode: &file_mode };
    match config::parse(&text, Path::new("xvip.toml"), &facts) {
        Ok(checked) => {
            let warnings = checked.warnings.iter().map(|found| format!("{}: {}", found.key, found.message)).collect();
            Ok(NodeFile { plan, text, warnings })
        }
        Err(problems) => Err(problems
            .errors()
            .map(|error| {
                format!(
                    "this is a mistake of xvip import, not of your files: what it would write is refused: {}: {}",
                    error.key, error.message
                )
            })
            .collect()),
    }
}

fn certificate_files(plan: &NodePlan) -> BTreeSet<PathBuf> {
    let checks = plan.services.iter().map(|service| &service.health.check.value);
    let checks = checks.filter_map(|check| match check {
        CheckPlan::Tls(file) | CheckPlan::Https(_, _, file) => file.as_ref().map(PathBuf::from),
        CheckPlan::Tcp | CheckPlan::Http(..) => None,
    });
    let page = plan.page.as_ref().and_then(|page| page.certificate.as_ref());
    checks.chain(page.map(|certificate| PathBuf::from(&certificate.value))).collect()
}

#[cfg(test)]
mod tests;
