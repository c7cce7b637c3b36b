//! Command lines in the manual: `xvip ...` must be one that xvip takes, `cargo xtask ...` must name what there is.

use std::error::Error;
use std::fs;

use clap::Parser as _;
use clap::error::ErrorKind;
use lb_userspace::cli::command::Cli;
use lb_userspace::cli::schema::Asked;

use super::page::{self, Block, Page};

/// How a command line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// To be typed as it is: it must be complete.
    Whole,
    /// In a sentence, or an overview: `xvip backend` means all that it does.
    Mention,
}

/// A command line, and where it is.
#[derive(Debug)]
pub struct CommandLine {
    /// As it is written, without prompt and comment.
    pub text: String,
    /// See there.
    pub form: Form,
    /// Page and line.
    pub at: String,
}

/// Every command line of a page that begins with `program`.
pub fn of_page(page: &Page, program: &str) -> Vec<CommandLine> {
    let mut found = Vec::new();
    let is_shell = |block: &&Block| !matches!(block.language.as_str(), "toml" | "json" | "yaml");
    // What is made of the command line itself has `[OPTIONS]` in it.
    let is_written = |block: &&Block| !page.is_generated(block.line);
    for block in page.blocks.iter().filter(is_shell).filter(is_written) {
        let form = if block.language == "sh" { Form::Whole } else { Form::Mention };
        for (index, line) in block.text.replace("\\\n", " ").lines().enumerate() {
            let line = line.trim_start().trim_start_matches(['$', '#']).trim_start();
            // An overview has the meaning beside the command.
            let line = if form == Form::Mention { line.split("  ").next().unwrap_or_default() } else { line };
            let at = page.at(block.line + 1 + index);
            found.extend(parts(line, program).map(|text| CommandLine { text, form, at: at.clone() }));
        }
    }
    // With `…` it is a message, not a command.
    for code in page.code.iter().filter(|code| !code.text.contains('…')) {
        let at = page.at(code.line);
        let text = code.text.replace('\n', " ");
        found.extend(parts(&text, program).map(|text| CommandLine {
            text,
            form: Form::Mention,
            at: at.clone(),
        }));
    }
    found
}

/// The commands of a line of the shell that are of this program.
fn parts<'l>(line: &'l str, program: &'l str) -> impl Iterator<Item = String> + 'l {
    let line = line.split(" #").next().unwrap_or_default();
    line.split(['|', ';', '>', '&', '(', ')', '`']).filter_map(move |part| {
        // VARIABLE=value before the command, and the like.
        let words: Vec<&str> = part.split_whitespace().collect();
        let first =
            words.iter().position(|word| !word.contains('=') && *word != "sudo" && *word != "exec")?;
        let text = words[first..].join(" ");
        (text == program || text.starts_with(&format!("{program} "))).then_some(text)
    })
}

/// Whether xvip would take it.
pub fn check_xvip(line: &CommandLine) -> Result<(), String> {
    // [--option VALUE], as a synopsis has it.
    let text = if line.text.contains("[--") { line.text.replace(['[', ']'], "") } else { line.text.clone() };
    let words = text.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
    // `xvip COMMAND --help`
    if words.clone().nth(1).is_some_and(|word| word.chars().all(char::is_uppercase)) {
        return Ok(());
    }
    let Err(error) = Cli::try_parse_from(words) else { return Ok(()) };
    let is_incomplete = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            // `--since TIME`: the place of a value.
            | ErrorKind::ValueValidation
    );
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    match line.form {
        _ if is_help || Asked::of(&error).is_some() => Ok(()),
        Form::Mention if is_incomplete => Ok(()),
        _ => Err(error.to_string()),
    }
}

/// What `cargo xtask` can do, and which tests and benchmarks there are.
pub struct Tasks {
    commands: Vec<String>,
    suites: Vec<String>,
    benches: String,
}

