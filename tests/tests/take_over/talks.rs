//! Connections that talk all the time, every byte of them checked.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lb_tests::plain::Noise;
use lb_tests::topology::Lab;
use lb_tests::wait;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
pub const SOON: Duration = Duration::from_secs(30);
/// Bytes each way and round.
const BYTES: usize = 4096;

/// A connection to the plain service.
pub struct Talk {
    stream: BufReader<TcpStream>,
    server: Option<String>,
    seed: u64,
}

impl Talk {
    /// Over this connection.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        let seed = stream.local_addr()?.port().into();
        Ok(Self { stream: BufReader::new(stream), server: None, seed })
    }

    /// Gets so many bytes, checks each, and sends them back; the server's hashes of both must be the same.
    pub fn round(&mut self) -> Result<(), Box<dyn Error>> {
        self.seed += 0x1_0000;
        let (mut expected, mut got) = (vec![0; BYTES], vec![0; BYTES]);
        Noise::new(self.seed).fill(&mut expected);
        self.stream.get_mut().write_all(format!("download {} {BYTES}\n", self.seed).as_bytes())?;
        self.stream.read_exact(&mut got)?;
        if got != expected {
            return Err("other bytes than were asked for".into());
        }
        let down = self.answer()?;
        self.stream.get_mut().write_all(format!("upload {BYTES}\n").as_bytes())?;
        self.stream.get_mut().write_all(&got)?;
        let up = self.answer()?;
        if down != up {
            return Err(format!("sent {down}, received {up}").into());
        }
        Ok(())
    }

    /// The server and its hash; always the same server.
    fn answer(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("closed".into());
        }
        let (server, hash) = line.trim_end().split_once(' ').ok_or_else(|| format!("{line:?}"))?;
        if self.server.get_or_insert_with(|| server.to_owned()) != server {
            return Err(format!("{server} answers for {:?}", self.server).into());
        }
        Ok(hash.to_owned())
    }
}

/// What became of a connection so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Rounds completed.
    pub rounds: u64,
    /// The longest of them.
    pub longest: Duration,
    /// Why it ended before it was told to.
    pub broken: Option<String>,
}

/// Connections that talk by turns, until they are told to end.
pub struct Talks {
    progress: Arc<Mutex<Vec<Progress>>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talks {
    /// Opens so many connections from the lab's client, to the addresses in turn.
    pub fn open(lab: &Lab, count: usize, addresses: &[SocketAddr]) -> Result<Self, Box<dyn Error>> {
        let connect = || -> io::Result<Vec<Talk>> {
            let addresses = addresses.iter().cycle().take(count);
            addresses.map(|address| Talk::over(TcpStream::connect_timeout(address, SOON)?)).collect()
        };
        Ok(Self::among(lab.client().run(connect)??))
    }

    /// Lets these talk.
    pub fn among(mut talks: Vec<Talk>) -> Self {
        let progress = Arc::new(Mutex::new(vec![Progress::default(); talks.len()]));
        let ending = Arc::new(AtomicBool::new(false));
        let (shared, told) = (progress.clone(), ending.clone());
        let talk = move || {
            while !told.load(Ordering::Relaxed) {
                for (index, talk) in talks.iter_mut().enumerate() {
                    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
                    if lock()[index].broken.is_some() {
                        continue;
                    }
                    let began = Instant::now();
                    let outcome = talk.round();
                    let progress = &mut lock()[index];
                    progress.longest = progress.longest.max(began.elapsed());
                    match outcome {
                        Ok(()) => progress.rounds += 1,
                        Err(error) => progress.broken = Some(error.to_string()),
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        };
        Self { progress, ending, thread: Some(thread::spawn(talk)) }
    }

    /// What became of each so far.
    pub fn progress(&self) -> Vec<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until each has had two more whole rounds. Fails if one has ever broken.
    pub fn go_on(&self) -> Result<(), Box<dyn Error>> {
        let before = self.progress();
        let went_on =
            |(now, before): (&Progress, &Progress)| now.broken.is_some() || now.rounds >= before.rounds + 3;
        wait::until("three more rounds on each connection", 2 * SOON, || {
            self.progress().iter().zip(&before).all(went_on)
        })?;
        let broken: Vec<_> = self.progress().into_iter().filter_map(|progress| progress.broken).collect();
        match broken.first() {
            Some(why) => {
                Err(format!("{} of {} connections broke, one with: {why}", broken.len(), before.len()).into())
            }
            None => Ok(()),
        }
    }

    /// Has every connection go on once more, closes all, and returns the longest round of any.
    pub fn finish(mut self) -> Result<Duration, Box<dyn Error>> {
        self.go_on()?;
        self.end();
        Ok(self.progress().iter().map(|progress| progress.longest).max().unwrap_or_default())
    }

    fn end(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Talks {
    fn drop(&mut self) {
        self.end();
    }
}
