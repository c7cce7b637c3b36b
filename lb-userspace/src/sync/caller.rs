//! Dials a peer, again and again, and sends on the connection.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Notify, mpsc},
    time::sleep_until,
};
use tracing::{debug, warn};

use super::{
    codec::{Hello, MAX_RECORDS},
    connection::{Ended, Piece, Side, USER_TIMEOUT, call, converse, within},
    node::{EntryId, Shared},
    noise::{Framer, Psk, Secure},
    record::{FlowRecord, FlowStore},
    status::Refused,
};

/// What TCP may take, and after it the handshake.
const CONNECT: Duration = Duration::from_secs(1);
/// Pieces of a walk that wait to be sent; the walk waits when there are more.
const PIECES: usize = 4;

/// Runs until the peer is none any more.
pub async fn run(node: Shared, id: EntryId) {
    loop {
        let now = Instant::now();
        let (address, dial, wake, changed) = {
            let mut node = node.borrow_mut();
            let Some((entry, ..)) = node.entry(id) else { return };
            (entry.address, entry.peer.dial(now), entry.peer.wake_at(now), entry.changed.clone())
        };
        if dial {
            let ended = once(&node, id, address, &changed).await;
            finish(&node, id, &ended);
            continue;
        }
        let wake = wake.unwrap_or(now + CONNECT);
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(wake.into()) => {}
        }
    }
}

async fn once(node: &Shared, id: EntryId, address: SocketAddr, changed: &Rc<Notify>) -> Ended {
    let (key, hello) = {
        let node = node.borrow();
        (node.keys.first().copied(), node.ours.hello.clone())
    };
    let Some(key) = key else { return Ended::Unwanted };
    let (stream, secure) = match dialled(address, hello.listen, &key).await {
        Ok(connection) => connection,
        Err(ended) => return ended,
    };
    {
        let mut node = node.borrow_mut();
        let Some((entry, ours, _)) = node.entry(id) else { return Ended::Unwanted };
        entry.peer.connected(Instant::now(), ours);
    }
    let mut side = Sending { node: node.clone(), id, key, hello };
    converse(stream, secure, Framer::default(), &mut side, changed).await
}

async fn dialled(address: SocketAddr, listen: SocketAddr, key: &Psk) -> Result<(TcpStream, Secure), Ended> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    // The peer gives those that call from a peer's address places of their own.
    if !listen.ip().is_unspecified() && listen.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(listen.ip(), 0))?;
    }
    let mut stream = within(CONNECT, async { Ok(socket.connect(address).await?) }).await.map_err(away)?;
    let secure = within(CONNECT, call(&mut stream, key)).await.map_err(away)?;
    Ok((stream, secure))
}

/// Who is slow to answer us is not refused: he may be away.
fn away(ended: Ended) -> Ended {
    match ended {
        Ended::Refused(Refused::TooSlow) => Ended::Io(io::ErrorKind::TimedOut.into()),
        ended => ended,
    }
}

fn finish(node: &Shared, id: EntryId, ended: &Ended) {
    let now = Instant::now();
    let mut node = node.borrow_mut();
    let Some((entry, ..)) = node.entry(id) else { return };
    let (address, reached) = (entry.address, entry.peer.is_reached());
    let ended = if matches!(ended, Ended::Closed) && !reached { &Ended::Unanswered } else { ended };
    if !reached {
        debug!(peer = %address, reason = %ended, "the peer cannot be reached");
    }
    entry.peer.closed(now, ended.to_string());
    if let Ended::Refused(why) = ended {
        node.refuse(Some(id), address, *why, now);
    }
}

/// The end of a connection on which this node sends.
struct Sending {
    node: Shared,
    id: EntryId,
    key: Psk,
    hello: Hello,
}

impl Side for Sending {
    fn received(&mut self, now: Instant, message: &[u8]) -> Result<(), Ended> {
        let mut node = self.node.borrow_mut();
        let (entry, ..) = node.entry(self.id).ok_or(Ended::Unwanted)?;
        entry.peer.received(now, message).map_err(Ended::Refused)
    }

    fn next_message(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut node = self.node.borrow_mut();
        let (entry, ours, store) = node.entry(self.id)?;
        entry.peer.next_message(now, ours, store)
    }

    fn wake_at(&mut self, now: Instant) -> Result<Instant, Ended> {
        let mut node = self.node.borrow_mut();
        if !node.keys.contains(&self.key) || node.ours.hello != self.hello {
            return Err(Ended::Unwanted);
        }
        let (entry, ..) = node.entry(self.id).ok_or(Ended::Unwanted)?;
        if entry.peer.is_dead(now) {
            return Err(Ended::Silent);
        }
        entry.peer.wake_at(now).ok_or(Ended::Unwanted)
    }

    fn starts_walk(&mut self) -> Option<mpsc::Receiver<Piece>> {
        let mut node = self.node.borrow_mut();
        if !node.entry(self.id)?.0.peer.starts_walk() {
            return None;
        }
        let (pieces, walk) = mpsc::channel(PIECES);
        let started = match node.factory.open() {
            Ok(store) => walk_on_a_thread(store, pieces).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = started {
            warn!(error, "the flows cannot be walked over");
            node.store_error(Some(error));
        }
        // Where nothing has started, its end comes at once, without a piece.
        Some(walk)
    }

    fn has_room(&mut self) -> bool {
        let mut node = self.node.borrow_mut();
        node.entry(self.id).is_some_and(|(entry, ..)| entry.peer.has_room())
    }

    fn piece(&mut self, now: Instant, piece: Option<Piece>) {
        let mut node = self.node.borrow_mut();
        let ended = match piece {
            Some(Piece::Records(records)) => {
                if let Some((entry, ..)) = node.entry(self.id) {
                    entry.peer.walked(records);
                }
                return;
            }
            Some(Piece::End(ended)) => ended.map_err(|error| Some(error.to_string())),
            None => Err(None),
        };
        if let Some((entry, ..)) = node.entry(self.id) {
            entry.peer.walk_ended(ended.is_ok(), now);
        }
        match ended {
            Ok(()) => node.store_error(None),
            Err(Some(error)) => {
                warn!(error, "a walk over the flows has failed: again in a second");
                node.store_error(Some(error));
            }
            Err(None) => {}
        }
    }

    fn moved(&mut self, _received: usize, sent: usize) {
        if let Some((entry, ..)) = self.node.borrow_mut().entry(self.id) {
            entry.peer.wrote(sent);
        }
    }
}

/// Walks as fast as the pieces are taken; when nobody takes them any more, without waiting.
fn walk_on_a_thread(store: Box<dyn FlowStore>, pieces: mpsc::Sender<Piece>) -> io::Result<()> {
    let walk = move || {
        let mut records: Vec<FlowRecord> = Vec::with_capacity(MAX_RECORDS);
        let ended = store.walk(&mut |record| {
            records.push(record);
            if records.len() == MAX_RECORDS {
                let full = std::mem::replace(&mut records, Vec::with_capacity(MAX_RECORDS));
                // Nobody listens any more when the connection has ended: the rest of the walk costs little.
                let _ = pieces.blocking_send(Piece::Records(full));
            }
        });
        if !records.is_empty() {
            let _ = pieces.blocking_send(Piece::Records(records));
        }
        let _ = pieces.blocking_send(Piece::End(ended));
    };
    std::thread::Builder::new().name("xvip-sync-walk".to_owned()).spawn(walk)?;
    Ok(())
}
