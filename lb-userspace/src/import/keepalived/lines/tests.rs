use super::*;
use crate::import::ledger::Ledger;

/// The statements' words and the brackets, as a host reads them.
fn split(text: &str, host: Option<&str>) -> Vec<String> {
    let source = Source::new("f", text.as_bytes());
    let mut ledger = Ledger::default();
    let mut notes = Notes::new(FileId(0), &mut ledger);
    let show = |piece: Piece| match piece {
        Piece::Statement(statement) => {
            statement.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join("|")
        }
        Piece::Open(_) => "{".to_owned(),
        Piece::Close(_) => "}".to_owned(),
    };
    pieces(&source, host, &mut notes).into_iter().map(show).collect()
}

#[test]
fn comments_begin_anywhere_but_in_quotes_and_behind_a_backslash() {
    for (line, kept) in [
        ("a # b", "a"),
        ("a!b", "a"),
        ("  # a", ""),
        ("\"a # b\" # c", "\"a # b\""),
        ("a\\#b \\!c", "a#b !c"),
        ("\"a\\#b\"", "\"a\\#b\""),
        ("a \\", "a \\"),
        ("a\\\\#b", "a\\\\"),
    ] {
        assert_eq!(words::text(&without_comment(line)), kept, "{line}");
    }
}

#[test]
fn conditions_hold_for_their_host() {
    let text = "a\n@one b\n@^one c\n@two\n@^two $X=1\nd $X\n";
    assert_eq!(split(text, Some("one")), ["a", "b", "d|1"]);
    assert_eq!(split(text, Some("two")), ["a", "c", "d|$X"]);
    assert_eq!(split(text, None), ["a", "c", "d|1"]);
    let names = |text: &str| {
        let source = Source::new("f", text.as_bytes());
        hosts(&source).iter().map(|host| host.name().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(names("a\n"), [None]);
    assert_eq!(names("@one a\n  @two b\n@one c\n"), [Some("one".into()), Some("two".into())]);
    assert_eq!(names("@one a\n@^one b\n"), [Some("one".into()), None]);
    assert_eq!(names("$IF=@one\n$IF a\n"), [Some("one".into())]);
}

/// The examples of keepalived.conf(5), "Parameter substitution".
#[test]
fn definitions_are_put_in_when_they_are_used() {
    let text = "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32\n$SUB=10\n${BASE}.100/32\n$NONE x\n$BASEx\n";
    assert_eq!(split(text, None), ["10.2.0.100/32", "10.2.10.100/32", "$NONE|x", "$BASEx"]);
    let text = "$I= \\\n vrrp_instance VI_${N} { \\\n priority 1 \\\n\n $N=0\n$I\n}\n$N=1\n$I\n}\n";
    assert_eq!(
        split(text, None),
        ["vrrp_instance|VI_0", "{", "priority|1", "}", "vrrp_instance|VI_1", "{", "priority|1", "}"]
    );
    assert_eq!(split("$IF=@one\n$IF a\nb\n", Some("two")), ["b"]);
}

#[test]
fn endless_definitions_end() {
    let text = "$A=$A x\n$A\n$B= \\\n$B\\\n$B\n\n$B\nb\n";
    let pieces = split(text, None);
    assert!(
        pieces.len() < 3 * MAX_LINES && pieces.last().is_some_and(|last| last == "b"),
        "{}",
        pieces.len()
    );
}

#[test]
fn brackets_are_pieces_of_their_own() {
    assert_eq!(split("a{b}c {\n\"{\" d}\n", None), ["a", "{", "b", "}", "c", "{", "{|d", "}"]);
}
