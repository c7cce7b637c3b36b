//! What a request says of who sends it: cookies, credentials, where its page came from, and the fields of a form. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, ORIGIN};

use crate::config::model::{Anonymous, Role};

/// What somebody may do; each may do what the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Log in.
    Nothing,
    /// See the metrics.
    Metrics,
    /// See the page.
    View,
    /// Change something.
    Act,
}

impl Rights {
    /// Those of somebody with this role, or of nobody known.
    pub fn of(role: Option<Role>, anonymous: Anonymous) -> Self {
        match (role, anonymous) {
            (Some(Role::Admin), _) => Self::Act,
            (Some(Role::Viewer), _) | (None, Anonymous::Viewer) => Self::View,
            (None, Anonymous::Metrics) => Self::Metrics,
            (None, Anonymous::Nothing) => Self::Nothing,
        }
    }
}

/// The value of a cookie (RFC 6265 §4.2.1).
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(key, _)| *key == name);
    found.next().map(|(_, value)| value)
}

/// A name and a password, as `curl --user` sends them (RFC 7617 §2).
pub fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Whether a request that changes something comes from a page of ours: browsers say so in `Origin` with every POST, and a page
/// cannot change that. Without it (an old browser, a script) the fetch metadata have to say it.
pub fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |value: Option<&hyper::header::HeaderValue>| {
        value.and_then(|value| value.to_str().ok().map(str::to_owned))
    };
    match headers.get(ORIGIN) {
        Some(origin) => {
            let origin = text(Some(origin));
            let host = text(headers.get(HOST));
            let authority = origin.as_deref().and_then(|origin| {
                let (scheme, rest) = origin.split_once("://")?;
                matches!(scheme, "http" | "https").then(|| (default_port(scheme), rest.to_owned()))
            });
            match (authority, host) {
                (Some((port, authority)), Some(host)) => {
                    with_port(&authority, port).eq_ignore_ascii_case(&with_port(&host, port))
                }
                _ => false,
            }
        }
        None => text(headers.get("sec-fetch-site")).as_deref() == Some("same-origin"),
    }
}

const fn default_port(scheme: &str) -> u16 {
    // The two schemes that are let through differ in length.
    if scheme.len() == 5 { 443 } else { 80 }
}

/// `lb1` and `lb1:80` are the same over http.
fn with_port(authority: &str, port: u16) -> String {
    let host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    if host.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") }
}

/// The fields of a form or of a query; of a field that is there twice, nothing, so that nobody reads it in two ways.
pub fn fields(text: &[u8]) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(text) {
        let entry = fields.entry(name.into_owned());
        entry.and_modify(|known| *known = None).or_insert_with(|| Some(value.into_owned()));
    }
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Compares without telling by its time how much was right.
pub fn is_same_secret(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        pairs.iter().map(pair).for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn each_has_the_rights_of_the_role_or_those_of_nobody() {
        use Anonymous::{Metrics, Nothing, Viewer};
        for (role, anonymous, rights) in [
            (None, Nothing, Rights::Nothing),
            (None, Metrics, Rights::Metrics),
            (None, Viewer, Rights::View),
            (Some(Role::Viewer), Nothing, Rights::View),
            (Some(Role::Admin), Nothing, Rights::Act),
            (Some(Role::Admin), Viewer, Rights::Act),
        ] {
            assert_eq!(Rights::of(role, anonymous), rights);
        }
        assert!(
            Rights::Nothing < Rights::Metrics && Rights::Metrics < Rights::View && Rights::View < Rights::Act
        );
    }

    #[test]
    fn one_cookie_is_found_among_many() {
        let many = headers(&[("cookie", "a=1; xvip-1=abc=; b"), ("cookie", "xvip-2=z")]);
        assert_eq!(cookie(&many, "xvip-1"), Some("abc="));
        assert_eq!(cookie(&many, "xvip-2"), Some("z"));
        assert_eq!(cookie(&many, "xvip"), None);
        assert_eq!(cookie(&many, "b"), None);
    }

    #[test]
    fn credentials_are_a_name_and_a_password_with_anything_in_it() {
        let of = |value: &str| credentials(&headers(&[("authorization", value)]));
        assert_eq!(of("Basic YW5uOnNlOmNyZXQ="), Some(("ann".to_owned(), "se:cret".to_owned())));
        assert_eq!(of("basic  YW5uOg=="), Some(("ann".to_owned(), String::new())));
        for wrong in ["", "Basic", "Basic !", "Basic YW5u", "Bearer YW5uOng=", "Basic /////w=="] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_our_own_pages_may_send_forms() {
        for (pairs, expected) in [
            (&[("host", "lb1:9188"), ("origin", "http://lb1:9188")][..], true),
            (&[("host", "LB1:9188"), ("origin", "https://lb1:9188")], true),
            (&[("host", "lb1"), ("origin", "http://lb1")], true),
            (&[("host", "lb1:443"), ("origin", "https://lb1")], true),
            (&[("host", "[fd00::1]"), ("origin", "http://[fd00::1]:80")], true),
            (&[("host", "[fd00::1]:9188"), ("origin", "http://[fd00::1]:9188")], true),
            (&[("host", "lb1:9188"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "lb1:9188"), ("origin", "http://lb1:80")], false),
            (&[("host", "lb1:9188"), ("origin", "http://evil.example")], false),
            (&[("host", "lb1:9188"), ("origin", "http://lb1:9188.evil.example")], false),
            (&[("host", "lb1:9188"), ("origin", "null"), ("sec-fetch-site", "same-origin")], false),
            (&[("host", "lb1:9188"), ("origin", "file://lb1:9188")], false),
            (&[("host", "lb1:9188"), ("sec-fetch-site", "same-site")], false),
            (&[("host", "lb1:9188"), ("sec-fetch-site", "none")], false),
            (&[("host", "lb1:9188")], false),
            (&[("origin", "http://lb1:9188")], false),
        ] {
            assert_eq!(is_from_here(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_field_that_is_there_twice_is_not_there() {
        let fields = fields(b"a=1&b=x+y%26&c=2&c=3&d");
        let expected = [("a", "1"), ("b", "x y&"), ("d", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields, expected.into());
        assert_eq!(super::fields(b"c=1&c=1&c=1"), BTreeMap::new());
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(
            is_same_secret("abc", "abc") && !is_same_secret("abc", "abd") && !is_same_secret("abc", "ab")
        );
        assert!(!is_same_secret("", "a") && !is_same_secret("abc", "bbc"));
    }
}
