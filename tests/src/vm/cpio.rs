//! A cpio archive in the "newc" form, the one that the kernel unpacks as its first file system (the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! ```text
//! "070701" ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!          each of the 13 numbers as 8 hexadecimal digits
//! NAME NUL, padded to a multiple of 4 from the start of the header; then the data, padded likewise
//! ```

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows. Names are paths from the root, with or without the leading `/`.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a directory and those above it. What is there already stays.
    pub fn directory(&mut self, name: &str) {
        let name = name.trim_matches('/');
        if name.is_empty() || self.names.contains(name) {
            return;
        }
        self.directories_above(name);
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file that everyone may read and execute, and the directories above it. A second file of the same name
    /// is left out.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        let name = name.trim_matches('/');
        if self.names.contains(name) {
            return;
        }
        self.directories_above(name);
        self.entry(name, REGULAR | 0o755, (0, 0), data);
    }

    /// Adds a character device, and the directories above it.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        let name = name.trim_matches('/');
        self.directories_above(name);
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Whether there is something of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name.trim_matches('/'))
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn directories_above(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.inode += 1;
        self.names.insert(name.to_owned());
        let size = data.len() as u32;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("/abc", b"hello");
        let bytes = archive.finish();
        let header = "070701\
            00000001000081ed00000000000000000000000100000000\
            0000000500000000000000000000000000000000\
            0000000400000000";
        assert_eq!(header.len(), 110);
        assert_eq!(&bytes[..110], header.as_bytes());
        // 110 + 4 is padded to 116, and 5 bytes of data to 8.
        assert_eq!(&bytes[110..124], b"abc\0\0\0hello\0\0\0");
        assert!(bytes[124..].starts_with(b"070701"));
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0") && bytes.len() % 4 == 0);
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_only_once() {
        let mut archive = Archive::default();
        archive.file("usr/bin/a", b"a");
        archive.file("/usr/bin/b", b"b");
        archive.file("/usr/bin/b", b"not this one");
        archive.character_device("dev/console", 5, 1);
        assert!(archive.contains("/usr/bin") && !archive.contains("/etc"));
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> =
            ["usr\0", "usr/bin\0", "usr/bin/a\0", "usr/bin/b\0", "dev\0", "dev/console\0", "TRAILER"]
                .map(|name| text.match_indices(name).map(|(place, _)| place).collect::<Vec<_>>())
                .to_vec();
        assert!(places.iter().all(|at| at.len() == 1), "{places:?}");
        assert!(places.is_sorted(), "{places:?}");
        assert!(!text.contains("not this one"));
    }

    /// The oracle is another implementation, where the machine has one.
    #[test]
    fn another_program_reads_it() {
        let started = Command::new("cpio")
            .args(["--list", "--verbose", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut reader) = started else {
            println!("SKIP another_program_reads_it: cpio is missing");
            return;
        };
        let mut archive = Archive::default();
        archive.file("etc/hosts", b"127.0.0.1 localhost\n");
        archive.character_device("dev/console", 5, 1);
        reader.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = reader.wait_with_output().unwrap();
        let list = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{list}");
        let line = |name: &str| list.lines().find(|line| line.ends_with(name)).unwrap_or_default();
        assert!(line(" etc").starts_with("drwxr-xr-x"), "{list}");
        assert!(
            line(" etc/hosts").starts_with("-rwxr-xr-x") && line(" etc/hosts").contains(" 20 "),
            "{list}"
        );
        assert!(
            line(" dev/console").starts_with("crw-------") && line(" dev/console").contains("5,   1"),
            "{list}"
        );
    }
}
