use super::*;

#[test]
fn passwords_of_directives_are_not_shown() {
    for (text, shown) in [
        ("auth_pass 1111", "auth_pass ..."),
        ("auth_pass  \"a b\"", "auth_pass ..."),
        ("stats auth admin:admin123", "stats auth ..."),
        ("stats  auth  admin:admin123", "stats auth ..."),
        ("user joe insecure-password secret", "user joe password ..."),
        ("auth_type PASS", "auth_type PASS"),
        ("auth_pass", "auth_pass"),
        ("bind   *:6443", "bind   *:6443"),
    ] {
        assert_eq!(without_secret(text), shown);
    }
}

#[test]
fn directives_are_shown_without_their_comments() {
    assert_eq!(shown("interface eth0       # Network card"), "interface eth0");
    assert_eq!(shown("# all"), "# all");
    assert_eq!(shown("acl a  src 10.0.0.0/8"), "acl a src 10.0.0.0/8");
}

#[test]
fn lines_are_wrapped_between_words() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("averylongword b", 5), ["averylongword", "b"]);
    assert_eq!(wrapped("", 5), [""; 0]);
}
