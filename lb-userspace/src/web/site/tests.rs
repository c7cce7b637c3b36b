//! Who may what, asked as a browser, a script and somebody else's page would.

use hyper::header::{COOKIE, HOST, ORIGIN};
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;
use crate::{
    config::model::{Anonymous, HttpUser},
    control::protocol::{BackendAnswer, RebalancePlan, VipAnswer},
    history::History,
    password,
    status::text::tests::status,
};

/// A site, and what its controller was told to do, by whom.
struct Stand {
    site: Site,
    orders: JoinHandle<Vec<String>>,
}

fn settings() -> Http {
    let user = |name: &str, password: &str, role| HttpUser {
        name: name.to_owned(),
        password_hash: password::cheap_hash(password),
        role,
    };
    Http {
        listen: ([127, 0, 0, 1], 9188).into(),
        path: "/stats".to_owned(),
        anonymous: Anonymous::Metrics,
        tls: None,
        session_lifetime: Duration::from_secs(3600),
        hide_version: false,
        users: vec![user("ann", "secret", Role::Admin), user("bob", "other", Role::Viewer)],
    }
}

fn stand() -> Stand {
    let (sender, mut requests) = mpsc::channel(4);
    let orders = tokio::spawn(async move {
        let mut orders = Vec::new();
        while let Some(request) = requests.recv().await {
            match request {
                Ask::Status(reply) => {
                    let mut now = status();
                    now.problems = vec![format!("{} were ordered", orders.len())];
                    now.services[0].backends[0].flows.active = 9;
                    drop(reply.send(Box::new(now)));
                }
                Ask::History { reply, .. } => drop(reply.send(History::default())),
                Ask::Backend { order, by, reply } => {
                    orders.push(format!("{by}: {} {:?}", order.backend, order.action));
                    let lines = vec![format!("{} is told", order.backend)];
                    drop(reply.send(BackendAnswer { lines, ..BackendAnswer::default() }));
                }
                Ask::Vip { action, name, by, reply } => {
                    orders.push(format!("{}: {action} {}", by.unwrap_or_default(), name.unwrap_or_default()));
                    drop(reply.send(VipAnswer::default()));
                }
                Ask::Rebalance(order, reply) => {
                    let (service, dry_run) = (order.service.unwrap_or_default(), order.dry_run);
                    orders.push(format!("rebalance {service}, dry run: {dry_run}"));
                    let plan = RebalancePlan { service, resets: 4321, ..RebalancePlan::default() };
                    drop(reply.send(RebalanceAnswer { plans: vec![plan], error: None }));
                }
                other => panic!("{other:?}"),
            }
        }
        orders
    });
    let site = Site::new(Watch::new(sender));
    site.configure(Some(Arc::new(settings())));
    Stand { site, orders }
}

const PEER: Peer = Peer { source: Source::LOOPBACK, tls: false };

/// One request, as a browser sends it from our own page.
struct Sent(hyper::http::request::Builder, String);

fn get(path: &str) -> Sent {
    Sent(Request::builder().uri(path).header(HOST, "lb1:9188"), String::new())
}

fn post(path: &str, body: &str) -> Sent {
    let form = "application/x-www-form-urlencoded";
    let request = Request::builder().method(Method::POST).uri(path).header(HOST, "lb1:9188");
    Sent(request.header(ORIGIN, "http://lb1:9188").header(CONTENT_TYPE, form), body.to_owned())
}

impl Sent {
    fn with(self, name: HeaderName, value: &str) -> Self {
        Self(self.0.header(name, value), self.1)
    }

    fn instead(mut self, name: HeaderName, value: Option<&str>) -> Self {
        if let Some(headers) = self.0.headers_mut() {
            headers.remove(&name);
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            }
        }
        self
    }

    async fn to(self, stand: &Stand) -> Answer {
        let request = self.0.body(Full::new(Bytes::from(self.1))).expect("a request");
        stand.site.answer(PEER, request).await
    }
}

