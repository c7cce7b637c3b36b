//! The socket with a controller that is none, and clients that want more than their share.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream as Client,
};

use super::*;
use crate::{config::model::StatsLevel, control::protocol::BackendAnswer, stats_socket::tests::status};

/// Generous: nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(20);

/// A controller that tells what it is asked, and refuses what is ordered for `m3`.
fn controller() -> (mpsc::Sender<Request>, Arc<Mutex<Vec<String>>>) {
    let (sender, mut requests) = mpsc::channel(4);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        while let Some(request) = requests.blocking_recv() {
            let line = match request {
                Request::Status(reply) => {
                    let _ = reply.send(Box::new(status()));
                    "status".to_owned()
                }
                Request::Backend { order, by, reply } => {
                    let error = (order.backend == "m3").then(|| "not now".to_owned());
                    let _ = reply.send(BackendAnswer { error, ..BackendAnswer::default() });
                    format!("{by}: {:?} {} {:?}", order.service, order.backend, order.action)
                }
                other => format!("{other:?}"),
            };
            log.lock().expect("not poisoned").push(line);
        }
    });
    (sender, asked)
}

fn settings(path: &Path) -> StatsSocket {
    StatsSocket {
        path: path.to_owned(),
        mode: 0o640,
        group: None,
        level: StatsLevel::Admin,
        timeout: Duration::from_secs(30),
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn connect(path: &Path) -> Client {
    let client = Client::connect(path).expect("somebody listens");
    client.set_read_timeout(Some(SOON)).expect("set");
    client
}

/// All that is answered until the end.
fn ask(path: &Path, text: &str) -> String {
    let mut client = connect(path);
    client.write_all(text.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an end");
    answer
}

/// A service that listens.
fn open(
    change: impl FnOnce(&mut StatsSocket),
) -> (tempfile::TempDir, StatsSocket, StatsSocketService, Arc<Mutex<Vec<String>>>) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut settings = settings(&directory.path().join("run/admin.sock"));
    change(&mut settings);
    let (requests, asked) = controller();
    let mut service = StatsSocketService::new(requests);
    service.configure(Some(&settings));
    until("a socket", || Client::connect(&settings.path).is_ok());
    (directory, settings, service, asked)
}

#[test]
fn it_answers_and_ends_as_haproxy_does() {
    let (_directory, settings, service, asked) = open(|_| ());
    let path = &settings.path;
    assert_eq!(service.problem(), None);
    assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o640);
    assert_eq!(ask(path, "show backend\n"), "# name\napi\nweb\n\n");
    assert_eq!(
        ask(path, "show cli level;get weight api/m1\nshow backend\n"),
        "admin\n\n100 (initial 100)\n\n# name\napi\nweb\n\n"
    );
    assert_eq!(
        ask(path, "prompt\nshow cli level\nuser\nshow cli level\noperator\nquit\nshow backend\n"),
        "\n> admin\n\n> \n> user\n\n> Permission denied\n\n> "
    );
    assert_eq!(ask(path, "set weight api/m1 5x\n"), "Trailing garbage in weight string\n");
    assert_eq!(ask(path, "quit\n"), "");

    // What has no end of its line is no command.
    let mut client = connect(path);
    client.write_all(b"disable server api/m1").expect("sent");
    client.shutdown(Shutdown::Write).expect("shut");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an end");
    assert_eq!(answer, "");
    assert!(!asked.lock().expect("not poisoned").iter().any(|line| line.contains("Disable")));
}

#[test]
fn an_order_is_given_in_a_user_s_name_and_seen_by_the_next_question() {
    let (_directory, settings, _service, asked) = open(|_| ());
    asked.lock().expect("not poisoned").clear();
    assert_eq!(
        ask(&settings.path, "show backend;set server api/m1 state drain;show backend\n")
            .matches("# name")
            .count(),
        2
    );
    assert_eq!(ask(&settings.path, "set server api/m3 state drain\n"), "not now\n\n");
    let asked = asked.lock().expect("not poisoned").clone();
    let who = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .ok()
        .flatten()
        .map_or_else(String::new, |user| user.name);
    let order = format!("stats-socket:{who}: Some(\"api\") m1 Drain {{ deadline_s: None }}");
    let at = asked.iter().position(|line| *line == order).unwrap_or_else(|| panic!("{order} in {asked:?}"));
    assert_eq!((asked[at - 1].as_str(), asked[at + 1].as_str()), ("status", "status"), "{asked:?}");
}

#[test]
fn the_controller_is_asked_a_few_times_a_second_at_most() {
    let (_directory, settings, _service, asked) = open(|_| ());
    let begin = std::time::Instant::now();
    let many = "show backend;".repeat(500) + "\n";
    assert_eq!(ask(&settings.path, &many).matches("# name").count(), 500);
    let most = begin.elapsed().as_millis() / STATUS_AGAIN.as_millis() + 2;
    let count = asked.lock().expect("not poisoned").len();
    assert!(count as u128 <= most, "{count} of {most}");
}

#[test]
fn who_is_silent_or_does_not_read_is_disconnected() {
    let (_directory, settings, _service, _asked) = open(|settings| settings.timeout = Duration::from_secs(1));
    let mut silent = connect(&settings.path);
    let mut slow = connect(&settings.path);
    slow.write_all(b"show st").expect("sent");
    let mut greedy = connect(&settings.path);
    greedy.write_all("show stat;".repeat(1000).as_bytes()).expect("sent");
    greedy.write_all(b"\n").expect("sent");
    let mut text = Vec::new();
    assert_eq!(silent.read_to_end(&mut text).expect("an end"), 0);
    assert_eq!(slow.read_to_end(&mut text).expect("an end"), 0);
    thread::sleep(Duration::from_secs(2));
    // What had room in the socket's buffer, and no more.
    let _ = greedy.read_to_end(&mut text);
    let whole = ask(&settings.path, "show stat\n").len() * 1000;
    assert!(text.len() < whole / 2, "{} of {whole}", text.len());
}

#[test]
fn there_is_room_for_a_few_and_the_next_is_told() {
    let (_directory, settings, _service, _asked) = open(|_| ());
    let idle: Vec<Client> = (0..MASTERS).map(|_| connect(&settings.path)).collect();
    // Somebody who was there before may have gone only now.
    until("no room", || ask_maybe(&settings.path, "").is_some_and(|text| text.starts_with("Too many")));
    drop(idle);
    until("room", || ask_maybe(&settings.path, "show cli level\n").as_deref() == Some("admin\n\n"));
}

/// The answer, unless the connection broke.
fn ask_maybe(path: &Path, text: &str) -> Option<String> {
    let mut client = connect(path);
    client.write_all(text.as_bytes()).ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_command_that_never_ends_ends_the_conversation() {
    let (_directory, settings, _service, _asked) = open(|_| ());
    let mut client = connect(&settings.path);
    // It may be gone before all was sent.
    let _ = client.write_all(&vec![b'a'; 100_000]);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert_eq!(ask(&settings.path, "show cli level\n"), "admin\n\n");
}

#[test]
fn a_change_takes_effect_and_ends_who_is_there() {
    let (_directory, mut settings, mut service, _asked) = open(|_| ());
    let path = settings.path.clone();
    let mut client = connect(&path);
    client.write_all(b"prompt\n").expect("sent");
    let mut prompt = [0; 3];
    client.read_exact(&mut prompt).expect("a prompt");
    settings.level = StatsLevel::User;
    settings.mode = 0o600;
    service.configure(Some(&settings));
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    until("the new level", || {
        Client::connect(&path).is_ok() && ask_maybe(&path, "show cli level\n").as_deref() == Some("user\n\n")
    });
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    service.configure(None);
    until("its end", || !path.exists());
    service.configure(Some(&settings));
    until("it again", || path.exists());
    drop(service);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_is_removed_is_made_anew_and_one_in_use_is_left_alone() {
    let (_directory, settings, service, _asked) = open(|_| ());
    let path = &settings.path;
    fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    until("it anew", || Client::connect(path).is_ok());

    // Another program's.
    fs::remove_file(path).expect("removed");
    let other = std::os::unix::net::UnixListener::bind(path).expect("bound");
    until("a problem", || service.problem().is_some());
    let problem = service.problem().expect("one");
    let expected =
        format!("stats_socket: another program listens on {} (pid {})", path.display(), std::process::id());
    assert_eq!(problem, expected);
    drop(other);
    // It has left its file.
    until("ours again", || {
        service.problem().is_none() && ask_maybe(path, "show cli level\n").as_deref() == Some("admin\n\n")
    });

    let (requests, _) = controller();
    let mut second = StatsSocketService::new(requests);
    second.configure(Some(&settings));
    until("a problem", || second.problem().is_some());
    drop(second);
    assert_eq!(ask(path, "show cli level\n"), "admin\n\n", "the first one's is still there");
}

#[test]
fn what_cannot_be_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "precious").expect("written");
    let (requests, _) = controller();
    let mut service = StatsSocketService::new(requests);
    let mut of = |wanted: StatsSocket, expected: &str| {
        service.configure(Some(&wanted));
        until(expected, || service.problem().is_some_and(|problem| problem.contains(expected)));
    };
    of(settings(&file), "exists and is not a socket");
    let nobody =
        StatsSocket { group: Some("no-such-group".to_owned()), ..settings(&directory.path().join("a")) };
    of(nobody, "there is no group \"no-such-group\"");
    of(settings(&file.join("below")), "Not a directory");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
    service.configure(None);
    until("no problem", || service.problem().is_none());
    let left: Vec<_> =
        fs::read_dir(directory.path()).expect("read").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["file"]);
}

#[tokio::test]
async fn strangers_leave_room_for_root() {
    let (one, _other) = UnixStream::pair().expect("a pair");
    let own = Asker::of(&one);
    let places = Places::default();
    let all_of = |asker| -> Vec<_> { std::iter::from_fn(|| places.of(asker)).collect() };
    let (strangers, masters) = (all_of(Asker::STRANGER), all_of(own));
    assert_eq!((strangers.len(), masters.len()), (OTHERS, MASTERS));
    drop(strangers);
    assert!(places.of(own).is_none() && places.of(Asker::STRANGER).is_some());
}
