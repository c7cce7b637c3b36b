//! What nodes tell each other about backends: for each of the two things that can be said of one, the last word, also where
//! that was to take something back. The later word counts, on every node.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{MAX_WEIGHT, Name, Override, Overrides, Said, Standing};

/// How many words a node tells, and remembers.
pub const MAX_WORDS: usize = 1024;
/// The longest name of a service, a backend or a person that is told, in bytes.
const MAX_NAME: usize = 255;
/// The end of the year 9998: later times have no form in the state file.
const LAST_MS: u64 = 253_370_764_799_999;

/// One of the two things that can be said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Whether it gets new connections.
    Standing,
    /// Its weight.
    Weight,
}

/// What was said of a backend last, in the words of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The service's name.
    pub service: String,
    /// The backend's.
    pub backend: String,
    /// When, in milliseconds since 1970 by the wall clock of whoever was told.
    pub at_ms: u64,
    /// By whom.
    pub by: String,
    /// What.
    pub saying: Saying,
}

/// See [`Word::saying`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Saying {
    /// It gets new connections.
    In,
    /// It gets none; what it has stays, until then (milliseconds since 1970) if there is a deadline.
    Drain(Option<u64>),
    /// It gets none, and what it has is reset.
    Disabled,
    /// Its weight; `None`: the file's.
    Weight(Option<u16>),
    /// It gets none; what it has stays.
    Maintenance,
}

impl Saying {
    /// What it is about.
    pub const fn side(self) -> Side {
        match self {
            Self::In | Self::Drain(_) | Self::Maintenance | Self::Disabled => Side::Standing,
            Self::Weight(_) => Side::Weight,
        }
    }

    /// Whether nothing is left to be remembered but that it was taken back.
    const fn takes_back(self) -> bool {
        matches!(self, Self::In | Self::Weight(None))
    }

    pub(super) fn of_standing(standing: Standing) -> Self {
        match standing {
            Standing::Drain { deadline } => Self::Drain(deadline.map(milliseconds)),
            Standing::Maintenance => Self::Maintenance,
            Standing::Disabled => Self::Disabled,
        }
    }
}

impl Word {
    /// The later one counts; of the same moment the same one on every node.
    fn rank(&self) -> (u64, &str, Saying) {
        (self.at_ms, &self.by, self.saying)
    }

    fn is_sound(&self) -> bool {
        let deadline = match self.saying {
            Saying::Drain(deadline) => deadline.unwrap_or(0),
            _ => 0,
        };
        let weight = match self.saying {
            Saying::Weight(weight) => weight.unwrap_or(0),
            _ => 0,
        };
        [&self.service, &self.backend, &self.by].iter().all(|name| name.len() <= MAX_NAME)
            && self.at_ms <= LAST_MS
            && deadline <= LAST_MS
            && weight <= MAX_WEIGHT
    }

    fn name(&self) -> Name {
        Name { service: self.service.clone(), backend: self.backend.clone() }
    }

    fn said(&self) -> Said {
        Said { by: self.by.clone(), at: time(self.at_ms) }
    }
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(LAST_MS).min(LAST_MS)
}

pub(super) fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))
}

impl Overrides {
    /// Everything that was said last, for other nodes; what is too long for them is left out.
    pub fn words(&self) -> Vec<Word> {
        let given = self.given.iter().flat_map(|(name, one)| {
            let standing =
                one.standing.as_ref().map(|(standing, said)| (Saying::of_standing(*standing), said));
            let weight = one.weight.as_ref().map(|(weight, said)| (Saying::Weight(Some(*weight)), said));
            standing.into_iter().chain(weight).map(move |(saying, said)| (name, saying, said))
        });
        let taken_back = self.taken_back.iter().map(|((name, side), said)| (name, taken_back(*side), said));
        let words = given.chain(taken_back).map(|(name, saying, said)| word(name, saying, said));
        words.filter(Word::is_sound).take(MAX_WORDS).collect()
    }

    /// Takes in what other nodes were told, where it is later than what is known. Returns of whom that was.
    pub fn hear(&mut self, words: &[Word]) -> Vec<Name> {
        let mut changed = Vec::new();
        for word in words.iter().filter(|word| word.is_sound()) {
            let name = word.name();
            let is_new = match self.last_word(&name, word.saying.side()) {
                Some(known) => known.rank() < word.rank(),
                None => self.given.len() + self.taken_back.len() < MAX_WORDS,
            };
            if is_new {
                self.set(&name, word.saying, word.said());
                changed.push(name);
            }
        }
        changed.dedup();
        changed
    }

    /// What was said last of this side of a backend.
    fn last_word(&self, name: &Name, side: Side) -> Option<Word> {
        let one = self.given.get(name);
        let given = match side {
            Side::Standing => one
                .and_then(|one| one.standing.as_ref())
                .map(|(standing, said)| (Saying::of_standing(*standing), said)),
            Side::Weight => one
                .and_then(|one| one.weight.as_ref())
                .map(|(weight, said)| (Saying::Weight(Some(*weight)), said)),
        };
        let back = || self.taken_back.get(&(name.clone(), side)).map(|said| (taken_back(side), said));
        given.or_else(back).map(|(saying, said)| word(name, saying, said))
    }

    /// When something is said that is said now: no earlier than what is known, whatever the clocks of others showed.
    pub(super) fn moment(&self, name: &Name, side: Side, now: SystemTime) -> SystemTime {
        let last = self.last_word(name, side).map_or(0, |word| word.at_ms + 1);
        time(milliseconds(now).max(last))
    }

