//! What compilers, linkers and the kernel of this project say about their own version.

/// A version's first three numbers; numbers that are missing count as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads `1.96.0`, `22.1`, `1.97.0-nightly`; what follows the numbers does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map(leading_number);
        let first = numbers.next()??;
        let mut next = || numbers.next().flatten().unwrap_or(0);
        Some(Self(first, next(), next()))
    }

    /// Reads the line `PROGRAM VERSION ...` that `--version` commonly prints, as `cargo` and `bpf-linker` do. Other
    /// lines (rustup's remarks) are passed over.
    pub fn of(program: &str, output: &str) -> Option<Self> {
        output.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(program)).then(|| words.next().and_then(Self::parse))?
        })
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// What `rustc -vV` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rustc {
    /// Its own version.
    pub release: Version,
    /// It accepts unstable options, so it needs no ready-made `core`.
    pub nightly: bool,
    /// The LLVM whose bitcode it writes.
    pub llvm: Version,
}

impl Rustc {
    /// Reads the output of `rustc -vV`.
    pub fn parse(output: &str) -> Option<Self> {
        let field = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?;
        Some(Self {
            release: Version::parse(release)?,
            nightly: release.ends_with("-nightly") || release.ends_with("-dev"),
            llvm: Version::parse(field("LLVM version:")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_compiler() {
        let output = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
            commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\ncommit-date: 2026-05-25\n\
            host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let expected = Rustc { release: Version(1, 96, 0), nightly: false, llvm: Version(22, 1, 8) };
        assert_eq!(Rustc::parse(output), Some(expected));
    }

    #[test]
    fn a_nightly() {
        let rustc = Rustc::parse("release: 1.101.0-nightly\nLLVM version: 23.1.4\n").unwrap();
        assert!(rustc.nightly);
        assert_eq!((rustc.release, rustc.llvm), (Version(1, 101, 0), Version(23, 1, 4)));
    }

    #[test]
    fn a_compiler_with_another_back_end_is_not_one_of_ours() {
        assert_eq!(Rustc::parse("release: 1.96.0\n"), None);
        assert_eq!(Rustc::parse("error: toolchain 'x' is not installed"), None);
        assert_eq!(Rustc::parse(""), None);
    }

    #[test]
    fn programs_name_their_version() {
        assert_eq!(Version::of("bpf-linker", "bpf-linker 0.13.0\n"), Some(Version(0, 13, 0)));
        assert_eq!(
            Version::of("cargo", "info: falling back\ncargo 1.95.0 (f2d 2026-03-21)"),
            Some(Version(1, 95, 0))
        );
        assert_eq!(Version::of("cargo", "cargo"), None);
        assert_eq!(Version::of("cargo", "cargo-web 1.2.3"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version::parse("0.9.15") < Version::parse("0.13.0"));
        assert_eq!(Version::parse("22"), Some(Version(22, 0, 0)));
        assert_eq!(Version::parse("6.1.0-rc3+x"), Some(Version(6, 1, 0)));
        assert_eq!(Version::parse("99999999999999999999"), None);
        assert_eq!(Version::parse("v1.2"), None);
    }
}
