//! What the fuzz tests of the readers and of the whole import share: inputs made of pieces of real files, and the judge that
//! looks at each of them. Only for tests.
//!
//! The long run, of all readers and the import, each with its share:
//!
//! ```sh
//! XVIP_FUZZ_INPUTS=10000000 cargo test --release -p lb-userspace --lib import:: -- --nocapture
//! ```
//!
//! An input is made of its number alone, so that what has failed fails again. Its work is bounded: processor time that grows
//! with its length, and a watch that ends the process where an input does not end.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::abort,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

/// Shares of `XVIP_FUZZ_INPUTS`, in thousandths: together all of it.
pub const HAPROXY: u64 = 330;
/// keepalived.conf
pub const KEEPALIVED: u64 = 330;
/// `crm configure` and corosync.conf, both of the same bytes.
pub const CLUSTER: u64 = 300;
/// All files of a customer, to the text of the `xvip.toml`.
pub const WHOLE: u64 = 40;
const _: () = assert!(HAPROXY + KEEPALIVED + CLUSTER + WHOLE == 1000, "the parts are the whole");

/// How many inputs a part has in an ordinary run of the tests.
const FEW: u64 = 300;
/// Nothing takes as long on any machine: it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// What an input of so many bytes may take of a processor, as far as it is for a reader: many times what the slowest takes;
/// without optimization all is slower.
pub fn linear(bytes: usize) -> Duration {
    let (base, per_byte) = if cfg!(debug_assertions) { (2_000, 2_000) } else { (100, 50) };
    Duration::from_millis(base) + Duration::from_micros(per_byte) * u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// How many inputs were asked for, in all parts together; none in an ordinary run.
pub fn asked_for() -> Option<u64> {
    std::env::var("XVIP_FUZZ_INPUTS").ok()?.parse().ok()
}

/// Pseudo-random numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// Those of an input.
    pub fn of(seed: u64, number: u64) -> Self {
        Self(seed.wrapping_add(number.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound.max(1) as u64).unwrap_or(0)
    }

    /// True in one of so many cases.
    pub fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// One of them.
    pub fn of_all<'a, T>(&mut self, choice: &'a [T]) -> &'a T {
        &choice[self.below(choice.len())]
    }
}

/// Bytes that are nothing.
pub fn noise(dice: &mut Dice, most: usize) -> Vec<u8> {
    (0..dice.below(most)).map(|_| dice.bits().to_le_bytes()[0]).collect()
}

/// Words of a format in any order.
pub fn babble(dice: &mut Dice, tokens: &[&str], most: usize) -> Vec<u8> {
    (0..dice.below(most)).map(|_| *dice.of_all(tokens)).collect::<String>().into_bytes()
}

/// Real files, and the sections that they are made of.
pub struct Corpus {
    files: Vec<Vec<u8>>,
    /// Each is a file's lines from one that begins in the first column up to the next of these.
    sections: Vec<Vec<Vec<u8>>>,
}

impl Corpus {
    /// Of these files.
    pub fn of(files: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let files: Vec<Vec<u8>> = files.into_iter().map(|file| file.as_ref().to_vec()).collect();
        let mut sections: Vec<Vec<Vec<u8>>> = Vec::new();
        for line in files.iter().flat_map(|file| file.split_inclusive(|byte| *byte == b'\n')) {
            let goes_on = line.first().is_none_or(|byte| byte.is_ascii_whitespace() || *byte == b'}');
            match sections.last_mut() {
                Some(section) if goes_on => section.push(line.to_vec()),
                _ => sections.push(vec![line.to_vec()]),
            }
        }
        Self { files, sections }
    }

    /// Some sections, of which long ones lack lines; or a whole file. Most of what can be wrong with a reader is wrong with a
    /// few lines, and a few lines are soon read; but sections need each other.
    pub fn excerpt(&self, dice: &mut Dice) -> Vec<u8> {
        if dice.one_in(3) {
            return dice.of_all(&self.files).clone();
        }
        let mut bytes = Vec::new();
        for _ in 0..=dice.below(6) {
            let section = dice.of_all(&self.sections);
            // Its first and its last line are what makes it a section.
            let middle = section.len().saturating_sub(2);
            let kept = dice.below(middle.min(12) + 1);
            let from = 1 + dice.below(middle - kept + 1);
            bytes.extend_from_slice(&section[0]);
            section.iter().skip(from).take(kept).for_each(|line| bytes.extend_from_slice(line));
            if section.len() > 1 {
                section.last().into_iter().for_each(|line| bytes.extend_from_slice(line));
            }
        }
        bytes
    }
}

