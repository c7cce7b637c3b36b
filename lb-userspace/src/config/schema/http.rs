//! `[http]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{PASS_MASK, contents_of, private};
use crate::{
    config::{
        kinds::{Flag, LISTEN, NAME, OneOf, PATH, Text, Time},
        model::{
            Anonymous, DEFAULT_HIDE_VERSION, DEFAULT_HTTP_PATH, DEFAULT_SESSION_LIFETIME, Http, HttpTls,
            HttpUser, MAX_HTTP_USERS, Role, TlsIdentity,
        },
        parse::Facts,
        pem,
        reader::{At, Table, Wrong, quoted},
    },
    password,
};

const ANONYMOUS: OneOf<Anonymous> =
    OneOf(&[("nothing", Anonymous::Nothing), ("metrics", Anonymous::Metrics), ("viewer", Anonymous::Viewer)]);
const ROLE: OneOf<Role> = OneOf(&[("viewer", Role::Viewer), ("admin", Role::Admin)]);
const LIFETIME: Time = Time::between(Duration::from_secs(60), Duration::from_secs(30 * 24 * 60 * 60));

/// What is served at these paths whatever the page's is.
const TAKEN: [&str; 2] = ["/metrics", "/healthz"];

/// The page's path: a plain one, since a browser and a proxy may write the others in more than one way.
const PAGE_PATH: Text<String> = Text {
    what: "a path",
    parse: |text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
        if !text.starts_with('/') {
            let wrong = Wrong::new(format!("must begin with '/', not {}", quoted(text)));
            let suggest = !text.is_empty() && text.len() < 60 && text.chars().all(plain);
            return Err(if suggest { wrong.suggest(format!("\"/{text}\"")) } else { wrong });
        }
        if text.len() > 128 {
            return Err(Wrong::new("must not be longer than 128 bytes"));
        }
        if !text.chars().all(plain) {
            let wrong = Wrong::new("must be a plain path: letters, digits and any of / - _ . ~");
            // HAProxy's own default is "/haproxy?stats".
            let before = text.split(|c| !plain(c)).next().unwrap_or_default();
            return Err(match before {
                "" | "/" => wrong,
                before => wrong.suggest(format!("{before:?}")),
            });
        }
        let path = match text {
            "/" => text,
            _ => text.strip_suffix('/').unwrap_or(text),
        };
        let segments = path.split('/').skip(1);
        if path != "/" && segments.into_iter().any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Wrong::new("must be a plain path, without \"//\", \".\" and \"..\""));
        }
        if TAKEN.iter().any(|taken| {
            path.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }) {
            return Err(Wrong::new("must not be /metrics or /healthz, where something else is served"));
        }
        Ok(path.to_owned())
    },
    show: String::clone,
};

/// What is kept of a password. What is wrong with it is said without repeating it.
const HASH: Text<String> = Text {
    what: "the hash of a password",
    parse: |text| match text {
        PASS_MASK => Ok(text.to_owned()),
        _ => match password::check(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(error) => Err(Wrong::new(error.to_string())),
        },
    },
    show: |_| "...".to_owned(),
};
/// How to get one.
const HASH_EXAMPLE: &str = "\"$argon2id$...\", which is what `xvip password` prints";

/// `[http]` as read.
pub(in crate::config) struct HttpDraft {
    pub(in crate::config) listen: Option<At<SocketAddr>>,
    path: String,
    anonymous: Anonymous,
    tls: Option<HttpTls>,
    session_lifetime: Duration,
    hide_version: bool,
    users: Vec<Option<HttpUser>>,
}

impl HttpDraft {
    /// None where something of it is wrong, which was said.
    pub(super) fn finished(self) -> Option<Http> {
        Some(Http {
            listen: self.listen?.value,
            path: self.path,
            anonymous: self.anonymous,
            tls: self.tls,
            session_lifetime: self.session_lifetime,
            hide_version: self.hide_version,
            users: self.users.into_iter().collect::<Option<_>>()?,
        })
    }
}

/// `[http]`
pub(super) fn http(t: Table<'_>, facts: &Facts<'_>) -> HttpDraft {
    let listen = listen(&t);
    let path = t.read("path", PAGE_PATH).or(DEFAULT_HTTP_PATH.to_owned()).value;
    let anonymous = t.read("anonymous", ANONYMOUS).or(Anonymous::default());
    let (tls, wants_tls) = tls(&t, facts);
    let session_lifetime = t.read("session_lifetime", LIFETIME).or(DEFAULT_SESSION_LIFETIME).value;
    let hide_version = t.read("hide_version", Flag).or(DEFAULT_HIDE_VERSION).value;
    let users = users(&t);
    if let Some(listen) = &listen
        && !users.is_empty()
        && !wants_tls
        && !listen.value.ip().to_canonical().is_loopback()
    {
        let message = "whoever is on the way reads the passwords: users log in without TLS on an address that others reach";
        let remedy =
            "write: cert_file = \"/etc/xvip/http.crt\" and key_file = \"/etc/xvip/http.key\" (in [http])";
        t.reader.warning(&listen.place, message, remedy);
    }
    if anonymous.value == Anonymous::Nothing && users.is_empty() {
        let message = "nobody sees the page or the metrics: there is no user, and `anonymous` is \"nothing\"";
        t.reader.warning(
            &anonymous.place,
            message,
            "write: [[http.user]], or anonymous = \"metrics\" or \"viewer\"",
        );
    }
    t.finish();
    HttpDraft { listen, path, anonymous: anonymous.value, tls, session_lifetime, hide_version, users }
}

