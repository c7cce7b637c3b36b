//! `xvip import`: reads what HAProxy, keepalived and Pacemaker are configured by, writes an `xvip.toml`, and says what
//! became of each line.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::{
    colour::Colours,
    command::{EXIT_USAGE, failed},
    schema,
};
use crate::{
    config::{kinds, model::Vip},
    import::{
        outcome::{self, Format, Input, NodeFile, Outcome},
        plan::Options,
        report::{Page, Report, render},
    },
    password,
    status::table::Look,
};

/// Where no terminal says how wide it is.
const WIDTH: u16 = 100;
/// Narrower, a table is no table.
const NARROWEST: u16 = 60;

/// The arguments of `xvip import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// haproxy.cfg; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub haproxy: Vec<PathBuf>,
    /// keepalived.conf; once for each node's
    #[arg(long, value_name = "FILE")]
    pub keepalived: Vec<PathBuf>,
    /// What `crm configure` was told, or `crm configure show` prints
    #[arg(long, value_name = "FILE")]
    pub crm: Vec<PathBuf>,
    /// corosync.conf, for the nodes' addresses
    #[arg(long, value_name = "FILE")]
    pub corosync: Vec<PathBuf>,
    /// Where to write; a directory (one that is there, or with a / at the end) gets NAME.toml for each node. Without it
    /// the file goes to standard output, and the report to standard error
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The node to write for, by its router_id, its file's name or its address; the first by default
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The interface that the VIPs live on, where no file says it, or another one
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// A VIP that no file tells of, with its prefix length
    #[arg(long, value_name = "ADDR/PREFIX", value_parser = vip)]
    pub vip: Vec<Vip>,
    /// Cut idle connections as HAProxy's timeouts do
    #[arg(long)]
    pub keep_timeouts: bool,
    /// Look up servers' names now
    #[arg(long)]
    pub resolve: bool,
    /// Where the report goes; NAME.json gets it as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the report with the files in it as one JSON object, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Report>)]
    pub json_schema: bool,
}

fn vip(text: &str) -> Result<Vip, String> {
    let (address, prefix_len) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "this is no address like 172.16.0.10/24".to_owned())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix_len = match prefix_len {
        Some(length) => length.parse().map_err(|_| format!("the prefix length must be 1 to {longest}"))?,
        None => longest,
    };
    let vip = Vip { address, prefix_len };
    if kinds::is_vip(vip) { Ok(vip) } else { Err("no host can have this address".to_owned()) }
}

/// Imports. Exits with 0 if the configuration was written, 1 if a file could not be read or written, and 2 for a wrong
/// command line or files that cannot be imported: what could be read is reported all the same.
pub fn run(args: &ImportArgs) -> ExitCode {
    match import(args) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let inputs = inputs(args)?;
    if inputs.is_empty() {
        eprintln!("error: there is nothing to import; give --haproxy FILE, --keepalived FILE or --crm FILE");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let mut reading = outcome::read(&inputs);
    if args.resolve {
        reading.resolve(&looked_up(reading.names()));
    }
    let options = Options {
        interface: args.interface.clone(),
        vips: args.vip.clone(),
        keep_timeouts: args.keep_timeouts,
    };
    let outcome = reading.finish(&options, &|password| password::hash(password).ok());
    let mut report = Report::new(&outcome);
    let code = write_files(args, &outcome, &mut report)?;
    tell(args, &report)?;
    Ok(code)
}

fn inputs(args: &ImportArgs) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    let of_format = [
        (Format::Haproxy, &args.haproxy),
        (Format::Keepalived, &args.keepalived),
        (Format::Crm, &args.crm),
        (Format::Corosync, &args.corosync),
    ];
    for (format, path) in
        of_format.into_iter().flat_map(|(format, paths)| paths.iter().map(move |path| (format, path)))
    {
        let (name, bytes) = if path == Path::new("-") {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
            ("standard input".to_owned(), bytes)
        } else {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            (path.display().to_string(), bytes)
        };
        inputs.push(Input { format, name, bytes });
    }
    Ok(inputs)
}

