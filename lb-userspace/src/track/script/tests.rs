use std::{fs, path::Path, sync::Arc, time::SystemTime};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use tokio::{
    sync::Notify,
    time::{Duration, sleep, timeout},
};

use super::*;
use crate::{
    config::model::Tracked,
    program::SEARCH_PATH,
    track::{
        running::RunningTrack,
        weight::{
            TrackCondition::{Down, Unknown, Up},
            TrackState,
        },
    },
};

const SOON: Duration = Duration::from_secs(20);

fn me() -> String {
    User::from_uid(Uid::effective()).expect("asked").expect("we are somebody").name
}

/// `sh -c TEXT` as ourselves.
fn shell(text: &str) -> Script {
    Script {
        command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        user: me(),
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(10),
        rise: 1,
        fall: 1,
        instance: "main".into(),
    }
}

async fn once(script: &Script) -> Result<String, String> {
    script.once(Instant::now() + script.timeout, &mut Last::Over).await
}

fn track(script: &Script, known: TrackState) -> (RunningTrack, Arc<Notify>) {
    let Script { command, user, interval, timeout, rise, fall, instance } = script.clone();
    let what = Tracked::Script { command, user, interval, timeout, rise, fall };
    let changed = Arc::new(Notify::new());
    (RunningTrack::spawn(&what, &instance, known, Arc::clone(&changed)), changed)
}

async fn wait_for(track: &RunningTrack, changed: &Notify, condition: TrackCondition) -> TrackState {
    let reached = async {
        while track.state().condition != condition {
            changed.notified().await;
        }
    };
    timeout(SOON, reached).await.unwrap_or_else(|_| panic!("{condition:?}, not {:?}", track.state()));
    track.state()
}

/// The process ids that a script has written.
async fn pids(file: &Path, count: usize) -> Vec<Pid> {
    let read = || {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect::<Vec<_>>()
    };
    let begin = Instant::now();
    while read().len() < count {
        assert!(begin.elapsed() < SOON, "the script has not started");
        sleep(Duration::from_millis(5)).await;
    }
    read()
}

