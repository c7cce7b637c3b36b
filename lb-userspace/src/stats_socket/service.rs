//! The socket and its connections, on a thread of their own: whoever is slow or wants much waits for itself, and neither for
//! VRRP nor for the controller, which is asked for its status a few times a second at most.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::Group,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    answer,
    command::{Command, understood},
    conversation::{Conversation, Next},
};
use crate::{
    config::model::StatsSocket,
    control::{asker::Asker, protocol::Request},
    status::Status,
};

/// What cannot be opened is tried again so much later.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the socket is still where it was: a service manager removes HAProxy's directory when
/// HAProxy stops.
const LOOK: Duration = Duration::from_secs(1);
/// A status is asked for no more often.
const STATUS_AGAIN: Duration = Duration::from_millis(200);
/// After the system has refused a connection (no file descriptor is left), before the next one is accepted.
const RESPITE: Duration = Duration::from_millis(100);
/// Connections of root and the daemon's own user at the same time.
const MASTERS: usize = 16;
/// Those of everybody else.
const OTHERS: usize = 16;
/// The daemon answers in that time, or is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// The thread gets so much time to remove the socket.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    /// Somebody else does.
    #[error("another program listens on {} (pid {pid})", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Whose process.
        pid: i32,
    },
    /// Something else is in the way.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// No such group.
    #[error("there is no group {0:?}")]
    NoGroup(String),
    /// The daemon may not give it to that group.
    #[error("{} cannot be given to group {group:?}: {error}; the daemon's user must be in it", path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// The socket as configured; ends with this.
#[derive(Debug)]
pub struct StatsSocketService {
    wanted: watch::Sender<Option<StatsSocket>>,
    problem: Arc<Mutex<Option<String>>>,
    requests: mpsc::Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl StatsSocketService {
    /// Nothing yet; `requests` are answered by the controller.
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { wanted: watch::Sender::new(None), problem: Arc::default(), requests, thread: None }
    }

    /// Listens as `wanted`, or not at all. A change ends the connections there are.
    pub fn configure(&mut self, wanted: Option<&StatsSocket>) {
        if wanted.is_some() && self.thread.is_none() {
            let (settings, requests, problem) =
                (self.wanted.subscribe(), self.requests.clone(), Arc::clone(&self.problem));
            let spawned = thread::Builder::new()
                .name("stats-socket".to_owned())
                .spawn(move || run(settings, requests, &problem));
            match spawned {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => say(&self.problem, Some(format!("stats_socket: no thread for it: {error}"))),
            }
        }
        self.wanted.send_if_modified(|known| {
            let is_news = known.as_ref() != wanted;
            if is_news {
                *known = wanted.cloned();
            }
            is_news
        });
    }

