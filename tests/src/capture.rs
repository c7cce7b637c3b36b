//! What passed an interface, as `tcpdump` recorded it, and whether `tshark` finds anything wrong with it.
//!
//! A capture on a machine's own interface does not see what its XDP program receives or sends; one at the switch's end
//! of the cable (`p-lb1` on [`Lab::switch`]) sees both.
//!
//! [`Lab::switch`]: crate::topology::Lab::switch

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, DaemonError};
use crate::netns::Netns;
use crate::topology::Lab;
use crate::wait;

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes; nothing in the lab is longer, with an MTU of 1500 and segmentation before each cable.
const LONGEST_FRAME: u16 = 2048;

/// Why there is no capture, or no verdict on it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// `tcpdump` could not be started, or did not stop.
    #[error(transparent)]
    Tcpdump(#[from] DaemonError),
    /// `tshark` could not be started.
    #[error("tshark: {0}")]
    Tshark(#[from] io::Error),
    /// `tshark` failed.
    #[error("tshark: {0}")]
    Unreadable(String),
    /// What `tcpdump` says at its end is not understood.
    #[error("tcpdump did not say how much it captured:\n{0}")]
    NoSummary(String),
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Daemon,
    file: PathBuf,
    log: PathBuf,
}

/// A capture that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The frames.
    pub file: PathBuf,
    /// How many frames are in the file.
    pub frames: u64,
    /// How many more passed and were lost by the kernel because `tcpdump` was too slow.
    pub lost: u64,
}

/// A frame that something is wrong with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// Its number in the file, from 1.
    pub number: u64,
    /// One line about the frame.
    pub summary: String,
    /// What `tshark` says is wrong with it.
    pub complaint: String,
}

impl Capture {
    /// Starts to record what passes an interface of a machine, whole frames, as far as `filter` (in the language of
    /// `pcap-filter(7)`; empty: all) selects. It records when this returns.
    ///
    /// # Errors
    /// When `tcpdump` is missing or refuses.
    pub fn start(lab: &Lab, machine: &Netns, interface: &str, filter: &str) -> Result<Self, CaptureError> {
        Self::start_in(lab.dir(), machine, interface, filter)
    }

    /// As [`Capture::start`], with its files in `dir`.
    ///
    /// # Errors
    /// When `tcpdump` is missing or refuses.
    pub fn start_in(
        dir: &Path,
        machine: &Netns,
        interface: &str,
        filter: &str,
    ) -> Result<Self, CaptureError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{interface}-{}", machine.name(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (file, log) = (dir.join(format!("{name}.pcap")), dir.join(format!("{name}.tcpdump.log")));
        let mut command = Command::new("tcpdump");
        command
            // Root stays root, or it could not write into the run's directory. With --immediate-mode each frame has a
            // place of the snapshot length in the kernel's buffer, here 128 MiB.
            .args(["-Z", "root", "-i", interface, "-n", "--immediate-mode", "-B", "131072"])
            .args(["-s", &LONGEST_FRAME.to_string()])
            .arg("-w")
            .arg(&file)
            .args(filter.split_whitespace());
        let mut tcpdump = Daemon::start(machine, "tcpdump", &mut command, &log)?;
        tcpdump.wait_ready("tcpdump to listen", LIMIT, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        })?;
        Ok(Self { tcpdump, file, log })
    }

    /// Ends it; what had passed is in the file.
    ///
    /// # Errors
    /// When `tcpdump` has ended before, does not end, or does not say how much it captured.
    pub fn stop(self) -> Result<Captured, CaptureError> {
        let Self { mut tcpdump, file, log } = self;
        // At SIGTERM it would leave what it has not yet read from the kernel's buffer. SIGUSR1 makes it tell.
        let read = || fs::read_to_string(&log).unwrap_or_default();
        let mut told = 0;
        let caught_up = wait::value("tcpdump to catch up", LIMIT, || {
            let text = read();
            let summaries: Vec<Summary> = text.lines().filter_map(Summary::parse).collect();
            if summaries.get(told).is_some_and(Summary::is_complete) {
                return Some(Ok(()));
            }
            if summaries.len() > told || told == 0 {
                told = summaries.len();
                if let Err(error) = tcpdump.signal(Signal::SIGUSR1) {
                    return Some(Err(error));
                }
            }
            None
        });
        // Traffic that goes on may keep it from that for ever.
        if let Ok(Err(error)) = caught_up {
            return Err(error.into());
        }
        tcpdump.terminate(LIMIT)?;
        let text = read();
        // The last one is spread over three lines.
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(", ");
        let Summary { captured, dropped, .. } =
            Summary::parse(&last).ok_or_else(|| CaptureError::NoSummary(text.clone()))?;
        Ok(Captured { file, frames: captured, lost: dropped })
    }

    /// Ends it and returns the frames that something is wrong with: see [`Captured::bad_frames`].
    ///
    /// # Errors
    /// As [`Capture::stop`] and [`Captured::bad_frames`].
    pub fn check(self) -> Result<Vec<BadFrame>, CaptureError> {
        self.stop()?.bad_frames()
    }
}

