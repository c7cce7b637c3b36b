//! `[[notify]]`: what is accepted and what is refused.

use std::time::Duration;

use super::{
    edited, parse,
    refused::{Mistake, each_is_refused, m},
};
use crate::config::{
    effective::effective,
    model::{DEFAULT_HOOK_TOPICS, Hook, HookAction, Topic},
};

/// A good program with these keys.
macro_rules! program {
    ($keys:literal) => {
        concat!("[[notify]]\ncommand = [\"/usr/local/bin/check\"]\n", $keys, "\n[flows]")
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    m("[flows]", "[[notify]]\non = [\"vrrp\"]\n[flows]", "[[notify]]", "notify[0].command", "`command` is missing", "write: command = [\"/usr/local/bin/notify\"]   (in [[notify]])"),
    m("[flows]", "[notify]\ncommand = [\"/usr/local/bin/check\"]\n[flows]", "[notify]", "notify", "has double brackets", "write: [[notify]]"),
    m("[flows]", program!("url = \"http://10.0.0.1/\""), "url", "notify[0].url", "`url` and `command` exclude each other", "remove one of the two"),
    m("[flows]", program!("ca_file = \"/pki/ca.crt\" # here"), "# here", "notify[0].ca_file", "`ca_file` is for `url` only", "remove it"),
    m("[flows]", program!("timeout = \"50ms\""), "timeout", "notify[0].timeout", "must be 100ms to 1h", "write: timeout = \"100ms\""),
    m("[flows]", program!("on = []"), "on = []", "notify[0].on", "`on` must have at least one word", "write: on = [\"vrrp\""),
    m("[flows]", program!("on = [\"vrrp\", \"vrrp\"]"), "on = [", "notify[0].on", "`on` has a word twice", "remove one of the two"),
    m("[flows]", program!("on = [\"backends\"]"), "on = [", "notify[0].on", "not \"backends\"", "write: on = [..., \"backend\", ...]"),
    m("[flows]", program!("name = [\"main\"]"), "name = [\"main\"]", "notify[0].name", "unknown key", "write: names = [\"main\"]"),
    m("[flows]", "[[notify]]\ncommand = []\n[flows]", "command", "notify[0].command", "`command` must have a program", "write: command = ["),
    m("[flows]", "[[notify]]\ncommand = [\"notify\"]\n[flows]", "command", "notify[0].command", "must begin with the absolute path of a program", "write: command = ["),
    m("[flows]", "[[notify]]\nurl = \"http://10.0.0.1/\"\nuser = \"root\"\n[flows]", "user", "notify[0].user", "`user` is for `command` only", "remove it"),
    m("[flows]", "[[notify]]\nurl = \"http://10.0.0.1/\"\nca_file = \"/pki/ca.crt\" # here\n[flows]", "# here", "notify[0].ca_file", "`ca_file` needs an https URL", "remove it"),
    m("[flows]", "[[notify]]\nurl = \"https://10.0.0.1/\"\nca_file = \"/nowhere\"\n[flows]", "ca_file = \"/nowhere\"", "notify[0].ca_file", "/nowhere cannot be read", "write: ca_file = "),
    m("[flows]", "[[notify]]\nurl = \"ftp://10.0.0.1/\"\n[flows]", "url", "notify[0].url", "must begin with http:// or https://, not \"ftp\"", "write: url = \"https://example.com/hook\""),
    m("[flows]", "[[notify]]\nurl = \"/hook\"\n[flows]", "url", "notify[0].url", "must be a URL", "write: url = \"https://example.com/hook\""),
    m("[flows]", "[[notify]]\nurl = \"https://a:b@10.0.0.1/\"\n[flows]", "url", "notify[0].url", "must not have a user", "write: url = \"https://example.com/hook\""),
    m("[flows]", "[[notify]]\nurl = 7\n[flows]", "url", "notify[0].url", "must be a URL in quotes", "write: url = \"https://example.com/hook\""),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

fn hooks(tables: &str) -> Vec<Hook> {
    let checked = parse(&edited("[flows]", &format!("{tables}\n[flows]")))
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.warnings, []);
    let written = effective(&checked.config);
    assert_eq!(parse(&written).expect("accepted").config, checked.config, "{written}");
    checked.config.hooks
}

#[test]
fn each_means_what_it_says() {
    assert_eq!(hooks(""), []);
    let found = hooks(
        "[[notify]]\ncommand = [\"/usr/local/bin/check\", \"-v\"]\nuser = \"root\"\non = [\"problem\", \"vrrp\"]\n\
         names = [\"main\", \"172.16.0.10\", \"master1\", \"kube-apiserver\"]\ntimeout = \"1500ms\"\n\
         [[notify]]\nurl = \"https://hooks.example.com:8443/a?b=c\"\nca_file = \"/pki/ca.crt\"",
    );
    let [program, url] = found.as_slice() else { panic!("{found:?}") };
    let command = vec!["/usr/local/bin/check".to_owned(), "-v".to_owned()];
    assert_eq!(program.action, HookAction::Command { command, user: "root".to_owned() });
    assert_eq!(program.on, [Topic::Problem, Topic::Vrrp]);
    assert_eq!((program.names.len(), program.timeout), (4, Duration::from_millis(1500)));
    let HookAction::Url { url: text, ca_file } = &url.action else { panic!("{url:?}") };
    assert_eq!((text.as_str(), ca_file.is_some()), ("https://hooks.example.com:8443/a?b=c", true));
    assert_eq!(url.on, DEFAULT_HOOK_TOPICS);
}

#[test]
fn a_name_of_nobody_and_a_program_that_is_not_there_are_warned_about() {
    for (keys, key) in [
        ("command = [\"/usr/local/bin/check\"]\nnames = [\"mian\"]", "notify[0].names"),
        ("command = [\"/nowhere\"]", "notify[0].command"),
    ] {
        let checked = parse(&edited("[flows]", &format!("[[notify]]\n{keys}\n[flows]"))).expect("accepted");
        let keys: Vec<&str> = checked.warnings.iter().map(|found| found.key.as_str()).collect();
        assert_eq!(keys, [key]);
    }
}

#[test]
fn a_url_is_in_no_complaint() {
    for url in ["\"https://h/a#hunter2\"", "\"https://hunter2 \"", "[\"https://h/hunter2\"]"] {
        let text = edited("[flows]", &format!("[[notify]]\nurl = {url}\n[flows]"));
        let problems = parse(&text).expect_err("refused");
        assert!(!problems.to_string().replace(&text, "").contains("hunter2"), "{problems}");
    }
}
