//! The thread and its socket, on the loopback interface.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener as StdListener, TcpStream as StdStream},
    time::Instant as StdInstant,
};

use super::*;
use crate::config::model::Anonymous;

const SOON: Duration = Duration::from_secs(60);

fn free_port() -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address")
}

fn settings(listen: SocketAddr) -> Http {
    Http {
        listen,
        path: "/".to_owned(),
        anonymous: Anonymous::Viewer,
        tls: None,
        session_lifetime: Duration::from_secs(60),
        hide_version: false,
        users: Vec::new(),
    }
}

fn web() -> (Web, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(1);
    (Web::new(sender), receiver)
}

fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = StdStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // Who is turned away may be reset.
    let _ended = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = StdInstant::now();
    while !condition() {
        assert!(begun.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_listens_where_it_is_told_and_nowhere_else() {
    let (web, _requests) = web();
    let [one, other] = [free_port(), free_port()];
    assert!(exchange(one, ALIVE).is_err(), "not configured");
    web.configure(Some(&settings(one)));
    wait_for("the first address", || exchange(one, ALIVE).is_ok_and(|answer| answer.ends_with("ok\n")));
    web.configure(Some(&settings(other)));
    wait_for("the other address", || exchange(other, ALIVE).is_ok_and(|answer| answer.ends_with("ok\n")));
    assert!(exchange(one, ALIVE).is_err());
    web.configure(None);
    wait_for("nothing", || exchange(other, ALIVE).is_err());
    assert_eq!(web.problem(), None);
}

#[test]
fn an_address_that_is_taken_is_a_problem_until_it_is_free() {
    let taken = StdListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    let (web, _requests) = web();
    web.configure(Some(&settings(address)));
    wait_for("a problem", || web.problem().is_some_and(|problem| problem.contains(&address.to_string())));
    drop(taken);
    wait_for("no problem", || web.problem().is_none() && exchange(address, ALIVE).is_ok());
}

/// 192.0.2.1 is nobody's (RFC 5737).
#[tokio::test]
async fn an_address_that_is_elsewhere_can_be_listened_on() {
    listen(([192, 0, 2, 1], free_port().port()).into()).expect("IP_FREEBIND");
}

#[test]
fn what_is_too_large_is_refused_and_a_crowd_is_turned_away() {
    let (web, _requests) = web();
    let address = free_port();
    web.configure(Some(&settings(address)));
    wait_for("the server", || exchange(address, ALIVE).is_ok());
    let long = format!("GET /healthz HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(9000));
    assert!(exchange(address, &long).expect("answered").starts_with("HTTP/1.1 431 "));
    let many: String = (0..70).map(|n| format!("x{n}: y\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nhost: h\r\n{many}\r\n");
    assert!(exchange(address, &many).expect("answered").starts_with("HTTP/1.1 431 "));
    assert!(exchange(address, "what\r\n\r\n").expect("answered").starts_with("HTTP/1.1 400 "));
    // The last of these that were let in have to have gone first.
    let crowd: Vec<StdStream> = (0..40).filter_map(|_| StdStream::connect(address).ok()).collect();
    wait_for("a crowd", || !exchange(address, ALIVE).is_ok_and(|answer| answer.ends_with("ok\n")));
    drop(crowd);
    wait_for("room again", || exchange(address, ALIVE).is_ok_and(|answer| answer.ends_with("ok\n")));
}
