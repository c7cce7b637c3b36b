//! One connection: bytes between a socket and whoever speaks on it.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{sleep_until, timeout},
};

use super::{
    noise::{Call, Framer, HANDSHAKE_LEN, Psk, Secure, answer, frame},
    record::{FlowRecord, StoreError},
    status::Refused,
};

/// The kernel gives a connection up whose bytes have not arrived for so long.
pub const USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that wait for the socket, more or less.
const OUT: usize = 64 * 1024;
/// How often the other side's pulse is felt while the socket takes nothing.
const FEEL: Duration = Duration::from_millis(100);

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side has closed it.
    #[error("closed by the peer")]
    Closed,
    /// The other side has closed it instead of answering.
    #[error(
        "closed by the peer during the handshake: are the keys the same, and is this node among its peers?"
    )]
    Unanswered,
    /// Nothing has been heard for too long.
    #[error("silent for too long")]
    Silent,
    /// It was refused.
    #[error("refused: {}", .0.text())]
    Refused(Refused),
    /// It is not wanted any more.
    #[error("the configuration is another")]
    Unwanted,
}

/// A part of a walk over all flows.
pub enum Piece {
    /// Some flows.
    Records(Vec<FlowRecord>),
    /// The end.
    End(Result<(), StoreError>),
}

/// Whoever speaks on a connection. Nothing here waits.
pub trait Side {
    /// Takes a message; an error ends the connection.
    fn received(&mut self, now: Instant, message: &[u8]) -> Result<(), Ended>;
    /// The next message to send.
    fn next_message(&mut self, now: Instant) -> Option<Vec<u8>>;
    /// Goes on with what takes long, by some milliseconds; called once each time the connection has been served.
    fn works(&mut self) {}
    /// When to ask for it again. An error ends the connection, as when the other side is dead.
    fn wake_at(&mut self, now: Instant) -> Result<Instant, Ended>;
    /// A walk begins: where its pieces come from.
    fn starts_walk(&mut self) -> Option<mpsc::Receiver<Piece>>;
    /// Whether the next piece is welcome.
    fn has_room(&mut self) -> bool;
    /// The next piece; None where the walk has died.
    fn piece(&mut self, now: Instant, piece: Option<Piece>);
    /// Bytes that came and went.
    fn moved(&mut self, received: usize, sent: usize);
}

/// Makes the handshake of the side that dials.
///
/// # Errors
/// There is nobody with the key.
pub async fn call(stream: &mut TcpStream, psk: &Psk) -> Result<Secure, Ended> {
    let (call, first) = Call::new(psk).map_err(|error| io::Error::other(error.to_string()))?;
    let mut wire = Vec::new();
    frame(&first, &mut wire);
    stream.write_all(&wire).await?;
    let second = handshake_frame(stream).await.map_err(|ended| match ended {
        Ended::Closed => Ended::Unanswered,
        Ended::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Ended::Unanswered,
        other => other,
    })?;
    call.answered(&second).map_err(Ended::Refused)
}

/// Makes the handshake of the side that is called; also gives the index of the key.
///
/// # Errors
/// It is nobody with a key.
pub async fn answered(stream: &mut TcpStream, keys: &[Psk]) -> Result<(Secure, usize), Ended> {
    let first = handshake_frame(stream).await?;
    let (secure, second, key) = answer(keys, &first).map_err(Ended::Refused)?;
    let mut wire = Vec::new();
    frame(&second, &mut wire);
    stream.write_all(&wire).await?;
    Ok((secure, key))
}

/// Until somebody has shown a key, he may send this much and no more.
async fn handshake_frame(stream: &mut TcpStream) -> Result<[u8; HANDSHAKE_LEN], Ended> {
    let mut length = [0; 2];
    read_exact(stream, &mut length).await?;
    if usize::from(u16::from_be_bytes(length)) != HANDSHAKE_LEN {
        return Err(Ended::Refused(Refused::WrongKey));
    }
    let mut bytes = [0; HANDSHAKE_LEN];
    read_exact(stream, &mut bytes).await?;
    Ok(bytes)
}

