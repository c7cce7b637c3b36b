//! The keywords that change nothing in the model, and what xvip has to say of each: those of HAProxy 2.6, later ones up to
//! 3.4, and old ones that still stand in files.

pub mod global;
pub mod lines;
pub mod proxy;
pub mod sections;

use crate::import::ledger::Fate;

/// Keywords of which the same is true.
pub struct Group {
    /// The keywords; one that ends with `*` stands for all that begin like it.
    pub words: &'static [&'static str],
    /// What becomes of them.
    pub fate: Fate,
    /// In `xvip.toml`.
    pub becomes: &'static str,
    /// Why.
    pub note: &'static str,
}

impl Group {
    const fn not_needed(words: &'static [&'static str], note: &'static str) -> Self {
        Self { words, fate: Fate::NotNeeded, becomes: "", note }
    }

    const fn not_possible(words: &'static [&'static str], note: &'static str) -> Self {
        Self { words, fate: Fate::NotPossible, becomes: "", note }
    }

    const fn approximate(words: &'static [&'static str], becomes: &'static str, note: &'static str) -> Self {
        Self { words, fate: Fate::Approximate, becomes, note }
    }

    const fn improved(words: &'static [&'static str], becomes: &'static str, note: &'static str) -> Self {
        Self { words, fate: Fate::Improved, becomes, note }
    }
}

/// The group that a keyword belongs to.
pub fn find(groups: &'static [Group], keyword: &str) -> Option<&'static Group> {
    let is =
        |word: &&str| word.strip_suffix('*').map_or(**word == *keyword, |start| keyword.starts_with(start));
    groups.iter().find(|group| group.words.iter().any(is))
}

/// The known word that is meant by a mistyped one: one letter too many, too few, wrong, or two swapped.
pub fn nearest<'w>(words: impl Iterator<Item = &'w str>, typed: &str) -> Option<&'w str> {
    words.filter(|word| word.len() > 3 && !word.ends_with('*')).find(|word| one_slip(word, typed))
}

fn one_slip(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 1 {
        return false;
    }
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[same..], &other[same..]);
    match one.len().cmp(&other.len()) {
        std::cmp::Ordering::Less => other[1..] == *one,
        std::cmp::Ordering::Greater => one[1..] == *other,
        std::cmp::Ordering::Equal => match (one, other) {
            ([_, one @ ..], [_, other @ ..]) if one == other => true,
            ([a, b, one @ ..], [c, d, other @ ..]) => a == d && b == c && one == other,
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_seen() {
        let words = ["default_backend", "balance", "bind"];
        for (typed, meant) in [
            ("default_backed", Some("default_backend")),
            ("blaance", Some("balance")),
            ("ballance", Some("balance")),
            ("bimd", Some("bind")),
            ("server", None),
            ("b", None),
        ] {
            assert_eq!(nearest(words.into_iter(), typed), meant, "{typed}");
        }
    }

    #[test]
    fn a_star_stands_for_the_rest() {
        assert!(find(global::KEYWORDS, "tune.ssl.default-dh-param").is_some());
        assert!(find(global::KEYWORDS, "tunes").is_none());
    }

    #[test]
    fn no_keyword_is_in_two_groups() {
        for groups in
            [global::KEYWORDS, proxy::KEYWORDS, proxy::OPTIONS, proxy::TIMEOUTS, lines::BIND, lines::SERVER]
        {
            let mut seen = std::collections::BTreeSet::new();
            for word in groups.iter().flat_map(|group| group.words) {
                assert!(seen.insert(word), "{word}");
            }
        }
    }
}