/// One step away from what a person wrote.
pub fn damage(bytes: &mut Vec<u8>, tokens: &[&str], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let until = (at + dice.below(40)).min(bytes.len());
    match dice.below(10) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.bits().to_le_bytes()[0];
            }
        }
        1 => drop(bytes.drain(at..until)),
        2 | 3 => drop(bytes.splice(at..at, dice.of_all(tokens).bytes())),
        4 | 5 => replace_word(bytes, tokens, dice),
        6 => copy_line(bytes, dice),
        7 => bytes.insert(at, b'\n'),
        8 => {
            let copy = bytes[at..until].to_vec();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        _ => bytes.truncate(at.max(bytes.len() / 2)),
    }
}

/// A token in the place of a word.
fn replace_word(bytes: &mut Vec<u8>, tokens: &[&str], dice: &mut Dice) {
    let start = dice.below(bytes.len() + 1);
    let Some(from) = bytes[start..].iter().position(|byte| !byte.is_ascii_whitespace()) else { return };
    let from = start + from;
    let to = bytes[from..].iter().position(u8::is_ascii_whitespace).map_or(bytes.len(), |at| from + at);
    bytes.splice(from..to, dice.of_all(tokens).bytes());
}

/// A line once more, somewhere else.
fn copy_line(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let begins = |bytes: &[u8], near: usize| {
        bytes[..near].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
    };
    let (near, place) = (dice.below(bytes.len() + 1), dice.below(bytes.len() + 1));
    let from = begins(bytes, near);
    let length = bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len() - from, |at| at + 1);
    let copied = bytes[from..from + length].to_vec();
    let to = begins(bytes, place);
    bytes.splice(to..to, copied);
}

/// What was fuzzed.
#[derive(Debug)]
pub struct Count {
    /// Inputs.
    pub inputs: u64,
    /// Of how many something came: if it is none, nothing was tested.
    pub fruitful: u64,
}

/// A part of the fuzz: how an input is made, how long it is, and who judges it.
pub struct Part<M, L, J> {
    /// Its name.
    pub name: &'static str,
    /// Its share of the long run, in thousandths.
    pub share: u64,
    /// Makes an input.
    pub make: M,
    /// Its bytes.
    pub length: L,
    /// What an input of so many bytes may take of a processor.
    pub allowed: fn(usize) -> Duration,
    /// Panics if something is wrong with it; whether anything came of it.
    pub judge: J,
}