/// Waits until none of them is there any more, or only as a zombie.
async fn gone(pids: &[Pid]) {
    let alive = |pid: &Pid| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        kill(*pid, None).is_ok() && !state.contains(") Z ")
    };
    let begin = Instant::now();
    while pids.iter().any(alive) {
        assert!(begin.elapsed() < SOON, "{pids:?} still run");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_exit_code_decides_and_the_last_line_says_why() {
    for (text, expected) in [
        ("exit 0", Ok("exit 0")),
        ("echo fine; exit 0", Ok("exit 0: fine")),
        ("exit 1", Err("exit 1")),
        ("echo first; echo 'no quorum ' >&2; echo; exit 3", Err("exit 3: no quorum")),
        ("printf '\\033[31mred\\033[0m\\n'; exit 1", Err("exit 1:  [31mred [0m")),
        ("kill -9 $$", Err("killed by signal 9")),
    ] {
        let result = once(&shell(text)).await;
        assert_eq!(result.as_ref().map(String::as_str).map_err(String::as_str), expected, "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_has_failed() {
    let missing = Script { command: vec!["/nonexistent/check".into()], ..shell("") };
    let error = once(&missing).await.expect_err("not there");
    assert!(error.starts_with("cannot start: No such file"), "{error}");
    let nobody = Script { user: "no-such-user-here".into(), ..shell("exit 0") };
    assert_eq!(once(&nobody).await, Err("user no-such-user-here does not exist".to_owned()));
}

#[tokio::test]
async fn it_inherits_nothing_but_the_name_of_the_instance() {
    // Without the shell's own doing: it adds PWD and the like.
    let environment = Script { command: vec!["/usr/bin/env".into()], ..shell("") };
    let text = "tr '\\0' '\\n' < /proc/$$/environ | sort | tr '\\n' ' '";
    let seen = once(&Script { command: shell(text).command, ..environment }).await;
    assert_eq!(seen, Ok(format!("exit 0: PATH={SEARCH_PATH} XVIP_INSTANCE=main")));

    // What whoever started these tests has left open for everybody is not ours.
    let flags = |fd: i32| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let everybodys = |fd: &i32| {
        let flags = flags(*fd);
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
        flags
            .and_then(|flags| i32::from_str_radix(flags, 8).ok())
            .is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
    };
    let expected: Vec<i32> = (3..4096).filter(everybodys).chain(0..3).collect();
    let _open = fs::File::open("/dev/null").expect("opened");
    let seen = once(&shell("cd /proc/$$/fd && echo *")).await.expect("a success");
    let seen: Vec<i32> = seen.split_whitespace().filter_map(|fd| fd.parse().ok()).collect();
    assert!(expected.iter().all(|fd| seen.contains(fd)), "{seen:?}, not {expected:?}");
    assert_eq!(seen.len(), expected.len() + 1, "one more is the listing's own: {seen:?}, not {expected:?}");
    assert_eq!(once(&shell("cat; pwd -P")).await, Ok("exit 0: /".to_owned()), "and its input is empty");
    // A group of its own, and an ordinary scheduling class.
    let group = "set -- $(cut -d ' ' -f 1,5,41 /proc/$$/stat); [ $1 = $2 ] && echo $3";
    assert_eq!(once(&shell(group)).await, Ok("exit 0: 0".to_owned()));
}

#[tokio::test]
async fn what_hangs_is_killed_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pids");
    let text = format!("echo $$ >> {0}; sleep 600 & echo $! >> {0}; sleep 600", file.display());
    let script = Script { timeout: Duration::from_millis(300), ..shell(&text) };
    let mut last = Last::Over;
    let result = script.once(Instant::now() + script.timeout, &mut last).await;
    assert_eq!(result, Err("no end within 300ms".to_owned()));
    let started = pids(&file, 2).await;
    gone(&started).await;
    // The next run is another one.
    let quick = Script { command: shell("exit 0").command, timeout: SOON, ..script };
    assert_eq!(quick.once(Instant::now() + SOON, &mut last).await, Ok("exit 0".to_owned()));
}

#[tokio::test]
async fn a_daemon_that_was_busy_does_not_blame_the_script() {
    let script = Script { timeout: Duration::from_millis(300), ..shell("exit 0") };
    // The script ends while this thread does not look, and so does its time.
    let busy = async {
        sleep(Duration::from_millis(1)).await;
        std::thread::sleep(Duration::from_secs(2));
    };
    let (result, ()) = tokio::join!(once(&script), busy);
    assert_eq!(result, Ok("exit 0".to_owned()));
}

#[tokio::test]
async fn one_that_never_stops_writing_is_killed_like_any_other() {
    let script = Script { timeout: Duration::from_millis(300), ..shell("exec yes") };
    assert_eq!(once(&script).await, Err("no end within 300ms".to_owned()));
}

#[tokio::test]
async fn one_that_leaves_something_running_has_ended_all_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pids");
    let text = format!("sleep 600 & echo $! > {}; echo done", file.display());
    assert_eq!(once(&shell(&text)).await, Ok("exit 0: done".to_owned()));
    for pid in pids(&file, 1).await {
        kill(pid, Signal::SIGKILL).expect("it was left running");
    }
}

#[tokio::test]
async fn a_track_follows_its_script_and_runs_one_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let (flag, running, twice) =
        (directory.path().join("flag"), directory.path().join("running"), directory.path().join("twice"));
    let text = format!(
        "mkdir {running} 2>/dev/null || touch {twice}; sleep 0.1; rmdir {running}; test -e {flag}",
        running = running.display(),
        twice = twice.display(),
        flag = flag.display()
    );
    let script = Script { interval: Duration::from_millis(10), fall: 2, ..shell(&text) };
    let (track, changed) = track(&script, TrackState::unknown(SystemTime::now()));
    assert_eq!(track.state().condition, Unknown);
    let down = wait_for(&track, &changed, Down).await;
    assert_eq!(down.reason, "exit 1");
    fs::write(&flag, "").expect("written");
    let up = wait_for(&track, &changed, Up).await;
    assert!(up.since >= down.since && up.reason == "exit 0", "{up:?}");
    fs::remove_file(&flag).expect("removed");
    wait_for(&track, &changed, Down).await;
    track.stop().await;
    assert!(!twice.exists(), "two ran at once");
}

#[tokio::test]
async fn the_end_of_a_track_ends_its_script() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pids");
    let text = format!("echo $$ >> {0}; sleep 600 & echo $! >> {0}; sleep 600", file.display());
    let known = TrackState { condition: Down, since: SystemTime::now(), reason: "as before".into() };
    let (track, _changed) = track(&shell(&text), known.clone());
    let started = pids(&file, 2).await;
    assert_eq!(track.state(), known, "what was known holds until there is a result");
    track.stop().await;
    gone(&started).await;
}