    /// This is the last word now.
    pub(super) fn set(&mut self, name: &Name, saying: Saying, said: Said) {
        let one: &mut Override = self.given.entry(name.clone()).or_default();
        let key = (name.clone(), saying.side());
        self.taken_back.remove(&key);
        if saying.takes_back() {
            self.taken_back.insert(key, said.clone());
        }
        match saying {
            Saying::In => one.standing = None,
            Saying::Drain(deadline) => {
                one.standing = Some((Standing::Drain { deadline: deadline.map(time) }, said));
            }
            Saying::Maintenance => one.standing = Some((Standing::Maintenance, said)),
            Saying::Disabled => one.standing = Some((Standing::Disabled, said)),
            Saying::Weight(weight) => one.weight = weight.map(|weight| (weight, said)),
        }
        if one.is_nothing() {
            self.given.remove(name);
        }
        while self.taken_back.len() > MAX_WORDS / 2 {
            let oldest = self.taken_back.iter().min_by_key(|(_, said)| said.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.taken_back.remove(&key));
        }
    }
}

const fn taken_back(side: Side) -> Saying {
    match side {
        Side::Standing => Saying::In,
        Side::Weight => Saying::Weight(None),
    }
}

fn word(name: &Name, saying: Saying, said: &Said) -> Word {
    Word {
        service: name.service.clone(),
        backend: name.backend.clone(),
        at_ms: milliseconds(said.at),
        by: said.by.clone(),
        saying,
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use proptest::prelude::*;

    use super::*;

    fn said_of(backend: &str, at_ms: u64, saying: Saying) -> Word {
        Word { service: "api".into(), backend: backend.into(), at_ms, by: "root on lb1".into(), saying }
    }

    fn heard(words: &[Word]) -> Overrides {
        let mut overrides = Overrides::default();
        overrides.hear(words);
        overrides
    }

    #[test]
    fn the_later_word_counts_whichever_comes_first() {
        let out = said_of("m1", 5, Saying::Disabled);
        let back = said_of("m1", 6, Saying::In);
        for order in [[out.clone(), back.clone()], [back.clone(), out.clone()]] {
            assert_eq!(heard(&order).words(), slice::from_ref(&back), "{order:?}");
        }
        let mut overrides = heard(&[back]);
        assert_eq!(overrides.hear(&[out]), [], "who was away does not bring it back");
        let again = said_of("m1", 7, Saying::Drain(Some(9)));
        assert_eq!(overrides.hear(slice::from_ref(&again)).len(), 1);
        assert_eq!(overrides.hear(slice::from_ref(&again)), [], "known");
        assert_eq!(overrides.words(), [again]);
    }

    #[test]
    fn the_two_sides_of_a_backend_are_apart() {
        let words = [said_of("m1", 9, Saying::In), said_of("m1", 5, Saying::Weight(Some(7)))];
        let overrides = heard(&words);
        assert_eq!(overrides.words().len(), 2);
        assert_eq!(Overrides::from_json(&overrides.to_json()).expect("ours"), overrides);
    }

    #[test]
    fn what_is_said_here_is_later_than_what_a_wrong_clock_has_said() {
        let overrides = heard(&[said_of("m1", 1_000_000, Saying::Disabled)]);
        let name = Name { service: "api".into(), backend: "m1".into() };
        assert_eq!(milliseconds(overrides.moment(&name, Side::Standing, time(5))), 1_000_001);
        assert_eq!(milliseconds(overrides.moment(&name, Side::Weight, time(5))), 5);
    }

    #[test]
    fn what_makes_no_sense_or_is_too_much_is_not_heard() {
        let long = Word { by: "x".repeat(256), ..said_of("m1", 5, Saying::Disabled) };
        let words = [
            long,
            said_of("m1", u64::MAX, Saying::Disabled),
            said_of("m1", 5, Saying::Drain(Some(u64::MAX))),
            said_of("m1", 5, Saying::Weight(Some(257))),
        ];
        assert_eq!(heard(&words), Overrides::default());
        let many: Vec<Word> = (0..5000).map(|n| said_of(&format!("m{n}"), 5, Saying::Disabled)).collect();
        assert_eq!(heard(&many).words().len(), MAX_WORDS);
        let back: Vec<Word> = (0..5000).map(|n| said_of(&format!("m{n}"), n, Saying::In)).collect();
        assert!(heard(&back).words().len() <= MAX_WORDS);
        let last = heard(&[said_of("m1", LAST_MS, Saying::Drain(Some(LAST_MS)))]);
        assert_eq!(Overrides::from_json(&last.to_json()).expect("a time with a form"), last);
    }

    fn saying() -> impl Strategy<Value = Saying> {
        prop_oneof![
            Just(Saying::In),
            proptest::option::of(0..50u64).prop_map(Saying::Drain),
            Just(Saying::Disabled),
            Just(Saying::Maintenance),
            proptest::option::of(0..300u16).prop_map(Saying::Weight),
        ]
    }

    proptest! {
        #[test]
        fn all_nodes_end_up_with_the_same_whatever_the_order(
            words in proptest::collection::vec((0..3u8, 0..6u64, 0..2u8, saying()), 0..20),
            turn in 0..20usize,
        ) {
            let words: Vec<Word> = words
                .into_iter()
                .map(|(n, at, by, saying)| Word { by: format!("root on lb{by}"), ..said_of(&format!("m{n}"), at, saying) })
                .collect();
            let mut others = words.clone();
            others.rotate_left(turn % words.len().max(1));
            others.reverse();
            let (mut one, mut other) = (heard(&words), heard(&others));
            prop_assert_eq!(one.words(), other.words());
            prop_assert_eq!(one.hear(&other.words()), []);
            prop_assert_eq!(other.hear(&one.words()), []);
        }
    }
}
