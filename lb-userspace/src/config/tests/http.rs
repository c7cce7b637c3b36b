//! `[http]`: what is accepted and what is refused.

use std::{sync::LazyLock, time::Duration};

use super::{
    BASE, edited, parse,
    refused::{Mistake, each_is_refused, m},
};
use crate::{
    config::{
        effective::effective,
        model::{Anonymous, DEFAULT_SESSION_LIFETIME, Http, Role},
    },
    password::SAMPLE,
};

/// `[http]` with these keys.
macro_rules! http {
    ($keys:literal) => {
        concat!("[http]\n", $keys, "\n[flows]")
    };
}

/// The same with a good address.
macro_rules! listening {
    ($keys:literal) => {
        concat!("[http]\nlisten = \"127.0.0.1:9188\"\n", $keys, "\n[flows]")
    };
}

/// The same with a user that has these keys.
macro_rules! user {
    ($keys:literal) => {
        concat!("[http]\nlisten = \"127.0.0.1:9188\"\n[[http.user]]\n", $keys, "\n[flows]")
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    m("[flows]", http!("path = \"/\""), "[http]", "http.listen", "`listen` is missing", "write: listen = \"172.16.0.2:9188\""),
    m("[flows]", http!("listen = \"172.16.0.2\""), "listen", "http.listen", "`listen` must be an address with a port", "write: listen = \"172.16.0.2:9188\""),
    m("[flows]", http!("listen = \"172.16.0.2:0\""), "listen", "http.listen", "`listen` has port 0", "write: listen = \"172.16.0.2:9188\""),
    m("[flows]", http!("listen = \"224.0.0.18:80\""), "listen", "http.listen", "`listen` must be the address of a host", "write: listen = \"172.16.0.2:9188\""),
    m("[flows]", http!("listen = \"172.16.0.10:6443\""), "listen", "http.listen", "`listen` has the port of the service on line 9: what comes for 172.16.0.10:6443 is forwarded", "write: listen = \"172.16.0.10:9188\""),
    m("[flows]", http!("listen = \"0.0.0.0:6443\""), "listen", "http.listen", "`listen` has the port of the service on line 9", "write: listen = \"0.0.0.0:9188\""),
    m("[flows]", http!("listen = \"[::]:6443\""), "listen", "http.listen", "`listen` has the port of the service on line 9", "write: listen = \"[::]:9188\""),
    m("[flows]", "[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/etc/xvip/sync.key\"\n[http]\nlisten = \"0.0.0.0:7946\"\n[flows]", "0.0.0.0", "http.listen", "`listen` is where [sync] listens, on line 35", "write: listen = an address with another port"),
    m("[flows]", listening!("path = \"stats\""), "path = \"stats", "http.path", "`path` must begin with '/'", "write: path = \"/stats\""),
    m("[flows]", listening!("path = \"/haproxy?stats\""), "haproxy?", "http.path", "`path` must be a plain path", "write: path = \"/haproxy\""),
    m("[flows]", listening!("path = \"/a//b\""), "/a//b", "http.path", "`path` must be a plain path, without \"//\"", "write: path = \"/\""),
    m("[flows]", listening!("path = \"/a/../b\""), "/a/../b", "http.path", "`path` must be a plain path, without \"//\"", "write: path = \"/\""),
    m("[flows]", listening!("path = \"/metrics/\""), "/metrics/", "http.path", "`path` must not be /metrics or /healthz", "write: path = \"/\""),
    m("[flows]", listening!("anonymous = \"admin\""), "anonymous", "http.anonymous", "`anonymous` must be \"nothing\" or \"metrics\" or \"viewer\"", "write: anonymous = \"metrics\""),
    m("[flows]", listening!("session_lifetime = \"30s\""), "session_lifetime", "http.session_lifetime", "must be 1m to 720h", "write: session_lifetime = \"1m\""),
    m("[flows]", listening!("cert_file = \"/etc/xvip/http.crt\""), "cert_file", "http.cert_file", "`cert_file` needs `key_file`", "write: key_file = \"/etc/xvip/http.key\""),
    m("[flows]", listening!("key_file = \"/etc/xvip/http.key\""), "key_file", "http.key_file", "`key_file` needs `cert_file`", "write: cert_file = \"/etc/xvip/http.crt\""),
    m("[flows]", listening!("cert_file = \"/etc/xvip/http.crt\"\nkey_file = \"/pki/other.key\""), "key_file", "http.key_file", "`key_file` /pki/other.key is not the key of `cert_file`", "write: key_file = the path of the certificate's own key"),
    m("[flows]", listening!("cert_file = \"/pki/not.pem\"\nkey_file = \"/etc/xvip/http.key\""), "cert_file", "http.cert_file", "`cert_file` /pki/not.pem holds no certificate in PEM form", "write: cert_file = the path of a PEM file"),
    m("[flows]", listening!("cert_file = \"/etc/xvip/http.crt\"\nkey_file = \"/pki/token\""), "key_file", "http.key_file", "`key_file` /pki/token holds no private key in PEM form", "write: key_file = the path of a PEM file"),
    m("[flows]", user!("name = \"a\"\npassword_hash = \"hunter2\"\nrole = \"admin\""), "password_hash", "http.user[0].password_hash", "`password_hash` must be a hash of the password", "write: password_hash = \"$argon2id$...\", which is what `xvip password` prints"),
    m("[flows]", user!("name = \"a\"\npassword_hash = \"********\"\nrole = \"root\""), "role", "http.user[0].role", "`role` must be \"viewer\" or \"admin\"", "write: role = \"viewer\""),
    m("[flows]", user!("name = \"a\"\nrole = \"admin\""), "[[http.user]]", "http.user[0].password_hash", "`password_hash` is missing", "write: password_hash = \"$argon2id$...\""),
    m("[flows]", user!("name = \"a:b\"\npassword_hash = \"********\"\nrole = \"admin\""), "a:b", "http.user[0].name", "`name` must not have a colon", "write: name = \"a-b\""),
    m("[flows]", user!("name = \"a\"\npassword_hash = \"********\"\nrole = \"admin\"\n[[http.user]]\nname = \"a\" # again\npassword_hash = \"********\"\nrole = \"viewer\""), "# again", "http.user[1].name", "`name` is already the name of the user on line 37", "write: name = a name of its own"),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

/// Users, as many as one likes.
static USERS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "[[http.user]]\nname = \"admin\"\npassword_hash = \"{SAMPLE}\"\nrole = \"admin\"\n\
         [[http.user]]\nname = \"duty\"\npassword_hash = \"{SAMPLE}\"\nrole = \"viewer\"\n"
    )
});

