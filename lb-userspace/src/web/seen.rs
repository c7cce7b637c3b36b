//! What the controller has told lately: it is asked at most twice a second, however many look.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{control::protocol::Request, history::Event, status::Status};

/// What is no older than that need not be asked for again.
const FRESH: Duration = Duration::from_millis(500);
/// A controller that takes longer is busy; whoever looks is told so.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many events are shown.
const EVENTS: u32 = 50;

/// What was so at a time.
#[derive(Debug)]
pub struct Seen {
    /// When it was told.
    pub at: SystemTime,
    /// What `xvip status` shows.
    pub status: Status,
    /// The last events, in their order.
    pub events: Vec<Event>,
}

/// Asks the controller, and remembers what it has said.
#[derive(Debug)]
pub struct Watch {
    requests: mpsc::Sender<Request>,
    last: Mutex<Option<(Instant, Arc<Seen>)>>,
}

impl Watch {
    /// One that has seen nothing yet.
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests, last: Mutex::default() }
    }

    /// What is so now, or was just before. `None` where the controller does not answer: it is stopping, or very busy.
    pub async fn now(&self) -> Option<Arc<Seen>> {
        // Whoever waits here gets what the one before was told.
        let mut last = self.last.lock().await;
        if let Some((at, seen)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(seen));
        }
        let status = ask(&self.requests, Request::Status).await?;
        let history = |reply| Request::History { name: None, limit: Some(EVENTS), reply };
        let history = ask(&self.requests, history).await?;
        let seen = Arc::new(Seen { at: SystemTime::now(), status: *status, events: history.events });
        *last = Some((Instant::now(), Arc::clone(&seen)));
        Some(seen)
    }

    /// What was remembered is not so any more.
    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }

    /// Asks for something else.
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        ask(&self.requests, request).await
    }
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let asking = async {
        requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    };
    timeout(PATIENCE, asking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::History, status::text::tests::status};

    /// A controller that counts how often it was asked for its status.
    fn controller() -> (Watch, tokio::task::JoinHandle<usize>) {
        let (sender, mut requests) = mpsc::channel(4);
        let counting = tokio::spawn(async move {
            let mut count = 0;
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Status(reply) => {
                        count += 1;
                        drop(reply.send(Box::new(status())));
                    }
                    Request::History { reply, .. } => drop(reply.send(History::default())),
                    other => panic!("{other:?}"),
                }
            }
            count
        });
        (Watch::new(sender), counting)
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_look_are_one_who_asks() {
        let (watch, counting) = controller();
        let watch = Arc::new(watch);
        for _ in 0..4 {
            let looking: Vec<_> = (0..50)
                .map(|_| {
                    let watch = Arc::clone(&watch);
                    tokio::spawn(async move { watch.now().await.expect("told") })
                })
                .collect();
            for looking in looking {
                looking.await.expect("looked");
            }
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        watch.forget().await;
        watch.now().await.expect("told");
        drop(watch);
        // At 0 and 500 ms, and after it was told to forget.
        assert_eq!(counting.await.expect("counted"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_does_not_answer_is_not_waited_for() {
        let (sender, mut requests) = mpsc::channel(4);
        let watch = Watch::new(sender);
        assert!(watch.now().await.is_none());
        assert!(requests.try_recv().is_ok());
        drop(requests);
        assert!(watch.now().await.is_none());
    }
}
