//! Who had a NAT port at a time: what the log says, and the flow tables. Pure: lines and flows come in.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    moment::Moment,
    record::{Connection, Ended, Record, RecordKind, time_of, time_text},
};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The port that a backend saw.
    pub nat_port: u16,
    /// When.
    pub at: Moment,
    /// How far the clocks of the two machines may be apart, in milliseconds.
    pub slack: u64,
    /// Only connections to this backend: its name, or its address, with or without port.
    pub backend: Option<String>,
}

/// A flow that there is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// Address and port of the client.
    pub client: SocketAddr,
    /// VIP and port.
    pub vip: SocketAddr,
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// Its address and port.
    pub backend_address: SocketAddr,
    /// Address and port that the backend sees.
    pub nat_port: u16,
    /// When it was opened, milliseconds since 1970; to a second, or so.
    pub opened: u64,
}

/// What `xvip who --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Answer {
    /// The port that was asked for.
    pub nat_port: u16,
    /// The beginning of the time that was asked for: RFC 3339 in UTC, as all times here.
    pub from: String,
    /// Its end, which is not part of it: as far away as the time was exact.
    pub to: String,
    /// Who had the port then, at one backend or another; those that only come near within `--slack` are last.
    pub connections: Vec<Found>,
    /// When the log begins; null where there is none.
    pub log_begins: Option<String>,
    /// Lines of the log that are no records.
    pub unreadable_lines: u64,
    /// What the answer may lack, in words.
    pub notes: Vec<String>,
}

/// A connection that had the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Found {
    /// Address and port of the client.
    pub client: SocketAddr,
    /// The service's name.
    pub service: String,
    /// VIP and port that it connected to.
    pub vip: SocketAddr,
    /// The backend's name.
    pub backend: String,
    /// Its address and port; null where that is not known any more.
    pub backend_address: Option<SocketAddr>,
    /// The port that the backend saw.
    pub nat_port: u16,
    /// The address that goes with it; null where only the flow table was asked.
    pub nat_address: Option<IpAddr>,
    /// When it was opened.
    pub opened: String,
    /// When it ended; null while it is open, and where the log has no end of it.
    pub closed: Option<String>,
    /// How it ended, as in the log; null likewise.
    pub ended: Option<Ended>,
    /// Whether it is open now.
    pub open: bool,
    /// Where this is from.
    pub source: Origin,
    /// How far it is from the time that was asked for, in milliseconds; 0: it had the port then.
    pub off_by_ms: u64,
}

/// Where something is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The connection log.
    Log,
    /// The flow table alone.
    FlowTable,
}

/// A search through the log, a line after the other.
#[derive(Debug)]
pub struct Search {
    question: Question,
    /// What each line of interest has.
    needle: String,
    open: HashMap<(SocketAddr, SocketAddr, u32), Connection>,
    found: Vec<Found>,
    begins: Option<u64>,
    unreadable: u64,
}

impl Search {
    /// Nothing read yet.
    pub fn new(question: Question) -> Self {
        let needle = format!("\"nat_port\":{}", question.nat_port);
        Self { question, needle, open: HashMap::new(), found: Vec::new(), begins: None, unreadable: 0 }
    }

