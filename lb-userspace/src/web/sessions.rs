//! Who has logged in. Pure: identifiers and the time are arguments.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::config::model::{HttpUser, Role};

/// So many sessions at the same time; then the oldest ends.
const ALL: usize = 256;
/// So many of one user.
const OF_ONE: usize = 16;

/// The name of a session, which whoever knows it has logged in with; and the word that each of its forms repeats, which a
/// page of somebody else does not know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// In the cookie.
    pub id: String,
    /// In the forms.
    pub token: String,
}

/// What a user is told on the next page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What was done, or why it was not.
    pub lines: Vec<String>,
    /// Whether it went wrong.
    pub is_error: bool,
}

#[derive(Debug)]
struct Session {
    user: HttpUser,
    token: String,
    begun: Instant,
    until: Instant,
    message: Option<Message>,
}

/// Somebody who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The user's name.
    pub name: String,
    /// What the configuration in force says of this user.
    pub role: Role,
    /// What each form of this session has to say.
    pub token: String,
}

/// The sessions that there are.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: HashMap<String, Session>,
}

impl Sessions {
    /// Begins one.
    pub fn open(&mut self, secrets: Secrets, user: &HttpUser, now: Instant, lifetime: Duration) {
        self.by_id.retain(|_, session| session.until > now);
        while let Some(id) = self.one_too_many(user) {
            self.by_id.remove(&id);
        }
        let Secrets { id, token } = secrets;
        // A lifetime is bounded; where the clock is not, the session is over at once.
        let until = now.checked_add(lifetime).unwrap_or(now);
        self.by_id.insert(id, Session { user: user.clone(), token, begun: now, until, message: None });
    }

    /// Which session has to end before this user can have one more.
    fn one_too_many(&self, user: &HttpUser) -> Option<String> {
        let of_user = |session: &Session| session.user.name == user.name;
        let crowded = self.by_id.values().filter(|session| of_user(session)).count() >= OF_ONE;
        if !crowded && self.by_id.len() < ALL {
            return None;
        }
        let candidates = self.by_id.iter().filter(|(_, session)| !crowded || of_user(session));
        candidates.min_by_key(|(_, session)| session.begun).map(|(id, _)| id.clone())
    }

    /// Whose session it is. One whose user has another password by now, or is gone, is over.
    pub fn find(&mut self, id: &str, users: &[HttpUser], now: Instant) -> Option<LoggedIn> {
        let session = self.by_id.get(id)?;
        let user = users.iter().find(|user| is_same(user, &session.user));
        match user.filter(|_| session.until > now) {
            Some(user) => {
                Some(LoggedIn { name: user.name.clone(), role: user.role, token: session.token.clone() })
            }
            None => {
                self.by_id.remove(id);
                None
            }
        }
    }

    /// Ends one.
    pub fn close(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    /// Ends those whose users have another password by now, or are gone.
    pub fn keep_users(&mut self, users: &[HttpUser]) {
        self.by_id.retain(|_, session| users.iter().any(|user| is_same(user, &session.user)));
    }

    /// What the next page shows.
    pub fn tell(&mut self, id: &str, message: Message) {
        if let Some(session) = self.by_id.get_mut(id) {
            session.message = Some(message);
        }
    }

    /// The same, on that page.
    pub fn told(&mut self, id: &str) -> Option<Message> {
        self.by_id.get_mut(id)?.message.take()
    }
}

/// A role may change during a session, which then has the new one.
fn is_same(user: &HttpUser, of_session: &HttpUser) -> bool {
    user.name == of_session.name && user.password_hash == of_session.password_hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn user(name: &str, hash: &str, role: Role) -> HttpUser {
        HttpUser { name: name.to_owned(), password_hash: hash.to_owned(), role }
    }

    fn secrets(number: usize) -> Secrets {
        Secrets { id: format!("id {number}"), token: format!("token {number}") }
    }

    #[test]
    fn a_session_is_its_user_s_until_it_is_over() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let users = [user("ann", "h1", Role::Admin), user("bob", "h2", Role::Viewer)];
        sessions.open(secrets(1), &users[0], now, HOUR);
        let found = sessions.find("id 1", &users, now).expect("there");
        assert_eq!((found.name.as_str(), found.role, found.token.as_str()), ("ann", Role::Admin, "token 1"));
        assert_eq!(sessions.find("id 2", &users, now), None);
        assert_eq!(sessions.find("token 1", &users, now), None);
        assert!(sessions.find("id 1", &users, now + HOUR - Duration::from_nanos(1)).is_some());
        assert_eq!(sessions.find("id 1", &users, now + HOUR), None);
        sessions.open(secrets(3), &users[1], now, HOUR);
        sessions.close("id 3");
        assert_eq!(sessions.find("id 3", &users, now), None);
    }

    #[test]
    fn a_reload_ends_the_sessions_of_changed_users_and_no_other() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let users = ["ann", "bob", "cid"].map(|name| user(name, "h", Role::Viewer));
        for (number, user) in users.iter().enumerate() {
            sessions.open(secrets(number), user, now, HOUR);
        }
        let changed = [user("ann", "h", Role::Admin), user("bob", "other", Role::Viewer)];
        sessions.keep_users(&changed);
        assert_eq!(sessions.by_id.len(), 1);
        assert_eq!(sessions.find("id 0", &changed, now).map(|found| found.role), Some(Role::Admin));
        assert_eq!(sessions.find("id 1", &changed, now), None);
    }

    #[test]
    fn the_oldest_sessions_make_room() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let users: Vec<HttpUser> = (0..40).map(|n| user(&format!("u{n}"), "h", Role::Viewer)).collect();
        for number in 0..20 {
            sessions.open(secrets(number), &users[0], now + Duration::from_millis(number as u64), HOUR);
        }
        let now = now + Duration::from_secs(1);
        let alive: Vec<bool> =
            (0..20).map(|number| sessions.find(&format!("id {number}"), &users, now).is_some()).collect();
        assert_eq!(alive, [[false; 4].as_slice(), &[true; 16]].concat());
        for number in 20..1000 {
            let when = now + Duration::from_millis(number as u64);
            sessions.open(secrets(number), &users[number % 40], when, HOUR);
        }
        assert_eq!(sessions.by_id.len(), ALL);
        assert!(sessions.find("id 999", &users, now).is_some());
        let later = now + 2 * HOUR;
        sessions.open(secrets(1000), &users[0], later, HOUR);
        assert_eq!(sessions.by_id.len(), 1, "what is over takes no room");
    }

    #[test]
    fn a_message_is_told_once() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        sessions.open(secrets(1), &user("ann", "h", Role::Admin), now, HOUR);
        let message = Message { lines: vec!["done".to_owned()], is_error: false };
        sessions.tell("id 1", message.clone());
        sessions.tell("id 2", message.clone());
        assert_eq!(
            (sessions.told("id 1"), sessions.told("id 1"), sessions.told("id 2")),
            (Some(message), None, None)
        );
    }
}
