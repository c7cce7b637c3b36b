//! Bytes both ways on one connection, each checked at its other end.
//!
//! Both send pseudo-random bytes that depend on a key and on their position, so that one which is lost, repeated, changed
//! or of another connection shows. The server puts in front of each record how many of the client's bytes it has
//! received and found right: the client so knows that both directions move, and who was wrong.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{MissedTickBehavior, interval};

use crate::plain::Noise;

/// How many bytes each sends at a time.
pub const RECORD: usize = 64;
/// Of which the server's begin with a count (little-endian).
const COUNT: usize = 8;
/// Instead of a count: the client's bytes were wrong.
const WRONG: u64 = u64::MAX;

/// The bytes of one direction, in order. Pure.
#[derive(Debug, Clone)]
pub struct Pattern {
    noise: Noise,
    record: [u8; RECORD],
    /// How many bytes of `record` have been used.
    used: usize,
    length: usize,
}

impl Pattern {
    /// What the client sends, in records of 64 bytes.
    #[must_use]
    pub fn of_client(key: u64) -> Self {
        Self::new(key.wrapping_mul(2), RECORD)
    }

    /// What the server sends after each count, 56 bytes.
    #[must_use]
    pub fn of_server(key: u64) -> Self {
        Self::new(key.wrapping_mul(2) | 1, RECORD - COUNT)
    }

    fn new(seed: u64, length: usize) -> Self {
        Self { noise: Noise::new(seed), record: [0; RECORD], used: length, length }
    }

    /// The next whole record.
    pub fn next_record(&mut self) -> &[u8] {
        self.noise.fill(&mut self.record[..self.length]);
        self.used = self.length;
        &self.record[..self.length]
    }

    /// Whether these are the next bytes.
    #[must_use]
    pub fn continues(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.used == self.length {
                self.next_record();
                self.used = 0;
            }
            let count = bytes.len().min(self.length - self.used);
            if self.record[self.used..self.used + count] != bytes[..count] {
                return false;
            }
            self.used += count;
            bytes = &bytes[count..];
        }
        true
    }
}

/// Reads what a server sends. Pure.
#[derive(Debug)]
pub struct Checker {
    expected: Pattern,
    head: [u8; COUNT],
    /// How far in the current record.
    at: usize,
    /// How many of the client's bytes the server has found right.
    acknowledged: u64,
}

impl Checker {
    /// At the beginning of the stream with this key.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self { expected: Pattern::of_server(key), head: [0; COUNT], at: 0, acknowledged: 0 }
    }

    /// Takes in what has arrived, and says whether the server has meanwhile acknowledged more than before.
    ///
    /// # Errors
    /// What is wrong, at either end.
    pub fn take(&mut self, mut bytes: &[u8], sent: u64) -> Result<bool, String> {
        let before = self.acknowledged;
        while !bytes.is_empty() {
            if self.at < COUNT {
                let count = bytes.len().min(COUNT - self.at);
                self.head[self.at..self.at + count].copy_from_slice(&bytes[..count]);
                self.at += count;
                bytes = &bytes[count..];
                if self.at == COUNT {
                    self.acknowledge(sent)?;
                }
                continue;
            }
            let count = bytes.len().min(RECORD - self.at);
            if !self.expected.continues(&bytes[..count]) {
                return Err("wrong: the server's bytes".to_owned());
            }
            self.at = (self.at + count) % RECORD;
            bytes = &bytes[count..];
        }
        Ok(self.acknowledged > before)
    }

    fn acknowledge(&mut self, sent: u64) -> Result<(), String> {
        let count = u64::from_le_bytes(self.head);
        if count == WRONG {
            return Err("wrong: the client's bytes as the server received them".to_owned());
        }
        if count < self.acknowledged || count > sent {
            return Err(format!(
                "wrong: the server has {count} of {sent} bytes, {} before",
                self.acknowledged
            ));
        }
        self.acknowledged = count;
        Ok(())
    }
}

