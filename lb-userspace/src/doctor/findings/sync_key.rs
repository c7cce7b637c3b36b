//! `sync-key`: who may read the key that the nodes share.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "sync-key";
/// The bits of everybody but the owner, and of the group all but reading: it is the daemon's own where that is not root.
const OTHERS: u32 = 0o037;

/// By owner and mode of `sync.key_file`.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(sync) = &facts.config.sync else {
        return Vec::new();
    };
    let file = sync.key_file.display();
    vec![match &facts.host.sync_key {
        Some(Ok(mode)) if mode.mode & OTHERS != 0 || mode.owner != 0 => Finding::problem(
            ID,
            format!("{file} has mode {:o} and is user {}'s", mode.mode, mode.owner),
            "whoever has the key can read every connection's addresses and make some up",
        )
        .remedy(format!("chown root:xvip {file} && chmod 640 {file}")),
        Some(Ok(_)) => Finding::fine(ID, format!("{file} is root's, and of its group, alone")),
        Some(Err(why)) => Finding::unseen(ID, &file.to_string(), why),
        None => Finding::unseen(ID, &file.to_string(), "it was not looked for"),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::model::{Sync, SyncKeys},
        doctor::{
            Severity,
            facts::FileMode,
            findings::healthy::{facts, fine, one},
        },
    };

    fn with_sync(facts: &mut Facts) {
        facts.config.sync = Some(Sync {
            listen: "172.16.0.2:7946".parse().expect("an address"),
            peers: Vec::new(),
            key_file: "/etc/xvip/sync.key".into(),
            keys: SyncKeys::new(vec![vec![7; 32]]).expect("a key"),
            bandwidth: 200,
        });
    }

    #[test]
    fn the_key_is_root_s_alone() {
        fine(judge, with_sync);
        for (mode, owner) in [(0o660, 0), (0o604, 0), (0o600, 1000)] {
            let found = one(judge, |facts| {
                with_sync(facts);
                facts.host.sync_key = Some(Ok(FileMode { mode, owner }));
            });
            assert_eq!(found.severity, Severity::Problem, "{mode:o}");
        }
        assert!(judge(&facts()).is_empty());
    }
}
