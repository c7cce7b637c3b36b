//! Watch streams that a test keeps open to see whose connections survive. Every line of each is checked by the
//! client.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use lb_tests::measure::{ClientProcess, StreamState};
use lb_tests::topology::Lab;
use lb_tests::wait;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
pub const SOON: Duration = Duration::from_secs(60);
/// A stream without a line for so long is broken. The servers send one every 200 ms.
const SILENCE: Duration = Duration::from_secs(5);

/// Open watch streams at the VIP.
pub struct Streams {
    /// Their client.
    pub client: ClientProcess,
    /// Where each was opened.
    pub servers: BTreeMap<u32, String>,
}

impl Streams {
    /// Opens so many and waits for the first line of each.
    pub fn open(lab: &Lab, count: u32) -> Result<Self, Box<dyn Error>> {
        let client = lab.watch(None, count, SILENCE)?;
        wait::until("a line on each stream", SOON, || {
            let streams = client.streams();
            streams.len() == count as usize && streams.values().all(|stream| stream.lines > 0)
        })?;
        let name = |(number, stream): (u32, StreamState)| Some((number, stream.server?));
        let servers = client.streams().into_iter().filter_map(name).collect();
        Ok(Self { client, servers })
    }

    /// Waits until everyone of them that was opened at a server of which `watched` is true has delivered two more
    /// lines, and fails if one of these has ever broken. Returns how many there are.
    pub fn go_on_at(&self, watched: impl Fn(&str) -> bool) -> Result<usize, Box<dyn Error>> {
        let before = self.client.streams();
        let ours = || self.servers.iter().filter(|(_, server)| watched(server)).map(|(number, _)| number);
        wait::until("two more lines on each stream", SOON, || {
            let now = self.client.streams();
            ours()
                .all(|number| !now[number].broken.is_empty() || now[number].lines >= before[number].lines + 2)
        })?;
        let now = self.client.streams();
        let broken: Vec<_> = ours().filter(|number| !now[number].broken.is_empty()).collect();
        if let Some(first) = broken.first() {
            let why = &now[first].broken[0].1;
            return Err(format!(
                "{} of {} streams broke, the first with: {why}",
                broken.len(),
                ours().count()
            )
            .into());
        }
        Ok(ours().count())
    }

    /// The same for all streams.
    pub fn go_on(&self) -> Result<usize, Box<dyn Error>> {
        self.go_on_at(|_| true)
    }
}
