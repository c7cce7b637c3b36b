//! Whatever a file holds, reading it ends with an answer, and the answer is about lines that the file has.

use std::path::Path;

use proptest::prelude::*;

use super::{BASE, facts};
use crate::config::{Problems, effective::effective, parse, parse_bytes};

const PACKAGED: &str = include_str!("../../../../packaging/xvip.toml");

/// Words that take a mutation somewhere.
const WORDS: &[&str] = &[
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "\r",
    "\t",
    "\0",
    "µ",
    "\u{feff}",
    "-1",
    "0",
    "99999999999999999999999999",
    "0xff",
    "1e999",
    "nan",
    "1979-05-27",
    "true",
    "\"0s\"",
    "\"1e9s\"",
    "\"999999999y\"",
    "\"18446744073709551615s 1000000000ns\"",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"::ffff:1.2.3.4/120\"",
    "\"2001:db8::10/64\"",
    "\"[2001:db8::4%7]:6443\"",
    "\"1.2.3.4:\"",
    "\"\\u0000\"",
    "service",
    "vrrp",
    "node",
    "flows",
    "[[service]]\n",
    "[[vrrp]]\n",
    "[node]\n",
    "health",
    "backend",
    "track",
    "[[vrrp.track]]\nkind = \"script\"\ncommand = [\"/bin/true\"]\n",
    "[[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\"\n",
    "[vrrp.auth_hmac]\nactive_key = 1\n",
    "[[vrrp.auth_hmac.key]]\nid = 1\nfile = \"/etc/xvip/vrrp.key\"\n",
    "[log]\nformat = \"json\"\n",
    "[stats_socket]\npath = \"/run/a\"\nmode = \"777\"\n",
    "[[notify]]\ncommand = [\"/bin/true\"]\n",
    "[[notify]]\nurl = \"https://h/\"\n",
    "names = [\"main\", \"?\"]\n",
    "[http]\nlisten = \"0.0.0.0:6443\"\npath = \"/a/../b\"\n",
    "[[http.user]]\nname = \"a:b\"\npassword_hash = \"$argon2id$v=19$m=8,t=1,p=1$$\"\nrole = \"admin\"\n",
    "sync_group = \"a\"\n",
    "witness = [\"fe80::1\"]\n",
    "hex:",
    "a.b.c = 1\n",
    "snat = 1\n",
    "mode = \"dsr-ipip\"\n",
    "allow = [\"10.0.0.0/0\"]\n",
];

/// The file, and what was done to it: at each place (a share of its length) some bytes go and a word comes.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (0.0..1.0_f64, 0..12_usize, prop::sample::select(WORDS));
    (prop::sample::select(&[BASE, PACKAGED][..]), any::<bool>(), prop::collection::vec(edit, 1..6)).prop_map(
        |(file, uncomment, edits)| {
            let mut bytes = if uncomment { file.replace("\n#", "\n") } else { file.to_owned() }.into_bytes();
            for (place, removed, word) in edits {
                let start = (place * bytes.len() as f64) as usize;
                let end = (start + removed).min(bytes.len());
                bytes.splice(start..end, word.bytes());
            }
            bytes
        },
    )
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let lines = String::from_utf8_lossy(bytes).lines().count().max(1);
    let outcome = parse_bytes(bytes, Path::new("f"), &facts());
    let found = match &outcome {
        Ok(checked) => &checked.warnings,
        Err(Problems(found)) => found,
    };
    for found in found {
        prop_assert!((1..=lines).contains(&found.line), "line {} of {lines}: {found}", found.line);
        prop_assert!(found.column >= 1);
        prop_assert!(!found.message.is_empty() && !found.remedy.is_empty(), "{found:?}");
        prop_assert!(
            !found.to_string().contains(|c: char| c.is_control() && !"\n\t".contains(c)),
            "{found:?}"
        );
    }
    match outcome {
        Err(problems) => prop_assert!(problems.errors().next().is_some(), "refused without an error"),
        Ok(checked) => {
            let written = effective(&checked.config);
            let again = parse(&written, Path::new("f"), &facts());
            let again = again.map_err(|problems| TestCaseError::fail(format!("{problems}\n{written}")))?;
            prop_assert_eq!(effective(&again.config), written);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn arbitrary_words_get_an_answer(words in prop::collection::vec(prop::sample::select(WORDS), 0..40)) {
        check(words.concat().as_bytes())?;
    }

    #[test]
    fn mutated_files_get_an_answer(bytes in mutated()) {
        check(&bytes)?;
    }
}

#[test]
fn deep_nesting_and_many_mistakes_get_an_answer() {
    for text in [
        format!("a = {}", "[".repeat(10_000)),
        format!("a = {}", "{b=".repeat(10_000)),
        format!("{} = 1", vec!["a"; 50_000].join(".")),
        "[[service]]\n".repeat(500),
        (0..2_000).map(|n| format!("k{n} = 1\n")).collect(),
    ] {
        check(text.as_bytes()).expect("an answer");
    }
}
