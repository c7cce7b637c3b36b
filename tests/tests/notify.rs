//! `[[notify]]`: a program and a URL are told of a backend's death and of the VIP, and one that hangs holds up nobody. Needs
//! root, for the network namespaces.
//!
//! Runner: threads 1, minutes 4

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lb_tests::topology::{Lab, VIP};
use lb_tests::wait;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn programs_and_urls_are_told_and_one_that_hangs_holds_up_nobody() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(2).patience(4).build()?;
    let lb = lab.lb(0);
    let told = lab.dir().join("told");
    let script = lab.dir().join("hook.sh");
    fs::write(&told, "")?;
    // Whoever runs the hook has no rights but these.
    fs::set_permissions(&told, fs::Permissions::from_mode(0o666))?;
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nread -r line\necho \"$(id -un) $XVIP_NODE $XVIP_EVENT $XVIP_NAME [$XVIP_FROM>$XVIP_TO] $XVIP_VIPS $XVIP_REASON|$line\" >> {}\n",
            told.display()
        ),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755))?;

    let listener = lb.machine().run(|| TcpListener::bind("127.0.0.1:0"))??;
    let port = listener.local_addr()?.port();
    let (posted, posts) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}\n") {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                    _ => return,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            if posted.send(String::from_utf8_lossy(&request).into_owned()).is_err() {
                return;
            }
        }
    });
    let hooks = format!(
        "[[notify]]\ncommand = [\"/bin/sleep\", \"600\"]\ntimeout = \"2s\"\n\
         [[notify]]\ncommand = [\"{}\"]\n\
         [[notify]]\nurl = \"http://127.0.0.1:{port}/hook?secret\"\non = [\"backend\"]\nnames = [\"master1\"]\n",
        script.display()
    );
    lb.configure(|config| config.extra.push_str(&hooks))?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let lines = || fs::read_to_string(&told).unwrap_or_default();
    let is_told = |text: &str| lines().lines().any(|line| line.contains(text));
    wait::until("the VIP's arrival to be told", SOON, || {
        is_told(&format!("nobody lb1 vrrp main [backup>active] {VIP} no active router heard for "))
    })
    .map_err(|error| format!("{error}:\n{}\n{}", lines(), lb.last_lines()))?;
    lab.master(0).kill();
    wait::until("the death to be told", SOON, || {
        is_told("nobody lb1 backend master1 [up>down (dead)]  connection refused|{")
    })
    .map_err(|error| format!("{error}:\n{}\n{}", lines(), lb.last_lines()))?;

    // The URL's hook has all of the one backend, and nothing else.
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "down (dead)") {
        let request = posts.recv_timeout(SOON)?;
        assert!(request.starts_with("POST /hook?secret HTTP/1.1\r\n"), "{request}");
        let event: Value = serde_json::from_str(request.rsplit("\r\n\r\n").next().unwrap_or_default())?;
        assert_eq!((&event["node"], &event["name"]), (&"lb1".into(), &"master1".into()), "{event}");
        states.push(event["to"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(states, ["up", "down (dead)"]);

    // What each has done is in the status; the one that hangs has failed.
    let status = || lb.status().map(|status| status.raw["hooks"].clone()).unwrap_or_default();
    wait::until("the one that hangs to be given up", SOON, || status()[0]["failed"].as_u64() > Some(0))?;
    let hooks = status();
    assert_eq!(hooks[0]["last_error"], "no end within 2s", "{hooks}");
    assert!(hooks[1]["told"].as_u64() >= Some(2) && hooks[1]["failed"] == 0, "{hooks}");
    assert_eq!(
        (&hooks[2]["name"], &hooks[2]["told"]),
        (&format!("http://127.0.0.1:{port}").into(), &2.into()),
        "{hooks}"
    );
    let log = fs::read_to_string(lb.log())?;
    assert_eq!(
        log.matches("the hook was not told of an event: no end within 2s").count(),
        1,
        "said once:\n{log}"
    );

    // The last words are told, too, and the end is not held up.
    let (ended, took) = lb.stop()?;
    assert!(ended.success() && is_told("vrrp main [active>initialize]"), "{}", lines());
    println!("stopped within {took:?}");
    Ok(())
}
