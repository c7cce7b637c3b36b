//! The compiler for `bpfel-unknown-none`, linked into rustup as `xvip-bpf`, where `lb-userspace/build.rs` expects it.
//!
//! Two compilers will do: Debian's `rustc-web`, for which Debian also has a ready-made `core` for BPF, and a nightly
//! with `rust-src`, which builds its own. The link always has the same name, so the build never has to choose.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::version::{Rustc, Version};
use super::{Machine, Probe, Progress, apt, linker};
use crate::{process, workspace};

/// The name of the link; `lb-userspace/build.rs` has it too.
pub const LINKED_TOOLCHAIN: &str = "xvip-bpf";

/// A nightly of Rust 1.97, which writes LLVM 22 bitcode as Debian's compiler does. The newest nightly would be a
/// moving target: its LLVM has to be there for the linker as well.
const PINNED_NIGHTLY: &str = "nightly-2026-05-20";

const TARGET: &str = "bpfel-unknown-none";
/// Cargo before this cannot read our manifests (edition 2024, and `rust-version` in the workspace).
const OLDEST_CARGO: Version = Version(1, 88, 0);
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Something the compiler can only turn into bitcode if its `core` for the target is whole.
const SAMPLE: &str =
    "#![no_std]\n#[unsafe(no_mangle)]\npub extern \"C\" fn xvip_probe(x: u32) -> u32 { x.wrapping_add(2) }\n";

/// Is rustup there?
pub fn probe_rustup(_machine: &Machine) -> Probe {
    match process::output(Command::new("rustup").arg("--version")) {
        Ok(said) => Version::of("rustup", &said).map_or_else(
            || Probe::Missing(format!("`rustup --version` says {said:?}")),
            |version| Probe::Ready(format!("rustup {version}")),
        ),
        Err(error) => Probe::Missing(format!("{error:#}")),
    }
}

/// rustup is not ours to install: it changes the user's shell profile.
///
/// # Errors
/// Always; the message says how to get it.
pub fn explain_rustup(_machine: &Machine, _progress: &Progress) -> anyhow::Result<()> {
    bail!(
        "rustup is missing; to get it: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh\n\
         (if it is installed, put its directory, commonly ~/.cargo/bin, in the PATH)"
    )
}

/// Does the linked tool chain compile for BPF, and can there be a linker for what it writes?
pub fn probe(machine: &Machine) -> Probe {
    inspect_link(machine).into()
}

/// Links a compiler that is there, or else installs one.
///
/// # Errors
/// Each way failed; the message says why, way by way.
pub fn install(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    type Way = fn(&Machine, &Progress) -> anyhow::Result<()>;
    const WAYS: [(&str, Way); 4] = [
        ("the compiler at /usr/bin/rustc", link_system_compiler),
        ("a nightly with rust-src", link_a_nightly),
        ("Debian's rustc-web", install_debian),
        ("a nightly from rustup", install_nightly),
    ];
    let mut reasons = String::new();
    for (name, way) in WAYS {
        match way(machine, progress).and_then(|()| inspect_link(machine)) {
            Ok(_) => return Ok(()),
            Err(error) => {
                progress.step(&format!("not {name}: {error:#}"));
                reasons.push_str(&format!("\n  {name}: {error:#}"));
            }
        }
        ensure!(!process::interrupted(), "interrupted");
    }
    bail!("no compiler for {TARGET}; what was tried:{reasons}")
}

/// LLVM bitcode of a small sample, from the linked tool chain, in a file that goes when this is dropped.
///
/// # Errors
/// The tool chain does not compile.
pub fn linked_bitcode() -> anyhow::Result<Bitcode> {
    Compiler::named(LINKED_TOOLCHAIN).bitcode()
}

/// The LLVM that the linked tool chain writes bitcode for.
///
/// # Errors
/// The tool chain does not run.
pub fn linked_llvm() -> anyhow::Result<Version> {
    Ok(Compiler::named(LINKED_TOOLCHAIN).version()?.llvm)
}

