//! Messages in the manual are xvip's own words: each is found in its source.
//!
//! In the manual `…` stands for what varies.

use std::error::Error;
use std::fs;
use std::path::Path;

use super::page;

/// All that the source says, in one text, without the line breaks of long strings.
pub struct Said(String);

/// Whether `code` is a message, and not a command, a key or a name.
pub fn is_message(code: &str) -> bool {
    let programs = ["xvip ", "ip ", "ss ", "systemctl ", "journalctl ", "curl ", "kubectl "];
    let is_command = !code.contains('…') && programs.iter().any(|program| code.starts_with(program));
    code.contains(' ') && !code.contains(" = ") && !is_command
}

impl Said {
    /// Reads the source of the daemon and its commands.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let mut all = String::new();
        gather(&page::root().join("lb-userspace/src"), &mut all)?;
        Ok(Self(all))
    }

    /// Whether each of its parts is said somewhere: between `…`, and between the words of a text and those of another one that
    /// is put into it (`certificate: ` and `expired`).
    pub fn contains(&self, message: &str) -> bool {
        let parts = message.split(['…', '(', ')', ':']).map(str::trim).filter(|part| part.len() > 2);
        let mut parts = parts.peekable();
        parts.peek().is_some() && parts.all(|part| self.0.contains(part))
    }
}

fn gather(directory: &Path, all: &mut String) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            gather(&path, all)?;
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let source = fs::read_to_string(&path)?;
            all.push_str(&unbroken(source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()));
        }
    }
    Ok(())
}

/// Joins strings that are broken over lines by `\`, and takes the escapes of quotes away.
fn unbroken(source: &str) -> String {
    let mut out = String::new();
    for (index, part) in source.split("\\\n").enumerate() {
        out.push_str(if index == 0 { part } else { part.trim_start() });
    }
    out.replace("\\\"", "\"")
}

#[test]
fn a_message_is_found_however_its_source_is_broken() {
    let said = Said(unbroken("error(\"the \\\"name\\\" of {} is \\\n         long\");"));
    assert!(said.contains("the \"name\" of … is long"));
    assert!(!said.contains("the name of … is long"));
    assert!(!said.contains("…"), "it says nothing");
}

#[test]
fn commands_and_keys_are_no_messages() {
    for message in ["connection refused", "interface … has no carrier", "xvip is running (pid …)"] {
        assert!(is_message(message), "{message}");
    }
    for other in ["xvip status", "ss -tlnp", "mode = \"nat\"", "unknown-reply"] {
        assert!(!is_message(other), "{other}");
    }
}