/// The server's side, after the command: until the client ends it, or was wrong. With an interval of zero it sends
/// nothing.
pub(crate) async fn serve(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
    key: u64,
    every: Duration,
) -> io::Result<()> {
    let (mut ours, mut theirs) = (Pattern::of_server(key), Pattern::of_client(key));
    let mut right = 0_u64;
    let silent = every.is_zero();
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick(), if !silent => {
                let mut record = right.to_le_bytes().to_vec();
                record.extend_from_slice(ours.next_record());
                writer.write_all(&record).await?;
            }
            bytes = reader.fill_buf() => {
                let bytes = bytes?;
                let count = bytes.len();
                if count == 0 {
                    return Ok(());
                }
                if !theirs.continues(bytes) {
                    writer.write_all(&WRONG.to_le_bytes()).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the client's bytes"));
                }
                right += count as u64;
                reader.consume(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server sends that has received `counts` bytes before each record.
    fn sent_by_server(key: u64, counts: &[u64]) -> Vec<u8> {
        let mut pattern = Pattern::of_server(key);
        let record = |count: &u64| [&count.to_le_bytes()[..], pattern.next_record()].concat();
        counts.iter().flat_map(record).collect()
    }

    #[test]
    fn a_pattern_continues_in_pieces_of_any_size_and_nowhere_else() {
        let mut whole = Pattern::of_client(7);
        let bytes: Vec<u8> = (0..4).flat_map(|_| whole.next_record().to_vec()).collect();
        for size in [1, 7, 64, 100, 256] {
            let mut pattern = Pattern::of_client(7);
            assert!(bytes.chunks(size).all(|piece| pattern.continues(piece)), "{size}");
        }
        for at in [0, 63, 64, 255] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(!Pattern::of_client(7).continues(&wrong), "{at}");
        }
        let mut lost = bytes.clone();
        lost.drain(64..128);
        assert!(!Pattern::of_client(7).continues(&lost));
        assert!(!Pattern::of_client(8).continues(&bytes));
        assert!(!Pattern::of_server(7).continues(&bytes));
    }

    #[test]
    fn a_checker_tells_progress_from_mere_bytes() {
        let bytes = sent_by_server(3, &[0, 64, 64, 128]);
        let mut checker = Checker::new(3);
        let moved: Vec<_> = bytes.chunks(RECORD).map(|record| checker.take(record, 128)).collect();
        assert_eq!(moved, [Ok(false), Ok(true), Ok(false), Ok(true)]);
        let mut slowly = Checker::new(3);
        let moved = bytes.iter().filter(|byte| slowly.take(&[**byte], 128) == Ok(true)).count();
        assert_eq!(moved, 2);
    }

    #[test]
    fn a_checker_finds_what_is_wrong_at_either_end() {
        let first = |bytes: Vec<u8>, sent| Checker::new(3).take(&bytes, sent).unwrap_err();
        let mut changed = sent_by_server(3, &[0, 64]);
        changed[100] ^= 0x80;
        assert!(first(changed, 64).contains("the server's bytes"));
        assert!(first(sent_by_server(4, &[0]), 0).contains("the server's bytes"));
        assert!(first(sent_by_server(3, &[65]), 64).contains("65 of 64"));
        assert!(first(sent_by_server(3, &[64, 63]), 64).contains("64 before"));
        assert!(first(sent_by_server(3, &[0, WRONG]), 64).contains("the client's bytes"));
    }

    #[tokio::test]
    async fn a_server_counts_what_is_right_and_ends_at_what_is_wrong() {
        use tokio::io::AsyncReadExt;
        let (client, server) = tokio::io::duplex(4096);
        let serving = tokio::spawn(async move {
            let (reader, mut writer) = tokio::io::split(server);
            serve(&mut BufReader::new(reader), &mut writer, 5, Duration::from_millis(1)).await
        });
        let (mut reader, mut writer) = tokio::io::split(client);
        let (mut pattern, mut checker) = (Pattern::of_client(5), Checker::new(5));
        writer.write_all(pattern.next_record()).await.unwrap();
        let mut buffer = [0; 256];
        loop {
            let count = reader.read(&mut buffer).await.unwrap();
            if checker.take(&buffer[..count], 64).unwrap() {
                break;
            }
        }
        writer.write_all(&[0; RECORD]).await.unwrap();
        let error = loop {
            let count = reader.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "it ended without a word");
            if let Err(error) = checker.take(&buffer[..count], 128) {
                break error;
            }
        };
        assert!(error.contains("the client's bytes"), "{error}");
        assert_eq!(serving.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
