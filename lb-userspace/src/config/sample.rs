//! A node's configuration, for the tests of whoever reads one.

use std::{io, path::Path, sync::LazyLock};

use super::{Facts, model::Config, parse};

/// One service with two backends, in one virtual router with a peer.
pub const SAMPLE: &str = include_str!("sample.toml");

/// What `ca_file` names there.
static CA: LazyLock<String> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["lb1".to_owned()]);
    made.expect("a certificate").cert.pem()
});

/// What a text says, on a node without any other file than the CA's. Panics where it is refused.
pub fn config(text: &str) -> Config {
    let read_file = |path: &Path| match path.to_str() {
        Some("/pki/ca.crt") => Ok(CA.clone().into_bytes()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let file_mode = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let facts = Facts { host_name: "lb1".to_owned(), read_file: &read_file, file_mode: &file_mode };
    match parse(text, Path::new("xvip.toml"), &facts) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems}"),
    }
}
