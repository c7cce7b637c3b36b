//! Configurations in the manual: whole files, which `xvip check` would accept without a word, and pieces, which it would accept
//! in a file that has the rest. A whole file is one with `[node]`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use lb_userspace::config::{self, Facts};
use toml::{Table, Value};

/// What a piece is put into.
const BASE: &str = include_str!("../../../lb-userspace/src/config/sample.toml");

/// The files that examples name: (certificate, its key).
static IDENTITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let identity = rcgen::generate_simple_self_signed(["lb1".to_owned()]).expect("a certificate");
    (identity.cert.pem(), identity.signing_key.serialize_pem())
});

/// Whatever a file's name promises.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (certificate, key) = &*IDENTITY;
    Ok(match name.rsplit_once('.') {
        Some((_, "crt" | "pem")) => certificate.clone(),
        Some((stem, "key")) if stem.starts_with("sync") || stem.starts_with("vrrp") => {
            format!("hex:{}\n", "5a".repeat(32))
        }
        Some((_, "key")) => key.clone(),
        None if name == "token" => "eyJhbGciOi.J9\n".to_owned(),
        _ => "#!/bin/sh\n".to_owned(),
    }
    .into_bytes())
}

fn file_mode(path: &Path) -> io::Result<u32> {
    Ok(if path.starts_with("/usr") { 0o755 } else { 0o600 })
}

/// What is wrong with an example; `Ok` where nothing is. Of a whole file, warnings are wrong, too: whoever copies it would get
/// them.
pub fn check(example: &str) -> Result<(), String> {
    let mut wrong = String::new();
    let (text, is_whole) = completed(example)?;
    let facts = Facts { host_name: "lb1".to_owned(), read_file: &read_file, file_mode: &file_mode };
    match config::parse(&text, Path::new("example"), &facts) {
        Ok(checked) => {
            for warning in checked.warnings.iter().filter(|_| is_whole) {
                writeln!(wrong, "{warning}").expect("written to memory");
            }
        }
        Err(problems) => write!(wrong, "{problems}").expect("written to memory"),
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// A whole file, made of a piece where it is none; and whether it is.
fn completed(example: &str) -> Result<(String, bool), String> {
    let piece: Table = example.parse().map_err(|error| format!("not TOML: {error}"))?;
    if piece.contains_key("node") {
        return Ok((example.to_owned(), true));
    }
    let mut whole: Table = BASE.parse().expect("the base is TOML");
    if !piece.keys().all(|key| is_table(&piece[key])) {
        return Err("a key is in no table: write its header, too".to_owned());
    }
    for (key, value) in piece {
        merge(&mut whole, key, value);
    }
    Ok((whole.to_string(), false))
}

fn is_table(value: &Value) -> bool {
    value.is_table() || value.as_array().is_some_and(|list| list.iter().all(Value::is_table))
}

/// Puts a value of a piece into a whole: tables are joined, the first of several with the first, and what `[service.health]`
/// says without a `[[service]]` above is said of the one that there is.
fn merge(whole: &mut Table, key: String, value: Value) {
    match (whole.get_mut(&key), value) {
        (Some(Value::Table(known)), Value::Table(added)) => {
            added.into_iter().for_each(|(key, value)| merge(known, key, value));
        }
        (Some(Value::Array(known)), Value::Table(added)) => {
            if let Some(Value::Table(first)) = known.first_mut() {
                added.into_iter().for_each(|(key, value)| merge(first, key, value));
            }
        }
        (Some(Value::Array(known)), Value::Array(added)) if added.iter().all(Value::is_table) => {
            for (index, value) in added.into_iter().enumerate() {
                match (known.get_mut(index), value) {
                    (Some(Value::Table(known)), Value::Table(added)) => {
                        added.into_iter().for_each(|(key, value)| merge(known, key, value));
                    }
                    (_, value) => known.push(value),
                }
            }
        }
        (_, value) => drop(whole.insert(key, value)),
    }
}

#[test]
fn a_piece_is_checked_within_a_file_that_has_the_rest() {
    for good in [
        "[[service]]\nconnection_log = true",
        "[service.rebalance]\nmode = \"auto\"",
        "[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/etc/xvip/sync.key\"",
        "[[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\"",
        "[[service.backend]]\nweight = 50\n[[service.backend]]\nname = \"m2\"\naddress = \"172.16.0.5:6443\"",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("[[service]]\nconection_log = true", "unknown key `conection_log`"),
        ("[service.rebalance]\nmode = \"always\"", "`mode` must be"),
        ("[flow]\nmax = 5", "unknown key `flow`"),
        ("max = 5", "a key is in no table"),
        ("[flows]\nmax = ", "not TOML"),
        // It is a whole file, and says less than it should.
        ("[node]\ninterface = \"eth0\"", "there is no service"),
    ] {
        let said = check(bad).expect_err(bad);
        assert!(said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn a_whole_file_must_not_even_warn() {
    assert_eq!(check(BASE), Ok(()));
    let said =
        check(&BASE.replace("verify = \"ca\"\nca_file = \"/pki/ca.crt\"\n", "")).expect_err("a warning");
    assert!(said.starts_with("warning: "), "{said}");
}
