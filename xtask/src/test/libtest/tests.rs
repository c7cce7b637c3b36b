use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::*;

const PASSED: &str =
    "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

/// An exit code as wait(2) gives it.
fn code(code: i32) -> anyhow::Result<End> {
    Ok(End::Exited(ExitStatus::from_raw(code << 8)))
}

fn read(output: &str, end: anyhow::Result<End>) -> Outcome {
    let mut reader = Reader::default();
    for line in output.lines() {
        reader.line(line);
    }
    reader.finish("s", end, Duration::from_secs(900), &Kernel::running())
}

fn failed(outcome: &Outcome) -> Vec<&str> {
    outcome.failed.iter().map(|failure| failure.test.as_str()).collect()
}

#[test]
fn all_is_well() {
    let outcome = read(&format!("running 2 tests\ntest a ... ok\ntest b::c ... ok\n\n{PASSED}\n"), code(0));
    assert_eq!((outcome.passed, outcome.count()), (2, 2));
}

#[test]
fn failures_are_named_and_ignored_tests_are_skips() {
    let outcome = read(
        "test a ... ok\ntest b ... FAILED\ntest c - should panic ... ok\ntest d ... ignored, slow\ntest e ... ignored\n\
         test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        code(101),
    );
    assert_eq!(failed(&outcome), ["b"]);
    assert_eq!(outcome.passed, 2);
    let skipped = [("d", "slow"), ("e", "ignored")].map(|(test, why)| (test.to_owned(), why.to_owned()));
    assert_eq!(outcome.skipped, skipped);
}

#[test]
fn with_one_thread_the_verdict_may_follow_later() {
    let mut reader = Reader::default();
    assert_eq!(reader.line("test a ... starting keepalived"), None);
    assert_eq!(reader.line("Nov 22 keepalived: ready"), None);
    assert_eq!(reader.line("ok"), Some(("a".to_owned(), Verdict::Passed)));
    assert_eq!(reader.line("ok"), None, "nobody is waiting for that one");
    assert_eq!(reader.line("test b has been running for over 60 seconds"), None);
    assert_eq!(reader.line("test b ... FAILED"), Some(("b".to_owned(), Verdict::Failed)));
}

#[test]
fn the_totals_are_the_last_word() {
    let outcome = read(
        "test a ... noise\nok, said a child\ntest b ... ok\n\
         test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        code(101),
    );
    assert_eq!((outcome.passed, outcome.failed.len()), (2, 1));
}

#[test]
fn a_name_that_was_lost_in_a_childs_output_is_in_the_list_at_the_end() {
    let output = "test a ... noisetest b ... ok\nfailures:\n\n---- a stdout ----\nboom\n\nfailures:\n    a\n\n\
                  test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
    let outcome = read(output, code(101));
    assert_eq!(failed(&outcome), ["a"]);
    assert_eq!(outcome.failed[0].why, "");
}

#[test]
fn documentation_tests_print_several_totals() {
    let outcome = read(&format!("{PASSED}\n   Doc-tests b\n{PASSED}"), code(0));
    assert_eq!(outcome.passed, 4);
}

#[test]
fn a_test_that_skips_did_not_pass() {
    let output = format!("test x::a ... ok\ntest b ... ok\nSKIP a: no route\n  SKIP a: no route\n{PASSED}");
    let outcome = read(&output, code(0));
    assert_eq!(outcome.passed, 1);
    assert_eq!(outcome.skipped, [("a".to_owned(), "no route".to_owned())]);
}

#[test]
fn a_case_within_a_test_can_skip_too() {
    let outcome = read(&format!("test a ... ok\ntest b ... ok\nSKIP b/native: no driver\n{PASSED}"), code(0));
    assert_eq!((outcome.passed, outcome.skipped.len()), (2, 1));
}

#[test]
fn a_skip_that_this_kernel_refutes_is_a_failure() {
    let outcome = read(&format!("test a ... ok\ntest b ... ok\nSKIP a: kernel 2.6 epoll\n{PASSED}"), code(0));
    assert_eq!(failed(&outcome), ["a"]);
    assert_eq!((outcome.passed, outcome.skipped.len()), (1, 0));
}

#[test]
fn a_program_that_dies_is_a_failure_and_the_test_is_named() {
    let killed = Ok(End::Exited(ExitStatus::from_raw(11)));
    let outcome = read("test a ... ok\ntest b ... ", killed);
    assert_eq!(outcome.passed, 1);
    assert_eq!(failed(&outcome), ["s"]);
    assert!(outcome.failed[0].why.contains("during b"), "{:?}", outcome.failed);
}

#[test]
fn a_hung_program_is_a_failure() {
    let outcome = read("test a ... ok\ntest b ... ", Ok(End::TimedOut));
    assert_eq!(outcome.failed[0].why, "ended after 900 s during b");
    assert_eq!(read(PASSED, code(3)).failed.len(), 1);
    assert_eq!(read(PASSED, Err(anyhow::anyhow!("no such file"))).failed.len(), 1);
}

#[test]
fn sentences_are_not_results() {
    for line in [
        "test result: who knows",
        "SKIP this line: it has words",
        "SKIP : x",
        "testing ... ok",
        "ignored-ness",
    ] {
        assert_eq!(
            (skip(line), totals(line), announced(line), verdict(line)),
            (None, None, None, None),
            "{line}"
        );
    }
}