/// What `[http]` means with these keys, and the keys that are warned about.
fn http(keys: &str) -> (Http, Vec<String>) {
    let text = edited("[flows]", &format!("[http]\n{keys}\n[flows]"));
    let checked = parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let warned = checked.warnings.into_iter().map(|found| found.key).collect();
    (checked.config.http.expect("it is there"), warned)
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    assert_eq!(parse(BASE).expect("accepted").config.http, None);
    let (plain, warned) = http("listen = \"172.16.0.2:9188\"");
    assert!(warned.is_empty(), "{warned:?}");
    assert_eq!((plain.path.as_str(), plain.anonymous, plain.tls), ("/", Anonymous::Metrics, None));
    assert_eq!((plain.session_lifetime, plain.hide_version), (DEFAULT_SESSION_LIFETIME, false));
    assert!(plain.users.is_empty());
}

#[test]
fn each_key_means_something() {
    let keys = format!(
        "listen = \"[::]:8404\"\npath = \"/haproxy/stats/\"\nanonymous = \"viewer\"\ncert_file = \"/etc/xvip/http.crt\"\n\
         key_file = \"/etc/xvip/http.key\"\nsession_lifetime = \"30m\"\nhide_version = true\n{}",
        *USERS
    );
    let (full, warned) = http(&keys);
    assert!(warned.is_empty(), "{warned:?}");
    assert_eq!((full.listen.to_string().as_str(), full.path.as_str()), ("[::]:8404", "/haproxy/stats"));
    assert_eq!((full.anonymous, full.hide_version), (Anonymous::Viewer, true));
    assert_eq!(full.session_lifetime, Duration::from_secs(1800));
    let tls = full.tls.as_ref().expect("TLS");
    assert_eq!((tls.identity.chain().len(), tls.key_file.to_str()), (1, Some("/etc/xvip/http.key")));
    let users: Vec<(&str, Role)> = full.users.iter().map(|user| (user.name.as_str(), user.role)).collect();
    assert_eq!(users, [("admin", Role::Admin), ("duty", Role::Viewer)]);
    assert!(full.users.iter().all(|user| user.password_hash == SAMPLE));
}

/// A VIP that is elsewhere at the moment will do, on a port of its own.
#[test]
fn it_may_listen_on_a_vip() {
    for listen in ["172.16.0.10:9188", "172.16.0.2:6443", "[2001:db8::2]:6443"] {
        let (there, _) = http(&format!("listen = {listen:?}"));
        assert_eq!(there.listen.to_string(), listen);
    }
}

#[test]
fn hashes_and_keys_are_not_told() {
    let keys = format!(
        "listen = \"127.0.0.1:9188\"\ncert_file = \"/etc/xvip/http.crt\"\nkey_file = \"/etc/xvip/http.key\"\n{}",
        *USERS
    );
    let text = edited("[flows]", &format!("[http]\n{keys}\n[flows]"));
    let mut config = parse(&text).expect("accepted").config;
    let written = effective(&config);
    let told = format!("{written}{config:?}{}", serde_json::to_string(&config).expect("JSON"));
    assert!(!told.contains("c2FsdHNhbHQ") && !told.contains("PRIVATE"), "{told}");
    let again = parse(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
    let warned: Vec<&str> = again.warnings.iter().map(|found| found.key.as_str()).collect();
    assert_eq!(warned, ["http.user[0].password_hash", "http.user[1].password_hash"]);
    config.http.iter_mut().flat_map(|http| &mut http.users).for_each(|user| {
        user.password_hash = "********".to_owned();
    });
    assert_eq!(again.config, config, "{written}");
}

#[test]
fn what_protects_less_than_it_seems_is_warned_about() {
    let key = |keys: &str| http(keys).1;
    let open = format!("listen = \"172.16.0.2:9188\"\n{}", *USERS);
    assert_eq!(key(&open), ["http.listen"]);
    for loopback in ["127.0.0.1:9188", "[::1]:9188", "[::ffff:127.0.0.1]:9188"] {
        let keys: Vec<String> = key(&open.replace("172.16.0.2:9188", loopback));
        assert!(keys.is_empty(), "{loopback}: {keys:?}");
    }
    assert_eq!(key("listen = \"172.16.0.2:9188\"\nanonymous = \"nothing\""), ["http.anonymous"]);
    let shared = "listen = \"172.16.0.2:9188\"\ncert_file = \"/etc/xvip/http.crt\"\nkey_file = \"/etc/xvip/http-shared.key\"";
    assert_eq!(key(shared), ["http.key_file"]);
}
