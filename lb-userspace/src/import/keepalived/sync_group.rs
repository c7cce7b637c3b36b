//! `vrrp_sync_group`.

use super::{keywords::Context, reading::Reading, tree::Directive};
use crate::import::{
    incumbent::{RouterHook, RouterTrack},
    ledger::Fate,
    source::{At, Place},
};

/// A group as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    name: At<String>,
    members: Vec<(String, Place)>,
    tracks: Vec<RouterTrack>,
    hooks: Vec<RouterHook>,
}

impl Reading<'_, '_> {
    /// Reads a `vrrp_sync_group`.
    pub fn sync_group(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        self.exact(directive.place, format!("vrrp.sync_group = {:?}", name.value));
        let mut group = SyncGroup { name, members: Vec::new(), tracks: Vec::new(), hooks: Vec::new() };
        for item in directive.items() {
            match item.name() {
                "group" => {
                    self.needs_block(item);
                    self.notes.say(item.place, Fate::Exact, "", "see its lines");
                    for line in item.items() {
                        self.takes_no_block(line);
                        group.members.extend(line.words.iter().map(|word| (word.text.clone(), word.place)));
                    }
                }
                "track_interface" | "track_script" | "track_file" | "track_process" | "track_bfd" => {
                    let tracks = self.tracks(item);
                    group.tracks.extend(tracks);
                }
                "notify_master" | "notify_backup" | "notify_fault" | "notify_stop" | "notify"
                | "notify_deleted" => {
                    if let Some(hook) = self.hook(item, &group.hooks) {
                        group.hooks.push(hook);
                    }
                }
                _ => self.known(item, Context::SyncGroup),
            }
        }
        self.sync_groups.push(group);
    }

    /// Gives the groups' members what the groups track and run: a group's hooks go to its first instance, since all of
    /// them change together.
    pub fn join_groups(&mut self, groups: Vec<SyncGroup>) -> Vec<(At<String>, Vec<String>)> {
        let mut joined = Vec::new();
        for group in groups {
            let mut members = Vec::new();
            for (member, place) in group.members {
                let Some(draft) = self.instances.iter_mut().find(|draft| draft.name() == member) else {
                    self.notes.not_needed(
                        place,
                        format!("there is no vrrp_instance {member:?}: keepalived ignores it"),
                    );
                    continue;
                };
                self.notes.exact(place, format!("vrrp.sync_group = {:?}", group.name.value));
                if members.contains(&member) {
                    continue;
                }
                // What one instance of a group tracks counts for all of them.
                if members.is_empty() {
                    draft.tracks.extend(group.tracks.iter().cloned());
                    draft.hooks.extend(group.hooks.iter().cloned());
                }
                members.push(member);
            }
            if members.is_empty() {
                self.notes.not_needed(group.name.place, "keepalived ignores a group without instances");
            } else {
                joined.push((group.name, members));
            }
        }
        joined
    }
}
