//! bpf-linker: turns the compiler's LLVM bitcode into an eBPF object with BTF.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::compiler::{self, Bitcode};
use super::version::Version;
use super::{Machine, Probe, Progress, apt};
use crate::{process, workspace};

/// What we install. Version 0.10 links as well, but leaves generic names in the BTF, and the kernel refuses those.
const WANTED: Version = Version(0, 13, 0);
/// The LLVM versions it can be built for (its features `llvm-N`).
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;

/// Is it there, new enough, and can it read what the compiler writes?
pub fn probe(_machine: &Machine) -> Probe {
    inspect().into()
}

/// Builds it for the compiler's LLVM.
///
/// # Errors
/// LLVM's development files are not to be had, or the build failed; the message has the commands to type instead.
pub fn install(machine: &Machine, progress: &Progress) -> anyhow::Result<()> {
    let llvm = compiler::linked_llvm()?.0;
    ensure!(
        LLVM_VERSIONS.contains(&llvm),
        "the compiler writes LLVM {llvm} bitcode, and bpf-linker {WANTED} is for LLVM {} to {}",
        LLVM_VERSIONS.start(),
        LLVM_VERSIONS.end()
    );
    if llvm_prefix(llvm).is_none() || process::find("c++").is_none() {
        apt::install(machine, progress, &llvm_packages(llvm))
            .with_context(|| format!("bpf-linker needs the development files of LLVM {llvm}"))?;
    }
    let prefix =
        llvm_prefix(llvm).with_context(|| format!("LLVM {llvm} is installed, but not to be found"))?;
    cargo_install(progress, llvm, &prefix)
}

/// Could we have a linker for this LLVM? Asked before a compiler is chosen.
///
/// # Errors
/// Why not.
pub fn obtainable(machine: &Machine, llvm: Version, bitcode: &Bitcode) -> anyhow::Result<()> {
    if fits(llvm, bitcode).is_ok() {
        return Ok(());
    }
    ensure!(
        LLVM_VERSIONS.contains(&llvm.0),
        "it writes LLVM {} bitcode, which bpf-linker {WANTED} is not for",
        llvm.0
    );
    let there = llvm_prefix(llvm.0).is_some() || apt::offers(machine, &llvm_packages(llvm.0));
    ensure!(there, "LLVM {}, which its linker would need, is not to be had here", llvm.0);
    Ok(())
}

fn inspect() -> anyhow::Result<String> {
    let version = fits(compiler::linked_llvm()?, &compiler::linked_bitcode()?)?;
    Ok(format!("bpf-linker {version}"))
}

/// The installed linker's version, if it is one for this LLVM.
fn fits(llvm: Version, bitcode: &Bitcode) -> anyhow::Result<Version> {
    let version = probe_version()?;
    let path = process::find("bpf-linker").context("bpf-linker is not installed")?;
    // LLVM reads the bitcode of older versions. Of a newer one it happens to read small samples, so linking one does
    // not tell. Where LLVM is linked in statically (not by us), the sample has to do.
    let own = process::output(Command::new("ldd").arg(&path)).ok().and_then(|said| shared_llvm(&said));
    if let Some(own) = own {
        ensure!(
            own >= llvm.0,
            "{} is built for LLVM {own}, and the compiler's is {}",
            path.display(),
            llvm.0
        );
    }
    links(bitcode.path())?;
    Ok(version)
}

/// Reads `ldd`: `libLLVM.so.22.1 => ...`, before LLVM 18 `libLLVM-17.so.1 => ...`.
fn shared_llvm(ldd: &str) -> Option<u32> {
    ldd.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("libLLVM")?;
        let number = rest.strip_prefix(".so.").or_else(|| rest.strip_prefix('-'))?;
        Some(Version::parse(number)?.0)
    })
}