impl<I, M, L, J> Part<M, L, J>
where
    I: Debug,
    M: Fn(&mut Dice) -> I + Sync,
    L: Fn(&I) -> usize + Sync,
    J: Fn(&I) -> bool + Sync,
{
    /// Judges so many inputs as are its share, on all processors.
    pub fn run(self) -> Count {
        let inputs = asked_for().map_or(FEW, |all| all * self.share / 1000);
        let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64).min(16);
        let seed = self.name.bytes().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(byte));
        let begun = Instant::now();
        // What each thread is at, and since when; in milliseconds from the beginning.
        let at: Vec<(AtomicU64, AtomicU64)> =
            (0..threads).map(|thread| (AtomicU64::new(thread), AtomicU64::new(0))).collect();
        let (done, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let sums: Vec<Sum> = thread::scope(|scope| {
            let workers: Vec<_> = at
                .iter()
                .enumerate()
                .map(|(index, (current, since))| {
                    let numbers = (index as u64..inputs).step_by(threads as usize);
                    let (part, failed) = (&self, &failed);
                    scope.spawn(move || {
                        let mut sum = Sum::default();
                        for number in numbers.take_while(|_| !failed.load(Ordering::Relaxed)) {
                            current.store(number, Ordering::Relaxed);
                            since.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                            let judged = catch_unwind(AssertUnwindSafe(|| part.one(seed, number)));
                            sum.add(judged.unwrap_or_else(|panic| {
                                failed.store(true, Ordering::Relaxed);
                                resume_unwind(panic)
                            }));
                        }
                        since.store(u64::MAX, Ordering::Relaxed);
                        sum
                    })
                })
                .collect();
            let watch = scope.spawn(|| self.watch(&at, begun, &done, seed));
            let sums = workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>();
            done.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            sums.into_iter().map(|sum| sum.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let fruitful = sums.iter().map(|sum| sum.fruitful).sum();
        let bytes: usize = sums.iter().map(|sum| sum.bytes).sum();
        let worked: Duration = sums.iter().map(|sum| sum.worked).sum();
        let slowest = sums.iter().map(|sum| sum.slowest).max().unwrap_or_default();
        println!(
            "{}: {inputs} inputs of {bytes} bytes, {fruitful} of them fruitful, within {:.0?}; processors {worked:.0?}; the slowest \
             was number {} with {:?}",
            self.name,
            begun.elapsed(),
            slowest.1,
            slowest.0
        );
        Count { inputs, fruitful }
    }

    /// Makes an input and judges it; whether anything came of it, its length, and what it took.
    fn one(&self, seed: u64, number: u64) -> (u64, bool, usize, Duration) {
        let input = (self.make)(&mut Dice::of(seed, number));
        let length = (self.length)(&input);
        let judged = || {
            let begin = worked();
            let fruitful = catch_unwind(AssertUnwindSafe(|| (self.judge)(&input)));
            (fruitful, worked().saturating_sub(begin))
        };
        let (fruitful, mut took) = judged();
        let fruitful = fruitful.unwrap_or_else(|panic| {
            eprintln!("{}, input {number}: {input:?}", self.name);
            resume_unwind(panic)
        });
        // The machine may have stood still for a moment, but not each time.
        let allowed = (self.allowed)(length);
        for _ in 0..5 {
            if took > allowed {
                took = took.min(judged().1);
            }
        }
        assert!(took <= allowed, "{}, input {number}: {length} bytes took {took:?}: {input:?}", self.name);
        (number, fruitful, length, took)
    }

    /// Ends the process if an input does not end.
    fn watch(&self, at: &[(AtomicU64, AtomicU64)], begun: Instant, done: &AtomicBool, seed: u64) {
        while !done.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_secs(1));
            let now = begun.elapsed().as_millis() as u64;
            for (number, since) in at {
                let for_ms = now.saturating_sub(since.load(Ordering::Relaxed));
                if u128::from(for_ms) > HANGS_AFTER.as_millis() {
                    let number = number.load(Ordering::Relaxed);
                    let input = (self.make)(&mut Dice::of(seed, number));
                    eprintln!("{}, input {number} does not end: {input:?}", self.name);
                    abort();
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Sum {
    fruitful: u64,
    bytes: usize,
    worked: Duration,
    slowest: (Duration, u64),
}

impl Sum {
    fn add(&mut self, (number, fruitful, bytes, took): (u64, bool, usize, Duration)) {
        self.fruitful += u64::from(fruitful);
        self.bytes += bytes;
        self.worked += took;
        self.slowest = self.slowest.max((took, number));
    }
}

/// What this thread has worked: the others of the machine do not count.
pub fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses an x, and works for so long at each input.
    fn judged(number: u64, works: Duration) -> thread::Result<(u64, bool, usize, Duration)> {
        let part = Part {
            name: "test",
            share: 0,
            make: |dice: &mut Dice| noise(dice, 100),
            length: Vec::len,
            allowed: |_| Duration::from_millis(5),
            judge: |bytes: &Vec<u8>| {
                let begin = worked();
                while worked() - begin < works {}
                assert!(!bytes.contains(&b'x'), "an x");
                true
            },
        };
        catch_unwind(AssertUnwindSafe(|| part.one(1, number)))
    }

    #[test]
    fn what_is_wrong_with_an_input_is_wrong_again() {
        let has_x = |number| noise(&mut Dice::of(1, number), 100).contains(&b'x');
        let numbers = 0..200;
        for number in numbers.clone() {
            assert_eq!(judged(number, Duration::ZERO).is_err(), has_x(number), "{number}");
        }
        assert!((10..100).contains(&numbers.filter(|number| has_x(*number)).count()));
    }

    #[test]
    fn what_takes_too_long_is_found() {
        assert!(judged(0, Duration::ZERO).is_ok());
        let thrown = judged(0, Duration::from_millis(10)).expect_err("it takes too long");
        let said = thrown.downcast_ref::<String>().expect("a text");
        assert!(said.contains("test, input 0") && said.contains("took"), "{said}");
    }

    #[test]
    fn excerpts_have_the_ends_of_sections() {
        let corpus = Corpus::of(["a {\n 1\n 2\n 3\n}\nb\n c\n"]);
        assert_eq!(corpus.sections.len(), 2);
        for number in 0..1000 {
            let text = String::from_utf8(corpus.excerpt(&mut Dice::of(7, number))).expect("text");
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
            assert!(text.len() <= 6 * 15, "{text}");
        }
    }
}
