//! What is accepted, what is refused and with which words, and that nothing drifts apart.

mod accepted;
mod drift;
mod hooks;
mod http;
mod log;
mod properties;
mod refused;
mod stats_socket;
mod sync;
mod vrrp;

use std::{collections::HashMap, io, path::Path, sync::LazyLock};

use super::{Checked, Facts, Problems, parse::parse_with_schema, sample::SAMPLE as BASE};

/// The files on the disk of the tests.
static DISK: LazyLock<HashMap<&str, Vec<u8>>> = LazyLock::new(|| {
    let identity = || rcgen::generate_simple_self_signed(["lb1".to_owned()]).expect("a certificate");
    let (one, other) = (identity(), identity());
    HashMap::from([
        ("/pki/ca.crt", one.cert.pem().into_bytes()),
        ("/etc/kubernetes/pki/ca.crt", one.cert.pem().into_bytes()),
        ("/pki/client.crt", one.cert.pem().into_bytes()),
        ("/pki/client.key", one.signing_key.serialize_pem().into_bytes()),
        ("/pki/other.key", other.signing_key.serialize_pem().into_bytes()),
        ("/etc/xvip/http.crt", one.cert.pem().into_bytes()),
        ("/etc/xvip/http.key", one.signing_key.serialize_pem().into_bytes()),
        ("/etc/xvip/http-shared.key", one.signing_key.serialize_pem().into_bytes()),
        ("/etc/xvip/client.crt", one.cert.pem().into_bytes()),
        ("/etc/xvip/client.key", one.signing_key.serialize_pem().into_bytes()),
        ("/pki/not.pem", b"\x30\x82 binary".to_vec()),
        ("/pki/broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()),
        ("/pki/token", b"eyJhbGciOi.J9\n".to_vec()),
        ("/etc/xvip/token", b"eyJhbGciOi.J9\n".to_vec()),
        ("/pki/empty", b"\n".to_vec()),
        ("/pki/two-tokens", b"one\ntwo\n".to_vec()),
        ("/etc/xvip/vrrp.key", format!("hex:{}\n", "5a".repeat(32)).into_bytes()),
        (
            "/etc/xvip/sync.key",
            format!("{}\n{}\n", "5a".repeat(32), "another secret of a former year, in words").into_bytes(),
        ),
        ("/etc/xvip/shared.key", b"a secret of 32 bytes, for a test\n".to_vec()),
        ("/usr/local/bin/check", b"#!/bin/sh\n".to_vec()),
    ])
});

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let found = path.to_str().and_then(|path| DISK.get(path));
    found.cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "No such file or directory"))
}

/// Programs can be run by all, two keys are readable for others than their owner, and everything else is not.
fn file_mode(path: &Path) -> io::Result<u32> {
    read_file(path)?;
    Ok(match path.to_str() {
        Some("/etc/xvip/shared.key" | "/etc/xvip/http-shared.key") => 0o644,
        Some(path) if path.starts_with("/usr/") => 0o755,
        _ => 0o600,
    })
}

fn facts() -> Facts<'static> {
    Facts { host_name: "lb1".to_owned(), read_file: &read_file, file_mode: &file_mode }
}

fn parse(text: &str) -> Result<Checked, Problems> {
    parse_with_schema(text, Path::new("/etc/xvip/xvip.toml"), &facts()).0
}

/// The base with one piece replaced, which must be in it once.
fn edited(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} is in the base once");
    BASE.replace(from, to)
}
