//! How much of the daemon one client may have.
//!
//! The control socket is served by the thread that does everything but VRRP and announcements, so nobody may keep it busy,
//! and nobody's idle connections may keep root's `xvip status` out. Who is not root (nor the daemon's own user) shares a few
//! connections and a few answers per second with all others of that kind.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use super::asker::Asker;

/// Connections of root and the daemon's own user at the same time.
pub(super) const MASTERS: usize = 64;
/// Those of everybody else.
pub(super) const OTHERS: usize = 16;
/// Connections of those there is no room for, which are told so.
const TURNED_AWAY: usize = 32;
/// They get so much time to hear it.
pub(super) const HEAR_WITHIN: Duration = Duration::from_secs(1);
/// A request's head comes within that time, and so does the next request on a connection that is kept.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// So does the body.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(5);
/// A connection ends after that in any case. A reload, the longest answer, is given up by the client after half of it.
pub(super) const CONNECTION_WITHIN: Duration = Duration::from_secs(60);
/// The longest head, in bytes.
pub(super) const HEAD_AT_MOST: usize = 16 * 1024;
/// The longest body, in bytes: an order is a few words.
pub(super) const BODY_AT_MOST: usize = 16 * 1024;
/// Between two questions of those who are neither root nor the daemon's own user.
const PAUSE: Duration = Duration::from_millis(50);

/// What is left of it; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    masters: Arc<Semaphore>,
    others: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    /// When the next question of the others is passed on.
    next: Arc<Mutex<Option<Instant>>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            masters: Arc::new(Semaphore::new(MASTERS)),
            others: Arc::new(Semaphore::new(OTHERS)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            next: Arc::default(),
        }
    }
}

impl Limits {
    /// Leave for one connection, until it is dropped; `None` where there are as many already.
    pub(super) fn connection(&self, asker: Asker) -> Option<OwnedSemaphorePermit> {
        let pool = if asker.is_master() { &self.masters } else { &self.others };
        Arc::clone(pool).try_acquire_owned().ok()
    }

    /// Leave to tell somebody that there is no room.
    pub(super) fn turn_away(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turned_away).try_acquire_owned().ok()
    }

    /// Ends when a question may be passed on.
    pub(super) async fn turn(&self, asker: Asker) {
        if asker.is_master() {
            return;
        }
        // Held while it sleeps: the others wait in the order in which they came.
        let mut next = self.next.lock().await;
        if let Some(next) = *next {
            sleep_until(next).await;
        }
        *next = Some(Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn master() -> Asker {
        let (one, _other) = tokio::net::UnixStream::pair().expect("a pair");
        Asker::of(&one)
    }

    #[tokio::test]
    async fn strangers_leave_room_for_root() {
        let limits = Limits::default();
        let taken: Vec<_> = (0..OTHERS).map(|_| limits.connection(Asker::STRANGER).expect("room")).collect();
        assert!(limits.connection(Asker::STRANGER).is_none());
        let own: Vec<_> =
            std::iter::repeat_with(|| limits.connection(Asker::STRANGER)).take(3).flatten().collect();
        assert!(own.is_empty());
        let master = master().await;
        let masters: Vec<_> = (0..MASTERS).map(|_| limits.connection(master).expect("room")).collect();
        assert!(limits.connection(master).is_none());
        drop((taken, masters));
        assert!(limits.connection(Asker::STRANGER).is_some() && limits.connection(master).is_some());
    }

    #[tokio::test]
    async fn who_is_turned_away_takes_nobody_s_place() {
        let limits = Limits::default();
        let told: Vec<_> = std::iter::repeat_with(|| limits.turn_away()).map_while(|leave| leave).collect();
        assert_eq!(told.len(), TURNED_AWAY);
        let master = master().await;
        let masters: Vec<_> = (0..MASTERS).map(|_| limits.connection(master).expect("room")).collect();
        assert_eq!(masters.len(), MASTERS);
    }

    #[tokio::test]
    async fn strangers_take_turns_and_root_does_not_wait_for_them() {
        let limits = Limits::default();
        let begin = Instant::now();
        for _ in 0..4 {
            limits.turn(Asker::STRANGER).await;
        }
        assert!(begin.elapsed() >= 3 * PAUSE, "{:?}", begin.elapsed());
        let waiting = limits.clone();
        let _waits = tokio::spawn(async move { waiting.turn(Asker::STRANGER).await });
        tokio::task::yield_now().await;
        // It would be a few milliseconds at worst, and not a minute.
        let turns = async {
            for _ in 0..10_000 {
                limits.turn(master().await).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), turns).await.expect("no pause");
    }
}