fn looked_up(names: impl IntoIterator<Item = String>) -> BTreeMap<String, IpAddr> {
    let address = |name: &str| (name, 0).to_socket_addrs().ok()?.next().map(|address| address.ip());
    names.into_iter().filter_map(|name| Some((name.clone(), address(&name)?))).collect()
}

/// Writes what can be written, and notes it in the report.
fn write_files(args: &ImportArgs, outcome: &Outcome, report: &mut Report) -> anyhow::Result<ExitCode> {
    let mut wrong = false;
    for entry in outcome.syntax_errors() {
        let name = outcome.sources.get(entry.place.file.0).map_or("", |source| source.name.as_str());
        eprintln!("error: {name}:{}: {}", entry.place, entry.note);
        wrong = true;
    }
    if wrong {
        eprintln!("error: nothing is written: the files have syntax errors");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let nodes = match &outcome.nodes {
        Ok(nodes) => nodes,
        Err(refused) => {
            refused.iter().for_each(|refusal| eprintln!("error: {refusal}"));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let Some(chosen) = chosen(args.node.as_deref(), nodes) else {
        let known: Vec<&str> = nodes.iter().flat_map(|node| &node.plan.names).map(String::as_str).collect();
        eprintln!("error: there is no such node; --node takes one of {}", known.join(", "));
        return Ok(ExitCode::from(EXIT_USAGE));
    };
    match &args.output {
        _ if args.json && args.output.is_none() => {}
        None => io::stdout()
            .lock()
            .write_all(nodes[chosen].text.as_bytes())
            .context("writing to standard output")?,
        Some(output) if is_directory(output) => {
            fs::create_dir_all(output).with_context(|| format!("making {}", output.display()))?;
            for (index, node) in
                nodes.iter().enumerate().filter(|(index, _)| args.node.is_none() || *index == chosen)
            {
                write_file(&output.join(format!("{}.toml", node.plan.file_name)), index, node, report)?;
            }
        }
        Some(output) => write_file(output, chosen, &nodes[chosen], report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_directory(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Passwords may be in it.
fn write_file(path: &Path, index: usize, node: &NodeFile, report: &mut Report) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let write = || options.open(path)?.write_all(node.text.as_bytes());
    write().with_context(|| format!("writing {}", path.display()))?;
    if let Some(of_node) = report.nodes.get_mut(index) {
        of_node.written_to = Some(path.display().to_string());
    }
    Ok(())
}

fn chosen(wanted: Option<&str>, nodes: &[NodeFile]) -> Option<usize> {
    let Some(wanted) = wanted else { return Some(0) };
    let is_file = |name: &str| Path::new(name).file_name().is_some_and(|file| file == wanted);
    nodes.iter().position(|node| {
        node.plan.file_name == wanted || node.plan.names.iter().any(|name| name == wanted || is_file(name))
    })
}

/// The report, to where it is wanted.
fn tell(args: &ImportArgs, report: &Report) -> anyhow::Result<()> {
    let json = || serde_json::to_string_pretty(report).map(|text| text + "\n");
    if args.json {
        io::stdout().lock().write_all(json()?.as_bytes()).context("writing to standard output")?;
    }
    match &args.report {
        Some(path) => {
            let text = if path.extension().is_some_and(|extension| extension == "json") {
                json()?
            } else {
                render(report, Page { look: Look::Plain, width: WIDTH, colours: Colours::Off })
            };
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        None if args.json => {}
        None => {
            let mut err = io::stderr().lock();
            let text = render(report, page(err.is_terminal()));
            err.write_all(text.as_bytes()).context("writing to standard error")?;
        }
    }
    Ok(())
}

/// The report goes to standard error: standard output may be a file.
fn page(terminal: bool) -> Page {
    if !terminal {
        return Page { look: Look::Plain, width: WIDTH, colours: Colours::Off };
    }
    let mut table = comfy_table::Table::new();
    table.use_stderr();
    let width = table.width().unwrap_or(WIDTH).max(NARROWEST);
    let colours = Colours::of_stderr();
    Page { look: Look::Terminal, width, colours }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ImportArgs,
    }

    fn golden(file: &str) -> String {
        format!("{}/../tests/golden/import/{file}", env!("CARGO_MANIFEST_DIR"))
    }

    /// Imports with the report in a file of the directory.
    fn run_in(dir: &Path, words: &[&str]) -> anyhow::Result<ExitCode> {
        let report = dir.join("report.txt").display().to_string();
        let words = ["import"].iter().chain(words).copied().chain(["--report", &report]);
        import(&Line::try_parse_from(words).expect("arguments").args)
    }

    fn three_nodes() -> Vec<String> {
        let mut words = vec!["--haproxy".to_owned(), golden("s1/haproxy.cfg")];
        for number in 1..=3 {
            words.extend(["--keepalived".to_owned(), golden(&format!("s1/keepalived-master{number}.conf"))]);
        }
        words
    }

    #[test]
    fn a_directory_gets_the_file_of_each_node_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let output = format!("{}/new/", dir.path().display());
        let mut words = three_nodes();
        words.extend(["-o".to_owned(), output]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(run_in(dir.path(), &words).expect("done"), ExitCode::SUCCESS);
        for number in 1..=3 {
            let file = dir.path().join(format!("new/k8s-master{number}.toml"));
            let mode = fs::metadata(&file).expect("written").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let text = fs::read_to_string(&file).expect("readable");
            assert!(text.contains(&format!("\npriority = {} ", 101 - number)), "{text}");
        }
        let report = fs::read_to_string(dir.path().join("report.txt")).expect("written");
        assert!(report.contains("k8s-master3.toml"), "{report}");
    }

    #[test]
    fn one_node_is_chosen_by_any_of_its_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let output = dir.path().join("one.toml");
        for name in ["k8s-master2", "keepalived-master2", "keepalived-master2.conf"] {
            let mut words = three_nodes();
            words.extend(["--node", name, "-o"].map(str::to_owned));
            words.push(output.display().to_string());
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(run_in(dir.path(), &words).expect("done"), ExitCode::SUCCESS, "{name}");
            assert!(fs::read_to_string(&output).expect("written").contains("priority = 99 "), "{name}");
        }
        let mut words = three_nodes();
        words.extend(["--node", "k8s-master4", "-o"].map(str::to_owned));
        words.push(output.display().to_string());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(run_in(dir.path(), &words).expect("told"), ExitCode::from(EXIT_USAGE));
    }

    #[test]
    fn with_a_syntax_error_all_is_reported_and_nothing_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let broken = dir.path().join("haproxy.cfg");
        fs::write(&broken, "frontend api\n  bind *:6443\n  default_backend \"api\n").expect("written");
        let output = dir.path().join("xvip.toml");
        let (broken, out) = (broken.display().to_string(), output.display().to_string());
        let keepalived = golden("s0/keepalived-lb1.conf");
        let words = ["--haproxy", &broken, "--keepalived", &keepalived, "-o", &out];
        assert_eq!(run_in(dir.path(), &words).expect("told"), ExitCode::from(EXIT_USAGE));
        assert!(!output.exists());
        let report = fs::read_to_string(dir.path().join("report.txt")).expect("written");
        assert!(report.contains("syntax error") && report.contains("virtual_router_id 60"), "{report}");
    }

    #[test]
    fn what_cannot_be_read_or_is_not_there_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = run_in(dir.path(), &["--haproxy", "/nowhere/haproxy.cfg"]).expect_err("unreadable");
        assert!(error.to_string().contains("/nowhere/haproxy.cfg"), "{error}");
        assert_eq!(run_in(dir.path(), &[]).expect("told"), ExitCode::from(EXIT_USAGE));
        let haproxy = golden("s0/haproxy.cfg");
        assert_eq!(run_in(dir.path(), &["--haproxy", &haproxy]).expect("told"), ExitCode::from(EXIT_USAGE));
    }

    #[test]
    fn vips_have_a_prefix_length_that_fits() {
        assert_eq!(vip("10.0.0.1/24").map(|vip| vip.to_string()), Ok("10.0.0.1/24".to_owned()));
        assert_eq!(vip("fd00::1").map(|vip| vip.to_string()), Ok("fd00::1/128".to_owned()));
        for wrong in ["10.0.0.0/24", "10.0.0.1/33", "10.0.0.1/", "127.0.0.1", "ten", "10.0.0.1/0"] {
            assert!(vip(wrong).is_err(), "{wrong}");
        }
    }
}
