//! What is served: who asks for what, and whether they may. The connection is `listener.rs`'s, the page's look is `page.rs`'s.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Body,
    header::{
        ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
        LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
    },
};

use super::{
    asked::{self, Rights},
    order::{Order, Subject, What},
    page::{self, View},
    passwords::{Passwords, Refusal, locked, random},
    samples::Samples,
    seen::{Seen, Watch},
    sessions::{LoggedIn, Message, Secrets, Sessions},
    source::Source,
};
use crate::{
    config::model::{Http, Role},
    control::protocol::{RebalanceAnswer, RebalanceOrder, Request as Ask},
    metrics::{self, Format},
    stats_socket::show_stat,
    status::Status,
};

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 16 * 1024;
/// What a browser may do with a page of ours: load our style and our script, and send forms to us.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// An answer; all of it is there at once.
pub type Answer = Response<Full<Bytes>>;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Whose limits it counts for.
    pub source: Source,
    /// Whether it comes over TLS.
    pub tls: bool,
}

/// What all connections share; it outlives a change of the configuration.
#[derive(Debug)]
pub struct Site {
    http: RwLock<Option<Arc<Http>>>,
    watch: Watch,
    sessions: Mutex<Sessions>,
    passwords: Passwords,
    samples: Mutex<Samples>,
}

/// Somebody who asks.
struct Who {
    /// The name and the role of a user.
    user: Option<(String, Role)>,
    /// What the forms of a session have to say; none for who sends a password with each request.
    session: Option<(String, LoggedIn)>,
    rights: Rights,
}

impl Site {
    /// One that is not configured yet.
    pub fn new(watch: Watch) -> Self {
        Self {
            http: RwLock::default(),
            watch,
            sessions: Mutex::default(),
            passwords: Passwords::default(),
            samples: Mutex::default(),
        }
    }

    /// Puts `[http]` in force. Sessions whose users have not changed go on.
    pub fn configure(&self, http: Option<Arc<Http>>) {
        let users = http.as_ref().map(|http| http.users.as_slice()).unwrap_or_default();
        locked(&self.sessions).keep_users(users);
        if http.is_none() {
            locked(&self.samples).clear();
        }
        *self.http.write().unwrap_or_else(PoisonError::into_inner) = http;
    }

