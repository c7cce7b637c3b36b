//! Listens for peers, lets in who has a key, and takes what they tell.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    codec::{Telling, telling},
    connection::{Ended, Piece, Side, USER_TIMEOUT, answered, converse, first_message, within},
    node::{EntryId, Shared},
    noise::{Framer, Psk, Secure},
    status::Refused,
};

/// Who connects has to show a key and to greet within that.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Connections that may be without a handshake: from strangers, and from addresses of peers, which strangers cannot use up.
const WAITING: usize = 16;
/// The next try to listen.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// The pause after an error of accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 64;
/// The pause between two slices of long work, in which all other connections are served.
const BREATH: Duration = Duration::from_millis(1);

/// Listens for ever.
pub async fn run(node: Shared, address: SocketAddr) {
    let waiting = [Rc::new(Cell::new(0)), Rc::new(Cell::new(0))];
    let mut complained = None;
    loop {
        let listener = match bind(address) {
            Ok(listener) => listener,
            Err(error) => {
                let error = error.to_string();
                if complained.as_ref() != Some(&error) {
                    warn!(%address, %error, "cannot listen for peers: trying again");
                    complained = Some(error.clone());
                }
                node.borrow_mut().listening(Err(error));
                sleep(LISTEN_AGAIN).await;
                continue;
            }
        };
        node.borrow_mut().listening(Ok(address));
        // There is no error of accept that a new socket would mend.
        loop {
            match listener.accept().await {
                Ok((stream, from)) => admit(&node, stream, from, &waiting),
                Err(error) => {
                    debug!(%error, "a connection was not accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

/// An address that the node does not have (yet) will do: whoever brings it up need not tell us.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A place among those that wait for their handshake.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(waiting: &Rc<Cell<usize>>) -> Option<Self> {
        let taken = waiting.get();
        (taken < WAITING).then(|| {
            waiting.set(taken + 1);
            Self(waiting.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn admit(node: &Shared, stream: TcpStream, from: SocketAddr, waiting: &[Rc<Cell<usize>>; 2]) {
    let ip = from.ip().to_canonical();
    let expected = node.borrow().settings.peers.iter().any(|peer| peer.ip() == ip);
    let [strangers, peers] = waiting;
    match Place::take(if expected { peers } else { strangers }) {
        Some(place) => {
            tokio::task::spawn_local(serve(node.clone(), stream, from, place));
        }
        None => node.borrow_mut().refuse(None, from, Refused::TooMany, Instant::now()),
    }
}

async fn serve(node: Shared, stream: TcpStream, from: SocketAddr, place: Place) {
    let met = within(HANDSHAKE, meet(&node, stream, from.ip())).await;
    drop(place);
    let Met { stream, secure, framer, key, id } = match met {
        Ok(met) => met,
        Err(ended) => {
            let why = match ended {
                Ended::Refused(why) => why,
                _ => Refused::Abandoned,
            };
            return node.borrow_mut().refuse(None, from, why, Instant::now());
        }
    };
    let changed = Rc::new(Notify::new());
    let greeted = node.borrow_mut().greeted(id, changed.clone(), Instant::now());
    let Some(session) = greeted else { return };
    let mut side = Receiving { node: node.clone(), id, session, key };
    let ended = converse(stream, secure, framer, &mut side, &changed).await;
    let now = Instant::now();
    let mut node = node.borrow_mut();
    node.hung_up(id, session, now);
    if let Ended::Refused(why) = ended {
        node.refuse(Some(id), from, why, now);
    }
}

/// A connection whose other end is known.
struct Met {
    stream: TcpStream,
    secure: Secure,
    framer: Framer,
    key: Psk,
    id: EntryId,
}

/// Until this is through, nothing that has come in has changed anything.
async fn meet(node: &Shared, mut stream: TcpStream, from: IpAddr) -> Result<Met, Ended> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keys = node.borrow().keys.clone();
    let (mut secure, key) = answered(&mut stream, &keys).await?;
    let key = *keys.get(key).ok_or(Ended::Refused(Refused::WrongKey))?;
    let mut framer = Framer::default();
    let first = first_message(&mut stream, &mut secure, &mut framer).await?;
    let Telling::Hello(hello) = telling(&first).map_err(Ended::Refused)? else {
        return Err(Ended::Refused(Refused::Malformed));
    };
    let node = node.borrow();
    if hello.instance == node.ours.hello.instance {
        return Err(Ended::Refused(Refused::Ourselves));
    }
    let (id, _) = node.named(hello.listen, from).ok_or(Ended::Refused(Refused::NotAPeer))?;
    Ok(Met { stream, secure, framer, key, id })
}

/// The end of a connection on which a peer sends.
struct Receiving {
    node: Shared,
    id: EntryId,
    session: u64,
    key: Psk,
}

impl Side for Receiving {
    fn received(&mut self, now: Instant, message: &[u8]) -> Result<(), Ended> {
        let told = self.node.borrow_mut().told(self.id, self.session, message, now);
        told.ok_or(Ended::Unwanted)?.map_err(Ended::Refused)
    }

    fn next_message(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut node = self.node.borrow_mut();
        let incoming = node.entry(self.id)?.0.incoming.as_mut()?;
        if incoming.session != self.session {
            return None;
        }
        incoming.receiver.next_message(now)
    }

    fn works(&mut self) {
        self.node.borrow_mut().retire_some(self.id, self.session);
    }

    fn wake_at(&mut self, now: Instant) -> Result<Instant, Ended> {
        let mut node = self.node.borrow_mut();
        if !node.keys.contains(&self.key) {
            return Err(Ended::Unwanted);
        }
        let (entry, ..) = node.entry(self.id).ok_or(Ended::Unwanted)?;
        let incoming = entry.incoming.as_ref().filter(|incoming| incoming.session == self.session);
        let receiver = &incoming.ok_or(Ended::Unwanted)?.receiver;
        if receiver.is_dead(now) {
            return Err(Ended::Silent);
        }
        let wake = receiver.wake_at();
        Ok(if receiver.is_retiring() { wake.min(now + BREATH) } else { wake })
    }

    fn starts_walk(&mut self) -> Option<mpsc::Receiver<Piece>> {
        None
    }

    fn has_room(&mut self) -> bool {
        false
    }

    fn piece(&mut self, _now: Instant, _piece: Option<Piece>) {}

    fn moved(&mut self, received: usize, _sent: usize) {
        if let Some((entry, ..)) = self.node.borrow_mut().entry(self.id) {
            entry.receiving.bytes += received as u64;
        }
    }
}
