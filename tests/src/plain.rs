//! A service without TLS, for what TLS would be too slow for or would hide: a gigabyte each way with both ends'
//! hashes, ten thousand short connections, connections that only stay open.
//!
//! A connection carries lines of commands; each is answered with a line that begins with the server's name:
//!
//! | command | answer |
//! |---|---|
//! | `name` | `NAME` |
//! | `upload BYTES`, then that many bytes | `NAME HASH` of what was received |
//! | `download SEED BYTES` | that many bytes of [`Noise`], then `NAME HASH` of what was sent |
//! | `duplex KEY MILLISECONDS` | `NAME`, then [`crate::streams::duplex`] for as long as the connection lives |
//!
//! Whoever reads to the end of its input closes. Hashes are SHA-256, in hexadecimal digits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rustls::crypto::hash::Context as Hash;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client::{Event, monotonic_us, print};
use crate::streams::duplex;

const BLOCK: usize = 256 * 1024;
/// A command or an answer is shorter.
const LONGEST_LINE: u64 = 256;

/// Which way the bytes go, in the client's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the server.
    Upload,
    /// From the server.
    Download,
}

impl Direction {
    /// As a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// A great many bytes on one connection.
#[derive(Debug, Clone, clap::Args)]
pub struct BulkOptions {
    /// Where the service is.
    #[arg(long)]
    pub address: SocketAddr,
    /// Which way.
    #[arg(long)]
    pub direction: Direction,
    /// How many bytes.
    #[arg(long)]
    pub bytes: u64,
    /// What the bytes are made from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds after which all of it has failed.
    #[arg(long, default_value_t = 120_000)]
    pub timeout_ms: u64,
}

/// Many connections, each with one question.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionOptions {
    /// Where the service is.
    #[arg(long)]
    pub address: SocketAddr,
    /// How many connections.
    #[arg(long)]
    pub count: u32,
    /// How many at once may be asking.
    #[arg(long, default_value_t = 32)]
    pub parallel: usize,
    /// Milliseconds after which a connection has failed that is not answered.
    #[arg(long, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// Addresses to connect from in turn; the system's choice without any.
    #[arg(long)]
    pub source: Vec<IpAddr>,
    /// Open a held connection again, at once, that has ended.
    #[arg(long)]
    pub reconnect: bool,
}

/// Pseudo-random bytes that the same seed makes again: Marsaglia's xorshift64 (Journal of Statistical Software 8(14),
/// 2003), eight bytes a step, the low ones first.
#[derive(Debug, Clone)]
pub struct Noise {
    state: u64,
}

