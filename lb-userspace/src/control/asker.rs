//! Who is at the other end of a unix socket, as the kernel tells (`SO_PEERCRED`, unix(7)), and what that allows.

use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// `None` where the kernel does not say.
    uid: Option<u32>,
}

impl Asker {
    /// Who was the effective user when the other end connected.
    pub fn of(stream: &UnixStream) -> Self {
        Self { uid: stream.peer_cred().ok().map(|credentials| credentials.uid()) }
    }

    /// Somebody who is neither root nor the daemon's own user: no system has a user of that number.
    #[cfg(test)]
    pub(crate) const STRANGER: Self = Self { uid: Some(u32::MAX - 7) };

    /// Whether that is root, or who the daemon is.
    pub fn is_master(self) -> bool {
        self.is_master_of(Uid::effective())
    }

    fn is_master_of(self, daemon: Uid) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == daemon.as_raw())
    }

    /// The user's name; `on_behalf` is what the client says for whom that is.
    pub async fn name(self, on_behalf: Option<&str>) -> String {
        let name = match self.uid {
            Some(0) => "root".to_owned(),
            Some(uid) => {
                // A directory service may take its time to answer.
                let found = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
                let user = found.ok().and_then(Result::ok).flatten();
                user.map_or_else(|| format!("uid {uid}"), |user| user.name)
            }
            None => "somebody".to_owned(),
        };
        match on_behalf.map(printable).filter(|other| !other.is_empty() && *other != name) {
            Some(other) => format!("{name} ({other})"),
            None => name,
        }
    }
}

/// What can be shown of a name that somebody says.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_has_a_name_and_only_root_and_the_daemon_s_own_are_masters() {
        let root = Asker { uid: Some(0) };
        assert!(root.is_master());
        assert_eq!(root.name(None).await, "root");
        assert_eq!(root.name(Some("ali\nce")).await, "root (alice)");
        assert_eq!(root.name(Some("root")).await, "root");
        assert_eq!(root.name(Some(&"a".repeat(10_000))).await, format!("root ({})", "a".repeat(64)));
        let own = Asker { uid: Some(Uid::effective().as_raw()) };
        assert!(own.is_master());
        let stranger = Asker::STRANGER;
        assert!(!stranger.is_master());
        assert_eq!(stranger.name(None).await, format!("uid {}", u32::MAX - 7));
        let unknown = Asker { uid: None };
        assert!(!unknown.is_master());
        assert_eq!(unknown.name(None).await, "somebody");
    }

    #[test]
    fn root_is_a_master_also_where_the_daemon_is_somebody_else() {
        let daemon = Uid::from_raw(995);
        for (uid, expected) in [(Some(0), true), (Some(995), true), (Some(996), false), (None, false)] {
            assert_eq!(Asker { uid }.is_master_of(daemon), expected, "{uid:?}");
        }
    }

    #[tokio::test]
    async fn the_kernel_says_who_is_at_the_other_end() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert_eq!(Asker::of(&one), Asker { uid: Some(Uid::effective().as_raw()) });
    }
}