    /// Takes the next line of the log, the oldest first.
    pub fn line(&mut self, line: &[u8]) {
        let may_be_meant = std::str::from_utf8(line).is_ok_and(|line| line.contains(&self.needle));
        if !may_be_meant && self.begins.is_some() {
            // Nobody writes half a line at the end of another one.
            self.unreadable +=
                u64::from(!(line.is_empty() || line.starts_with(b"{") && line.ends_with(b"}")));
            return;
        }
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            self.unreadable += u64::from(!line.is_empty());
            return;
        };
        let Some(time) = time_of(&record.time) else {
            self.unreadable += 1;
            return;
        };
        self.begins = self.begins.or(Some(time));
        let connection = record.connection;
        if connection.nat_port != Some(self.question.nat_port) || !self.is_wanted(&connection) {
            return;
        }
        let key = (connection.client, connection.vip, connection.flow_clock);
        match (record.record, record.end) {
            (RecordKind::Start, _) => {
                self.open.insert(key, connection);
            }
            (RecordKind::End, end) => {
                self.open.remove(&key);
                let ended = end.map_or(Ended::Unknown, |end| end.ended);
                self.add(&connection, Some((time, ended)), false, Origin::Log);
            }
        }
    }

    /// All that was found, with the flows that there are now.
    pub fn finish(mut self, flows: &[LiveFlow], now: u64) -> Answer {
        let open = std::mem::take(&mut self.open);
        let mut known = Vec::new();
        for connection in open.into_values() {
            let flow = flows.iter().find(|flow| {
                flow.client == connection.client
                    && flow.vip == connection.vip
                    && Some(flow.nat_port) == connection.nat_port
                    && connection.backend_address.is_none_or(|address| address == flow.backend_address)
            });
            known.extend(flow.map(|flow| (flow.client, flow.vip)));
            self.add(&connection, None, flow.is_some(), Origin::Log);
        }
        for flow in flows {
            let is_wanted = flow.nat_port == self.question.nat_port
                && is_backend(&self.question, &flow.backend, Some(flow.backend_address))
                && !known.contains(&(flow.client, flow.vip));
            // One of these is in the log with its end, if that was only a moment ago.
            let has_ended = self.found.iter().any(|found| {
                found.client == flow.client
                    && found.vip == flow.vip
                    && found.closed.is_some()
                    && time_of(&found.opened).is_some_and(|opened| opened.abs_diff(flow.opened) < 3000)
            });
            if is_wanted && !has_ended {
                self.add_flow(flow);
            }
        }
        let Self { question, mut found, begins, unreadable, .. } = self;
        found.sort_by(|one, other| {
            (one.off_by_ms, &one.opened, one.client).cmp(&(other.off_by_ms, &other.opened, other.client))
        });
        let mut notes = Vec::new();
        match begins {
            None => notes.push(
                "there is no connection log: only connections that are open now are known (service.connection_log)"
                    .to_owned(),
            ),
            Some(begins) if question.at.from < begins => notes.push(format!(
                "the log begins at {}: of what had ended before, nothing is known",
                time_text(begins)
            )),
            Some(_) => {}
        }
        if question.at.from > now {
            notes.push("this time is yet to come".to_owned());
        }
        if found.iter().any(|found| !found.open && found.closed.is_none()) {
            notes.push(
                "where no end is shown, the log has none, and no such connection was found open".to_owned(),
            );
        }
        Answer {
            nat_port: question.nat_port,
            from: time_text(question.at.from),
            to: time_text(question.at.to),
            connections: found,
            log_begins: begins.map(time_text),
            unreadable_lines: unreadable,
            notes,
        }
    }

    fn is_wanted(&self, connection: &Connection) -> bool {
        is_backend(&self.question, &connection.backend, connection.backend_address)
    }

    /// Adds a connection that had the port at the time, or nearly.
    fn add(&mut self, connection: &Connection, end: Option<(u64, Ended)>, is_open: bool, source: Origin) {
        let opened = time_of(&connection.opened).unwrap_or_default();
        let Some(off_by_ms) = self.off_by(opened, end.map(|(at, _)| at)) else { return };
        self.found.push(Found {
            client: connection.client,
            service: connection.service.clone(),
            vip: connection.vip,
            backend: connection.backend.clone(),
            backend_address: connection.backend_address,
            nat_port: self.question.nat_port,
            nat_address: connection.nat_address,
            opened: connection.opened.clone(),
            closed: end.map(|(at, _)| time_text(at)),
            ended: end.map(|(_, ended)| ended),
            open: is_open,
            source,
            off_by_ms,
        });
    }

    fn add_flow(&mut self, flow: &LiveFlow) {
        let Some(off_by_ms) = self.off_by(flow.opened, None) else { return };
        self.found.push(Found {
            client: flow.client,
            service: flow.service.clone(),
            vip: flow.vip,
            backend: flow.backend.clone(),
            backend_address: Some(flow.backend_address),
            nat_port: flow.nat_port,
            nat_address: None,
            opened: time_text(flow.opened),
            closed: None,
            ended: None,
            open: true,
            source: Origin::FlowTable,
            off_by_ms,
        });
    }

    /// How far a connection is from the time that was asked for; `None`: too far.
    fn off_by(&self, opened: u64, closed: Option<u64>) -> Option<u64> {
        let Question { at, slack, .. } = &self.question;
        let before = (opened + 1).saturating_sub(at.to);
        let after = closed.map_or(0, |closed| at.from.saturating_sub(closed));
        let off = before.max(after);
        (off <= *slack).then_some(off)
    }
}

fn is_backend(question: &Question, name: &str, address: Option<SocketAddr>) -> bool {
    question.backend.as_ref().is_none_or(|wanted| {
        let is_address = address
            .is_some_and(|address| wanted.parse() == Ok(address) || wanted.parse() == Ok(address.ip()));
        wanted == name || is_address
    })
}

#[cfg(test)]
mod tests;
