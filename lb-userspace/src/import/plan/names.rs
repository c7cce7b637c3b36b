//! Names as the configuration takes them: at most 64 bytes, without blanks, each once.

use std::collections::BTreeSet;

const LONGEST: usize = 64;

/// The name nearest to a text; `instead` where nothing of it is left.
pub(super) fn name(text: &str, instead: &str) -> String {
    let mut name = String::new();
    for c in text.trim().chars() {
        let c = if c.is_whitespace() { '-' } else { c };
        if c.is_control() {
            continue;
        }
        if name.len() + c.len_utf8() > LONGEST {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { instead.to_owned() } else { name }
}

/// The name, or with a number if it is taken; it is taken then.
pub(super) fn unique(taken: &mut BTreeSet<String>, name: &str) -> String {
    let mut number = 1_usize;
    let mut wanted = name.to_owned();
    while !taken.insert(wanted.clone()) {
        number += 1;
        let ending = format!("-{number}");
        let mut end = name.len().min(LONGEST - ending.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        wanted = format!("{}{ending}", &name[..end]);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_configuration_takes() {
        assert_eq!(name("kube apiserver", "x"), "kube-apiserver");
        assert_eq!(name(" \u{7}\n", "x"), "x");
        assert_eq!(name(&"\u{e9}".repeat(40), "x").len(), 64);
        let mut taken = BTreeSet::new();
        assert_eq!(unique(&mut taken, "a"), "a");
        assert_eq!(unique(&mut taken, "a"), "a-2");
        assert_eq!(unique(&mut taken, "a"), "a-3");
        let long = "\u{e9}".repeat(32);
        assert_eq!(unique(&mut taken, &long), long);
        assert_eq!(unique(&mut taken, &long), format!("{}-2", "\u{e9}".repeat(31)));
    }
}
