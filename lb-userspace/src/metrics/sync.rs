//! The exchange of flows with the other nodes. A peer is named by its address, which is known before it has said its name.

use super::family::{Family, Measure, address_of, seconds_of_ms};
use crate::{
    status::{Status, word},
    sync::{record::Applied, status::PeerStatus},
};

const STATES: [&str; 4] = ["down", "connecting", "joining", "up"];
const ONLY: &str = "with `[sync]`";
const OF_PEER: &[&str] = &["peer"];

fn each(status: &Status, mut tell: impl FnMut(&str, &PeerStatus)) {
    for peer in status.sync.iter().flat_map(|sync| &sync.peers) {
        tell(&peer.address.to_string(), peer);
    }
}

pub(super) const FAMILIES: &[Family] = &[
    Family::gauge("sync_listening", "Whether the node listens for its peers", &[], |status, out| {
        if let Some(sync) = &status.sync {
            out.add(&[], sync.listening.is_some());
        }
    })
    .only(ONLY),
    Family::gauge("sync_synced", "Whether every reachable peer has given its flows", &[], |status, out| {
        if let Some(sync) = &status.sync {
            out.add(&[], sync.synced);
        }
    })
    .only(ONLY),
    Family::counter("sync_events", "Changes of flows that the data plane has told", &[], |status, out| {
        if let Some(sync) = &status.sync {
            out.add(&[], sync.events);
        }
    })
    .only(ONLY),
    Family::counter(
        "sync_lost_events",
        "Changes of flows that the data plane could not tell; all flows are sent again then",
        &[],
        |status, out| {
            if let Some(sync) = &status.sync {
                out.add(&[], sync.lost_events);
            }
        },
    )
    .only(ONLY),
    Family::counter(
        "sync_refused",
        "Connections and messages from nobody known that were refused, by reason",
        &["reason"],
        |status, out| {
            for (reason, count) in status.sync.iter().flat_map(|sync| &sync.refused) {
                out.add(&[&word(reason)], *count);
            }
        },
    )
    .only("with `[sync]`, for reasons that there were refusals for"),
    Family::info("sync_peer", "A peer; `node` is empty until it has said its name", &["peer", "node"], |status, out| {
        each(status, |address, peer| out.add(&[address, peer.node.as_deref().unwrap_or_default()], true));
    })
    .only(ONLY),
    Family::gauge(
        "sync_peer_sending_state",
        "The connection on which this node sends, one series for each state, 1 for the one that is so: down, connecting, \
         joining (all flows are sent), up",
        &["peer", "state"],
        |status, out| each(status, |address, peer| out.states(&[address], &STATES, &word(&peer.sending.state))),
    )
    .only(ONLY),
    Family::gauge(
        "sync_peer_receiving",
        "Whether the peer is connected to send its flows",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.receiving.connected)),
    )
    .only(ONLY),
    Family::gauge(
        "sync_peer_complete",
        "Whether the peer has given all its flows on this connection",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.receiving.complete)),
    )
    .only(ONLY),
    Family::gauge(
        "sync_peer_lag",
        "How old the oldest change is that the peer has not acknowledged; 0 if there is none",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], seconds_of_ms(peer.sending.lag_ms))),
    )
    .of(Measure::Seconds)
    .only(ONLY),
    Family::gauge(
        "sync_peer_lag_median",
        "The median of what the last acknowledged changes took",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], seconds_of_ms(peer.sending.lag_p50_ms))),
    )
    .of(Measure::Seconds)
    .only(ONLY),
    Family::gauge(
        "sync_peer_lag_max",
        "The longest that a change took to be acknowledged since the connection is up",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], seconds_of_ms(peer.sending.lag_max_ms))),
    )
    .of(Measure::Seconds)
    .only(ONLY),
    Family::gauge("sync_peer_queued_flows", "Flows whose changes wait to be sent", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.sending.queued));
    })
    .only(ONLY),
    Family::counter(
        "sync_peer_overflows",
        "How often the queue overflowed, and all flows were sent instead",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.sending.overflows)),
    )
    .only(ONLY),
    Family::counter("sync_peer_sent_records", "Records sent", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.sending.sent));
    })
    .only(ONLY),
    Family::counter("sync_peer_sent", "Bytes sent on the wire", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.sending.bytes));
    })
    .of(Measure::Bytes)
    .only(ONLY),
    Family::counter("sync_peer_sent_full_syncs", "How often all flows were sent", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.sending.full_syncs));
    })
    .only(ONLY),
    Family::counter("sync_peer_received_records", "Records received", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.receiving.received));
    })
    .only(ONLY),
    Family::counter("sync_peer_received", "Bytes received on the wire", OF_PEER, |status, out| {
        each(status, |address, peer| out.add(&[address], peer.receiving.bytes));
    })
    .of(Measure::Bytes)
    .only(ONLY),
    Family::counter(
        "sync_peer_received_full_syncs",
        "How often all flows were received",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.receiving.full_syncs)),
    )
    .only(ONLY),
    Family::counter(
        "sync_peer_applied_records",
        "What became of the records received: inserted, updated, kept, or not used and why",
        &["peer", "outcome"],
        |status, out| {
            each(status, |address, peer| {
                for outcome in Applied::ALL {
                    let count = peer.receiving.applied.get(&outcome).copied().unwrap_or(0);
                    out.add(&[address, &word(&outcome)], count);
                }
            });
        },
    )
    .only(ONLY),
    Family::counter(
        "sync_peer_retired_flows",
        "Flows forgotten because the holder of their VIP does not have them",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.receiving.retired)),
    )
    .only(ONLY),
    Family::counter(
        "sync_peer_refused",
        "Messages and connections of the peer that were refused, or this node's by it, by reason",
        &["peer", "reason"],
        |status, out| {
            each(status, |address, peer| {
                for (reason, count) in &peer.refused {
                    out.add(&[address, &word(reason)], *count);
                }
            });
        },
    )
    .only("with `[sync]`, for reasons that there were refusals for"),
    Family::gauge(
        "sync_peer_drift",
        "How many parts of the peer's configuration differ from this node's",
        OF_PEER,
        |status, out| each(status, |address, peer| out.add(&[address], peer.drift.len())),
    )
    .only(ONLY),
    Family::gauge(
        "sync_peer_vip_held",
        "Whether the peer says that it has the VIP; 0 while it does not send",
        &["peer", "vip"],
        |status, out| {
            each(status, |address, peer| {
                for vip in status.vrrp.iter().flat_map(|vrrp| &vrrp.vips) {
                    let vip = address_of(vip);
                    out.add(&[address, vip], peer.holds.iter().any(|held| held.to_string() == vip));
                }
            });
        },
    )
    .only(ONLY),
];
