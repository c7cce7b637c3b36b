//! What is in the packages: each file, where it goes, and its mode.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap_complete::{Generator, Shell, generate};
use flate2::{Compression, GzBuilder};

use crate::{Source, configuration_page, manual_pages};

/// A kind of package; some places differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For Debian and what is made of it.
    Deb,
    /// For distributions with RPM.
    Rpm,
}

/// A file of a package; all are root's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is installed.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
    /// It is documentation, which an installation may leave out.
    pub documentation: bool,
}

const DOCUMENTATION: &str = "/usr/share/doc/xvip";
const SHARED: &str = "/usr/share/xvip";
const LICENSES: &str = "/usr/share/licenses/xvip";
/// Of `packaging/`: what operators of other systems take from here.
const SHARED_DIRECTORIES: [&str; 3] = ["grafana", "kubernetes", "prometheus"];

/// The directories below `/etc` that the packages own, empty.
pub const CONFIGURATION_DIRECTORY: &str = "/etc/xvip";

/// Every file, by path. A configuration is not among them: the daemon begins when there is one.
///
/// # Errors
/// Something cannot be read or made.
pub fn files(source: &Source, kind: Kind) -> anyhow::Result<Vec<File>> {
    let packaging = source.root.join("packaging");
    let mut files = Files::default();
    files.add("/usr/bin/xvip", 0o755, read(&source.binary)?);
    let units = match kind {
        Kind::Deb => "/lib/systemd/system",
        Kind::Rpm => "/usr/lib/systemd/system",
    };
    files.add(&format!("{units}/xvip.service"), 0o644, read(&packaging.join("xvip.service"))?);
    files.add("/usr/lib/sysusers.d/xvip.conf", 0o644, read(&packaging.join("xvip.sysusers"))?);
    completions(&mut files, kind);
    for page in manual_pages::of_commands()? {
        files.document(&format!("/usr/share/man/man1/{}.1.gz", page.name), compressed(&page.text)?);
    }
    let example = read_text(&packaging.join("xvip.toml"))?;
    let page = configuration_page::page(&example);
    files.document("/usr/share/man/man5/xvip.toml.5.gz", compressed(&page)?);

    files.document(&format!("{DOCUMENTATION}/xvip.toml"), example.into_bytes());
    files.document(&format!("{DOCUMENTATION}/README.md"), read(&source.root.join("README.md"))?);
    for (name, content) in tree(&source.root.join("docs"))? {
        files.document(&format!("{DOCUMENTATION}/docs/{name}"), content);
    }
    match kind {
        Kind::Deb => {
            files.document(&format!("{DOCUMENTATION}/copyright"), copyright(source)?.into_bytes());
            files.document(&format!("{DOCUMENTATION}/changelog.gz"), compressed(&changelog(source)?)?);
        }
        Kind::Rpm => {
            files.document(&format!("{LICENSES}/LICENSE"), read(&source.root.join("LICENSE"))?);
        }
    }
    for directory in SHARED_DIRECTORIES {
        for (name, content) in tree(&packaging.join(directory))? {
            files.add(&format!("{SHARED}/{directory}/{name}"), 0o644, content);
        }
    }
    files.0.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(twice) = files.0.windows(2).find(|pair| pair[0].path == pair[1].path) {
        bail!("{} is in the package twice", twice[0].path);
    }
    Ok(files.0)
}

#[derive(Default)]
struct Files(Vec<File>);

impl Files {
    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.0.push(File { path: path.to_owned(), mode, content, documentation: false });
    }

    fn document(&mut self, path: &str, content: Vec<u8>) {
        self.0.push(File { path: path.to_owned(), mode: 0o644, content, documentation: true });
    }
}

fn completions(files: &mut Files, kind: Kind) {
    let zsh = match kind {
        Kind::Deb => "/usr/share/zsh/vendor-completions/_xvip",
        Kind::Rpm => "/usr/share/zsh/site-functions/_xvip",
    };
    files.add("/usr/share/bash-completion/completions/xvip", 0o644, completion(Shell::Bash));
    files.add(zsh, 0o644, completion(Shell::Zsh));
    files.add("/usr/share/fish/vendor_completions.d/xvip.fish", 0o644, completion(Shell::Fish));
}

fn completion(shell: impl Generator) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut lb_userspace::cli::command(), "xvip", &mut script);
    script
}

/// The directories that are the packages' own, above their files: the parents before what is in them.
#[must_use]
pub fn own_directories(files: &[File]) -> BTreeSet<String> {
    const OWN: [&str; 3] = [DOCUMENTATION, SHARED, LICENSES];
    let directories = files.iter().flat_map(|file| Path::new(&file.path).ancestors().skip(1));
    let own = directories.filter(|directory| OWN.iter().any(|own| directory.starts_with(own)));
    own.map(|directory| directory.display().to_string()).collect()
}

/// The regular files below a directory by their relative paths; none where it does not exist.
fn tree(directory: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let here = directory.join(&below);
        if !here.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&here).with_context(|| format!("reading {}", here.display()))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(name);
            } else {
                found.push((name.to_string_lossy().into_owned(), read(&entry.path())?));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// As `gzip -9n`: neither a name nor a time is in it.
fn compressed(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes())?;
    Ok(gzip.finish()?)
}

/// Debian policy 12.5, in the form of DEP-5.
fn copyright(source: &Source) -> anyhow::Result<String> {
    let year = time(source)?.strftime("%Y");
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: xvip\n\
         \n\
         Files: *\n\
         Copyright: {year} The xvip authors\n\
         License: Apache-2.0\n \
         On Debian systems the text of this licence is in\n \
         /usr/share/common-licenses/Apache-2.0.\n"
    ))
}

fn time(source: &Source) -> anyhow::Result<jiff::Timestamp> {
    let time = i64::try_from(source.epoch).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    time.context("the time of the packages is beyond what has a date")
}

fn changelog(source: &Source) -> anyhow::Result<String> {
    let date = time(source)?.strftime("%a, %d %b %Y %H:%M:%S +0000");
    let (version, maintainer) = (crate::VERSION, crate::maintainer());
    Ok(format!(
        "xvip ({version}) unstable; urgency=medium\n\n  * Release {version}; what is in it is told by \
         {DOCUMENTATION}/README.md.\n\n -- {maintainer}  {date}\n"
    ))
}
