//! The web page in a real browser, and against those who have no right to it. Needs root, for the network namespaces.
//!
//! Runner: threads 2, minutes 5

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lb_tests::browser::Browser;
use lb_tests::netns::Netns;
use lb_tests::node::LbNode;
use lb_tests::topology::{Connections, Family, Lab, VIP};
use lb_tests::traffic::start;
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(90);
const PORT: u16 = 9188;

/// Hashes that cost next to nothing, of "secret" and of "other".
const USERS: &str = r#"
[[http.user]]
name = "ann"
password_hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$vk+JgWgZGbXHtEqPQPhzXbD+QxxkJR5Fq2AXLhDyYaY"
role = "admin"
[[http.user]]
name = "bob"
password_hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$fnvEUpGRuX/qxxYYFxPeCdWt+zrrhITINQJhIboaVqk"
role = "viewer"
"#;

/// What came back.
struct Reply {
    code: u16,
    head: String,
    body: String,
}

impl Reply {
    /// The first header line of that name.
    fn header(&self, name: &str) -> Option<&str> {
        let of =
            |line: &'_ str| line.split_once(": ").is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| of(line)).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    /// The cookie that was set.
    fn cookie(&self) -> Result<String, Box<dyn Error>> {
        let cookie =
            self.header("set-cookie").ok_or_else(|| format!("no cookie: {}\n{}", self.head, self.body))?;
        Ok(cookie.split(';').next().unwrap_or_default().to_owned())
    }

    /// What the forms of the session say.
    fn token(&self) -> Result<String, Box<dyn Error>> {
        let token = self.body.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        Ok(token.ok_or_else(|| format!("no token: {}", self.body))?.to_owned())
    }
}

/// Sends a request as it is, and reads what comes until the connection ends.
fn send(machine: &Netns, to: SocketAddr, request: &str) -> Result<Reply, Box<dyn Error>> {
    let mut stream = machine.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))??;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    // One who is cut off still has what came before.
    let _ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Reply { code, head: head.to_owned(), body: body.to_owned() })
}

fn get(machine: &Netns, to: SocketAddr, path: &str, headers: &str) -> Result<Reply, Box<dyn Error>> {
    send(machine, to, &format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{headers}\r\n"))
}

/// Sends a form as a browser does from our own page, unless `headers` say otherwise.
fn post(
    machine: &Netns,
    to: SocketAddr,
    path: &str,
    headers: &str,
    form: &str,
) -> Result<Reply, Box<dyn Error>> {
    let origin = if headers.contains("Origin:") { String::new() } else { format!("Origin: http://{to}\r\n") };
    let length = form.len();
    send(
        machine,
        to,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{origin}{headers}\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
        ),
    )
}

/// Where a test may leave its pictures: nowhere, unless it is told.
fn pictures(lab: &Lab) -> PathBuf {
    std::env::var_os("XVIP_SCREENSHOTS").map_or_else(|| lab.dir().to_owned(), PathBuf::from)
}

/// Draws the page in each way, and none may be wider than its screen.
fn draw(browser: &mut Browser, lab: &Lab, name: &str) -> TestResult {
    for width in [1280, 360] {
        for dark in [false, true] {
            let scheme = if dark { "dark" } else { "light" };
            let file = pictures(lab).join(format!("{name}-{width}-{scheme}.png"));
            let is_wider = browser.draw(&file, width, dark)?;
            assert!(!is_wider, "{name} does not fit a screen of {width}");
            assert!(fs::metadata(&file)?.len() > 2000, "{}", file.display());
        }
    }
    browser.draw(&lab.dir().join("last.png"), 1280, false)?;
    Ok(())
}

/// Whatever can be used has a name for who does not see it.
fn everything_has_a_name(browser: &mut Browser, page: &str) -> TestResult {
    let controls = browser.controls()?;
    let nameless: Vec<_> = controls.iter().filter(|(_, name)| name.trim().is_empty()).collect();
    assert!(nameless.is_empty(), "{page}: {nameless:?} of {controls:?}");
    assert!(controls.len() >= 3, "{page}: {controls:?}");
    Ok(())
}

