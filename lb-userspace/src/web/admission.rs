//! How many connections there are, in all and of one source. Pure.

use std::collections::HashMap;

use super::source::Source;

/// So many connections at the same time.
pub const ALL: usize = 64;
/// So many of one source.
pub const OF_ONE: usize = 16;

/// The connections that there are.
#[derive(Debug, Default)]
pub struct Admission {
    all: usize,
    by_source: HashMap<Source, usize>,
}

impl Admission {
    /// Counts one more, if there is room for it.
    pub fn enter(&mut self, source: Source) -> bool {
        let of_this = self.by_source.get(&source).copied().unwrap_or(0);
        if self.all >= ALL || of_this >= OF_ONE {
            return false;
        }
        self.all += 1;
        self.by_source.insert(source, of_this + 1);
        true
    }

    /// One that was let in has gone.
    pub fn leave(&mut self, source: Source) {
        let Some(count) = self.by_source.get_mut(&source) else { return };
        self.all = self.all.saturating_sub(1);
        *count -= 1;
        if *count == 0 {
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(number: u8) -> Source {
        Source::from(IpAddr::from([192, 0, 2, number]))
    }

    #[test]
    fn one_source_does_not_get_everything_and_nobody_more_than_there_is() {
        let mut admission = Admission::default();
        let entered = |admission: &mut Admission, number: u8| {
            (0..100).filter(|_| admission.enter(source(number))).count()
        };
        assert_eq!([1, 2, 3, 4, 5].map(|number| entered(&mut admission, number)), [16, 16, 16, 16, 0]);
        admission.leave(source(2));
        assert_eq!([1, 5, 2].map(|number| entered(&mut admission, number)), [0, 1, 0]);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut admission = Admission::default();
        for round in 0..1000_u32 {
            let source = Source::from(IpAddr::from(round.to_be_bytes()));
            assert!(admission.enter(source));
            admission.leave(source);
            admission.leave(source);
        }
        assert_eq!((admission.all, admission.by_source.len()), (0, 0));
    }
}
