//! From a row of results to up or down, as keepalived counts for its scripts. Pure.

use super::weight::TrackCondition;

/// The first result decides; afterwards `fall` failures in a row are down and `rise` successes in a row are up.
#[derive(Clone, Debug)]
pub struct RiseFall {
    rise: u32,
    fall: u32,
    condition: TrackCondition,
    /// Results in a row that disagree with the condition.
    against: u32,
}

impl RiseFall {
    /// Goes on from what is known. A `rise` or `fall` of 0 counts as 1.
    pub const fn new(rise: u32, fall: u32, known: TrackCondition) -> Self {
        Self { rise, fall, condition: known, against: 0 }
    }

    /// Takes the next result; what all of them add up to.
    pub fn observe(&mut self, passed: bool) -> TrackCondition {
        let seen = if passed { TrackCondition::Up } else { TrackCondition::Down };
        let enough = match self.condition {
            TrackCondition::Unknown => 0,
            TrackCondition::Up => self.fall,
            TrackCondition::Down => self.rise,
        };
        self.against = if seen == self.condition { 0 } else { self.against.saturating_add(1) };
        if self.against > 0 && self.against >= enough {
            self.condition = seen;
            self.against = 0;
        }
        self.condition
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TrackCondition::{Down, Unknown, Up};

    /// `+` is a success and `-` a failure; `u` and `d` are what is expected after each.
    fn check(rise: u32, fall: u32, known: TrackCondition, results: &str, expected: &str) {
        let mut machine = RiseFall::new(rise, fall, known);
        let seen: String = (results.chars())
            .map(|result| match machine.observe(result == '+') {
                Up => 'u',
                Down => 'd',
                Unknown => '?',
            })
            .collect();
        assert_eq!(seen, expected, "rise {rise}, fall {fall}, {known:?}, {results}");
    }

    #[test]
    fn the_first_result_decides_and_then_rows_do() {
        check(1, 1, Unknown, "+-+-", "udud");
        check(3, 2, Unknown, "-++-+++", "ddddddu");
        check(3, 2, Unknown, "+-+--", "uuuud");
        check(2, 3, Unknown, "--", "dd");
    }

    #[test]
    fn what_was_known_before_a_reload_needs_a_row_too() {
        check(2, 2, Down, "++", "du");
        check(2, 2, Up, "-+--", "uuud");
        check(1, 1, Down, "+", "u");
    }

    #[test]
    fn nothing_counts_as_one() {
        check(0, 0, Unknown, "+-+", "udu");
    }
}