#[test]
fn a_browser_follows_what_happens_and_gives_orders_by_keyboard_alone() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(4), &[Family::V4], |config| {
        config.services[0].extra.push("rebalance.mode = \"manual\"".to_owned());
        config.extra = format!("[http]\nlisten = \"0.0.0.0:{PORT}\"\npath = \"/haproxy-status\"\n{USERS}");
    })?;
    let lb = lab.lb(0);
    lab.wait_owner(Some("lb1"), SOON)?;
    // Before their first check backends get nothing, and clients a RST.
    wait::until("the backends", SOON, || {
        lb.status().is_ok_and(|status| status.backends_up() == 3 && status.service_up("plain") == 3)
    })?;

    // The page is where HAProxy's was: at the VIP, too.
    let mut browser = Browser::start(lab.client(), lab.dir())?;
    browser.go_to(&format!("http://{VIP}:{PORT}/haproxy-status"))?;
    browser.until("document.title === 'Log in · xvip'")?;
    everything_has_a_name(&mut browser, "log in")?;
    draw(&mut browser, &lab, "login")?;
    browser.tab_to("Name")?;
    browser.type_text("ann")?;
    browser.tab_to("Password")?;
    browser.type_text("wrong")?;
    browser.press("Enter")?;
    browser.until("document.body.innerText.includes('Name or password is wrong')")?;
    browser.tab_to("Name")?;
    browser.type_text("ann")?;
    browser.tab_to("Password")?;
    browser.type_text("secret")?;
    browser.press("Enter")?;
    browser.until("document.body.innerText.includes('this node owns it')")?;
    browser.until("document.body.innerText.includes('3 of 3 backends usable')")?;
    browser.until("document.title.includes('lb1 active')")?;
    everything_has_a_name(&mut browser, "overview")?;

    // Connections are seen: how many, whose, when they came; and what the checks and their certificates say.
    let held =
        lab.hold(&Connections { count: 48, parallel: 4, reconnect: true, ..Connections::default() })?;
    held.wait_done(SOON)?;
    assert_eq!(
        (held.failed(0), held.held_by_server().values().sum::<usize>()),
        (0, 48),
        "{:?}",
        held.failures(0)
    );
    let watches = lab.watch(None, 12, SOON)?;
    let numbers = "[...document.querySelectorAll('td.number .big')].map(one => Number(one.innerText))";
    let sum =
        |from: u32, to: u32| format!("{numbers}.slice({from}, {to}).reduce((one, other) => one + other)");
    browser.until(&format!("{} === 12 && {} === 48", sum(0, 3), sum(3, 6)))?;
    // Of so many, each of three has some.
    let lines = "[...document.querySelectorAll('.line title')].slice(3, 6)";
    browser.until(&format!(
        r"{lines}.every(one => /^Connections in the last .*: \d+ to [1-9]/.test(one.innerHTML))"
    ))?;
    browser.until("[...document.querySelectorAll('.share title')].some(one => /^[1-9].* of the connections/.test(one.innerHTML))")?;
    let said = browser.text()?;
    for part in [" ms", "certificate until 4096", " new/s", "at most ", "No problems"] {
        assert!(said.contains(part), "{part} in {said}");
    }

    // It changes without being loaded again, and says so to who does not see it.
    browser.evaluate("window.sameOne = true")?;
    browser.tab_to("Drain master2 of kube-apiserver")?;
    lab.master(0).kill();
    browser.until("document.body.innerText.includes('down (dead)')")?;
    browser
        .until("document.getElementById('said').textContent.includes('master1 of kube-apiserver: down')")?;
    browser.until("document.body.innerText.includes('2 of 3 backends usable')")?;
    browser.until("document.querySelector('.problems').innerText.includes('1 backend down')")?;
    assert_eq!(browser.evaluate("window.sameOne === true")?, true, "the page was not loaded again");
    assert_eq!(browser.focused()?, "Drain master2 of kube-apiserver", "the focus stayed");
    // For the pictures: some history.
    browser.until("document.querySelectorAll('.strip .down').length > 0")?;
    // Whose connections it had have come again elsewhere.
    browser.until(&format!("{numbers}[3] === 0 && {} === 48", sum(3, 6)))?;
    draw(&mut browser, &lab, "overview")?;

    browser.press("Enter")?;
    browser.until("document.title === 'Drain master2 · xvip'")?;
    everything_has_a_name(&mut browser, "drain")?;
    draw(&mut browser, &lab, "drain")?;
    browser.tab_to("Reset what is left after")?;
    browser.type_text("10m")?;
    browser.tab_to("Drain master2")?;
    browser.press("Enter")?;
    browser.until("document.querySelector('.message')?.innerText.includes('gets no new connections')")?;
    browser.until("document.body.innerText.includes('up, draining')")?;
    browser.until("document.body.innerText.includes('By web:ann')")?;
    let status = lb.status()?;
    let admin = status.raw["services"][0]["backends"][1]["admin"].clone();
    assert_eq!((admin["state"].as_str(), admin["by"].as_str()), (Some("drain"), Some("web:ann")), "{admin}");
    assert!(admin["deadline"].is_string(), "{admin}");
    browser
        .until("[...document.querySelectorAll('.events li')].some(e => e.innerText.includes('web:ann'))")?;

    browser.tab_to("Weight master3 of kube-apiserver")?;
    browser.press("Enter")?;
    browser.until("document.title === 'Weight of master3 · xvip'")?;
    browser.tab_to("Weight, 0 to 256")?;
    browser.evaluate("document.activeElement.select()")?;
    browser.type_text("50")?;
    browser.press("Enter")?;
    browser.until("document.body.innerText.includes('master3 has weight 50 instead of')")?;
    browser.tab_to("Rebalance kube-apiserver")?;
    browser.press("Enter")?;
    browser.until("document.title === 'Rebalance kube-apiserver · xvip'")?;
    browser.until("document.body.innerText.includes('connections to reset')")?;
    everything_has_a_name(&mut browser, "rebalance")?;
    draw(&mut browser, &lab, "rebalance")?;
    browser.go_to(&format!("http://{VIP}:{PORT}/haproxy-status"))?;
    browser.until("document.body.innerText.includes('up, draining')")?;

    // A daemon that is gone is not taken for one that is well.
    lb.kill();
    browser.until("!document.getElementById('stale').hidden")?;
    lb.start()?;
    browser.until("document.title === 'Log in · xvip'")?;
    // The wrong password was refused with 403, and so was what the script asked for without a session.
    let complaints: Vec<String> =
        browser.complaints()?.into_iter().filter(|one| !one.contains("\"source\":\"network\"")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    drop((held, watches));
    Ok(())
}