impl Noise {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Any state but zero will do; similar seeds are spread.
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// Fills a buffer with the next bytes. A length that is no multiple of 8 loses the rest of a step.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut state = self.state;
        for chunk in buffer.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        self.state = state;
    }
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, name: String) {
    let name = Arc::new(name);
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let name = name.clone();
                // A client that went away, or that was reset, is no news in this lab: its other end says so.
                tokio::spawn(async move { drop(answer(socket, &name).await) });
            }
            Err(error) => {
                // Out of descriptors, or a client that has gone already.
                eprintln!("{name}: accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn answer(socket: TcpStream, name: &str) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::with_capacity(BLOCK, reader);
    while let Some(command) = read_line(&mut reader).await? {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|_| invalid(&command));
        let line = match words[..] {
            ["name"] => format!("{name}\n"),
            ["upload", bytes] => {
                let hash = receive(&mut reader, number(bytes)?).await?;
                format!("{name} {hash}\n")
            }
            ["download", seed, bytes] => {
                let hash = send(&mut writer, number(seed)?, number(bytes)?).await?;
                format!("{name} {hash}\n")
            }
            ["duplex", key, interval] => {
                writer.write_all(format!("{name}\n").as_bytes()).await?;
                let interval = Duration::from_millis(number(interval)?);
                return duplex::serve(&mut reader, &mut writer, number(key)?, interval).await;
            }
            _ => return Err(invalid(&command)),
        };
        writer.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

/// Moves bytes one way and prints an [`Event::Moved`], or an [`Event::Failed`].
pub async fn bulk(options: BulkOptions) {
    let begin = monotonic_us();
    let limit = Duration::from_millis(options.timeout_ms);
    let moved = timeout(limit, transfer(&options)).await.unwrap_or_else(|_| Err(late("transfer", limit)));
    let at_us = monotonic_us();
    let took_us = at_us - begin;
    print(&match moved {
        Ok((server, sent, received)) => Event::Moved {
            at_us,
            took_us,
            server,
            direction: options.direction,
            bytes: options.bytes,
            sent,
            received,
        },
        Err(error) => Event::Failed { at_us, took_us, error },
    });
    print(&Event::Done { at_us });
}

/// The server, and the hashes of what was sent and of what was received.
async fn transfer(options: &BulkOptions) -> Result<(String, String, String), String> {
    let BulkOptions { address, direction, bytes, seed, .. } = options;
    let socket = TcpStream::connect(address).await.map_err(|e| failure("connect", &e))?;
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::with_capacity(BLOCK, reader);
    let command = match direction {
        Direction::Upload => format!("upload {bytes}\n"),
        Direction::Download => format!("download {seed} {bytes}\n"),
    };
    writer.write_all(command.as_bytes()).await.map_err(|e| failure("request", &e))?;
    let ours = match direction {
        Direction::Upload => send(&mut writer, *seed, *bytes).await.map_err(|e| failure("upload", &e))?,
        Direction::Download => receive(&mut reader, *bytes).await.map_err(|e| failure("download", &e))?,
    };
    let line = read_line(&mut reader).await.map_err(|e| failure("answer", &e))?;
    let line = line.ok_or_else(|| failure("answer", &io::ErrorKind::UnexpectedEof.into()))?;
    let (server, theirs) = line.split_once(' ').ok_or_else(|| format!("wrong: answer: {line:?}"))?;
    let (server, theirs) = (server.to_owned(), theirs.to_owned());
    Ok(match direction {
        Direction::Upload => (server, ours, theirs),
        Direction::Download => (server, theirs, ours),
    })
}

/// Opens connections, asks each for its server's name and closes it; prints an [`Event::Answered`] or an
/// [`Event::Failed`] for each.
///
/// # Errors
/// When `parallel` is more than a semaphore can count.
pub async fn short(options: ConnectionOptions) -> anyhow::Result<()> {
    raise_descriptor_limit();
    each(options, |options, number| async move {
        let begin = monotonic_us();
        let asked = within(&options, async {
            let (server, mut socket) = ask(&options, number).await?;
            // A reset instead of the other end's FIN is a failure, too.
            socket.shutdown().await.map_err(|e| failure("close", &e))?;
            let rest = socket.read(&mut [0; 1]).await.map_err(|e| failure("close", &e))?;
            if rest == 0 { Ok(server) } else { Err("wrong: close: more than an answer".to_owned()) }
        });
        let asked = asked.await;
        let at_us = monotonic_us();
        let took_us = at_us - begin;
        print(&match asked {
            Ok(server) => Event::Answered { at_us, took_us, server },
            Err(error) => Event::Failed { at_us, took_us, error },
        });
    })
    .await?;
    print(&Event::Done { at_us: monotonic_us() });
    Ok(())
}

/// Opens connections, asks each for its server's name and keeps it; prints an [`Event::Line`] (number 0) or an
/// [`Event::Failed`] for each, [`Event::Done`] when all have been tried, and an [`Event::Broken`] for one that ends, which
/// may be opened again then. Does not return.
///
/// # Errors
/// When `parallel` is more than a semaphore can count.
pub async fn hold(options: ConnectionOptions) -> anyhow::Result<()> {
    raise_descriptor_limit();
    each(options, |options, stream| async move {
        let mut socket = open_to_hold(&options, stream).await;
        tokio::spawn(async move {
            loop {
                match socket.take() {
                    Some(held) => {
                        let error = until_it_ends(held).await;
                        print(&Event::Broken { at_us: monotonic_us(), stream, error });
                    }
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                if !options.reconnect {
                    return;
                }
                socket = open_to_hold(&options, stream).await;
            }
        });
    })
    .await?;
    print(&Event::Done { at_us: monotonic_us() });
    std::future::pending().await
}

async fn open_to_hold(options: &ConnectionOptions, stream: u32) -> Option<TcpStream> {
    let begin = monotonic_us();
    match within(options, ask(options, stream)).await {
        Ok((server, socket)) => {
            print(&Event::Line { at_us: monotonic_us(), stream, server, seq: 0 });
            Some(socket)
        }
        Err(error) => {
            let at_us = monotonic_us();
            print(&Event::Failed { at_us, took_us: at_us - begin, error });
            None
        }
    }
}

/// How a connection ended on which nothing more is expected.
async fn until_it_ends(mut socket: TcpStream) -> String {
    match socket.read(&mut [0; 1]).await {
        Ok(0) => failure("hold", &io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => "wrong: hold: more than an answer".to_owned(),
        Err(error) => failure("hold", &error),
    }
}

/// Does `work` for each connection, as many at once as the options say, and waits for all.
async fn each<F: Future<Output = ()> + Send + 'static>(
    options: ConnectionOptions,
    work: impl Fn(Arc<ConnectionOptions>, u32) -> F,
) -> anyhow::Result<()> {
    let options = Arc::new(options);
    let places = Arc::new(Semaphore::new(options.parallel));
    for number in 0..options.count {
        let place = places.clone().acquire_owned().await?;
        let work = work(options.clone(), number);
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
    }
    let _all = places.acquire_many(options.parallel.try_into()?).await?;
    Ok(())
}

async fn within<T>(
    options: &ConnectionOptions,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let limit = Duration::from_millis(options.timeout_ms);
    timeout(limit, work).await.unwrap_or_else(|_| Err(late("answer", limit)))
}

/// Asks for the server's name on a connection of its own, and closes it.
pub(crate) async fn ask_once(address: SocketAddr) -> Result<String, String> {
    let socket = TcpStream::connect(address).await.map_err(|e| failure("connect", &e))?;
    Ok(ask_on(socket).await?.0)
}

/// Opens connection number `number` and asks for its server's name.
async fn ask(options: &ConnectionOptions, number: u32) -> Result<(String, TcpStream), String> {
    let connect = async {
        let socket = if options.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(turn) = (number as usize).checked_rem(options.source.len()) {
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(options.source[turn], 0))?;
        }
        socket.connect(options.address).await
    };
    ask_on(connect.await.map_err(|e| failure("connect", &e))?).await
}

async fn ask_on(mut socket: TcpStream) -> Result<(String, TcpStream), String> {
    socket.write_all(b"name\n").await.map_err(|e| failure("request", &e))?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut more = [0; 64];
        let count = socket.read(&mut more).await.map_err(|e| failure("answer", &e))?;
        if count == 0 {
            return Err(failure("answer", &io::ErrorKind::UnexpectedEof.into()));
        }
        line.extend_from_slice(&more[..count]);
    }
    let name = String::from_utf8(line).map_err(|_| "wrong: answer: no text".to_owned())?;
    Ok((name.trim_end().to_owned(), socket))
}

/// A line without its end; nothing at the end of the input.
pub(crate) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    let mut limited = reader.take(LONGEST_LINE);
    if limited.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    match line.strip_suffix('\n') {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends noise and tells its hash.
async fn send(writer: &mut (impl AsyncWrite + Unpin), seed: u64, bytes: u64) -> io::Result<String> {
    let (mut noise, mut hash) = (Noise::new(seed), new_hash());
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let part = &mut block[..left.min(BLOCK as u64) as usize];
        noise.fill(part);
        hash.update(part);
        writer.write_all(part).await?;
        left -= part.len() as u64;
    }
    Ok(digits(hash))
}

/// Receives so many bytes and tells their hash.
async fn receive(reader: &mut (impl AsyncRead + Unpin), bytes: u64) -> io::Result<String> {
    let mut hash = new_hash();
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let part = &mut block[..left.min(BLOCK as u64) as usize];
        let count = reader.read(part).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&part[..count]);
        left -= count as u64;
    }
    Ok(digits(hash))
}