fn inspect_link(machine: &Machine) -> anyhow::Result<String> {
    ensure!(
        toolchains()?.iter().any(|name| name == LINKED_TOOLCHAIN),
        "rustup has no tool chain called {LINKED_TOOLCHAIN}"
    );
    let compiler = Compiler::named(LINKED_TOOLCHAIN);
    let version = compiler.version()?;
    // A link to all of /usr brings /usr/bin/cargo along, which on Debian 12 is from 2022.
    let cargo = process::output(&mut compiler.rustup_run("cargo", &["--version"]))?;
    let cargo = Version::of("cargo", &cargo).with_context(|| format!("`cargo --version` says {cargo:?}"))?;
    ensure!(cargo >= OLDEST_CARGO, "its cargo is {cargo}, which is older than {OLDEST_CARGO}");
    let Rustc { release, nightly, llvm } = version;
    linker::obtainable(machine, llvm, &compiler.bitcode()?)?;
    let kind = if nightly { "nightly " } else { "" };
    Ok(format!("{LINKED_TOOLCHAIN} ({kind}rustc {release}, LLVM {})", llvm.0))
}

/// Names of rustup's tool chains.
fn toolchains() -> anyhow::Result<Vec<String>> {
    Ok(toolchain_names(&process::output(Command::new("rustup").args(["toolchain", "list"]))?))
}

/// Reads `rustup toolchain list`: the name is the first word, remarks such as "(active)" follow.
fn toolchain_names(listed: &str) -> Vec<String> {
    let words = listed.lines().filter_map(|line| line.split_whitespace().next());
    // "no installed toolchains" is a sentence, not a name.
    words.filter(|word| *word != "no").map(str::to_owned).collect()
}

/// A compiler and how to start it.
enum Compiler {
    Rustup(String),
    File(PathBuf),
}

impl Compiler {
    fn named(toolchain: &str) -> Self {
        Self::Rustup(toolchain.to_owned())
    }

    /// A program of the tool chain. Must not be called for a bare file.
    fn rustup_run(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, program]);
                command
            }
            Self::File(file) => Command::new(file),
        };
        command.args(arguments);
        command
    }

    fn rustc(&self, arguments: &[&str]) -> anyhow::Result<String> {
        process::output(&mut self.rustup_run("rustc", arguments))
    }

    fn version(&self) -> anyhow::Result<Rustc> {
        let said = self.rustc(&["-vV"])?;
        Rustc::parse(&said).with_context(|| format!("`rustc -vV` says {said:?}"))
    }

    fn sysroot(&self) -> anyhow::Result<PathBuf> {
        Ok(self.rustc(&["--print", "sysroot"])?.trim().into())
    }

    /// Compiles the sample. A nightly builds its own `core` for the target, so for it the sample is compiled for this
    /// machine (only the bitcode's version matters), and the sources of `core` must be there.
    fn bitcode(&self) -> anyhow::Result<Bitcode> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nightly = self.version()?.nightly;
        if nightly {
            let core = self.sysroot()?.join("lib/rustlib/src/rust/library/core");
            ensure!(core.is_dir(), "this nightly has no rust-src");
        }
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stem = workspace::scratch("probe")?.join(format!("{}-{number}", std::process::id()));
        let bitcode = Bitcode { source: stem.with_extension("rs"), file: stem.with_extension("bc") };
        std::fs::write(&bitcode.source, SAMPLE)?;
        let mut command =
            self.rustup_run("rustc", &["--edition=2024", "--crate-type=lib", "--emit=llvm-bc", "-O"]);
        if !nightly {
            command.args(["--target", TARGET]);
        }
        if let Err(error) = process::output(command.arg("-o").arg(&bitcode.file).arg(&bitcode.source)) {
            // rustc explains at length; its first line is enough to tell one compiler from another.
            let error = format!("{error:#}");
            bail!("it does not compile for {TARGET}: {}", error.lines().next().unwrap_or_default());
        }
        Ok(bitcode)
    }
}

/// A bitcode file and its source.
pub struct Bitcode {
    source: PathBuf,
    file: PathBuf,
}

impl Bitcode {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file
    }
}

impl Drop for Bitcode {
    fn drop(&mut self) {
        // Whatever remains is in the target directory.
        let _ = std::fs::remove_file(&self.source);
        let _ = std::fs::remove_file(&self.file);
    }
}

