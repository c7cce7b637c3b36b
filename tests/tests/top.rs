//! `xvip top` on a terminal: what it shows, what its keys do, and that the terminal is given back as it was. Needs root.
//!
//! Runner: threads 2

use std::error::Error;
use std::time::Duration;

use lb_tests::node::LbNode;
use lb_tests::pty::Pty;
use lb_tests::topology::{Connections, Family, Lab};
use lb_tests::traffic::start;
use nix::sys::signal::Signal;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn top(lb: &LbNode, columns: u16, rows: u16) -> Result<Pty, Box<dyn Error>> {
    let mut command = lb.tool(&["top", "--interval", "300ms"]);
    command.arg("--socket").arg(lb.socket_path());
    Ok(Pty::start(lb.machine(), &command, columns, rows)?)
}

/// The row of a backend.
fn row<'a>(screen: &'a str, backend: &str) -> Option<&'a str> {
    screen.lines().find(|line| line.starts_with(backend))
}

#[test]
fn it_shows_what_is_and_its_keys_give_orders() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let held = lab.hold(&Connections { count: 6, parallel: 1, ..Connections::default() })?;
    held.wait_done(SOON)?;
    let mut narrow = top(lb, 80, 24)?;
    let wide = top(lb, 200, 50)?;
    for (pty, what) in [(&narrow, "80x24"), (&wide, "200x50")] {
        let screen = pty.wait_screen("the backends", SOON, |screen| {
            screen.contains("main ACTIVE") && row(screen, "master1").is_some_and(|row| row.contains(" up "))
        })?;
        println!("{what}:\n{screen}\n");
        assert!(pty.is_alternate());
        assert!(screen.contains("172.16.0.10") && screen.contains("new/s"), "{screen}");
    }

    // The first backend is selected at the beginning.
    narrow.press("d")?;
    let asked = narrow.wait_screen("the question", SOON, |screen| screen.contains("y/n drain master1"))?;
    println!("{asked}\n");
    narrow.press("n")?;
    narrow.wait_screen("no", SOON, |screen| screen.contains("nothing was changed"))?;
    narrow.press("dy")?;
    narrow.wait_screen("the drain", SOON, |screen| {
        row(screen, "master1").is_some_and(|row| row.contains("drain"))
    })?;
    wide.wait_screen("the drain elsewhere", SOON, |screen| screen.contains("up drain"))?;
    narrow.press("ey")?;
    narrow.wait_screen("its end", SOON, |screen| {
        row(screen, "master1").is_some_and(|row| !row.contains("drain"))
    })?;
    // Down by one, and another weight.
    narrow.press("jw")?;
    narrow.wait_screen("the question", SOON, |screen| screen.contains("weight of master2"))?;
    narrow.press("50\r")?;
    wide.wait_screen("the weight", SOON, |screen| {
        row(screen, "master2").is_some_and(|row| row.contains(" 50 "))
    })?;
    narrow.press("/master3")?;
    narrow.wait_screen("one backend", SOON, |screen| {
        row(screen, "master2").is_none() && row(screen, "master3").is_some()
    })?;
    narrow.press("\x1b")?;
    narrow.wait_screen("all backends", SOON, |screen| row(screen, "master2").is_some())?;
    narrow.press("?")?;
    println!("{}", narrow.wait_screen("the help", SOON, |screen| screen.contains("any key leaves"))?);
    narrow.press(" q")?;
    assert!(narrow.wait_end(SOON)?.success());
    assert!(!narrow.is_alternate() && narrow.shows_cursor(), "{}", narrow.screen());
    drop(held);
    Ok(())
}

#[test]
fn a_daemon_that_dies_is_shown_and_comes_back_by_itself() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let mut pty = top(lb, 80, 24)?;
    pty.wait_screen("the daemon", SOON, |screen| screen.contains("main ACTIVE"))?;
    lb.kill();
    let down = pty.wait_screen("its end", SOON, |screen| {
        screen.contains("DAEMON DOWN") && row(screen, "master1").is_some()
    })?;
    println!("{down}\n");
    assert!(down.contains("XDP goes on forwarding"), "{down}");
    pty.press("d")?;
    pty.wait_screen("no order", SOON, |screen| screen.contains("nobody can carry that out"))?;
    lb.start()?;
    pty.wait_screen("the daemon again", SOON, |screen| {
        screen.contains("main ACTIVE") && !screen.contains("DOWN")
    })?;

    for ending in ["SIGTERM", "Ctrl-C"] {
        match ending {
            "SIGTERM" => pty.signal(Signal::SIGTERM)?,
            _ => pty.press("\x03")?,
        }
        assert!(pty.wait_end(SOON)?.success(), "{ending}");
        assert!(!pty.is_alternate() && pty.shows_cursor(), "{ending}: {}", pty.screen());
        pty = top(lb, 80, 24)?;
        pty.wait_screen("the daemon", SOON, |screen| screen.contains("main ACTIVE"))?;
    }
    let piped = lb.xvip_with_config(&["top"])?;
    assert_eq!(piped.status.code(), Some(1), "{piped:?}");
    assert!(String::from_utf8(piped.stderr)?.contains("needs a terminal"));
    Ok(())
}