async fn read_exact(stream: &mut TcpStream, bytes: &mut [u8]) -> Result<(), Ended> {
    match stream.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Ended::Closed),
        Err(error) => Err(Ended::Io(error)),
    }
}

/// Waits for the first message after the handshake; what has come behind it stays in `framer`.
///
/// # Errors
/// It is not authentic, or does not come.
pub async fn first_message(
    stream: &mut TcpStream,
    secure: &mut Secure,
    framer: &mut Framer,
) -> Result<Vec<u8>, Ended> {
    let mut bytes = vec![0; 4096];
    loop {
        while let Some(frame) = framer.next_frame() {
            if let Some(message) = secure.open(frame).map_err(Ended::Refused)? {
                return Ok(message);
            }
        }
        match stream.read(&mut bytes).await? {
            0 => return Err(Ended::Closed),
            length => framer.push(bytes.get(..length).unwrap_or_default()),
        }
    }
}

/// Lets a side speak until the connection ends. `changed` wakes it.
pub async fn converse<S: Side>(
    stream: TcpStream,
    mut secure: Secure,
    mut framer: Framer,
    side: &mut S,
    changed: &Notify,
) -> Ended {
    match conversation(stream, &mut secure, &mut framer, side, changed).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

async fn conversation<S: Side>(
    stream: TcpStream,
    secure: &mut Secure,
    framer: &mut Framer,
    side: &mut S,
    changed: &Notify,
) -> Result<std::convert::Infallible, Ended> {
    let (mut reader, mut writer) = stream.into_split();
    let mut walk: Option<mpsc::Receiver<Piece>> = None;
    let (mut out, mut written) = (Vec::new(), 0);
    let mut bytes = vec![0; OUT];
    loop {
        let now = Instant::now();
        while let Some(frame) = framer.next_frame() {
            if let Some(message) = secure.open(frame).map_err(Ended::Refused)? {
                side.received(now, &message)?;
            }
        }
        while out.len() < OUT
            && let Some(message) = side.next_message(now)
        {
            let before = out.len();
            secure.seal(&message, &mut out).map_err(Ended::Refused)?;
            side.moved(0, out.len() - before);
        }
        side.works();
        walk = side.starts_walk().or(walk);
        let wake = match side.wake_at(now) {
            // It may be this process that did not run: then what was said meanwhile waits in the socket.
            Err(Ended::Silent) => match reader.try_read(&mut bytes) {
                Ok(0) => return Err(Ended::Closed),
                Ok(length) => {
                    side.moved(length, 0);
                    framer.push(bytes.get(..length).unwrap_or_default());
                    continue;
                }
                Err(_) => return Err(Ended::Silent),
            },
            wake => wake?,
        };
        // While the socket takes nothing, what is due must not wake us all the time.
        let wake = if out.is_empty() { wake } else { wake.max(now + FEEL) };
        let room = side.has_room();
        tokio::select! {
            read = reader.read(&mut bytes) => match read? {
                0 => return Err(Ended::Closed),
                length => {
                    side.moved(length, 0);
                    framer.push(bytes.get(..length).unwrap_or_default());
                }
            },
            length = writer.write(out.get(written..).unwrap_or_default()), if !out.is_empty() => {
                written += length?;
                if written >= out.len() {
                    out.clear();
                    written = 0;
                }
            }
            piece = next_piece(&mut walk), if room => {
                if !matches!(piece, Some(Piece::Records(_))) {
                    walk = None;
                }
                side.piece(Instant::now(), piece);
            }
            () = changed.notified() => {}
            () = sleep_until(wake.into()) => {}
        }
    }
}

async fn next_piece(walk: &mut Option<mpsc::Receiver<Piece>>) -> Option<Piece> {
    match walk {
        Some(walk) => walk.recv().await,
        None => None,
    }
}

/// Gives `work` no more than `limit`.
///
/// # Errors
/// Its own, or [`Refused::TooSlow`].
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    timeout(limit, work).await.unwrap_or(Err(Ended::Refused(Refused::TooSlow)))
}
