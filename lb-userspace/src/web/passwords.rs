//! Whether a name and a password belong together. A comparison costs 20 MiB and some ten milliseconds on purpose, so that few of
//! them run at once, and who tries often has to wait.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::sleep};

use super::{attempts::Attempts, source::Source};
use crate::{config::model::HttpUser, password};

/// So many comparisons at the same time.
const AT_ONCE: usize = 2;
/// So many more wait for them; whoever comes then is turned away.
const WAITING: usize = 16;
/// A wrong password is answered no sooner.
const WRONG_TAKES: Duration = Duration::from_secs(1);
/// What `curl --user` and Prometheus send with each request is not compared each time.
const KNOWN_FOR: Duration = Duration::from_secs(300);
/// So many names and passwords are known that way.
const KNOWN: usize = 64;
/// Longer passwords are nobody's.
const LONGEST: usize = 1024;

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such user, or it has another password; which of the two is not told.
    Wrong,
    /// There were too many wrong ones from there.
    Wait(Duration),
    /// Too many others are just being looked at.
    Busy,
}

/// Compares passwords.
#[derive(Debug)]
pub struct Passwords {
    comparing: Semaphore,
    waiting: Semaphore,
    attempts: Mutex<Attempts>,
    known: Mutex<Known>,
}

/// Pairs of name and password that were right: only what a key of this process makes of them.
#[derive(Debug)]
struct Known {
    key: Option<hmac::Key>,
    users: HashMap<Vec<u8>, (HttpUser, Instant)>,
}

impl Default for Passwords {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
        Self {
            comparing: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(AT_ONCE + WAITING),
            attempts: Mutex::default(),
            known: Mutex::new(Known { key, users: HashMap::new() }),
        }
    }
}

impl Passwords {
    /// The user with this name and this password.
    ///
    /// # Errors
    /// Why it is none.
    pub async fn check(
        &self,
        users: &[HttpUser],
        name: &str,
        password: &str,
        source: Source,
    ) -> Result<HttpUser, Refusal> {
        let Ok(_place) = self.waiting.try_acquire() else { return Err(Refusal::Busy) };
        locked(&self.attempts).begin(source, Instant::now()).map_err(Refusal::Wait)?;
        let named = users.iter().find(|user| user.name == name);
        // For a name that nobody has, another one's: it takes as long.
        let compared = named.or(users.first()).filter(|_| password.len() <= LONGEST);
        let is_right = match compared {
            Some(user) => {
                let _turn = self.comparing.acquire().await.map_err(|_| Refusal::Busy)?;
                let (password, hash) = (password.to_owned(), user.password_hash.clone());
                spawn_blocking(move || password::verify(&password, &hash)).await.unwrap_or(false)
            }
            None => false,
        };
        match named.filter(|_| is_right) {
            Some(user) => {
                locked(&self.attempts).succeeded(source);
                Ok(user.clone())
            }
            None => {
                sleep(WRONG_TAKES).await;
                Err(Refusal::Wrong)
            }
        }
    }

    /// The same for who sends both with each request.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn check_again(
        &self,
        users: &[HttpUser],
        name: &str,
        password: &str,
        source: Source,
    ) -> Result<HttpUser, Refusal> {
        let tag = locked(&self.known).tag(name, password);
        if let Some(tag) = &tag
            && let Some(user) = locked(&self.known).find(tag, users, Instant::now())
        {
            return Ok(user);
        }
        let user = self.check(users, name, password, source).await?;
        if let Some(tag) = tag {
            locked(&self.known).learn(tag, user.clone(), Instant::now());
        }
        Ok(user)
    }
}

impl Known {
    fn tag(&self, name: &str, password: &str) -> Option<Vec<u8>> {
        let mut text = name.as_bytes().to_vec();
        text.push(b':');
        text.extend_from_slice(password.as_bytes());
        Some(hmac::sign(self.key.as_ref()?, &text).as_ref().to_vec())
    }

    /// Only who is in the configuration as then, with the rights of now.
    fn find(&mut self, tag: &[u8], users: &[HttpUser], now: Instant) -> Option<HttpUser> {
        let (known, until) = self.users.get(tag)?;
        let same = |user: &&HttpUser| user.name == known.name && user.password_hash == known.password_hash;
        let user = users.iter().find(same).filter(|_| *until > now).cloned();
        if user.is_none() {
            self.users.remove(tag);
        }
        user
    }

    fn learn(&mut self, tag: Vec<u8>, user: HttpUser, now: Instant) {
        self.users.retain(|_, (_, until)| *until > now);
        if self.users.len() < KNOWN {
            self.users.insert(tag, (user, now + KNOWN_FOR));
        }
    }
}

