//! The web page, where HAProxy's statistics page was; with the metrics.
//!
//! ```text
//! browser -> listener (limits, TLS) -> site (who may what) -> page (HTML, pure)
//!                                        |  \-> order -> Request::Backend, Vip, Rebalance -> controller
//!                                        \-> seen: Request::Status and History, at most twice a second
//! ```
//!
//! All of it runs on a thread of its own: whatever clients do, VRRP, the checks and the controller do not notice. Nothing here
//! is fatal: an address that cannot be listened on is a problem in the status, and tried again.

mod admission;
mod asked;
mod attempts;
mod listener;
mod order;
mod page;
mod passwords;
mod samples;
mod seen;
mod sessions;
mod site;
mod source;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info};

use self::{
    admission::Admission,
    listener::{Place, acceptor, listen, serve},
    passwords::locked,
    seen::Watch,
    site::Site,
    source::Source,
};
use crate::{config::model::Http, control::protocol::Request};

/// An address that is taken is tried again after that: a predecessor may be about to leave it.
const RETRY: Duration = Duration::from_millis(500);
/// So many attempts fail before it is called a problem.
const PATIENCE: u32 = 4;
/// After a failure to accept, mostly for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// Threads that compare passwords, one more than are used at once.
const BLOCKING_THREADS: usize = 3;

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct Web {
    http: watch::Sender<Option<Arc<Http>>>,
    problem: Arc<Mutex<Option<String>>>,
}

impl Web {
    /// Starts its thread, which does nothing until it is configured. What it wants to know and to have done, it asks the
    /// controller for.
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        let (http, configured) = watch::channel(None);
        let problem = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&problem);
        let spawned = thread::Builder::new().name("web".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_keep_alive(Duration::from_secs(10))
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(run(configured, Site::new(Watch::new(requests)), &noted)),
                Err(error) => error!(%error, "no runtime for the web page"),
            }
        });
        if let Err(error) = spawned {
            *locked(&problem) = Some(format!("there is no thread for the web page: {error}"));
        }
        Self { http, problem }
    }

    /// Puts `[http]` in force, or that there is none.
    pub fn configure(&self, http: Option<&Http>) {
        let http = http.cloned().map(Arc::new);
        self.http.send_if_modified(|known| {
            let differs = *known != http;
            *known = http;
            differs
        });
    }

    /// Why nobody can see the page although it is configured.
    pub fn problem(&self) -> Option<String> {
        locked(&self.problem).clone()
    }
}

/// What listens at the moment.
struct Open {
    address: SocketAddr,
    listener: TcpListener,
}

/// What is in force.
#[derive(Default)]
struct Plan {
    http: Option<Arc<Http>>,
    tls: Option<TlsAcceptor>,
    /// When to try to listen again.
    retry: Option<Instant>,
    failures: u32,
}

async fn run(
    mut configured: watch::Receiver<Option<Arc<Http>>>,
    site: Site,
    problem: &Mutex<Option<String>>,
) {
    let site = Arc::new(site);
    let admission = Arc::new(Mutex::new(Admission::default()));
    let mut plan = Plan::default();
    let mut open: Option<Open> = None;
    let mut connections = JoinSet::new();
    let mut sampling = interval(samples::EVERY);
    sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = configured.changed() => {
                if changed.is_err() {
                    return;
                }
                let http = configured.borrow_and_update().clone();
                // Who talks over an address or with a certificate that is no more has to come again.
                let same = plan.http.as_ref().zip(http.as_ref()).is_some_and(|(old, new)| {
                    old.listen == new.listen && old.tls == new.tls
                });
                if !same {
                    connections.abort_all();
                }
                open = open.filter(|open| http.as_ref().is_some_and(|http| http.listen == open.address));
                site.configure(http.clone());
                *locked(problem) = None;
                plan = Plan { tls: tls(http.as_deref(), problem), http, retry: None, failures: 0 };
                try_to_listen(&mut plan, &mut open, problem);
            }
            () = at(plan.retry) => try_to_listen(&mut plan, &mut open, problem),
            accepted = accept(open.as_ref()) => match accepted {
                Ok((stream, peer)) => {
                    let source = Source::from(peer.ip());
                    match Place::take(&admission, source) {
                        Some(place) => {
                            connections.spawn(serve(stream, place, Arc::clone(&site), plan.tls.clone()));
                        }
                        None => debug!(%peer, "turned away: there are too many connections"),
                    }
                }
                Err(error) => {
                    debug!(%error, "a connection to the web page was not accepted");
                    sleep(BREATH).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
            _ = sampling.tick() => if plan.http.is_some() {
                let site = Arc::clone(&site);
                connections.spawn(async move { site.sample().await });
            },
        }
    }
}

/// Listens where it is configured, or says why not and when to try again.
fn try_to_listen(plan: &mut Plan, open: &mut Option<Open>, problem: &Mutex<Option<String>>) {
    plan.retry = None;
    let Some(http) = &plan.http else { return };
    let unusable = http.tls.is_some() && plan.tls.is_none();
    if open.is_some() || unusable {
        return;
    }
    let address = http.listen;
    match listen(address) {
        Ok(listener) => {
            let scheme = if http.tls.is_some() { "https" } else { "http" };
            info!("the web page is at {scheme}://{address}{}", http.path);
            *open = Some(Open { address, listener });
            *locked(problem) = None;
            plan.failures = 0;
        }
        Err(error) => {
            plan.failures = plan.failures.saturating_add(1);
            plan.retry = Some(Instant::now() + RETRY);
            if plan.failures >= PATIENCE {
                *locked(problem) = Some(format!("the web page cannot listen on {address}: {error}"));
            }
        }
    }
}

fn tls(http: Option<&Http>, problem: &Mutex<Option<String>>) -> Option<TlsAcceptor> {
    match acceptor(http?.tls.as_ref()?) {
        Ok(acceptor) => Some(acceptor),
        Err(error) => {
            *locked(problem) = Some(format!("the web page's certificate cannot be used: {error}"));
            None
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn accept(open: Option<&Open>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match open {
        Some(open) => open.listener.accept().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
