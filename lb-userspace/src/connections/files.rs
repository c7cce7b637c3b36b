//! The files of the connection log: the one that is written to, and those before it.
//!
//! `NAME-connections.jsonl` in the directory, and `NAME-connections-TIME.jsonl` for each that has become too large, with the
//! time when it did. NAME tells instances apart as that of the state file does. A file is put aside by one rename; the oldest
//! are removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::record::{time_of, time_text};
use crate::state_file;

const ENDING: &str = ".jsonl";
/// A disk gets pieces of that size.
const PIECE: usize = 64 << 10;

/// Which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    directory: PathBuf,
    stem: String,
}

impl LogFiles {
    /// Those of the instance with this `node.pin_path`.
    pub fn of(directory: &Path, pin_path: &Path) -> Self {
        let state = state_file::path(directory, pin_path);
        let name = state.file_stem().unwrap_or_default().to_string_lossy();
        Self { directory: directory.to_owned(), stem: format!("{name}-connections") }
    }

    /// The file that is written to.
    pub fn current(&self) -> PathBuf {
        self.directory.join(format!("{}{ENDING}", self.stem))
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the current one goes at this time (milliseconds since 1970).
    fn aside(&self, at: u64) -> PathBuf {
        let time = time_text(at).replace(['-', ':'], "");
        self.directory.join(format!("{}-{time}{ENDING}", self.stem))
    }

    /// When a file was put aside, by its name.
    fn put_aside_at(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix(&self.stem)?.strip_prefix('-')?;
        let (day, time) = name.strip_suffix(ENDING)?.split_once('T')?;
        let part = |text: &str, from: usize, to: usize| text.get(from..to).map(str::to_owned);
        let (year, month, date) = (part(day, 0, 4)?, part(day, 4, 6)?, part(day, 6, 8)?);
        let (hour, minute, rest) = (part(time, 0, 2)?, part(time, 2, 4)?, time.get(4..)?);
        time_of(&format!("{year}-{month}-{date}T{hour}:{minute}:{rest}"))
    }

    /// Those that were put aside, the oldest first. None where there is no directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn former(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let prefix = format!("{}-", self.stem);
        let mut former = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let time = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix))
                .and_then(|rest| rest.strip_suffix(ENDING));
            // Nobody else's, whatever it is called.
            if time.is_some_and(|time| time.len() == 20 && time.ends_with('Z')) {
                former.push(entry.path());
            }
        }
        former.sort();
        Ok(former)
    }

    /// All of them, open for reading, the oldest first: as of one moment, even while one is put aside.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(&self) -> io::Result<Vec<File>> {
        for _ in 0..5 {
            let former = self.former()?;
            let mut files = Vec::new();
            for path in former.iter().chain([&self.current()]) {
                match File::open(path) {
                    Ok(file) => files.push(file),
                    // The oldest may have gone meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if self.former()? == former {
                return Ok(files);
            }
        }
        Err(io::Error::other("the files change faster than they can be opened"))
    }
}

/// Writes lines, a file after the other.
#[derive(Debug)]
pub struct Writer {
    files: LogFiles,
    max_size: u64,
    keep: u32,
    out: Option<Out>,
}

#[derive(Debug)]
struct Out {
    file: File,
    /// What it has, with what waits.
    size: u64,
    waiting: Vec<u8>,
    /// How many lines of that.
    lines: u64,
}

impl Writer {
    /// Nothing is opened before there is something to write.
    pub const fn new(files: LogFiles, max_size: u64, keep: u32) -> Self {
        Self { files, max_size, keep, out: None }
    }

    /// Which files.
    pub const fn files(&self) -> &LogFiles {
        &self.files
    }

    /// Other limits for the same files.
    pub fn limit(&mut self, max_size: u64, keep: u32) {
        (self.max_size, self.keep) = (max_size, keep);
    }