/// 256 random bits, in hexadecimal. `None` where the kernel has none.
pub fn random() -> Option<String> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What is behind a lock is whole also where somebody panicked with it.
pub fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::config::model::Role;

    fn source(number: u8) -> Source {
        Source::from(IpAddr::from([192, 0, 2, number]))
    }

    fn users() -> Vec<HttpUser> {
        let user = |name: &str, password: &str, role| HttpUser {
            name: name.to_owned(),
            password_hash: password::cheap_hash(password),
            role,
        };
        vec![user("ann", "right", Role::Admin), user("bob", "other", Role::Viewer)]
    }

    #[tokio::test(start_paused = true)]
    async fn only_name_and_password_together_let_somebody_in() {
        let (passwords, users) = (Passwords::default(), users());
        let long = "x".repeat(LONGEST + 1);
        for (number, (name, password)) in
            [("ann", "other"), ("bob", "right"), ("nobody", "right"), ("ann", ""), ("", ""), ("ann", &long)]
                .into_iter()
                .enumerate()
        {
            let begun = tokio::time::Instant::now();
            let found = passwords.check(&users, name, password, source(number as u8)).await;
            assert_eq!(found, Err(Refusal::Wrong), "{name} {password}");
            assert!(begun.elapsed() >= WRONG_TAKES);
        }
        let begun = tokio::time::Instant::now();
        let found = passwords.check(&users, "bob", "other", source(99)).await.expect("let in");
        assert_eq!((found.name.as_str(), found.role), ("bob", Role::Viewer));
        assert!(begun.elapsed() < WRONG_TAKES);
        assert_eq!(passwords.check(&[], "ann", "right", source(99)).await, Err(Refusal::Wrong));
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_has_to_wait_also_with_the_right_one() {
        let (passwords, users) = (Passwords::default(), users());
        for _ in 0..5 {
            assert_eq!(passwords.check(&users, "ann", "wrong", source(1)).await, Err(Refusal::Wrong));
        }
        let refused = passwords.check(&users, "ann", "right", source(1)).await;
        assert!(matches!(refused, Err(Refusal::Wait(_))), "{refused:?}");
        assert!(passwords.check(&users, "ann", "right", source(2)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_turned_away() {
        let (passwords, users) = (Arc::new(Passwords::default()), Arc::new(users()));
        let guesses: Vec<_> = (0..40)
            .map(|number| {
                let (passwords, users) = (Arc::clone(&passwords), Arc::clone(&users));
                tokio::spawn(async move { passwords.check(&users, "ann", "no", source(number)).await })
            })
            .collect();
        let mut busy = 0;
        for guess in guesses {
            busy += usize::from(guess.await.expect("ended") == Err(Refusal::Busy));
        }
        assert_eq!(busy, 40 - AT_ONCE - WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_right_is_known_until_the_user_changes() {
        let (passwords, mut users) = (Passwords::default(), users());
        for _ in 0..3 {
            assert!(passwords.check_again(&users, "ann", "right", source(1)).await.is_ok());
        }
        assert_eq!(locked(&passwords.known).users.len(), 1);
        users[0].role = Role::Viewer;
        let found = passwords.check_again(&users, "ann", "right", source(1)).await.expect("let in");
        assert_eq!(found.role, Role::Viewer, "the role of now");
        users[0].password_hash = password::cheap_hash("changed");
        assert_eq!(passwords.check_again(&users, "ann", "right", source(1)).await, Err(Refusal::Wrong));
        assert_eq!(passwords.check_again(&users, "bob", "right", source(1)).await, Err(Refusal::Wrong));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_password_is_nobody_s() {
        let longest = "x".repeat(LONGEST);
        let endless = format!("{longest}x");
        let mut users = users();
        users[0].password_hash = password::cheap_hash(&longest);
        users[1].password_hash = password::cheap_hash(&endless);
        let passwords = Passwords::default();
        assert!(passwords.check(&users, "ann", &longest, source(1)).await.is_ok());
        assert_eq!(passwords.check(&users, "bob", &endless, source(1)).await, Err(Refusal::Wrong));
    }

    #[test]
    fn what_is_known_ends_and_is_bounded() {
        let mut known = Known { key: None, users: HashMap::new() };
        let (users, begin) = (users(), Instant::now());
        let bob = |known: &mut Known, tag: &[u8], now| known.find(tag, &users, now).map(|user| user.name);
        known.learn(vec![0], users[1].clone(), begin);
        let last = begin + KNOWN_FOR - Duration::from_millis(1);
        assert_eq!(bob(&mut known, &[0], last), Some("bob".to_owned()));
        assert_eq!(bob(&mut known, &[1], last), None);
        assert_eq!(bob(&mut known, &[0], begin + KNOWN_FOR), None);
        // No more than there is room for, and room again when they have ended.
        for tag in 0..=KNOWN {
            known.learn(vec![tag as u8], users[1].clone(), begin);
        }
        assert_eq!(bob(&mut known, &[KNOWN as u8 - 1], last), Some("bob".to_owned()));
        assert_eq!((bob(&mut known, &[KNOWN as u8], last), known.users.len()), (None, KNOWN));
        known.learn(vec![KNOWN as u8], users[1].clone(), begin + KNOWN_FOR);
        assert_eq!(known.users.len(), 1);
    }

    #[test]
    fn random_words_are_long_and_differ() {
        let words = [random().expect("random"), random().expect("random")];
        assert_ne!(words[0], words[1]);
        assert!(
            words.iter().all(|word| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
        );
    }
}