impl Tasks {
    /// Reads them from the source.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let source = fs::read_to_string(page::root().join("xtask/src/main.rs"))?;
        let variants = source.split("enum Command {").nth(1).and_then(|rest| rest.split("\n}").next());
        let names = variants.ok_or("xtask has no enum Command")?.lines().filter_map(|line| {
            let name = line.strip_prefix("    ")?.trim_end_matches([' ', '{', ',']);
            name.chars().all(char::is_alphanumeric).then(|| name.to_lowercase())
        });
        let mut suites = Vec::new();
        for entry in fs::read_dir(page::root().join("tests/tests"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            suites.extend(name.strip_suffix(".rs").map(ToOwned::to_owned));
        }
        Ok(Self {
            commands: names.filter(|name| !name.is_empty()).collect(),
            suites,
            benches: fs::read_to_string(page::root().join("xtask/src/bench.rs"))?,
        })
    }

    /// Whether `cargo xtask ...` or `cargo test ...` names what there is.
    pub fn check(&self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().skip(1);
        let names: Vec<&str> = match words.next() {
            Some("xtask") => {
                let Some(command) = words.next().filter(|word| *word != "...") else { return Ok(()) };
                if !self.commands.iter().any(|known| known == command) {
                    return Err(format!("there is no `cargo xtask {command}`"));
                }
                let rest: Vec<&str> = words.filter(|word| !word.starts_with('-') && is_name(word)).collect();
                match (command, rest.first()) {
                    ("test", _) => rest,
                    ("bench", Some(bench)) if !self.benches.contains(&format!("name: {bench:?}")) => {
                        return Err(format!("there is no benchmark {bench}"));
                    }
                    _ => return Ok(()),
                }
            }
            Some("test") => {
                let all: Vec<&str> = words.collect();
                all.windows(2).filter(|pair| pair[0] == "--test").map(|pair| pair[1]).collect()
            }
            _ => return Ok(()),
        };
        match names.into_iter().find(|name| !self.suites.iter().any(|suite| suite == name)) {
            Some(name) => Err(format!("there is no suite {name}")),
            None => Ok(()),
        }
    }
}

/// `NAME` and `...` stand for one.
fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn wrong_command_lines_are_found() {
    let whole = |text: &str| CommandLine { text: text.to_owned(), form: Form::Whole, at: String::new() };
    let mention = |text: &str| CommandLine { form: Form::Mention, ..whole(text) };
    for good in [
        whole("xvip status --json"),
        whole("xvip status --json-schema"),
        whole("xvip backend drain master1 --deadline 10m"),
        whole("xvip --help"),
        mention("xvip backend"),
        mention("xvip explain NAME"),
        mention("xvip explain NAME --since TIME"),
        mention("xvip doctor [--config FILE] [--json]"),
    ] {
        assert_eq!(check_xvip(&good), Ok(()), "{good:?}");
    }
    for bad in [
        whole("xvip backend"),
        whole("xvip explain"),
        whole("xvip status --jsn"),
        mention("xvip stat"),
        mention("xvip status --jsn"),
        mention("xvip backend stop master1"),
    ] {
        assert!(check_xvip(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn commands_are_found_where_they_are_written() {
    let text = "Say `xvip status | jq .` and\n\n```sh\nsudo xvip check && xvip reload   # both\nip addr\n```\n\n\
        ```\n$ xvip top\nxvip vip       release: hand over\nthe xvip that runs\n```\n";
    let page = Page::of(std::path::Path::new("a.md"), text.to_owned());
    let found: Vec<(String, String)> =
        of_page(&page, "xvip").into_iter().map(|line| (line.text, line.at)).collect();
    let expected =
        [("xvip check", 4), ("xvip reload", 4), ("xvip top", 9), ("xvip vip", 10), ("xvip status", 1)];
    assert_eq!(found, expected.map(|(text, line)| (text.to_owned(), format!("a.md:{line}"))));
}

#[test]
fn tasks_are_read_from_the_source() -> Result<(), Box<dyn Error>> {
    let tasks = Tasks::read()?;
    for good in [
        "cargo xtask run --config FILE",
        "cargo xtask test failover manual",
        "cargo xtask bench survive",
        "cargo xtask bench failover --repeats 3",
        "cargo test -p lb-tests --test manual",
    ] {
        assert_eq!(tasks.check(good), Ok(()), "{good}");
    }
    for bad in [
        "cargo xtask walk",
        "cargo xtask test nothing",
        "cargo xtask bench speed",
        "cargo test --test nothing",
    ] {
        assert!(tasks.check(bad).is_err(), "{bad}");
    }
    Ok(())
}