    /// Why nobody listens although that is configured.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for StatsSocketService {
    fn drop(&mut self) {
        self.wanted.send_replace(None);
        // The last sender: the thread ends, and takes the socket with it.
        self.wanted = watch::Sender::new(None);
        let begin = std::time::Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && begin.elapsed() < LAST_WORDS
        {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn say(problem: &Mutex<Option<String>>, text: Option<String>) {
    *problem.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

fn run(
    settings: watch::Receiver<Option<StatsSocket>>,
    requests: mpsc::Sender<Request>,
    problem: &Mutex<Option<String>>,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            runtime.block_on(serve(settings, requests, problem));
            // Somebody may wait for a directory service.
            runtime.shutdown_background();
        }
        Err(error) => say(problem, Some(format!("stats_socket: no runtime for it: {error}"))),
    }
}

/// Until nobody can want anything else any more.
async fn serve(
    mut settings: watch::Receiver<Option<StatsSocket>>,
    requests: mpsc::Sender<Request>,
    problem: &Mutex<Option<String>>,
) {
    let world = Arc::new(World { requests, known: tokio::sync::Mutex::default() });
    loop {
        let wanted = settings.borrow_and_update().clone();
        let again = async {
            let Some(wanted) = wanted else {
                say(problem, None);
                return std::future::pending().await;
            };
            match Bound::open(&wanted) {
                Ok(bound) => {
                    say(problem, None);
                    info!(path = %wanted.path.display(), level = wanted.level.as_str(), "the stats socket is open");
                    accept(&bound, &wanted, &world).await;
                    warn!(path = %wanted.path.display(), "the stats socket was removed by somebody: it is made anew");
                }
                Err(error) => {
                    say(problem, Some(format!("stats_socket: {error}")));
                    sleep(RETRY).await;
                }
            }
        };
        tokio::select! {
            () = again => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

/// A socket that is in its place. Removed when dropped, if it still is.
struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Bound {
    /// Under another name first, so that nobody can connect before it has its mode and its group; then it takes the place of
    /// one that nobody listens on.
    fn open(wanted: &StatsSocket) -> Result<Self, OpenError> {
        let path = &wanted.path;
        let io = |error| OpenError::Io { path: path.clone(), error };
        let group = wanted.group.as_deref().map(group).transpose()?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(OpenError::NotASocket(path.clone())),
            Ok(_) => {
                if let Some(pid) = listener_of(path).map_err(io)? {
                    return Err(OpenError::Taken { path: path.clone(), pid });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io)?;
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // Of a predecessor with our process id.
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(io)?;
        let placed = Self::place(&temporary, wanted, group).and_then(|()| identity(path).map_err(io));
        match placed {
            Ok(identity) => Ok(Self { listener, path: path.clone(), identity }),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    /// Gives it its mode and its group, and then its name.
    fn place(temporary: &Path, wanted: &StatsSocket, group: Option<u32>) -> Result<(), OpenError> {
        let path = &wanted.path;
        let io = |error| OpenError::Io { path: path.clone(), error };
        fs::set_permissions(temporary, fs::Permissions::from_mode(wanted.mode)).map_err(io)?;
        if let Some(group) = group {
            chown(temporary, None, Some(group)).map_err(|error| OpenError::Group {
                path: path.clone(),
                group: wanted.group.clone().unwrap_or_default(),
                error,
            })?;
        }
        fs::rename(temporary, path).map_err(io)
    }

    fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Whoever comes next replaces it anyway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn group(name: &str) -> Result<u32, OpenError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(OpenError::NoGroup(name.to_owned())),
    }
}

/// The process that listens on a socket, if one does; 0 where it does not answer.
fn listener_of(path: &Path) -> io::Result<Option<i32>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One whose queue is full must not make us wait.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(Some(getsockopt(&socket, PeerCredentials).map_or(0, |credentials| credentials.pid()))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many may be connected at the same time.
struct Places {
    masters: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { masters: Arc::new(Semaphore::new(MASTERS)), others: Arc::new(Semaphore::new(OTHERS)) }
    }
}

impl Places {
    /// One until it is dropped, if there is one left.
    fn of(&self, asker: Asker) -> Option<OwnedSemaphorePermit> {
        let pool = if asker.is_master() { &self.masters } else { &self.others };
        Arc::clone(pool).try_acquire_owned().ok()
    }
}

/// Serves whoever connects, until the socket is not where it was.
async fn accept(bound: &Bound, wanted: &StatsSocket, world: &Arc<World>) {
    let places = Places::default();
    // Ends them when this is dropped.
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK);
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = look.tick() => match bound.is_in_place() {
                true => continue,
                false => return,
            },
        };
        match accepted {
            Ok((stream, _)) => {
                let asker = Asker::of(&stream);
                match places.of(asker) {
                    Some(permit) => {
                        let talk = Conversation::new(wanted.level, wanted.timeout);
                        connections.spawn(converse(stream, talk, Arc::clone(world), asker, permit));
                    }
                    // What does not fit into the socket's buffer at once is not worth waiting for.
                    None => drop(stream.try_write(b"Too many connections at this time.\n\n")),
                }
            }
            Err(error) => {
                error!(%error, "a connection to the stats socket was not accepted");
                sleep(RESPITE).await;
            }
        }
    }
}

/// Answers until there is nothing more to say, or nobody listens.
async fn converse(
    mut stream: UnixStream,
    mut talk: Conversation,
    world: Arc<World>,
    asker: Asker,
    _permit: OwnedSemaphorePermit,
) {
    let mut buffer = vec![0; 4096];
    loop {
        let mut is_answered = false;
        loop {
            let text = match talk.next() {
                Next::More => break,
                Next::End => return,
                Next::Payload => talk.prompt().to_owned(),
                Next::Command(words) => match world.carry_out(&words, &mut talk, asker).await {
                    Some(text) => text + talk.prompt(),
                    None => return,
                },
            };
            is_answered = true;
            if !matches!(timeout(talk.timeout, stream.write_all(text.as_bytes())).await, Ok(Ok(()))) {
                return;
            }
            // Many commands at once are still many.
            tokio::task::yield_now().await;
        }
        if is_answered && talk.is_over() {
            return;
        }
        match timeout(talk.timeout, stream.read(&mut buffer)).await {
            Ok(Ok(length)) if length > 0 => talk.hear(&buffer[..length]),
            _ => return,
        }
    }
}

/// What is asked of the controller.
struct World {
    requests: mpsc::Sender<Request>,
    /// The last status, and when it was asked for.
    known: tokio::sync::Mutex<Option<(Instant, Arc<Status>)>>,
}

impl World {
    /// The answer; `None` ends the conversation.
    async fn carry_out(&self, words: &[String], talk: &mut Conversation, asker: Asker) -> Option<String> {
        let command = understood(words, talk.level);
        debug!(?command, "asked on the stats socket");
        match command {
            Command::Say(text) => Some(text),
            Command::Quit => None,
            Command::Prompt => {
                talk.toggle();
                Some(String::new())
            }
            Command::Lower(level) => {
                talk.level = talk.level.min(level);
                Some(String::new())
            }
            Command::Timeout(timeout) => {
                talk.timeout = timeout;
                Some(String::new())
            }
            Command::Level => Some(format!("{}\n", talk.level.as_str())),
            command => {
                let answer = timeout(PATIENCE, self.ask(&command, talk, asker)).await;
                Some(answer.ok().flatten().unwrap_or_else(|| "xvip is stopping, or stuck.\n".to_owned()))
            }
        }
    }

    async fn ask(&self, command: &Command, talk: &Conversation, asker: Asker) -> Option<String> {
        let status = self.status().await?;
        let Command::Order(target, order) = command else {
            return answer::figures(command, &status, SystemTime::now(), talk.level);
        };
        let order = match answer::order(&status, target, order) {
            Ok(Some(order)) => order,
            Ok(None) => return Some(String::new()),
            Err(error) => return Some(error),
        };
        let by = format!("stats-socket:{}", asker.name(None).await);
        let (reply, answered) = oneshot::channel();
        self.requests.send(Request::Backend { order, by, reply }).await.ok()?;
        let answer = answered.await.ok()?;
        // What is asked next must see it.
        *self.known.lock().await = None;
        Some(answer.error.map(|error| format!("{error}\n")).unwrap_or_default())
    }

    async fn status(&self) -> Option<Arc<Status>> {
        // Held while it is asked for: who comes meanwhile gets the same one.
        let mut known = self.known.lock().await;
        if let Some((asked, status)) = known.as_ref()
            && asked.elapsed() < STATUS_AGAIN
        {
            return Some(Arc::clone(status));
        }
        let asked = Instant::now();
        let (reply, answered) = oneshot::channel();
        self.requests.send(Request::Status(reply)).await.ok()?;
        let status: Arc<Status> = Arc::from(answered.await.ok()?);
        *known = Some((asked, Arc::clone(&status)));
        Some(status)
    }
}

#[cfg(test)]
mod tests;
