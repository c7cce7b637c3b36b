//! How a test file wants to be run. It says so itself, in its opening comment:
//!
//! ```text
//! //! Runner: no root, threads 4
//! ```
//!
//! Without that line a file in `tests/` runs as root, one test at a time, next to one other such file; a file whose
//! name ends in `_host` needs no root. Words: `no root`, `alone` (no other suite at the same time), `once` (what it finds
//! does not depend on time, so a case that failed is not run again), `threads N`, `minutes N` (instead of 15).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// The wishes of one test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// It makes namespaces or loads programs.
    pub needs_root: bool,
    /// It measures, and must not be disturbed.
    pub alone: bool,
    /// A case that failed gets no second try, although it needs root.
    pub once: bool,
    /// Tests at the same time; None: as many as there are cores.
    pub threads: Option<u32>,
    /// When it counts as hung.
    pub limit: Duration,
}

/// Of unit tests.
impl Default for Settings {
    fn default() -> Self {
        Self {
            needs_root: false,
            alone: false,
            once: false,
            threads: None,
            limit: Duration::from_secs(15 * 60),
        }
    }
}

/// Reads the opening comment of a test file.
///
/// # Errors
/// It cannot be read, or its `Runner:` line has a word that we do not know.
pub fn of_file(file: &Path) -> anyhow::Result<Settings> {
    let source = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    of_source(&stem, &source).with_context(|| format!("{}", file.display()))
}

fn of_source(stem: &str, source: &str) -> anyhow::Result<Settings> {
    let host = stem.ends_with("_host");
    let mut settings = Settings { needs_root: !host, threads: (!host).then_some(1), ..Settings::default() };
    let comment = source.lines().map_while(|line| line.strip_prefix("//!"));
    for wishes in comment.filter_map(|line| line.trim().strip_prefix("Runner:")) {
        for wish in wishes.trim_end_matches('.').split(',').map(str::trim) {
            match wish.split_once(' ') {
                None if wish == "alone" => settings.alone = true,
                None if wish == "once" => settings.once = true,
                Some(("no", "root")) => (settings.needs_root, settings.threads) = (false, None),
                Some(("threads", number)) => settings.threads = Some(positive(number)?),
                Some(("minutes", number)) => {
                    settings.limit = Duration::from_secs(60 * u64::from(positive(number)?));
                }
                _ => bail!(
                    "`Runner: {wish}`: known are `no root`, `alone`, `once`, `threads N` and `minutes N`"
                ),
            }
        }
    }
    Ok(settings)
}

fn positive(number: &str) -> anyhow::Result<u32> {
    number.trim().parse().ok().filter(|number| *number > 0).with_context(|| format!("`{number}` is no count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_file_needs_root_and_runs_one_test_at_a_time_by_default() {
        let settings = of_source("failover", "//! Kill, partition, heal.\nfn a() {}").unwrap();
        assert_eq!((settings.needs_root, settings.threads, settings.alone), (true, Some(1), false));
        assert_eq!(settings.limit, Duration::from_secs(900));
    }

    #[test]
    fn a_host_file_needs_nothing() {
        let settings = of_source("dataplane_host", "").unwrap();
        assert_eq!((settings.needs_root, settings.threads), (false, None));
    }

    #[test]
    fn wishes_are_read_from_the_opening_comment_only() {
        let source =
            "//! Words.\n//!\n//! Runner: alone, once, threads 4, minutes 2\n\n//! Runner: no root\n";
        let settings = of_source("failover", source).unwrap();
        assert_eq!((settings.needs_root, settings.threads), (true, Some(4)));
        assert!(settings.alone && settings.once);
        assert_eq!(settings.limit, Duration::from_secs(120));
        assert!(!of_source("failover", "//! Words: once.").unwrap().once);
        assert!(!of_source("packets", "//! Runner: no root").unwrap().needs_root);
    }

    #[test]
    fn unknown_wishes_are_refused() {
        for bad in ["fast", "threads", "threads 0", "threads many", "no", "minutes -1"] {
            assert!(of_source("a", &format!("//! Runner: {bad}")).is_err(), "{bad}");
        }
    }
}
