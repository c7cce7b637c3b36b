//! What `[sync]` has to do with the services, and with itself.

use std::{collections::HashSet, net::SocketAddr};

use crate::config::{
    model::{MAX_SYNC_PEERS, Mode},
    reader::Reader,
    schema::{ServiceDraft, SyncDraft},
};

pub(super) fn check(reader: &Reader<'_>, services: &[ServiceDraft], sync: &SyncDraft) {
    addresses(reader, services, sync);
    of_use(reader, services, sync);
}

fn addresses(reader: &Reader<'_>, services: &[ServiceDraft], sync: &SyncDraft) {
    let is_vip = |address: &SocketAddr| {
        let vips = services.iter().filter_map(|service| service.vip.as_ref());
        vips.map(|vip| &vip.value).find(|vip| vip.address == address.ip())
    };
    if let Some(listen) = &sync.listen
        && let Some(vip) = is_vip(&listen.value)
    {
        let message = format!("`listen` is on the VIP {}, which moves between the nodes", vip.address);
        reader.error(&listen.place, message, "write: listen = an address of this node alone, and a port");
    }
    let Some(peers) = &sync.peers else { return };
    if peers.value.is_empty() {
        reader.error(
            &peers.place,
            "`peers` is empty",
            "write: peers = [\"172.16.0.3:7946\"], or remove [sync]",
        );
    }
    if peers.value.len() > MAX_SYNC_PEERS {
        let message =
            format!("`peers` has {} addresses, and {MAX_SYNC_PEERS} are the most", peers.value.len());
        reader.error(&peers.place, message, "write: peers = the nodes that share VIPs with this one");
    }
    let mut seen = HashSet::new();
    for spanned in &peers.value {
        let (peer, place) = (spanned.get_ref(), &peers.place.part(spanned.span()));
        if !seen.insert(*peer) {
            reader.error(place, format!("`peers` has {peer} twice"), "remove one of the two");
        }
        if sync.listen.as_ref().is_some_and(|listen| listen.value == *peer) {
            let message = format!("`peers` has {peer}, which is this node's own `listen`");
            reader.error(place, message, "write: peers = the other nodes alone");
        }
        if let Some(vip) = is_vip(peer) {
            let message =
                format!("`peers` has {peer}, on the VIP {}, which moves between the nodes", vip.address);
            reader.error(place, message, "write: peers = addresses of the nodes themselves");
        }
        if peer.ip().is_unspecified() {
            let message = format!("`peers` has {peer}, which is no node's address");
            reader.error(place, message, "write: peers = addresses of the nodes themselves");
        }
    }
}

fn of_use(reader: &Reader<'_>, services: &[ServiceDraft], sync: &SyncDraft) {
    let known = services.iter().all(|service| service.mode.is_some());
    if known
        && !services.iter().any(|service| service.mode.as_ref().is_some_and(|mode| mode.value == Mode::Nat))
    {
        let message = "no service is of mode \"nat\": the others survive a failover without [sync], as long as the nodes' \
                       backends and weights are the same";
        reader.warning(&sync.place, message, "remove [sync], or keep it for the time when backends change");
    }
}
