//! The table of cases: what the maps say, which frames come in, and what becomes of each.
//!
//! A case is a script against a [`Plane`], so that a later frame can depend on an earlier answer (a NAT port). What is
//! expected is worked out by `etherparse` from the frame that went in. After every frame [`Script`] checks what must
//! always hold, and writes down verdict, bytes and maps: the runners compare these transcripts. A case is played in each
//! of its settings: a mode of forwarding, and a family.

mod adverts;
mod balancing;
mod claims;
mod closing;
mod direct;
mod errors;
mod events;
mod fencing;
mod fragmented;
mod handshake;
pub mod host_sockets;
mod hostile;
mod icmp;
mod invariants;
mod limits;
mod links;
mod malformed;
mod nat_ports;
mod pass;
mod rebuilt;
mod resets;
mod script;
mod settings;
mod severed;
mod shares;
mod time;
mod tunnels;
mod unusual;
mod virtual_mac;

use crate::plane::{Plane, World};

pub use self::{
    invariants::{
        check_bystander, check_ended_and_rebuilt, check_events, check_flows, check_outcome, check_sightings,
        describe, flags_are_sane,
    },
    script::{Connection, Script, Step},
    settings::Setting,
};

/// A case.
#[derive(Clone, Copy)]
pub struct Case {
    group: &'static str,
    name: &'static str,
    /// What it says, in words.
    pub sentence: &'static str,
    settings: &'static [Setting],
    setting: Setting,
    world: fn(Setting) -> World,
    script: fn(&mut Script<'_>),
}

impl Case {
    /// With full NAT, of either family.
    const fn new(
        name: &'static str,
        sentence: &'static str,
        world: fn(Setting) -> World,
        script: fn(&mut Script<'_>),
    ) -> Self {
        Self { group: "", name, sentence, settings: settings::NAT, setting: Setting::NAT, world, script }
    }

    /// Of IPv4 alone: it is about bytes that only IPv4 has.
    const fn v4(
        name: &'static str,
        sentence: &'static str,
        world: fn(Setting) -> World,
        script: fn(&mut Script<'_>),
    ) -> Self {
        Self::new(name, sentence, world, script).on(&[Setting::NAT])
    }

    /// The same in several settings.
    const fn on(self, settings: &'static [Setting]) -> Self {
        Self { settings, ..self }
    }

    /// A few words that identify it, its setting included.
    pub fn name(&self) -> String {
        if self.settings.len() == 1 {
            format!("{}: {}", self.group, self.name)
        } else {
            format!("{}: {} ({})", self.group, self.name, self.setting.name())
        }
    }

    /// What the maps say before the first frame.
    pub fn world(&self) -> World {
        (self.world)(self.setting)
    }

    /// Plays the case and returns what happened.
    ///
    /// # Panics
    ///
    /// Where something else happens than the case says.
    pub fn play(&self, plane: &mut dyn Plane) -> Vec<Step> {
        let world = self.world();
        plane.reset(&world);
        let mut script = Script::new(plane, world, self.setting);
        (self.script)(&mut script);
        let transcript = script.into_transcript();
        assert!(!transcript.is_empty(), "a case has a frame");
        transcript
    }
}

/// Every case, in each of its settings.
pub fn all() -> impl Iterator<Item = Case> {
    let groups = [
        ("pass", pass::CASES),
        ("malformed", malformed::CASES),
        ("handshake", handshake::CASES),
        ("closing", closing::CASES),
        ("nat ports", nat_ports::CASES),
        ("resets", resets::CASES),
        ("time", time::CASES),
        ("fencing", fencing::CASES),
        ("direct", direct::CASES),
        ("links", links::CASES),
        ("unusual", unusual::CASES),
        ("fragmented", fragmented::CASES),
        ("icmp", icmp::CASES),
        ("tunnels", tunnels::CASES),
        ("errors", errors::CASES),
        ("balancing", balancing::CASES),
        ("limits", limits::CASES),
        ("host sockets", host_sockets::CASES),
        ("hostile", hostile::CASES),
        ("adverts", adverts::CASES),
        ("claims", claims::CASES),
        ("virtual mac", virtual_mac::CASES),
        ("severed", severed::CASES),
        ("rebuilt", rebuilt::CASES),
        ("events", events::CASES),
        ("shares", shares::CASES),
    ];
    let cases = groups.into_iter().flat_map(|(group, cases)| cases.iter().map(move |case| (group, case)));
    cases.flat_map(|(group, case)| case.settings.iter().map(move |&setting| Case { group, setting, ..*case }))
}