/// Keeps as many connections open as it gets, and says on each a little at a time.
struct Slow(Vec<TcpStream>);

impl Slow {
    fn begin(machine: &Netns, to: SocketAddr, count: usize) -> Result<Self, Box<dyn Error>> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = machine.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))??;
            // One that was turned away may be gone by now.
            let _sent = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Slow: ");
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(Self(streams))
    }

    /// One more byte on each, and how many are still open.
    fn trickle(&mut self) -> usize {
        self.0.retain_mut(|stream| {
            let mut buffer = [0; 512];
            let is_open = match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            };
            is_open && stream.write_all(b"x").is_ok()
        });
        self.0.len()
    }
}

fn transitions(lb: &LbNode) -> Result<u64, Box<dyn Error>> {
    Ok(lb.status()?.raw["vrrp"][0]["transitions"].as_u64().unwrap_or_default())
}

#[test]
fn who_has_no_right_is_refused_and_nobody_else_notices() -> TestResult {
    let lab = Lab::builder().lbs(2).masters(2).patience(5).build()?;
    let certificate = rcgen::generate_simple_self_signed(vec!["lb2".to_owned()])?;
    let [cert_file, key_file] = ["http.crt", "http.key"].map(|name| lab.dir().join(name));
    fs::write(&cert_file, certificate.cert.pem())?;
    fs::write(&key_file, certificate.signing_key.serialize_pem())?;
    let http = |lb: &LbNode| format!("[http]\nlisten = \"{}:{PORT}\"\n", lb.address());
    lab.lb(0).configure(|config| config.extra = http(lab.lb(0)) + USERS)?;
    lab.lb(1).configure(|config| {
        let tls = format!("cert_file = {cert_file:?}\nkey_file = {key_file:?}\nanonymous = \"viewer\"\nhide_version = true\n");
        config.extra = http(lab.lb(1)) + &tls + USERS;
    })?;
    lab.start_lbs()?;
    let owner = lab.wait_owner(Some("lb1"), SOON)?;
    let at = SocketAddr::new(owner.address(), PORT);
    let client = lab.client();
    wait::until("the page", SOON, || {
        get(client, at, "/healthz", "").is_ok_and(|reply| reply.body == "ok\n")
    })?;

    // Nobody, somebody with less than it takes, and somebody else's page.
    assert_eq!(get(client, at, "/", "")?.header("location"), Some("/login"));
    let metrics = get(client, at, "/metrics", "")?;
    assert!(metrics.code == 200 && metrics.body.contains("\nxvip_"), "{}", metrics.head);
    let order = "what=disable&service=kube-apiserver&name=master1";
    assert_eq!(post(client, at, "/order", "", order)?.code, 403);
    let log_in = |name: &str, password: &str| -> Result<(String, String), Box<dyn Error>> {
        let cookie = post(client, at, "/login", "", &format!("name={name}&password={password}"))?.cookie()?;
        let cookie = format!("Cookie: {cookie}\r\n");
        let token = get(client, at, "/", &cookie)?.token()?;
        Ok((cookie, token))
    };
    let (viewer, of_viewer) = log_in("bob", "other")?;
    let (admin, of_admin) = log_in("ann", "secret")?;
    let refused = post(client, at, "/order", &viewer, &format!("{order}&token={of_viewer}"))?;
    assert!(refused.code == 403 && refused.body.contains("role"), "{} {}", refused.head, refused.body);
    assert_eq!(post(client, at, "/order", &admin, &format!("{order}&token={of_viewer}"))?.code, 403);
    assert_eq!(post(client, at, "/order", &admin, order)?.code, 403);
    let elsewhere = format!("{admin}Origin: http://evil.example\r\n");
    assert_eq!(post(client, at, "/order", &elsewhere, &format!("{order}&token={of_admin}"))?.code, 403);
    assert!(owner.status()?.raw["services"][0]["backends"][0].get("admin").is_none(), "nothing was changed");

    // Too much of anything.
    assert_eq!(get(client, at, "/healthz", &format!("X: {}\r\n", "y".repeat(20_000)))?.code, 431);
    assert_eq!(post(client, at, "/order", &admin, &format!("{order}&x={}", "y".repeat(20_000)))?.code, 413);

    // Slow ones, many of them, for as long as the server bears with them; everybody else goes on.
    let load = lab.steady_load(SOON)?;
    let (mark, before) = (load.mark(), transitions(owner)?);
    let begun = Instant::now();
    let mut slow = Slow::begin(client, at, 64)?;
    wait::until("those too many to be turned away", SOON, || slow.trickle() <= 16)?;
    // Another source is served meanwhile.
    let other = lab.lb(1).machine();
    assert_eq!(get(other, at, "/healthz", "")?.code, 200);
    wait::until("the slow ones to be cut off", SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        slow.trickle() == 0
    })?;
    println!("slow ones were cut off after {:.1?}", begun.elapsed());
    assert!(begun.elapsed() >= Duration::from_secs(5), "not at once: a browser may be slow, too");
    load.wait_answered(mark, 100, SOON)?;
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    assert_eq!(transitions(owner)?, before, "the VIP stayed where it was");
    assert_eq!(get(client, at, "/healthz", "")?.code, 200);
    drop(load);

    // A reload changes what it says and ends no session; an address that is taken is a problem, and not the end.
    let reload = || -> TestResult {
        let output = owner.xvip(&["reload"])?;
        assert!(output.status.success(), "{output:?}");
        Ok(())
    };
    let moved =
        |port: u16| format!("[http]\nlisten = \"{}:{port}\"\npath = \"/stats\"\n{USERS}", owner.address());
    owner.configure(|config| config.extra = moved(PORT))?;
    reload()?;
    wait::until("the new path", SOON, || {
        get(client, at, "/stats/live", &admin).is_ok_and(|reply| reply.code == 200)
    })?;
    assert_eq!(get(client, at, "/live", &admin)?.code, 404);
    let taken = owner.machine().run(|| TcpListener::bind((owner.address(), PORT + 1)))??;
    owner.configure(|config| config.extra = moved(PORT + 1))?;
    reload()?;
    let problems = || {
        owner
            .status()
            .is_ok_and(|status| status.raw["problems"].to_string().contains("the web page cannot listen"))
    };
    wait::until("a problem", SOON, problems)?;
    drop(taken);
    wait::until("no problem", SOON, || !problems())?;
    assert_eq!(get(client, SocketAddr::new(at.ip(), PORT + 1), "/healthz", "")?.code, 200);
    assert!(get(client, at, "/healthz", "").is_err(), "nobody listens there any more");

    // Over TLS.
    let url = format!("https://lb2:{PORT}/");
    let resolve = format!("lb2:{PORT}:{}", lab.lb(1).address());
    let ca = cert_file.display().to_string();
    let curl = |more: &[&str], path: &str| -> Result<String, Box<dyn Error>> {
        let url = format!("{url}{path}");
        let words = [&["-sS", "-i", "--cacert", &ca, "--resolve", &resolve], more, &[&url]].concat();
        let output = lab.curl(&words)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let page = curl(&[], "")?;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("172.16.0.10/24"), "{page}");
    assert!(page.contains("<dt>This page</dt><dd>certificate until <time datetime=\"4096-01-01"), "{page}");
    assert!(!page.contains(concat!("xvip ", env!("CARGO_PKG_VERSION"))), "the version is hidden: {page}");
    let origin = format!("Origin: https://lb2:{PORT}");
    let logged_in = curl(&["-H", &origin, "--data", "name=ann&password=secret"], "login")?;
    assert!(logged_in.contains("; Secure") && logged_in.contains("HttpOnly"), "{logged_in}");
    let wrong = curl(&["--user", "ann:wrong"], "live")?;
    assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
    let csv = curl(&["--user", "bob:other"], ";csv")?;
    assert!(csv.contains("\r\n\r\n# pxname,svname,") && csv.contains("\nkube-apiserver,master1,"), "{csv}");
    let right = curl(&["--user", "bob:other"], "live")?;
    assert!(right.starts_with("HTTP/1.1 200"), "{right}");
    assert_eq!(
        get(client, SocketAddr::new(lab.lb(1).address(), PORT), "/", "")?.code,
        0,
        "plain HTTP gets nothing"
    );
    Ok(())
}