fn link_system_compiler(machine: &Machine, _progress: &Progress) -> anyhow::Result<()> {
    let rustc = Path::new(SYSTEM_RUSTC);
    ensure!(rustc.exists(), "there is none");
    let compiler = Compiler::File(rustc.to_owned());
    let version = compiler.version()?;
    let bitcode = compiler.bitcode().with_context(|| format!("it is rustc {}", version.release))?;
    linker::obtainable(machine, version.llvm, &bitcode)?;
    link(&private_toolchain(rustc, &compiler.sysroot()?)?)
}

/// A directory with this compiler, rustup's cargo, and nothing else. Linking all of /usr instead would bring in
/// /usr/bin/cargo where there is one, and leave the choice of cargo to rustup where there is none.
fn private_toolchain(rustc: &Path, sysroot: &Path) -> anyhow::Result<PathBuf> {
    let home = process::output(Command::new("rustup").args(["show", "home"]))?;
    let directory = Path::new(home.trim()).join(LINKED_TOOLCHAIN);
    let cargo = process::output(Command::new("rustup").args(["which", "cargo"]))?;
    fill_toolchain(&directory, rustc, Path::new(cargo.trim()), sysroot)?;
    Ok(directory)
}

fn fill_toolchain(directory: &Path, rustc: &Path, cargo: &Path, sysroot: &Path) -> anyhow::Result<()> {
    // It only ever holds symbolic links, and they are not followed here.
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("removing the old {}", directory.display()))?;
    }
    let bin = directory.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    for (target, name) in [
        (rustc, bin.join("rustc")),
        (cargo, bin.join("cargo")),
        (&sysroot.join("lib"), directory.join("lib")),
    ] {
        symlink(target, &name).with_context(|| format!("linking {}", name.display()))?;
    }
    Ok(())
}

fn link(directory: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("rustup");
    process::output(command.args(["toolchain", "link", LINKED_TOOLCHAIN]).arg(directory)).map(drop)
}

fn link_a_nightly(machine: &Machine, _progress: &Progress) -> anyhow::Result<()> {
    let mut reasons = Vec::new();
    for name in toolchains()?.iter().filter(|name| name.starts_with("nightly")) {
        match link_nightly(machine, name) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{name}: {error:#}")),
        }
    }
    bail!("{}", if reasons.is_empty() { "there is none".to_owned() } else { reasons.join("; ") })
}

fn link_nightly(machine: &Machine, name: &str) -> anyhow::Result<()> {
    let compiler = Compiler::named(name);
    let bitcode = compiler.bitcode()?;
    linker::obtainable(machine, compiler.version()?.llvm, &bitcode)?;
    link(&compiler.sysroot()?)
}

fn install_debian(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    apt::install(machine, progress, &DEBIAN_PACKAGES.map(str::to_owned))?;
    link_system_compiler(machine, progress)
}

fn install_nightly(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", PINNED_NIGHTLY, "--no-self-update"]);
    progress.follow(command.args(["--profile=minimal", "--component=rust-src"]))?;
    link_nightly(machine, PINNED_NIGHTLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_chains_are_listed_by_name() {
        let listed =
            "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-x86_64-unknown-linux-gnu\nxvip-bpf\n";
        let names = toolchain_names(listed);
        assert_eq!(
            names,
            ["stable-x86_64-unknown-linux-gnu", "nightly-x86_64-unknown-linux-gnu", "xvip-bpf"]
        );
        assert!(toolchain_names("no installed toolchains\n").is_empty());
    }

    #[test]
    fn a_private_tool_chain_holds_three_links_and_can_be_made_again() {
        let directory =
            workspace::scratch("unit-test").unwrap().join(format!("toolchain-{}", std::process::id()));
        for cargo in ["/gone/cargo", "/now/cargo"] {
            let [rustc, cargo, sysroot] = [SYSTEM_RUSTC, cargo, "/usr"].map(Path::new);
            fill_toolchain(&directory, rustc, cargo, sysroot).unwrap();
        }
        let target = |name: &str| std::fs::read_link(directory.join(name)).unwrap();
        assert_eq!(target("bin/rustc"), Path::new(SYSTEM_RUSTC));
        assert_eq!(target("bin/cargo"), Path::new("/now/cargo"));
        assert_eq!(target("lib"), Path::new("/usr/lib"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Path::new("/usr/lib").is_dir());
    }
}
