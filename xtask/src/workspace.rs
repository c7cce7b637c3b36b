//! Where the workspace is, and cargo at work in it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The directory of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    // At run time first: a tree that was moved together with its `target/` still finds itself.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Our corner of the target directory, created if need be.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    let path = root().join("target/xtask").join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    Ok(path)
}

/// Cargo in the workspace's root, without what `cargo run` told *us* about our own package: build scripts that
/// watch these variables would otherwise run again each time.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_our_package) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_our_package(variable: &str) -> bool {
    const PREFIXES: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    const NAMES: [&str; 4] = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR", "LD_LIBRARY_PATH"];
    PREFIXES.iter().any(|prefix| variable.starts_with(prefix)) || NAMES.contains(&variable)
}

/// Something that cargo built and that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The directory of its package.
    pub package: PathBuf,
    /// The target's name: of the binary, the library under test or the test file.
    pub name: String,
    /// What cargo calls the target: `lib`, `bin`, `test`, ...
    pub kind: String,
    /// The target's main source file.
    pub source: PathBuf,
    /// Built with the test harness.
    pub harness: bool,
    /// The file to start.
    pub path: PathBuf,
}

/// Runs `cargo ARGUMENTS` and collects what it built. Cargo's own progress and errors go to our stderr.
///
/// # Errors
/// Cargo could not be started, or failed.
pub fn build(arguments: &[&str]) -> anyhow::Result<Vec<Executable>> {
    let mut command = cargo();
    command.args(arguments).arg("--message-format=json-render-diagnostics");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let mut built = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            built.extend(executable(&line.context("reading cargo's messages")?));
        }
    }
    if !child.wait()?.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(built)
}

/// The executable that one line of cargo's JSON messages speaks of, if any.
fn executable(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let target = &message["target"];
    Some(Executable {
        package: PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_path_buf(),
        name: text(&target["name"])?,
        kind: text(&target["kind"][0])?,
        source: target["src_path"].as_str()?.into(),
        harness: message["profile"]["test"].as_bool()?,
        path: message["executable"].as_str()?.into(),
    })
}

/// The path of the plain binary called `name` among what was built.
///
/// # Errors
/// It is not there: the crates and this program disagree about its name.
pub fn binary<'a>(built: &'a [Executable], name: &str) -> anyhow::Result<&'a Path> {
    let found = built.iter().find(|one| one.kind == "bin" && !one.harness && one.name == name);
    Ok(&found.with_context(|| format!("cargo built no binary called `{name}`"))?.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_with_an_executable_is_read() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],
            "name":"failover","src_path":"/w/tests/tests/failover.rs"},"profile":{"test":true},"executable":"/w/t/failover-1"}"#;
        let found = executable(message).unwrap();
        assert_eq!(found.package, Path::new("/w/tests"));
        assert_eq!((found.name.as_str(), found.kind.as_str(), found.harness), ("failover", "test", true));
        assert_eq!(found.path, Path::new("/w/t/failover-1"));
    }

    #[test]
    fn libraries_and_other_messages_are_passed_over() {
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"kind":["lib"],
            "name":"a","src_path":"/w/a/src/lib.rs"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: not JSON at all"), None);
    }

    #[test]
    fn only_variables_about_our_package_are_dropped() {
        assert!(describes_our_package("CARGO_PKG_VERSION"));
        assert!(describes_our_package("CARGO_MANIFEST_DIR"));
        assert!(!describes_our_package("CARGO_HOME"));
        assert!(!describes_our_package("CARGO_TARGET_DIR"));
        assert!(!describes_our_package("RUSTUP_TOOLCHAIN"));
    }
}