fn probe_version() -> anyhow::Result<Version> {
    let path = process::find("bpf-linker").context("bpf-linker is not installed")?;
    let said = process::output(Command::new(&path).arg("--version"))?;
    let version = Version::of("bpf-linker", &said).with_context(|| format!("bpf-linker says {said:?}"))?;
    ensure!(version >= WANTED, "{} is version {version}, older than {WANTED}", path.display());
    Ok(version)
}

/// Links a file.
fn links(bitcode: &Path) -> anyhow::Result<()> {
    let object = bitcode.with_extension("o");
    let mut command = Command::new(process::find("bpf-linker").context("bpf-linker is not installed")?);
    command.args(["--target=bpfel-unknown-none", "--export=xvip_probe", "-o"]).arg(&object).arg(bitcode);
    let linked = process::output(&mut command);
    // In the target directory in any case.
    let _ = std::fs::remove_file(&object);
    linked
        .map(drop)
        .context("bpf-linker does not understand this compiler's output (built for another LLVM?)")
}

/// Where LLVM `major` with its headers is: the user's word, Debian's place, or what its own `llvm-config` says.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let given = std::env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let debian = Some(PathBuf::from(format!("/usr/lib/llvm-{major}")));
    let asked = process::output(Command::new(format!("llvm-config-{major}")).arg("--prefix")).ok();
    let asked = asked.map(|prefix| PathBuf::from(prefix.trim()));
    [given, debian, asked].into_iter().flatten().find(|prefix| {
        let config = prefix.join("bin/llvm-config");
        let version = process::output(Command::new(config).arg("--version")).ok();
        let is_major = version.and_then(|text| Version::parse(&text)).is_some_and(|found| found.0 == major);
        is_major && prefix.join("include/llvm-c/Core.h").is_file()
    })
}

/// LLVM itself, what its libraries are linked against, and a C++ library to link with.
fn llvm_packages(major: u32) -> Vec<String> {
    let llvm = [format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")];
    llvm.into_iter().chain(["libzstd-dev", "zlib1g-dev", "g++"].map(str::to_owned)).collect()
}

fn cargo_install(progress: &Progress, llvm: u32, prefix: &Path) -> anyhow::Result<()> {
    // Ours, so that a second attempt continues the first one.
    let target = workspace::scratch("bpf-linker")?;
    let mut command = workspace::cargo();
    command
        .args(["install", "bpf-linker", "--force", "--locked", "--no-default-features"])
        .arg(format!("--version={WANTED}"))
        .arg(format!("--features=llvm-{llvm}"))
        .arg("--target-dir")
        .arg(&target)
        .env("LLVM_PREFIX", prefix);
    progress.step("building bpf-linker takes about 3 minutes on two cores");
    progress.follow(&mut command).with_context(|| {
        format!(
            "to get it: LLVM_PREFIX={} cargo install bpf-linker --version {WANTED} --locked \
             --no-default-features --features llvm-{llvm}",
            prefix.display()
        )
    })?;
    // It is installed; its objects are of no use any more.
    let _ = std::fs::remove_dir_all(&target);
    if let Err(error) = inspect() {
        let path = process::find("bpf-linker").unwrap_or_default();
        bail!("{error:#}; is {} another one, earlier in the PATH than cargo's?", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_tells_the_llvm() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f3f70c20000)\n\
            \tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007f3f67a00000)\n";
        assert_eq!(shared_llvm(ldd), Some(22));
        assert_eq!(shared_llvm("\tlibLLVM-17.so.1 => /usr/lib/libLLVM-17.so.1 (0x1)"), Some(17));
        assert_eq!(shared_llvm("\tlibLLVM-21-rust-1.91.0-stable.so => not found"), Some(21));
        assert_eq!(shared_llvm("\tstatically linked\n"), None);
    }

    #[test]
    fn the_packages_are_named_after_the_version() {
        assert_eq!(llvm_packages(22)[..2], ["llvm-22-dev", "libpolly-22-dev"]);
    }
}
