//! A line of the connection log. Pure; fields are only ever added.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flows::Carried;

/// A line of the connection log. All times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// `start`: when this node began to forward it. `end`: when it ended, or left this node.
    pub time: String,
    /// Which of the two.
    pub record: RecordKind,
    /// What is the same in both.
    #[serde(flatten)]
    pub connection: Connection,
    /// What only an `end` has.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// Which end of a connection a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// Its beginning.
    Start,
    /// Its end.
    End,
}

/// Who is connected with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// Address and port of the client.
    pub client: SocketAddr,
    /// The service's name.
    pub service: String,
    /// VIP and port that the client connected to.
    pub vip: SocketAddr,
    /// The backend's name; its address where the configuration has it no more.
    pub backend: String,
    /// Its address and port; absent where it is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_address: Option<SocketAddr>,
    /// The port that the backend sees as its client's; absent with direct server return, where it sees the client's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_port: Option<u16>,
    /// The address that goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_address: Option<IpAddr>,
    /// How this node came by it.
    pub via: Via,
    /// When it was opened, wherever that was; to some seconds unless `via` is `handshake`.
    pub opened: String,
    /// The flow clock of this node when it was opened, in seconds. Together with `client` and `vip` it says which `end` belongs
    /// to which `start`.
    pub flow_clock: u32,
}

/// How this node came by a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Its handshake was completed through this node.
    Handshake,
    /// It was there when the VIP came from another node.
    TakenOver,
    /// It was made anew from a packet in its middle, after the VIP came from another node.
    Rebuilt,
    /// It was found in the flow table: its beginning was not seen, since the daemon was down, the log was off, or events were lost.
    Found,
}

/// What is known at the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// How it ended.
    pub ended: Ended,
    /// Why xvip reset it: `backend-dead`, `disabled`, `drain-deadline` or `rebalance`; absent otherwise, and where that is not
    /// known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From `opened` to `time`.
    pub duration_ms: u64,
    /// Packets and bytes; absent where the flow was gone before anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<CarriedRecord>,
    /// Whether it has carried no byte of payload, either way.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty: bool,
    /// Whether `time` is only when the end was found out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
}

/// What a connection has carried; bytes with the IP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CarriedRecord {
    /// Packets from the client.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

impl From<Carried> for CarriedRecord {
    fn from(Carried { packets_in, bytes_in, packets_out, bytes_out }: Carried) -> Self {
        Self { packets_in, bytes_in, packets_out, bytes_out }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Both sides closed it; with direct server return, the client did.
    Closed,
    /// By a RST of the client.
    ResetByClient,
    /// By a RST of the backend.
    ResetByBackend,
    /// By us; `reason` says why.
    ResetByXvip,
    /// It was silent for longer than `flows.idle_timeout`, or one side closed it and the other did not within 10 minutes.
    Expired,
    /// It goes on at another node: the VIP left this one.
    Moved,
    /// That cannot be told.
    Unknown,
}

impl Ended {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ResetByClient => "reset-by-client",
            Self::ResetByBackend => "reset-by-backend",
            Self::ResetByXvip => "reset-by-xvip",
            Self::Expired => "expired",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Milliseconds since 1970 as the log writes them; a time that no calendar has is the beginning.
pub fn time_text(ms: u64) -> String {
    let last_of_9999 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(last_of_9999));
    humantime::format_rfc3339_millis(time).to_string()
}

/// Milliseconds since 1970 of a time that the log has.
pub fn time_of(text: &str) -> Option<u64> {
    humantime::parse_rfc3339(text).ok().map(milliseconds)
}

/// Milliseconds since 1970; 0 before.
pub fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn start() -> Record {
        Record {
            time: time_text(1_767_323_045_678),
            record: RecordKind::Start,
            connection: Connection {
                client: ([10, 0, 0, 7], 50_000).into(),
                service: "api".to_owned(),
                vip: ([172, 16, 0, 10], 6443).into(),
                backend: "master1".to_owned(),
                backend_address: Some(([172, 16, 0, 4], 6443).into()),
                nat_port: Some(50_000),
                nat_address: Some([172, 16, 0, 10].into()),
                via: Via::Handshake,
                opened: time_text(1_767_323_045_678),
                flow_clock: 77,
            },
            end: None,
        }
    }

    #[test]
    fn the_form_of_a_line() {
        let start = start();
        let written = serde_json::to_value(&start).expect("JSON");
        let expected = json!({
            "time": "2026-01-02T03:04:05.678Z", "record": "start", "client": "10.0.0.7:50000", "service": "api",
            "vip": "172.16.0.10:6443", "backend": "master1", "backend_address": "172.16.0.4:6443", "nat_port": 50_000,
            "nat_address": "172.16.0.10", "via": "handshake", "opened": "2026-01-02T03:04:05.678Z", "flow_clock": 77,
        });
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<Record>(written).expect("read"), start);

        let end = End {
            ended: Ended::ResetByXvip,
            reason: Some("backend-dead".to_owned()),
            duration_ms: 12,
            carried: Some(CarriedRecord { packets_in: 1, bytes_in: 2, packets_out: 3, bytes_out: 4 }),
            empty: false,
            late: false,
        };
        let end = Record { record: RecordKind::End, end: Some(end), ..start };
        let written = serde_json::to_value(&end).expect("JSON");
        assert_eq!(written["ended"], "reset-by-xvip");
        assert_eq!(written["carried"]["bytes_out"], 4);
        assert!(written.get("empty").is_none() && written.get("late").is_none(), "{written}");
        assert_eq!(serde_json::from_value::<Record>(written).expect("read"), end);
    }

    #[test]
    fn the_words_of_the_end_are_those_of_the_json() {
        for ended in [
            Ended::Closed,
            Ended::ResetByClient,
            Ended::ResetByBackend,
            Ended::ResetByXvip,
            Ended::Expired,
            Ended::Moved,
            Ended::Unknown,
        ] {
            assert_eq!(serde_json::to_value(ended).expect("JSON"), ended.name());
        }
    }

    #[test]
    fn times_come_back_and_no_number_is_too_large() {
        assert_eq!(time_of(&time_text(1_767_323_045_678)), Some(1_767_323_045_678));
        assert_eq!(time_text(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(time_of("yesterday"), None);
    }
}
