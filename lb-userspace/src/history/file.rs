//! The history on disk: a line of JSON for each event, so that a crash does not take the story of itself away.
//!
//! `STATE.history.jsonl` beside the state file, and `STATE.history.jsonl.1`, which is what it was called before it became
//! too large. A line that is not whole, or not understood, is passed over: whoever wrote it was killed, or newer.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::Event;
use crate::state_file;

/// A file that is as large is put aside, and what was put aside before is removed.
pub const LARGEST: u64 = 1 << 20;
/// No more of a file is read: what is larger is none of ours.
const READ_AT_MOST: u64 = 2 * LARGEST;

/// The history of the instance with this state file.
pub fn path(state: &Path) -> PathBuf {
    state.with_extension("history.jsonl")
}

/// What the file was before it became too large.
fn former(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// The events of both files, in order. Empty where there are none.
///
/// # Errors
/// A file is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for path in [former(path), path.to_owned()] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file.take(READ_AT_MOST));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            events.extend(serde_json::from_slice::<Event>(&line));
            line.clear();
        }
    }
    Ok(events)
}

/// Removes both files, and says which were there.
///
/// # Errors
/// One cannot be removed.
pub fn remove(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for path in [path.to_owned(), former(path)] {
        if state_file::remove(&path)? {
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Adds lines to the file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    largest: u64,
    /// With its length; `None` until it is opened, and after an error.
    file: Option<(File, u64)>,
}

impl Writer {
    /// Opens nothing yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, largest: LARGEST, file: None }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// It could not be written; the next one may be.
    pub fn add(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let (mut file, length) = match self.file.take() {
            Some(open) => open,
            None => self.open()?,
        };
        // One write: a line is there as a whole, but for a crash of the machine.
        file.write_all(&line)?;
        let length = length + line.len() as u64;
        if length >= self.largest {
            fs::rename(&self.path, former(&self.path))?;
        } else {
            self.file = Some((file, length));
        }
        Ok(())
    }

    fn open(&self) -> io::Result<(File, u64)> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&self.path)?;
        let mut length = file.metadata()?.len();
        if length > 0 {
            // What a crash has left of a line must not spoil the next one.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                length += 1;
            }
        }
        Ok((file, length))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::history::Kind;

    fn event(n: u64) -> Event {
        Event::new(Kind::Backend, format!("m{n}"), SystemTime::UNIX_EPOCH + Duration::from_secs(n))
    }

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = path(&directory.path().join("state/xvip.json"));
        (directory, path)
    }

    fn names(path: &Path) -> Vec<String> {
        read(path).expect("read").into_iter().map(|event| event.name).collect()
    }

    #[test]
    fn each_instance_has_its_own_beside_its_state() {
        let path = path(Path::new("/var/lib/xvip/a-b.json"));
        assert_eq!(path, Path::new("/var/lib/xvip/a-b.history.jsonl"));
        assert_eq!(former(&path), Path::new("/var/lib/xvip/a-b.history.jsonl.1"));
    }

    #[test]
    fn what_was_written_is_read_by_the_next() {
        let (_directory, path) = scene();
        assert_eq!(names(&path), [] as [&str; 0]);
        Writer::new(path.clone()).add(&event(1)).expect("written");
        let mut next = Writer::new(path.clone());
        next.add(&event(2)).expect("written");
        next.add(&event(3)).expect("written");
        assert_eq!(names(&path), ["m1", "m2", "m3"]);
        assert_eq!(remove(&path).expect("removed"), std::slice::from_ref(&path));
        assert_eq!(remove(&path).expect("nothing to do"), [] as [&Path; 0]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (_directory, path) = scene();
        let mut writer = Writer { largest: 1000, ..Writer::new(path.clone()) };
        for n in 0..200 {
            writer.add(&event(n)).expect("written");
            let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
            assert!(size(&path) < 1000 && size(&former(&path)) < 1100);
        }
        let names = names(&path);
        assert!(names.len() >= 10 && names.last().is_some_and(|last| last == "m199"), "{names:?}");
        assert_eq!(remove(&path).expect("removed").len(), 2);
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let (_directory, path) = scene();
        Writer::new(path.clone()).add(&event(1)).expect("written");
        let whole = fs::read(&path).expect("read");
        for torn in [&whole[..whole.len() - 9], b"{\"at\":\"soon\"}\n", b"\xff\xfe\n", b"{}"] {
            fs::write(&path, [&whole[..], torn].concat()).expect("written");
            Writer::new(path.clone()).add(&event(2)).expect("written");
            assert_eq!(names(&path), ["m1", "m2"], "{torn:?}");
        }
    }

    #[test]
    fn one_that_cannot_be_written_is_tried_again() {
        let (directory, path) = scene();
        fs::write(directory.path().join("state"), "in the way").expect("written");
        let mut writer = Writer::new(path.clone());
        writer.add(&event(1)).expect_err("no directory");
        fs::remove_file(directory.path().join("state")).expect("removed");
        writer.add(&event(2)).expect("written");
        assert_eq!(names(&path), ["m2"]);
    }
}
