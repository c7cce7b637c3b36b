//! Which shared libraries a binary needs, and of which version at least.

use std::collections::BTreeMap;

use anyhow::Context as _;
use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader as _, SectionHeader as _},
};

/// The versions of its symbols that a binary takes from each library, by the library's name: `libc.so.6` -> `GLIBC_2.34`, ...
pub type Versions = BTreeMap<String, Vec<String>>;

/// What the section `.gnu.version_r` of an ELF file says.
///
/// # Errors
/// It is no such file.
pub fn needed(binary: &[u8]) -> anyhow::Result<Versions> {
    let header = FileHeader64::<Endianness>::parse(binary).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, binary)?;
    let mut versions = Versions::new();
    for section in sections.iter() {
        let Some((mut libraries, link)) = section.gnu_verneed(endian, binary)? else { continue };
        let strings = sections.strings(endian, binary, link)?;
        while let Some((library, mut symbols)) = libraries.next()? {
            let name = String::from_utf8_lossy(library.file(endian, strings)?).into_owned();
            let of_library = versions.entry(name).or_default();
            while let Some(symbol) = symbols.next()? {
                of_library.push(String::from_utf8_lossy(symbol.name(endian, strings)?).into_owned());
            }
        }
    }
    for of_library in versions.values_mut() {
        of_library.sort();
    }
    Ok(versions)
}

/// The newest release of glibc among them: `2.34`.
#[must_use]
pub fn newest_glibc(versions: &Versions) -> Option<String> {
    let all = versions.values().flatten().filter_map(|version| version.strip_prefix("GLIBC_"));
    let numbers = |text: &str| text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let newest = all.filter_map(numbers).max()?;
    Some(newest.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_the_c_library() {
        let program = std::fs::read(std::env::current_exe().expect("a path")).expect("read");
        let versions = needed(&program).expect("ELF");
        assert!(versions.contains_key("libc.so.6"), "{versions:?}");
        assert!(newest_glibc(&versions).is_some_and(|version| version.starts_with("2.")), "{versions:?}");
        assert!(needed(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_PRIVATE"].map(str::to_owned).to_vec();
        assert_eq!(newest_glibc(&Versions::from([("libc.so.6".to_owned(), versions)])), Some("2.34".to_owned()));
    }
}