    fn http(&self) -> Option<Arc<Http>> {
        self.http.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a sample of each backend.
    pub async fn sample(&self) {
        if let Some(seen) = self.watch.now().await {
            locked(&self.samples).take(&seen.status);
        }
    }

    /// Answers a request.
    pub async fn answer<B>(&self, peer: Peer, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(http) = self.http() else { return plain(StatusCode::NOT_FOUND, "nothing is served here\n") };
        let mut answer = self.route(&http, peer, request).await;
        protect(answer.headers_mut(), peer);
        answer
    }

    async fn route<B>(&self, http: &Http, peer: Peer, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let looks = matches!(head.method, Method::GET | Method::HEAD);
        if path == "/healthz" {
            return if looks { plain(StatusCode::OK, "ok\n") } else { not_allowed("GET, HEAD") };
        }
        let below = match http.path.as_str() {
            "/" => Some(path),
            base => path.strip_prefix(base),
        };
        match below {
            Some("/style.css") if looks => return asset("text/css; charset=utf-8", STYLE),
            Some("/script.js") if looks => return asset("text/javascript; charset=utf-8", SCRIPT),
            Some("/icon.svg") if looks => return asset("image/svg+xml", ICON),
            _ => {}
        }
        let who = match self.who(http, peer, &head.method, &head.headers).await {
            Ok(who) => who,
            Err(answer) => return *answer,
        };
        let view = who.view(http);
        if path == "/metrics" {
            return match who.rights {
                Rights::Nothing => challenge(),
                _ if looks => self.metrics(&view, &head.headers).await,
                _ => not_allowed("GET, HEAD"),
            };
        }
        match (below, &head.method) {
            (Some("" | "/"), _) if looks => match who.rights {
                Rights::View | Rights::Act => self.overview(&who, &view).await,
                _ => see_other(&format!("{}/login", view.base)),
            },
            (Some("/live"), _) if looks => match who.rights {
                Rights::View | Rights::Act => self.live(&view).await,
                _ => plain(StatusCode::FORBIDDEN, "log in first\n"),
            },
            (Some(below), _) if looks && wants_csv(below) => match who.rights {
                Rights::View | Rights::Act => self.csv().await,
                _ => challenge(),
            },
            (Some("/login"), _) if looks => html(StatusCode::OK, page::login(&view, None)),
            (Some("/login"), &Method::POST) => match self.form(&head.headers, body).await {
                Ok(fields) => self.log_in(http, peer, &head.headers, &view, &fields).await,
                Err(answer) => *answer,
            },
            (Some("/logout"), &Method::POST) => match self.form(&head.headers, body).await {
                Ok(fields) => match who.proved(&fields) {
                    Some((id, _)) => {
                        locked(&self.sessions).close(id);
                        let mut answer = see_other(&format!("{}/login", view.base));
                        set_cookie(&mut answer, http, peer, "", Duration::ZERO);
                        answer
                    }
                    None => refuse(&view, FORGED),
                },
                Err(answer) => *answer,
            },
            (Some("/order"), _) if looks => match who.may_order() {
                Ok(()) => self.ask_for_order(&view, head.uri.query().unwrap_or_default()).await,
                Err(why) => refuse(&view, why),
            },
            (Some("/order"), &Method::POST) => match self.form(&head.headers, body).await {
                Ok(fields) => self.carry_out(&who, &view, &fields).await,
                Err(answer) => *answer,
            },
            (Some("" | "/" | "/live" | "/style.css" | "/script.js" | "/icon.svg"), _) => {
                not_allowed("GET, HEAD")
            }
            (Some("/login" | "/order"), _) => not_allowed("GET, HEAD, POST"),
            (Some("/logout"), _) => not_allowed("POST"),
            _ => plain(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    /// Who asks, and what they may do.
    async fn who(
        &self,
        http: &Http,
        peer: Peer,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Who, Box<Answer>> {
        if let Some(id) = asked::cookie(headers, &cookie_name(http)) {
            let found = locked(&self.sessions).find(id, &http.users, Instant::now());
            if let Some(session) = found {
                let rights = Rights::of(Some(session.role), http.anonymous);
                let user = Some((session.name.clone(), session.role));
                return Ok(Who { user, session: Some((id.to_owned(), session)), rights });
            }
        }
        // What changes something needs a session: a browser sends a password that it knows to whoever asks for it.
        let looks = matches!(*method, Method::GET | Method::HEAD);
        if looks && headers.contains_key(AUTHORIZATION) {
            let Some((name, password)) = asked::credentials(headers) else {
                return Err(Box::new(challenge()));
            };
            let checked = self.passwords.check_again(&http.users, &name, &password, peer.source).await;
            let user = checked.map_err(|refusal| {
                Box::new(match refusal {
                    Refusal::Wrong => challenge(),
                    Refusal::Wait(_) | Refusal::Busy => later(refusal),
                })
            })?;
            let rights = Rights::of(Some(user.role), http.anonymous);
            return Ok(Who { user: Some((user.name, user.role)), session: None, rights });
        }
        Ok(Who { user: None, session: None, rights: Rights::of(None, http.anonymous) })
    }

    /// The fields of a form, if one of our own pages has sent it.
    async fn form<B>(&self, headers: &HeaderMap, body: B) -> Result<Fields, Box<Answer>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !asked::is_from_here(headers) {
            let text =
                "this form was not sent by xvip's own page (or a proxy on the way changes the Host header)\n";
            return Err(Box::new(plain(StatusCode::FORBIDDEN, text)));
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Box::new(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is no form\n")));
        }
        match Limited::new(body, LARGEST_BODY).collect().await {
            Ok(collected) => Ok(asked::fields(&collected.to_bytes())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(Box::new(plain(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n")))
            }
            Err(_) => Err(Box::new(plain(StatusCode::BAD_REQUEST, "the form did not arrive\n"))),
        }
    }

    async fn overview(&self, who: &Who, view: &View<'_>) -> Answer {
        let Some(seen) = self.watch.now().await else { return busy(view) };
        let message = who.session.as_ref().and_then(|(id, _)| locked(&self.sessions).told(id));
        let samples = locked(&self.samples);
        html(StatusCode::OK, page::overview(view, &seen, &samples, message.as_ref()))
    }

    async fn metrics(&self, view: &View<'_>, headers: &HeaderMap) -> Answer {
        let Some(seen) = self.watch.now().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "xvip does not answer\n");
        };
        let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
        let text = if view.version {
            metrics::encode(&seen.status, format)
        } else {
            metrics::encode(&Status { version: String::new(), ..seen.status.clone() }, format)
        };
        answer(StatusCode::OK, format.content_type(), text)
    }

    async fn csv(&self) -> Answer {
        match self.watch.now().await {
            Some(seen) => answer(StatusCode::OK, TEXT, show_stat(&seen.status)),
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "xvip does not answer\n"),
        }
    }

    async fn live(&self, view: &View<'_>) -> Answer {
        let Some(seen) = self.watch.now().await else { return busy(view) };
        let samples = locked(&self.samples);
        html(StatusCode::OK, page::live(view, &seen, &samples).into_string())
    }

    async fn log_in(
        &self,
        http: &Http,
        peer: Peer,
        headers: &HeaderMap,
        view: &View<'_>,
        fields: &Fields,
    ) -> Answer {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let checked = self.passwords.check(&http.users, field("name"), field("password"), peer.source).await;
        let user = match checked {
            Ok(user) => user,
            Err(Refusal::Wrong) => {
                let text = "Name or password is wrong.";
                return html(StatusCode::FORBIDDEN, page::login(view, Some(text)));
            }
            Err(refusal) => {
                let mut answer = later(refusal);
                let text = "Too many attempts: wait a little, then try again.";
                let status = answer.status();
                let retry = answer.headers_mut().remove(RETRY_AFTER);
                answer = html(status, page::login(view, Some(text)));
                if let Some(retry) = retry {
                    answer.headers_mut().insert(RETRY_AFTER, retry);
                }
                return answer;
            }
        };
        let Some((id, token)) = random().zip(random()) else { return busy(view) };
        let mut sessions = locked(&self.sessions);
        if let Some(old) = asked::cookie(headers, &cookie_name(http)) {
            sessions.close(old);
        }
        let secrets = Secrets { id: id.clone(), token };
        sessions.open(secrets, &user, Instant::now(), http.session_lifetime);
        let mut answer = see_other(view.page());
        set_cookie(&mut answer, http, peer, &id, http.session_lifetime);
        answer
    }

    /// The page on which an admin says the rest of an order, and confirms it.
    async fn ask_for_order(&self, view: &View<'_>, query: &str) -> Answer {
        let Some(subject) = Subject::read(&asked::fields(query.as_bytes())) else {
            return html(
                StatusCode::BAD_REQUEST,
                page::refused(view, "This link says nothing that can be done."),
            );
        };
        let Some(seen) = self.watch.now().await else { return busy(view) };
        if !subject.is_there(&seen) {
            let text = "What this is about is not there any more.";
            return html(StatusCode::NOT_FOUND, page::refused(view, text));
        }
        let plan = match subject.what {
            What::Rebalance => {
                let order =
                    RebalanceOrder { service: Some(subject.service.clone()), dry_run: true, by: None };
                match self.watch.ask(|reply| Ask::Rebalance(order, reply)).await {
                    Some(plan) => plan,
                    None => return busy(view),
                }
            }
            _ => RebalanceAnswer::default(),
        };
        html(StatusCode::OK, page::confirm(view, &subject, &seen, &plan))
    }

    async fn carry_out(&self, who: &Who, view: &View<'_>, fields: &Fields) -> Answer {
        if let Err(why) = who.may_order() {
            return refuse(view, why);
        }
        let Some((id, session)) = who.proved(fields) else { return refuse(view, FORGED) };
        let message = match Order::read(fields) {
            Ok(order) => order.carry_out(&self.watch, &format!("web:{}", session.name)).await,
            Err(error) => Message { lines: vec![error], is_error: true },
        };
        self.watch.forget().await;
        locked(&self.sessions).tell(id, message);
        see_other(view.page())
    }
}

/// The fields of a form.
type Fields = std::collections::BTreeMap<String, String>;

const FORGED: &str =
    "This form is not of your session. Go back to the page, load it again, and send it from there.";
const VIEWER: &str = "You may look, but not change anything: that takes a user with the role \"admin\".";
const LOG_IN: &str = "Log in first.";

impl Who {
    fn view<'a>(&'a self, http: &'a Http) -> View<'a> {
        View {
            base: if http.path == "/" { "" } else { &http.path },
            user: self.user.as_ref().map(|(name, role)| (name.as_str(), *role)),
            token: self.session.as_ref().map(|(_, session)| session.token.as_str()),
            // Who sends a password with each request has no form to send.
            may_act: self.may_order().is_ok(),
            users: !http.users.is_empty(),
            version: !http.hide_version || self.user.is_some(),
        }
    }

    fn may_order(&self) -> Result<(), &'static str> {
        match (&self.session, self.rights) {
            (Some(_), Rights::Act) => Ok(()),
            (Some(_), _) => Err(VIEWER),
            (None, _) => Err(LOG_IN),
        }
    }

    /// The session, where a form proves that it is one of it.
    fn proved(&self, fields: &Fields) -> Option<(&str, &LoggedIn)> {
        let (id, session) = self.session.as_ref()?;
        let token = fields.get("token")?;
        asked::is_same_secret(token, &session.token).then_some((id.as_str(), session))
    }
}

impl Subject {
    /// Whether there is such a backend, instance or service.
    fn is_there(&self, seen: &Seen) -> bool {
        match self.what {
            What::Release | What::Acquire => seen.status.vrrp.iter().any(|vrrp| vrrp.name == self.name),
            What::Rebalance => seen.status.services.iter().any(|service| service.name == self.service),
            What::Drain | What::Disable | What::Enable | What::Weight => {
                let of_service = seen.status.services.iter().filter(|service| service.name == self.service);
                of_service.flat_map(|service| &service.backends).any(|backend| backend.name == self.name)
            }
        }
    }
}

/// HAProxy's page has its figures as CSV where `;csv` stands behind its path; other words may stand there, too.
fn wants_csv(below: &str) -> bool {
    let words = below.strip_prefix('/').unwrap_or(below).strip_prefix(';');
    words.is_some_and(|words| words.split(';').any(|word| word == "csv"))
}

/// Cookies do not know ports: two nodes behind one host name, or two instances, would log each other out.
fn cookie_name(http: &Http) -> String {
    format!("xvip-{}", http.listen.port())
}

fn set_cookie(answer: &mut Answer, http: &Http, peer: Peer, value: &str, lifetime: Duration) {
    let secure = if peer.tls { "; Secure" } else { "" };
    let cookie = format!(
        "{}={value}; Path={}; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        cookie_name(http),
        http.path,
        lifetime.as_secs()
    );
    // Of a path and a number nothing can be wrong.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
}

/// What every answer says to a browser.
fn protect(headers: &mut HeaderMap, peer: Peer) {
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        // With "no-referrer" a browser would say "null" for the origin of our own forms (Fetch, "append a request Origin header").
        ("referrer-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if peer.tls {
        // Over plain HTTP a browser only complains about it.
        let opener = HeaderName::from_static("cross-origin-opener-policy");
        headers.insert(opener, HeaderValue::from_static("same-origin"));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    answer(status, TEXT, text)
}

fn html(status: StatusCode, page: String) -> Answer {
    answer(status, HTML, page)
}

/// They change with the binary only.
fn asset(kind: &'static str, text: &'static str) -> Answer {
    let mut answer = answer(StatusCode::OK, kind, text);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=300"));
    answer
}

fn see_other(path: &str) -> Answer {
    let mut answer = plain(StatusCode::SEE_OTHER, "");
    if let Ok(path) = HeaderValue::from_str(path) {
        answer.headers_mut().insert(LOCATION, path);
    }
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "no such method here\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// For programs: they can send a name and a password with each request.
fn challenge() -> Answer {
    let mut answer = plain(StatusCode::UNAUTHORIZED, "a name and a password are needed\n");
    let value = HeaderValue::from_static("Basic realm=\"xvip\", charset=\"UTF-8\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, value);
    answer
}

fn later(refusal: Refusal) -> Answer {
    let (status, wait) = match refusal {
        Refusal::Wait(wait) => (StatusCode::TOO_MANY_REQUESTS, wait.as_secs() + 1),
        Refusal::Wrong | Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, 1),
    };
    let mut answer = plain(status, "too many attempts\n");
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
    answer
}

fn refuse(view: &View<'_>, why: &str) -> Answer {
    html(StatusCode::FORBIDDEN, page::refused(view, why))
}

fn busy(view: &View<'_>) -> Answer {
    let text = "xvip does not answer at the moment: it is starting, stopping or very busy.";
    html(StatusCode::SERVICE_UNAVAILABLE, page::refused(view, text))
}

#[cfg(test)]
mod tests;
