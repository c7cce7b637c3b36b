//! House rules that the compiler does not know, checked over the files that git knows.

mod rules;
mod source;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::{process, workspace};

/// A file of the tree, as the rules see it.
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    /// None where it is not UTF-8 text.
    pub text: Option<String>,
}

impl File {
    /// Rust source whose text is known.
    fn rust(&self) -> Option<&str> {
        self.text.as_deref().filter(|_| self.path.ends_with(".rs"))
    }
}

/// A breach of a rule: where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach {
    /// The file, and the line where there is one.
    pub place: String,
    /// What is wrong and what to do instead.
    pub what: String,
}

/// What became of one rule.
pub struct Checked {
    /// The rule, in words.
    pub rule: &'static str,
    /// Empty if the tree obeys it.
    pub breaches: Vec<Breach>,
}

/// Prints every breach.
///
/// # Errors
/// The tree could not be read.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut clean = true;
    for Checked { rule, breaches } in check()? {
        println!("{} {rule}", if breaches.is_empty() { "ok    " } else { "FAILED" });
        for Breach { place, what } in &breaches {
            clean = false;
            println!("       {place}: {what}");
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Applies every rule to the tree.
///
/// # Errors
/// The tree could not be read.
pub fn check() -> anyhow::Result<Vec<Checked>> {
    let files = files(&workspace::root())?;
    Ok(rules::RULES.iter().map(|rule| Checked { rule: rule.name, breaches: (rule.check)(&files) }).collect())
}

/// What is tracked, and what could be added.
fn files(root: &Path) -> anyhow::Result<Vec<File>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = process::output(&mut command).context("listing the files of the tree")?;
    let mut files = Vec::new();
    for path in listed.split_terminator('\0') {
        let file = root.join(path);
        // A symbolic link is not a file of ours, and a file that was deleted but not yet committed is none at all.
        if !file.symlink_metadata().is_ok_and(|data| data.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&file).with_context(|| format!("reading {path}"))?;
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        files.push(File { path: path.to_owned(), text });
    }
    Ok(files)
}
