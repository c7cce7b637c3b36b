//! What of a failed test's output says why it failed.
//!
//! A panic of a property test with a backtrace is a hundred lines, nearly all of them about the standard library, and where a
//! run's output is cut to what fits somewhere it is the message that is lost. So frames that are not ours are left out, and
//! the messages themselves are printed again at the end of everything.

/// Lines of one message.
const MESSAGE: usize = 15;
/// Characters of a line of it.
const WIDTH: usize = 500;
/// Lines from the end of an output without any message.
const LAST: usize = 8;

/// The part of a suite's output that is this test's, as the harness repeats it at the end; empty where it does not.
pub fn section<'a>(output: &'a [String], test: &str) -> &'a [String] {
    let Some(heading) = output.iter().rposition(|line| *line == format!("---- {test} stdout ----")) else {
        return &[];
    };
    let section = &output[heading..];
    let end = (1..section.len()).find(|at| {
        let line = &section[*at];
        (line.starts_with("---- ") && line.ends_with(" stdout ----")) || is_list(&section[*at..])
    });
    &section[..end.unwrap_or(section.len())]
}

/// `failures:`, followed by names: the last thing before the result.
fn is_list(lines: &[String]) -> bool {
    matches!(lines, [heading, name, ..] if heading == "failures:" && name.starts_with("    "))
}

/// The tests that the harness lists as failed at the end.
pub fn listed(output: &[String]) -> Vec<&str> {
    let Some(at) = (0..output.len()).rev().find(|at| is_list(&output[*at..])) else { return vec![] };
    output[at + 1..].iter().map_while(|line| line.strip_prefix("    ")).collect()
}

/// Without the frames of backtraces that are not in this repository.
pub fn without_foreign_frames(lines: &[String]) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut is_backtrace = false;
    // The line that names a frame; the next one says where it is.
    let mut frame: Option<&str> = None;
    for line in lines {
        let text = line.trim_start();
        if line == "stack backtrace:" {
            is_backtrace = true;
        } else if is_backtrace && is_frame(text) {
            frame = Some(line);
            continue;
        } else if is_backtrace && text.starts_with("at ") {
            if text.starts_with("at ./") {
                kept.extend(frame.take());
                kept.push(line);
            }
            continue;
        } else {
            is_backtrace = false;
        }
        frame = None;
        kept.push(line);
    }
    kept
}

/// `12: NAME`
fn is_frame(text: &str) -> bool {
    text.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// The lines of a test's section that say why it failed: the first message and the last one, where they differ. What panics
/// later is often a consequence, but a property's last message has the shortest story. Without a message, the last lines.
pub fn of(section: &[String]) -> Vec<String> {
    let mut messages: Vec<Vec<&str>> = Vec::new();
    let mut is_inside = false;
    for line in section.iter().skip(1) {
        let is_panic = line.starts_with("thread '") && line.contains(" panicked at ");
        if is_panic || line.starts_with("Error: ") {
            messages.push(vec![line]);
            is_inside = true;
        } else if line == "stack backtrace:" || line.starts_with("note: ") {
            is_inside = false;
        } else if let Some(message) =
            messages.last_mut().filter(|message| is_inside && message.len() < MESSAGE)
        {
            message.push(line);
        }
    }
    let last = messages.pop();
    let mut told: Vec<&str> = messages.into_iter().next().into_iter().flatten().collect();
    if last.as_ref().is_some_and(|last| *last != told) {
        told.extend(last.into_iter().flatten());
    }
    if told.is_empty() {
        told = section.iter().skip(1).map(String::as_str).filter(|line| !line.is_empty()).collect();
        told.drain(..told.len().saturating_sub(LAST));
    }
    told.into_iter().filter(|line| !line.is_empty()).map(cut).collect()
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
test a ... FAILED
successes:
---- c stdout ----
fine
failures:

---- a stdout ----

noise of a

thread 'a' (7) panicked at src/a.rs:1:2:
assertion `left == right` failed: the echo
  left: 1
 right: 2
stack backtrace:
   0: __rustc::rust_begin_unwind
             at /rustc/59807/library/std/src/panicking.rs:689:5
   1: a::check
             at ./tests/a.rs:601:5
   2: __rust_try
   3: core::ops::function::FnOnce::call_once
             at /rustc/59807/library/core/src/ops/function.rs:250:5
note: Some details are omitted

thread 'a' (7) panicked at src/a.rs:3:4:
the shortest story
stack backtrace:
   0: b
             at ./tests/a.rs:9:5

---- b stdout ----
Error: \"waited in vain\"


failures:
    a
    b

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    fn output() -> Vec<String> {
        OUTPUT.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_section_is_one_tests_output() {
        let output = output();
        let b = section(&output, "b");
        assert_eq!(b[..2], ["---- b stdout ----", "Error: \"waited in vain\""]);
        assert!(b[2..].iter().all(String::is_empty), "{b:?}");
        let a = section(&output, "a");
        assert!(
            a.iter().any(|line| line == "noise of a") && !a.iter().any(|line| line.contains("vain")),
            "{a:?}"
        );
        assert_eq!(section(&output, "c").get(1).map(String::as_str), Some("fine"));
        assert_eq!(section(&output, "d"), [""; 0]);
    }

    #[test]
    fn the_list_at_the_end_is_read() {
        assert_eq!(listed(&output()), ["a", "b"]);
        assert_eq!(listed(&["failures:".to_owned(), String::new()]), [""; 0]);
    }

    #[test]
    fn frames_of_others_are_left_out() {
        let output = output();
        let left = without_foreign_frames(section(&output, "a"));
        let frames: Vec<_> =
            left.iter().map(|line| line.trim()).filter(|line| line.starts_with("at ")).collect();
        assert_eq!(frames, ["at ./tests/a.rs:601:5", "at ./tests/a.rs:9:5"]);
        assert!(
            left.contains(&"   1: a::check") && left.contains(&"note: Some details are omitted"),
            "{left:?}"
        );
        assert!(!left.iter().any(|line| line.contains("rust_try") || line.contains("call_once")), "{left:?}");
        let other = ["  3: of a list".to_owned(), "at noon".to_owned()];
        assert_eq!(without_foreign_frames(&other), other, "no backtrace");
    }

    #[test]
    fn the_first_message_and_the_last_one_are_told() {
        let output = output();
        assert_eq!(
            of(section(&output, "a")),
            [
                "thread 'a' (7) panicked at src/a.rs:1:2:",
                "assertion `left == right` failed: the echo",
                "  left: 1",
                " right: 2",
                "thread 'a' (7) panicked at src/a.rs:3:4:",
                "the shortest story",
            ]
        );
        assert_eq!(of(section(&output, "b")), ["Error: \"waited in vain\""]);
    }

    #[test]
    fn without_a_message_the_last_lines_are_told_and_long_ones_are_cut() {
        let mut section: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        section.push("ä".repeat(WIDTH + 1));
        let told = of(&section);
        assert_eq!((told.len(), told[0].as_str()), (LAST, "13"));
        assert_eq!(told[LAST - 1].chars().count(), WIDTH + 1);
        assert!(told[LAST - 1].ends_with('…'));
    }
}