/// `N packets captured, N packets received by filter, N packets dropped by kernel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    captured: u64,
    received: u64,
    dropped: u64,
}

impl Summary {
    fn parse(line: &str) -> Option<Self> {
        let line = line.strip_prefix("tcpdump: ").unwrap_or(line);
        let mut counts = line.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        let (captured, received, dropped) = (counts.next()??, counts.next()??, counts.next()??);
        (counts.next().is_none() && line.contains("dropped by")).then_some(Self {
            captured,
            received,
            dropped,
        })
    }

    /// Whether nothing that was received waits to be read.
    fn is_complete(&self) -> bool {
        self.captured + self.dropped >= self.received
    }
}

impl Captured {
    /// The frames with a wrong checksum (IPv4, TCP, UDP, ICMP, ICMPv6, VRRP; in tunnels and ICMP errors, too, as far as
    /// these carry what was summed), malformed ones, those that `tshark` calls an error for another reason, and those
    /// that were too long to be captured whole, so that nobody can tell.
    ///
    /// # Errors
    /// When `tshark` is missing or cannot read the file.
    pub fn bad_frames(&self) -> Result<Vec<BadFrame>, CaptureError> {
        // Linux writes a computed TCP checksum of 0 as 0xffff, as UDP has to (CSUM_MANGLED_0 in skb_checksum_help,
        // kernel 4.x and later); a receiver's sum is the same for both. One packet in 65,536 has it.
        let same = "(tcp.checksum == 0xffff && tcp.checksum_calculated == 0)";
        // Severity 0x800000 is an error; warnings are about resets and retransmissions, which are no mistake.
        let filter = format!(
            "_ws.malformed || (_ws.expert.severity >= 0x800000 && !{same}) || ip.checksum.status == 0 \
             || (tcp.checksum.status == 0 && !{same}) || udp.checksum.status == 0 || icmp.checksum.status == 0 \
             || icmpv6.checksum.status == 0 || vrrp.checksum.status == 0 || frame.cap_len < frame.len"
        );
        let fields = ["frame.number", "_ws.col.Info", "_ws.expert.message"];
        let lines = self.ask(&filter, &[fields.as_slice(), &Quote::FIELDS].concat())?;
        let frame = |line: &String| {
            let mut fields = line.split('\t');
            let number = fields.next().and_then(|number| number.parse().ok())?;
            let mut text = || fields.next().unwrap_or_default().to_owned();
            let frame = BadFrame { number, summary: text(), complaint: text() };
            (!Quote::of(fields).is_cut_short_and_all_else_right()).then_some(frame)
        };
        Ok(lines.iter().filter_map(frame).collect())
    }

