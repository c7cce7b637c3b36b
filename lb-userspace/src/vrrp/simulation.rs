//! Virtual routers on a simulated LAN with a virtual clock: loss, delay, duplication, reordering, partitions, pauses,
//! restarts, planned ones, stepped wall clocks, starved and deaf nodes, dead gateways, sync groups.
//!
//! Every schedule follows from its number. The ordinary run has at least 20,000 of them; the nightly one is
//!
//! ```text
//! XVIP_SCHEDULES=1000000 cargo test --release -p lb-userspace --lib vrrp
//! ```
//!
//! and one that failed is run again alone by what its message says.

use std::{env, thread};

/// Tests of the form "for every schedule", and how many they are.
macro_rules! properties {
    ($($(#[doc = $doc:literal])+ fn $name:ident($schedule:ident) $body:block)+) => {
        pub const COUNT: u64 = [$(stringify!($name)),+].len() as u64;
        $(
            $(#[doc = $doc])+
            #[test]
            fn $name() {
                super::for_every_schedule(stringify!($name), |$schedule: u64| $body);
            }
        )+
    };
}

mod answers;
mod chaos;
mod elections;
mod groups;
mod hand_over;
mod lan;
mod planned;
mod starvation;

/// The schedules of one property in the ordinary run.
const SCHEDULES: u64 = 650;

/// How many properties share the schedules of a nightly run.
const PROPERTIES: u64 = answers::COUNT
    + chaos::COUNT
    + elections::COUNT
    + groups::COUNT
    + hand_over::COUNT
    + planned::COUNT
    + starvation::COUNT;

const _: () = assert!(SCHEDULES * PROPERTIES >= 20_000);

/// Runs `property` for every schedule, or for the one in the environment.
fn for_every_schedule(name: &str, property: impl Fn(u64)) {
    let number = |variable| env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(schedule) = number("XVIP_SCHEDULE") {
        return property(schedule);
    }
    let each = number("XVIP_SCHEDULES").map_or(SCHEDULES, |all| all.div_ceil(PROPERTIES));
    for schedule in 0..each {
        let _named = Named { name, schedule };
        property(schedule);
    }
}

/// Says how to run a failed schedule again.
struct Named<'a> {
    name: &'a str,
    schedule: u64,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self { name, schedule } = self;
            println!(
                "schedule {schedule}; alone: XVIP_SCHEDULE={schedule} cargo test -p lb-userspace --lib {name}"
            );
        }
    }
}