    /// Adds a line, which has its line end. `at`: now, milliseconds since 1970.
    ///
    /// # Errors
    /// The line is lost, and how many with it.
    pub fn line(&mut self, line: &[u8], at: u64) -> Result<(), Lost> {
        let lost = |lines| move |error| Lost { lines, error };
        let mut out = match self.out.take() {
            Some(out) => out,
            None => Out::open(&self.files).map_err(lost(1))?,
        };
        if out.size > 0 && out.size + line.len() as u64 > self.max_size {
            let waiting = out.lines;
            out.write().map_err(lost(waiting + 1))?;
            out = self.begin_anew(at).map_err(lost(1))?;
        }
        out.waiting.extend_from_slice(line);
        out.size += line.len() as u64;
        out.lines += 1;
        if out.waiting.len() >= PIECE {
            let waiting = out.lines;
            out.write().map_err(lost(waiting))?;
        }
        self.out = Some(out);
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// It is lost, and how much of it.
    pub fn flush(&mut self) -> Result<(), Lost> {
        let Some(mut out) = self.out.take() else { return Ok(()) };
        let lines = out.lines;
        out.write().map_err(|error| Lost { lines, error })?;
        // Somebody may have moved or removed the file: what follows goes into one that can be found.
        let is_there = out.file.metadata().ok().zip(fs::metadata(self.files.current()).ok());
        if is_there.is_some_and(|(own, named)| (own.dev(), own.ino()) == (named.dev(), named.ino())) {
            self.out = Some(out);
        }
        Ok(())
    }

    fn begin_anew(&self, at: u64) -> io::Result<Out> {
        // The order of the names is that of the files, whatever the clock says.
        let last = self.files.former()?.last().and_then(|last| self.files.put_aside_at(last));
        let aside = self.files.aside(last.map_or(at, |last| at.max(last + 1)));
        fs::rename(self.files.current(), aside)?;
        let former = self.files.former()?;
        let keep = (self.keep as usize).saturating_sub(1);
        for oldest in former.iter().take(former.len().saturating_sub(keep)) {
            fs::remove_file(oldest)?;
        }
        Out::open(&self.files)
    }
}

impl Out {
    fn open(files: &LogFiles) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(files.directory())?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o640).open(files.current())?;
        let mut size = file.metadata()?.len();
        let mut waiting = Vec::new();
        // A line that was cut short, by a full disk or a crash, takes none with it.
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                waiting.push(b'\n');
                size += 1;
            }
        }
        Ok(Self { file, size, waiting, lines: 0 })
    }

    fn write(&mut self) -> io::Result<()> {
        self.lines = 0;
        let waiting = std::mem::take(&mut self.waiting);
        self.file.write_all(&waiting)
    }
}

/// Records that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Lost {
    /// How many.
    pub lines: u64,
    /// Why.
    pub error: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> LogFiles {
        LogFiles::of(directory, Path::new("/sys/fs/bpf/xvip"))
    }

    fn text(files: &LogFiles) -> String {
        let mut text = String::new();
        for mut file in files.open().expect("opened") {
            file.read_to_string(&mut text).expect("read");
        }
        text
    }

    #[test]
    fn each_instance_has_its_own() {
        let of = |pins: &str| LogFiles::of(Path::new("/var/log/xvip"), Path::new(pins)).current();
        assert_eq!(of("/sys/fs/bpf/xvip"), Path::new("/var/log/xvip/xvip-connections.jsonl"));
        assert_eq!(of("/sys/fs/bpf/a/b"), Path::new("/var/log/xvip/a-b-connections.jsonl"));
    }

    #[test]
    fn a_file_that_is_full_is_put_aside_and_the_oldest_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory.path().join("log"));
        // Not ours.
        fs::create_dir(files.directory()).expect("made");
        let other = files.directory().join("xvip-connections-old.jsonl");
        fs::write(&other, "other\n").expect("written");
        let mut writer = Writer::new(files.clone(), 100, 3);
        let line = |n: u32| format!("{{\"n\": {n:3}, \"text\": \"0123456789\"}}\n");
        let length = line(0).len();
        for n in 0..20 {
            // All at the same moment: each has a name of its own all the same.
            writer.line(line(n).as_bytes(), 1_767_323_045_678).expect("taken");
        }
        writer.flush().expect("written");
        let former = files.former().expect("read");
        assert_eq!(former.len(), 2);
        assert!(former[0].ends_with("xvip-connections-20260102T030405.682Z.jsonl"), "{former:?}");
        let each = 100 / length as u32;
        let kept = (20 - 1) / each * each - 2 * each;
        assert_eq!(text(&files), (kept..20).map(line).collect::<String>());
        for file in former.iter().chain([&files.current()]) {
            assert!(fs::metadata(file).expect("there").len() <= 100);
        }
        assert!(other.exists());
    }

    #[test]
    fn what_was_written_before_stays_and_half_a_line_takes_none_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path());
        fs::write(files.current(), "{\"one\": 1}\n{\"tw").expect("written");
        let mut writer = Writer::new(files.clone(), 1000, 1);
        writer.line(b"{\"three\": 3}\n", 0).expect("taken");
        writer.flush().expect("written");
        assert_eq!(text(&files), "{\"one\": 1}\n{\"tw\n{\"three\": 3}\n");
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path());
        let mut writer = Writer::new(files.clone(), 1000, 2);
        for text in ["one\n", "two\n"] {
            writer.line(text.as_bytes(), 0).expect("taken");
            writer.flush().expect("written");
        }
        fs::remove_file(files.current()).expect("removed");
        // Whoever notices it has still written the line before.
        writer.line(b"three\n", 0).expect("taken");
        writer.flush().expect("written");
        writer.line(b"four\n", 0).expect("taken");
        writer.flush().expect("written");
        assert_eq!(text(&files), "four\n");
    }

    #[test]
    fn where_nothing_can_be_written_it_is_said_how_much_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let blocked = directory.path().join("file");
        fs::write(&blocked, "").expect("written");
        let mut writer = Writer::new(files(&blocked), 1000, 2);
        let lost = writer.line(b"one\n", 0).expect_err("there is no directory");
        assert_eq!(lost.lines, 1);
        writer.flush().expect("nothing waits");
        fs::remove_file(&blocked).expect("removed");
        writer.line(b"two\n", 0).expect("taken");
        writer.flush().expect("written");
    }
}