fn listen(t: &Table<'_>) -> Option<At<SocketAddr>> {
    const EXAMPLE: &str = "\"172.16.0.2:9188\"";
    let listen = t.read("listen", LISTEN).required(EXAMPLE)?;
    let (address, port) = (listen.value.ip(), listen.value.port());
    if port == 0 {
        let remedy = format!("write: listen = \"{}\"", SocketAddr::new(address, 9188));
        t.reader.error(&listen.place, "`listen` has port 0; ports are 1 to 65535", remedy);
    }
    let broadcast = matches!(address, std::net::IpAddr::V4(address) if address.is_broadcast());
    if address.is_multicast() || broadcast {
        let message = format!("`listen` must be the address of a host, and {address} is that of many");
        t.reader.error(&listen.place, message, format!("write: listen = {EXAMPLE}"));
    }
    Some(listen)
}

/// `cert_file` and `key_file`: both or neither, and one belongs to the other. Also whether one of them is there at all.
fn tls(t: &Table<'_>, facts: &Facts<'_>) -> (Option<HttpTls>, bool) {
    const PEM: &str = "a PEM file";
    let cert_file: Option<At<PathBuf>> = t.read("cert_file", PATH).optional("\"/etc/xvip/http.crt\"");
    let key_file: Option<At<PathBuf>> = t.read("key_file", PATH).optional("\"/etc/xvip/http.key\"");
    let wanted = t.place_of("cert_file").is_some() || t.place_of("key_file").is_some();
    let chain =
        cert_file.as_ref().and_then(|file| contents_of(t, "cert_file", PEM, file, facts, pem::certificates));
    let key =
        key_file.as_ref().and_then(|file| contents_of(t, "key_file", PEM, file, facts, pem::private_key));
    if key.is_some()
        && let Some(file) = &key_file
    {
        private(t, "key_file", file, facts);
    }
    let (cert_file, key_file) = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => (cert_file, key_file),
        (Some(cert_file), None) if t.place_of("key_file").is_none() => {
            let message = "`cert_file` needs `key_file`";
            t.reader.error(&cert_file.place, message, "write: key_file = \"/etc/xvip/http.key\"");
            return (None, wanted);
        }
        (None, Some(key_file)) if t.place_of("cert_file").is_none() => {
            let message = "`key_file` needs `cert_file`";
            t.reader.error(&key_file.place, message, "write: cert_file = \"/etc/xvip/http.crt\"");
            return (None, wanted);
        }
        _ => return (None, wanted),
    };
    let Some((chain, key)) = chain.zip(key) else { return (None, wanted) };
    if let Err(wrong) = pem::identity(chain.clone(), key.clone_key(), "cert_file") {
        let message = format!("`key_file` {} {wrong}", key_file.value.display());
        t.reader.error(&key_file.place, message, "write: key_file = the path of the certificate's own key");
    }
    let identity = TlsIdentity::new(chain, key);
    (Some(HttpTls { cert_file: cert_file.value, key_file: key_file.value, identity }), wanted)
}

fn users(t: &Table<'_>) -> Vec<Option<HttpUser>> {
    let mut known: Vec<At<String>> = Vec::new();
    let tables = t.tables("user");
    if let Some(table) = tables.get(MAX_HTTP_USERS) {
        let message = format!("this is user {}: there are at most {MAX_HTTP_USERS}", MAX_HTTP_USERS + 1);
        t.reader.error(&table.place(), message, "remove it");
    }
    let read = |user: Table<'_>| {
        let name = user.read("name", NAME).required("\"admin\"");
        let password_hash = user.read("password_hash", HASH).required(HASH_EXAMPLE);
        let role = user.read("role", ROLE).required("\"viewer\"");
        if let Some(name) = &name {
            if name.value.contains(':') {
                let message = "`name` must not have a colon, which ends a name in HTTP (RFC 7617)";
                let remedy = format!("write: name = {}", quoted(&name.value.replace(':', "-")));
                user.reader.error(&name.place, message, remedy);
            }
            if let Some(first) = known.iter().find(|known| known.value == name.value) {
                let line = user.reader.line(&first.place);
                let message = format!("`name` is already the name of the user on line {line}");
                user.reader.error(&name.place, message, "write: name = a name of its own");
            } else {
                known.push(name.clone());
            }
        }
        if let Some(hash) = password_hash.as_ref().filter(|hash| hash.value == PASS_MASK) {
            let message = "`password_hash` is what `xvip check` prints in place of one: nobody can log in";
            user.reader.warning(&hash.place, message, "write: password_hash = what `xvip password` prints");
        }
        user.finish();
        Some(HttpUser { name: name?.value, password_hash: password_hash?.value, role: role?.value })
    };
    tables.into_iter().map(read).collect()
}