/// SHA-256 as the TLS library has it: the only one here whose code is optimized in a test build.
fn new_hash() -> Box<dyn Hash> {
    let suite = &rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    suite
        .tls13()
        .map_or_else(|| unreachable!("a suite of TLS 1.3"), |suite| suite.common.hash_provider.start())
}

fn digits(hash: Box<dyn Hash>) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn invalid(command: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no command: {command:?}"))
}

/// A failure as its kind, the step, and the error; the kind is what failures are counted by.
pub(crate) fn failure(step: &str, error: &io::Error) -> String {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => "no-port",
        io::ErrorKind::UnexpectedEof => "closed",
        _ => "other",
    };
    format!("{kind}: {step}: {error}")
}

pub(crate) fn late(step: &str, limit: Duration) -> String {
    format!("timeout: {step}: not within {limit:?}")
}

/// Lets this process have as many open connections as the system allows. That it may not is seen soon enough.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills in one rlimit, which lives here.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads one rlimit, which lives here.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_noise_in_blocks_of_any_size() {
        let (mut whole, mut parts) = ([0; 64], [0; 64]);
        Noise::new(7).fill(&mut whole);
        let mut noise = Noise::new(7);
        noise.fill(&mut parts[..24]);
        noise.fill(&mut parts[24..]);
        assert_eq!(whole, parts);
        Noise::new(8).fill(&mut parts);
        assert_ne!(whole, parts);
    }

    #[test]
    fn a_failure_begins_with_its_kind() {
        assert!(
            failure("connect", &io::ErrorKind::ConnectionRefused.into()).starts_with("refused: connect: ")
        );
        assert!(failure("answer", &io::ErrorKind::UnexpectedEof.into()).starts_with("closed: answer: "));
    }

    #[tokio::test]
    async fn both_ends_tell_the_hash_of_the_same_bytes() {
        let (client, server) = tokio::io::duplex(1000);
        let (_, mut writer) = tokio::io::split(client);
        let sending = tokio::spawn(async move { send(&mut writer, 3, 1_000_001).await });
        let (mut reader, _writer) = tokio::io::split(server);
        let received = receive(&mut reader, 1_000_001).await.unwrap();
        assert_eq!(sending.await.unwrap().unwrap(), received);
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digits(new_hash()), nothing, "SHA-256 of nothing");
    }
}
