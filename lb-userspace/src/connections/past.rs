//! What a former daemon has written: which connections it knew, so that its successor goes on where it was.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
};

use serde::Deserialize;

use super::{
    book::Memory,
    record::{Connection, RecordKind},
};
use crate::sync::record::FlowId;

/// No record is longer. What is, is none.
const LONGEST_LINE: u64 = 16 << 10;

/// What must be known of each line.
#[derive(Deserialize)]
struct Mark {
    record: RecordKind,
    client: SocketAddr,
    vip: SocketAddr,
    flow_clock: u32,
}

/// Reads these files, the oldest first: the connections without an end, and of those that have one, the ones that `there`
/// still has a flow of. What is no record is passed over.
///
/// # Errors
/// A file cannot be read.
pub fn remember(files: Vec<File>, there: &HashSet<FlowId>) -> io::Result<Memory> {
    let mut memory = Memory::default();
    for file in files {
        each_line(file, &mut |line| {
            let Ok(mark) = serde_json::from_slice::<Mark>(line) else { return };
            let id = FlowId { client: mark.client, service: mark.vip };
            match mark.record {
                RecordKind::Start => {
                    if let Ok(connection) = serde_json::from_slice::<Connection>(line) {
                        memory.ended.remove(&id);
                        memory.open.insert(id, connection);
                    }
                }
                RecordKind::End => {
                    let is_its = |start: &Connection| start.flow_clock == mark.flow_clock;
                    if memory.open.get(&id).is_some_and(is_its) {
                        memory.open.remove(&id);
                    }
                    if there.contains(&id) {
                        memory.ended.insert(id, mark.flow_clock);
                    }
                }
            }
        })?;
    }
    Ok(memory)
}

/// Shows each line of a file, without its line end.
///
/// # Errors
/// The file cannot be read.
pub fn each_line(file: File, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut reader, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, path::Path};

    use super::*;

    fn id(port: u16) -> FlowId {
        FlowId { client: ([10, 0, 0, 7], port).into(), service: ([172, 16, 0, 10], 6443).into() }
    }

    fn line(record: &str, port: u16, clock: u32) -> String {
        format!(
            "{{\"time\":\"2026-01-02T03:04:05.678Z\",\"record\":\"{record}\",\"client\":\"10.0.0.7:{port}\",\"service\":\"api\",\
             \"vip\":\"172.16.0.10:6443\",\"backend\":\"m4\",\"nat_port\":{port},\"via\":\"handshake\",\
             \"opened\":\"2026-01-02T03:04:05.678Z\",\"flow_clock\":{clock},\"ended\":\"closed\",\"duration_ms\":1}}\n"
        )
    }

    fn file(directory: &Path, name: &str, lines: &[String]) -> File {
        let path = directory.join(name);
        fs::write(&path, lines.concat()).expect("written");
        File::open(path).expect("opened")
    }

    #[test]
    fn what_is_open_is_told_from_what_has_ended() {
        let directory = tempfile::tempdir().expect("a directory");
        let former = file(
            directory.path(),
            "former",
            &[
                line("start", 1, 5),
                line("start", 2, 5),
                "{\"half a li".to_owned(),
                "\n\n".to_owned(),
                line("start", 3, 5),
            ],
        );
        let current = file(
            directory.path(),
            "current",
            &[
                line("end", 1, 5),
                line("end", 2, 4),
                line("end", 3, 5),
                line("start", 3, 9),
                line("end", 4, 1),
            ],
        );
        let there = HashSet::from([id(1), id(2), id(3)]);
        let memory = remember(vec![former, current], &there).expect("read");
        let mut open: Vec<(u16, u32)> =
            memory.open.iter().map(|(id, start)| (id.client.port(), start.flow_clock)).collect();
        open.sort_unstable();
        assert_eq!(open, [(2, 5), (3, 9)], "an end of another connection from the same port ends nothing");
        let mut ended: Vec<(u16, u32)> =
            memory.ended.iter().map(|(id, at)| (id.client.port(), *at)).collect();
        ended.sort_unstable();
        assert_eq!(ended, [(1, 5), (2, 4)]);
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut file = File::create(&path).expect("made");
        file.write_all(&vec![b'x'; 100_000]).expect("written");
        let mut longest = 0;
        each_line(File::open(&path).expect("opened"), &mut |line| longest = longest.max(line.len()))
            .expect("read");
        assert_eq!(longest as u64, LONGEST_LINE);
    }
}