    /// The fields of each frame that a display filter of `tshark` selects: one line a frame, separated by tabs.
    /// All checksums have been verified.
    ///
    /// # Errors
    /// When `tshark` is missing, cannot read the file, or does not understand the filter.
    pub fn ask(&self, filter: &str, fields: &[&str]) -> Result<Vec<String>, CaptureError> {
        let mut command = Command::new("tshark");
        // Two passes or reassembled streams would keep a gigabyte in memory.
        for preference in [
            "ip.check_checksum:TRUE",
            "tcp.check_checksum:TRUE",
            "udp.check_checksum:TRUE",
            "tcp.desegment_tcp_streams:FALSE",
            "tcp.analyze_sequence_numbers:FALSE",
        ] {
            command.args(["-o", preference]);
        }
        // What is inside of TCP is not the network's: noise looks like any protocol now and then.
        command.args(["-d", "tcp.port==1-65535,data", "--disable-heuristic", "tls_tcp"]);
        command.args(["-n", "-T", "fields", "-E", "occurrence=a"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.arg("-r").arg(&self.file).args(["-Y", filter]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(CaptureError::Unreadable(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

/// A TCP segment in an ICMP error. Routers cut what they quote (RFC 792, RFC 1812 section 4.3.2.3, RFC 4443 section 3), and
/// `tshark` takes what is left for all of it: it then finds the checksum wrong, and nobody can know.
#[derive(Debug, PartialEq, Eq)]
struct Quote {
    is_cut_short: bool,
    all_else_right: bool,
}

impl Quote {
    /// What [`Quote::of`] wants to know of a frame.
    const FIELDS: [&'static str; 9] = [
        "frame.protocols",
        "ip.len",
        "ipv6.plen",
        "ip.checksum.status",
        "icmp.checksum.status",
        "icmpv6.checksum.status",
        "_ws.malformed",
        "frame.len",
        "frame.cap_len",
    ];

    fn of<'a>(mut fields: impl Iterator<Item = &'a str>) -> Self {
        let mut next = || fields.next().unwrap_or_default();
        let protocols = next();
        let numbers = |list: &str| -> Vec<u32> { list.split(',').filter_map(|n| n.parse().ok()).collect() };
        let (v4, v6) = (numbers(next()), numbers(next()));
        let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
        let mut is_cut_short = false;
        // Bytes that the header before has room for.
        let mut room = None;
        for protocol in protocols.split(':') {
            match protocol {
                "ip" | "ipv6" => {
                    let (headers, length) = if protocol == "ip" {
                        (20, v4.next())
                    } else {
                        (40, v6.next().map(|payload| payload + 40))
                    };
                    let Some(length) = length else { continue };
                    is_cut_short |= room.is_some_and(|room| room < length);
                    room = Some(length.saturating_sub(headers));
                }
                "icmp" | "icmpv6" => room = room.map(|room| room.saturating_sub(8)),
                _ => {}
            }
        }
        let mut all_else_right = protocols.contains("icmp") && protocols.contains(":tcp");
        for _ in 0..3 {
            // Good is 1, bad is 0, unverified 2.
            all_else_right &= !next().split(',').any(|status| status == "0");
        }
        all_else_right &= next().is_empty();
        all_else_right &= next() == next();
        Self { is_cut_short, all_else_right }
    }

    fn is_cut_short_and_all_else_right(&self) -> bool {
        self.is_cut_short && self.all_else_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_whether_all_was_read() {
        let line = "tcpdump: 7 packets captured, 10 packets received by filter, 1 packet dropped by kernel";
        let summary = Summary::parse(line).unwrap();
        assert_eq!(summary, Summary { captured: 7, received: 10, dropped: 1 });
        assert!(!summary.is_complete());
        assert!(Summary { captured: 9, ..summary }.is_complete());
        assert_eq!(Summary::parse("tcpdump: listening on eth0, link-type EN10MB (Ethernet), x"), None);
    }

    #[test]
    fn a_quote_that_was_cut_is_told_from_a_wrong_one() {
        let excused = |line: &str| Quote::of(line.split('|')).is_cut_short_and_all_else_right();
        assert!(excused("eth:ethertype:ip:icmp:ip:tcp|68,60||1,1|1|||82|82"));
        assert!(excused("eth:ethertype:ipv6:icmpv6:ipv6:tcp||68,40|||1||122|122"));
        assert!(!excused("eth:ethertype:ip:icmp:ip:tcp|88,60||1,1|1|||102|102"), "all of it is there");
        assert!(!excused("eth:ethertype:ip:icmp:ip:tcp|68,60||1,1|0|||82|82"), "the error's own checksum");
        assert!(!excused("eth:ethertype:ip:icmp:ip:tcp|68,60||0,1|1|||82|82"), "the header's");
        assert!(!excused("eth:ethertype:ip:tcp|60||1||||74|74"), "no quote");
        // An error in a tunnel.
        assert!(excused("eth:ethertype:ip:ip:icmp:ip:tcp|596,576,1500||1,1,1|1|||610|610"));
        assert!(excused("eth:ethertype:ip:icmp:ip:tcp:data|576,1500||1,1|1|||590|590"));
        assert!(!excused("eth:ethertype:ip:ip:icmp:ip:tcp|108,88,60||1,1,1|1|||122|122"));
    }
}
