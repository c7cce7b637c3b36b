//! The heartbeat and the flow clock, written by a thread of its own.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use lb_common::layout::PulseEntry;
use nix::time::{ClockId, clock_gettime};

use super::{DataplaneError, in_map, maps_path};

/// Writes the `PULSE` map. The flow clock goes on from where the map was: flows have time stamps of it.
pub struct PulseWriter {
    pulse: Array<MapData, PulseEntry>,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    heartbeat_ns: u64,
    /// The flow clock, in seconds, at `since`.
    base: u32,
    since: Instant,
}

impl PulseWriter {
    pub(super) fn open(maps_path: &Path, base: u32, since: Instant) -> Result<Self, DataplaneError> {
        let data = MapData::from_pin(maps_path.join("PULSE")).map_err(in_map("PULSE"))?;
        let pulse: Array<_, PulseEntry> = Array::try_from(Map::Array(data)).map_err(in_map("PULSE"))?;
        let heartbeat_ns = pulse.get(&0, 0).map_err(in_map("PULSE"))?.heartbeat_ns;
        Ok(Self { pulse, heartbeat_ns, base, since })
    }

    /// Goes on with what a predecessor with our layout has pinned at `pin_path`, from where its flow clock stands.
    ///
    /// # Errors
    /// Where there is nothing of the kind.
    pub fn go_on(pin_path: &Path, since: Instant) -> Result<Self, DataplaneError> {
        let mut writer = Self::open(&maps_path(pin_path), 0, since)?;
        let clock = writer.pulse.get(&0, 0).map_err(in_map("PULSE"))?.flow_clock;
        writer.base = clock.wrapping_sub(since.elapsed().as_secs() as u32);
        Ok(writer)
    }

    /// Lets the flow clock go on, and with `alive` writes a heartbeat of now.
    ///
    /// # Errors
    /// Where the clock cannot be read or the map cannot be written.
    pub fn write(&mut self, alive: bool) -> Result<(), DataplaneError> {
        if alive {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(DataplaneError::Clock)?;
            self.heartbeat_ns = Duration::from(now).as_nanos() as u64;
        }
        // Wraps after a century and more.
        let flow_clock = self.base.wrapping_add(self.since.elapsed().as_secs() as u32);
        self.pulse
            .set(0, PulseEntry { heartbeat_ns: self.heartbeat_ns, flow_clock, _pad: 0 }, 0)
            .map_err(in_map("PULSE"))
    }
}