async fn text(answer: Answer) -> String {
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

/// The cookie of somebody who has logged in, and the word of their forms.
async fn log_in(stand: &Stand, name: &str, password: &str) -> (String, String) {
    let answer = post("/stats/login", &format!("name={name}&password={password}")).to(stand).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[LOCATION], "/stats");
    let cookie = answer.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    for part in ["xvip-9188=", "; Path=/stats;", "HttpOnly", "SameSite=Strict", "Max-Age=3600"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    let pair = cookie.split(';').next().unwrap_or_default().to_owned();
    let page = text(get("/stats").with(COOKIE, &pair).to(stand).await).await;
    let token = page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    (pair, token.expect("a token").to_owned())
}

fn backend() -> (String, String) {
    let status = status();
    (status.services[0].name.clone(), status.services[0].backends[0].name.clone())
}

async fn codes(stand: &Stand, sent: Vec<Sent>) -> Vec<u16> {
    let mut codes = Vec::new();
    for sent in sent {
        codes.push(sent.to(stand).await.status().as_u16());
    }
    codes
}

#[tokio::test]
async fn who_has_not_logged_in_sees_what_anonymous_says() {
    let stand = stand();
    for (anonymous, page, live) in
        [(Anonymous::Nothing, 303, 403), (Anonymous::Metrics, 303, 403), (Anonymous::Viewer, 200, 200)]
    {
        stand.site.configure(Some(Arc::new(Http { anonymous, ..settings() })));
        let sent = ["/stats", "/stats/", "/stats/live", "/stats/login", "/stats/style.css", "/healthz"];
        let found = codes(&stand, sent.map(get).into()).await;
        assert_eq!(found, [page, page, live, 200, 200, 200], "{anonymous:?}");
        let order = codes(&stand, vec![get("/stats/order?what=drain"), post("/stats/order", "")]).await;
        assert_eq!(order, [403, 403], "{anonymous:?}");
    }
    let scrape = async |anonymous| {
        stand.site.configure(Some(Arc::new(Http { anonymous, ..settings() })));
        get("/metrics").to(&stand).await
    };
    assert_eq!(scrape(Anonymous::Nothing).await.status(), StatusCode::UNAUTHORIZED);
    let scraped = scrape(Anonymous::Metrics).await;
    assert!(scraped.headers()[CONTENT_TYPE].to_str().expect("text").contains("version=0.0.4"));
    assert!(text(scraped).await.contains("\nxvip_"));
    let elsewhere =
        codes(&stand, ["/", "/statsx", "/login", "/stats/x", "/stats/../etc"].map(get).into()).await;
    assert_eq!(elsewhere, [404; 5]);
    stand.site.configure(None);
    assert_eq!(codes(&stand, vec![get("/stats"), get("/healthz")]).await, [404, 404]);
}

#[tokio::test]
async fn every_answer_protects_itself() {
    let stand = stand();
    for sent in [
        get("/stats"),
        get("/nowhere"),
        get("/stats/login"),
        post("/stats/order", ""),
        get("/stats/style.css"),
    ] {
        let answer = sent.to(&stand).await;
        let header =
            |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(header("content-security-policy").starts_with("default-src 'none'"), "{answer:?}");
        assert!(!header("content-security-policy").contains("unsafe"), "{answer:?}");
        let rest = ["x-frame-options", "x-content-type-options", "referrer-policy"].map(header);
        assert_eq!(rest, ["DENY", "nosniff", "same-origin"]);
        assert!(!header("cache-control").is_empty());
    }
}

#[tokio::test]
async fn an_admin_orders_and_it_is_told_who_did() {
    let stand = stand();
    let (service, name) = backend();
    let (cookie, token) = log_in(&stand, "ann", "secret").await;
    let asked = get(&format!("/stats/order?what=drain&service={service}&name={name}")).with(COOKIE, &cookie);
    let asked = asked.to(&stand).await;
    assert_eq!(asked.status(), StatusCode::OK);
    assert!(text(asked).await.contains(&format!("value=\"{token}\"")));
    let form = format!("token={token}&what=drain&service={service}&name={name}&deadline=10m");
    let answer = post("/stats/order", &form).with(COOKIE, &cookie).to(&stand).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let page = || async { text(get("/stats").with(COOKIE, &cookie).to(&stand).await).await };
    assert!(page().await.contains(&format!("{name} is told")));
    assert!(!page().await.contains(&format!("{name} is told")), "once");
    let form = format!("token={token}&what=weight&service={service}&name={name}&weight=1000");
    post("/stats/order", &form).with(COOKIE, &cookie).to(&stand).await;
    assert!(page().await.contains("the weight must be 0 to 256"));
    let vrrp = status().vrrp[0].name.clone();
    let form = format!("token={token}&what=release&name={vrrp}");
    post("/stats/order", &form).with(COOKIE, &cookie).to(&stand).await;
    let gone = get("/stats/order?what=drain&service=x&name=y").with(COOKIE, &cookie);
    let senseless = get("/stats/order?what=fly").with(COOKIE, &cookie);
    assert_eq!(codes(&stand, vec![gone, senseless]).await, [404, 400]);
    drop(stand.site);
    let expected =
        [format!("web:ann: {name} Drain {{ deadline_s: Some(600) }}"), format!("web:ann: release {vrrp}")];
    assert_eq!(stand.orders.await.expect("ended"), expected);
}

#[tokio::test]
async fn nobody_else_s_form_changes_anything() {
    let stand = stand();
    let (service, name) = backend();
    let (admin, token) = log_in(&stand, "ann", "secret").await;
    let (viewer, viewers) = log_in(&stand, "bob", "other").await;
    let form = |token: &str| format!("token={token}&what=disable&service={service}&name={name}");
    let order = |token: &str, cookie: &str| post("/stats/order", &form(token)).with(COOKIE, cookie);
    let sent = vec![
        // The role does not allow it, with a token of its own or of somebody else.
        order(&viewers, &viewer),
        order(&token, &viewer),
        get(&format!("/stats/order?what=drain&service={service}&name={name}")).with(COOKIE, &viewer),
        // Not of this session.
        order(&viewers, &admin),
        order("", &admin),
        order(&token[1..], &admin),
        post("/stats/order", &form("").replace("token=&", "")).with(COOKIE, &admin),
        post("/stats/order", &format!("{}&token={token}", form(&token))).with(COOKIE, &admin),
        // No session, or none that there is.
        post("/stats/order", &form(&token)),
        order(&token, "xvip-9188=00"),
        order(&token, &admin.replace("9188", "9189")),
        // From somebody else's page, or from nowhere.
        order(&token, &admin).instead(ORIGIN, Some("http://evil.example")),
        order(&token, &admin).instead(ORIGIN, Some("null")),
        order(&token, &admin).instead(ORIGIN, None),
        // A password instead of a session: a browser may send one that it knows.
        post("/stats/order", &form(&token)).with(AUTHORIZATION, "Basic YW5uOnNlY3JldA=="),
        // Nor may others log somebody out, or in.
        post("/stats/logout", "token=x").with(COOKIE, &admin),
        post("/stats/login", "name=bob&password=other").instead(ORIGIN, Some("http://evil.example")),
    ];
    let codes = codes(&stand, sent).await;
    assert_eq!(codes, vec![403; codes.len()]);
    let kind = order(&token, &admin).instead(CONTENT_TYPE, Some("text/plain")).to(&stand).await;
    assert_eq!(kind.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = post("/stats/order", &"x".repeat(LARGEST_BODY + 1)).with(COOKIE, &admin).to(&stand).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let still_in = get("/stats/live").with(COOKIE, &admin).to(&stand).await;
    assert_eq!(still_in.status(), StatusCode::OK);
    drop(stand.site);
    assert_eq!(stand.orders.await.expect("ended"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn wrong_passwords_are_answered_late_and_then_not_at_all() {
    let stand = stand();
    let wrong = || post("/stats/login", "name=ann&password=wrong");
    let mut codes = Vec::new();
    for _ in 0..6 {
        let answer = wrong().to(&stand).await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        codes.push(answer.status().as_u16());
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(answer.headers().contains_key(RETRY_AFTER));
        }
    }
    assert_eq!(codes, [403, 403, 403, 403, 403, 429]);
}

#[tokio::test]
async fn sessions_end_by_logging_out_and_with_their_user() {
    let stand = stand();
    // Each call makes hashes of its own.
    let mut changed = settings();
    stand.site.configure(Some(Arc::new(changed.clone())));
    let (ann, token) = log_in(&stand, "ann", "secret").await;
    let (bob, _) = log_in(&stand, "bob", "other").await;
    let look = |cookie: &str| get("/stats/live").with(COOKIE, cookie);
    changed.users[1].password_hash = password::cheap_hash("new");
    stand.site.configure(Some(Arc::new(changed)));
    assert_eq!(codes(&stand, vec![look(&ann), look(&bob)]).await, [200, 403]);
    let out = post("/stats/logout", &format!("token={token}")).with(COOKIE, &ann).to(&stand).await;
    assert_eq!(out.status(), StatusCode::SEE_OTHER);
    assert!(out.headers()[SET_COOKIE].to_str().expect("text").contains("Max-Age=0"));
    assert_eq!(codes(&stand, vec![look(&ann)]).await, [403]);
}

#[tokio::test]
async fn who_logs_in_again_has_one_session() {
    let stand = stand();
    let (first, _) = log_in(&stand, "ann", "secret").await;
    let again = post("/stats/login", "name=ann&password=secret").with(COOKIE, &first).to(&stand).await;
    let second = again.headers()[SET_COOKIE].to_str().expect("text").split(';').next().expect("a pair");
    let look = |cookie: &str| get("/stats/live").with(COOKIE, cookie);
    assert_eq!(codes(&stand, vec![look(&first), look(second)]).await, [403, 200]);
}

#[tokio::test]
async fn to_look_at_a_plan_begins_nothing() {
    let stand = stand();
    let (service, _) = backend();
    let (cookie, _) = log_in(&stand, "ann", "secret").await;
    let asked = get(&format!("/stats/order?what=rebalance&service={service}")).with(COOKIE, &cookie);
    let page = text(asked.to(&stand).await).await;
    assert!(page.contains(": 4321 connections to reset"), "{page}");
    drop(stand.site);
    assert_eq!(stand.orders.await.expect("ended"), [format!("rebalance {service}, dry run: true")]);
}

#[tokio::test]
async fn what_was_ordered_is_seen_at_once() {
    let stand = stand();
    let (service, name) = backend();
    let (cookie, token) = log_in(&stand, "ann", "secret").await;
    let page = || async { text(get("/stats/live").with(COOKIE, &cookie).to(&stand).await).await };
    let form = format!("token={token}&what=disable&service={service}&name={name}");
    for ordered in 0..3 {
        let page = page().await;
        assert!(page.contains(&format!("{ordered} were ordered")), "{page}");
        let answer = post("/stats/order", &form).with(COOKIE, &cookie).to(&stand).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn a_hidden_version_is_for_those_who_log_in() {
    let stand = stand();
    let version = status().version;
    assert!(!version.is_empty());
    let told = |answer: Answer| async { text(answer).await.contains(&version) };
    for (hide_version, anonymous, shown) in [
        (false, Anonymous::Metrics, true),
        (true, Anonymous::Metrics, false),
        (true, Anonymous::Viewer, false),
    ] {
        stand.site.configure(Some(Arc::new(Http { anonymous, hide_version, ..settings() })));
        assert_eq!(told(get("/metrics").to(&stand).await).await, shown, "{anonymous:?}");
        let bob = get("/metrics").with(AUTHORIZATION, "Basic Ym9iOm90aGVy");
        assert!(told(bob.to(&stand).await).await, "{anonymous:?}");
    }
}

#[tokio::test]
async fn a_user_that_was_gone_has_to_log_in_again() {
    let stand = stand();
    let all = settings();
    stand.site.configure(Some(Arc::new(all.clone())));
    let (ann, _) = log_in(&stand, "ann", "secret").await;
    let (bob, _) = log_in(&stand, "bob", "other").await;
    let mut without = all.clone();
    without.users.retain(|user| user.name != "bob");
    for http in [without, all.clone()] {
        stand.site.configure(Some(Arc::new(http)));
        let look = |cookie: &str| get("/stats/live").with(COOKIE, cookie);
        assert_eq!(codes(&stand, vec![look(&ann), look(&bob)]).await, [200, 403]);
    }
    // Without the page there are no users.
    stand.site.configure(None);
    stand.site.configure(Some(Arc::new(all)));
    assert_eq!(get("/stats/live").with(COOKIE, &ann).to(&stand).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_a_backend_was_like_is_forgotten_with_the_page() {
    let stand = stand();
    let viewer = || Some(Arc::new(Http { anonymous: Anonymous::Viewer, ..settings() }));
    let lines = || async { text(get("/stats/live").to(&stand).await).await.matches("at most 9").count() };
    stand.site.configure(viewer());
    for _ in 0..2 {
        stand.site.sample().await;
    }
    assert_eq!(lines().await, 1);
    stand.site.configure(viewer());
    assert_eq!(lines().await, 1, "a reload keeps them");
    stand.site.configure(None);
    stand.site.configure(viewer());
    assert_eq!(lines().await, 0);
}

#[tokio::test]
async fn a_password_beside_a_form_is_not_even_looked_at() {
    let stand = stand();
    let (service, name) = backend();
    let form = format!("what=drain&service={service}&name={name}");
    let without = post("/stats/order", &form).to(&stand).await;
    assert_eq!(without.status(), StatusCode::FORBIDDEN);
    // A right one, and a wrong one.
    for basic in ["Basic YW5uOnNlY3JldA==", "Basic Ym9iOm90aGVyMQ=="] {
        let answer = post("/stats/order", &form).with(AUTHORIZATION, basic).to(&stand).await;
        assert_eq!(answer.status(), without.status(), "{basic}");
        assert!(!answer.headers().contains_key(WWW_AUTHENTICATE));
    }
    drop(stand.site);
    assert!(stand.orders.await.expect("ended").is_empty());
}

#[tokio::test]
async fn a_script_sends_its_password_with_each_request() {
    let stand = stand();
    let with = |value: &str| get("/stats/live").with(AUTHORIZATION, value);
    let good = with("Basic Ym9iOm90aGVy").to(&stand).await;
    assert_eq!(good.status(), StatusCode::OK);
    let page = text(get("/stats").with(AUTHORIZATION, "Basic YW5uOnNlY3JldA==").to(&stand).await).await;
    assert!(!page.contains("/stats/order"), "without a session there is nothing to order with");
    for wrong in ["Basic Ym9iOm90aGVyMQ==", "Basic !", "Bearer x"] {
        let answer = with(wrong).to(&stand).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers().contains_key(WWW_AUTHENTICATE));
    }
}

#[tokio::test]
async fn over_tls_a_cookie_stays_there() {
    let stand = stand();
    let form = Full::new(Bytes::from_static(b"name=ann&password=secret"));
    let request =
        post("/stats/login", "").instead(ORIGIN, Some("https://lb1:9188")).0.body(form).expect("a request");
    let answer = stand.site.answer(Peer { tls: true, ..PEER }, request).await;
    assert!(answer.headers()[SET_COOKIE].to_str().expect("text").contains("; Secure"));
}

#[tokio::test]
async fn methods_that_make_no_sense_are_refused() {
    let stand = stand();
    let method =
        |method: Method, path: &str| Sent(Request::builder().method(method).uri(path), String::new());
    let sent = vec![
        method(Method::POST, "/healthz"),
        method(Method::PUT, "/stats"),
        method(Method::DELETE, "/stats/order"),
        method(Method::GET, "/stats/logout"),
    ];
    assert_eq!(codes(&stand, sent).await, [405; 4]);
}

#[tokio::test]
async fn haproxy_s_figures_are_where_monitors_look_for_them() {
    let stand = stand();
    let csv = |path: &str| get(path).with(AUTHORIZATION, "Basic Ym9iOm90aGVy");
    for path in ["/stats;csv", "/stats/;csv", "/stats;csv;norefresh"] {
        let answer = csv(path).to(&stand).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert!(text(answer).await.starts_with("# pxname,svname,"), "{path}");
        assert_eq!(get(path).to(&stand).await.status(), StatusCode::UNAUTHORIZED);
    }
    for path in ["/stats;up", "/stats;", "/stats/x;csv"] {
        assert_eq!(csv(path).to(&stand).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}
