//! Where `xvip top` gets what is new from, and where its orders go.

use std::{
    env, io, thread,
    time::{Duration, Instant},
};

use tokio::{runtime, sync::mpsc, time::sleep};

use super::state::Message;
use crate::{
    control::{
        client,
        order::{Order, begun},
        protocol::{BackendAnswer, BackendOrder, RebalanceAnswer, RebalanceOrder, VipAction, VipAnswer},
    },
    history::Event,
    status::{
        Status,
        gather::{self, Places},
    },
};

/// Who is root by sudo(8).
const SUDO_USER: &str = "SUDO_USER";
/// A Maglev table is 128 KiB, and moved by value several times on its way out of a map.
const STACK: usize = 16 << 20;
/// More events are never to be seen.
const EVENTS: u32 = 100;

/// What is new.
#[derive(Debug)]
pub struct News {
    /// When it was so, since the first.
    pub at: Duration,
    /// The status, or why there is none.
    pub status: Result<Status, String>,
    /// What has happened of late, the newest last; `None` where nobody tells.
    pub events: Option<Vec<Event>>,
}

/// Asks every `interval`, on a thread of its own: without a daemon the maps are read, and a million flows take seconds.
///
/// # Errors
/// There is no thread to be had.
pub fn begin(places: Places, interval: Duration) -> io::Result<mpsc::Receiver<News>> {
    let (sender, receiver) = mpsc::channel(1);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    thread::Builder::new().name("feed".to_owned()).stack_size(STACK).spawn(move || {
        runtime.block_on(async {
            loop {
                let asked = Instant::now();
                let status = gather::status(&places)
                    .await
                    .map_err(|error| format!("{:#}", anyhow::Error::from(error)));
                let history = client::history(&places.socket, None, Some(EVENTS)).await;
                let news =
                    News { at: began.elapsed(), status, events: history.ok().map(|history| history.events) };
                // Whoever has gone wants no news.
                if sender.send(news).await.is_err() {
                    return;
                }
                sleep(interval.saturating_sub(asked.elapsed())).await;
            }
        });
    })?;
    Ok(receiver)
}

/// Lets the daemon carry an order out, and says what became of it.
pub async fn carry_out(places: &Places, order: Order) -> Message {
    let outcome = match order {
        Order::Backend { service, backend, action } => {
            let by = env::var(SUDO_USER).ok().filter(|user| !user.is_empty());
            let order = BackendOrder { backend, service: Some(service), action, by };
            client::backend(&places.socket, &order).await.map(|BackendAnswer { lines, warnings, error }| {
                match error {
                    Some(error) => Err(error),
                    None => Ok(lines.into_iter().chain(warnings).collect::<Vec<_>>().join("; ")),
                }
            })
        }
        Order::Vip { instance, action } => {
            let answer = client::vip(&places.socket, action, Some(&instance)).await;
            answer.map(|VipAnswer { instances, error, .. }| match error {
                Some(error) => Err(error),
                None => {
                    let names = instances.join(", ");
                    Ok(match action {
                        VipAction::Release => format!("{names}: hands its VIPs over to whoever wants them"),
                        VipAction::Acquire => format!("{names}: takes its VIPs if it outranks the others"),
                    })
                }
            })
        }
        Order::Rebalance { service } => {
            let order = RebalanceOrder { service: Some(service), dry_run: false, by: None };
            client::rebalance(&places.socket, &order).await.map(
                |RebalanceAnswer { plans, error }| match error {
                    Some(error) => Err(error),
                    None => Ok(plans.iter().map(begun).collect::<Vec<_>>().join("; ")),
                },
            )
        }
    };
    match outcome {
        Ok(Ok(text)) => Message { text, well: true },
        Ok(Err(text)) => Message { text, well: false },
        Err(error) => Message { text: error.to_string(), well: false },
    }
}
