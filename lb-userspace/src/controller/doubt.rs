//! Whether a backend that does not answer is dead, or this node is cut off. Pure.
//!
//! From here both look the same: nothing comes back. But whoever is cut off hears nobody. So a backend that is silent is
//! believed to be dead when somebody else was heard while it was silent; somebody on another host, since one host may be
//! several backends. Until then its flows are left alone: if the fault is ours they may all be well in a moment, and if it
//! is not there is nobody whom their clients could go to.
//!
//! A backend that refuses is heard, and dead without any doubt. And where all backends are on one host there is nobody to
//! ask: what the checks say is believed.

use std::{net::IpAddr, time::Duration};

use crate::{health::monitor::Row, health::rise_fall::DownKind};

/// Once somebody is heard again after nobody was, the others are given so long: neighbours are resolved again one by one,
/// and each failure to do so takes the kernel three seconds.
const MENDED_WITHIN: Duration = Duration::from_secs(5);

/// What the checks have found about a backend.
#[derive(Clone, Copy, Debug)]
pub struct Testimony {
    /// Its host.
    pub host: IpAddr,
    /// While it is down.
    pub down: Option<DownKind>,
    /// See `BackendHealth::heard`.
    pub heard: Option<Row>,
    /// See `BackendHealth::silent`.
    pub silent: Option<Row>,
}

/// What follows about one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not dead.
    Alive,
    /// Dead for sure.
    Dead,
    /// Dead, or not reached from here.
    Doubtful,
}

/// What follows about `one`, with what is known about `all`.
pub fn verdict(one: &Testimony, all: &[Testimony]) -> Verdict {
    if one.down != Some(DownKind::Dead) {
        return Verdict::Alive;
    }
    let Some(silent) = one.silent else { return Verdict::Dead };
    let mut others = all.iter().filter(|other| other.host != one.host).peekable();
    if others.peek().is_none() {
        return Verdict::Dead;
    }
    // Heard while checks were not answered; and not only since we are no longer cut off ourselves.
    let is_confirmed = others.filter_map(|other| other.heard).any(|heard| {
        let was_heard_before = heard.first <= silent.first;
        heard.last >= silent.first && (was_heard_before || silent.last >= heard.first + MENDED_WITHIN)
    });
    if is_confirmed { Verdict::Dead } else { Verdict::Doubtful }
}

/// Whether `other` should be asked now, since `one` has fallen silent: on the same host, since the host may be gone; elsewhere
/// as long as nobody has been heard since.
pub fn is_wanted(other: &Testimony, one: &Testimony, all: &[Testimony]) -> bool {
    let Some(silent) = one.silent.filter(|_| other.silent.is_none()) else { return false };
    let heard = |other: &Testimony| other.heard.is_some_and(|heard| heard.last >= silent.first);
    if other.host == one.host {
        // A check that has ended before it fell silent says nothing about the time since.
        !heard(other)
    } else {
        !all.iter().any(|other| other.host != one.host && heard(other))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Hosts by their last byte, times in seconds.
    struct Scene {
        begin: Instant,
        all: Vec<Testimony>,
    }

    impl Scene {
        fn new() -> Self {
            Self { begin: Instant::now(), all: Vec::new() }
        }

        fn row(&self, (first, last): (u64, u64)) -> Row {
            let at = |seconds| self.begin + Duration::from_secs(seconds);
            Row { first: at(first), last: at(last) }
        }

        fn with(
            mut self,
            host: u8,
            down: Option<DownKind>,
            heard: Option<(u64, u64)>,
            silent: Option<(u64, u64)>,
        ) -> Self {
            let (heard, silent) = (heard.map(|row| self.row(row)), silent.map(|row| self.row(row)));
            self.all.push(Testimony { host: [172, 16, 0, host].into(), down, heard, silent });
            self
        }

        fn wanted(&self) -> Vec<usize> {
            let is_wanted = |other: &Testimony| self.all.iter().any(|one| is_wanted(other, one, &self.all));
            (0..).zip(&self.all).filter(|(_, other)| is_wanted(other)).map(|(index, _)| index).collect()
        }

        fn verdicts(&self) -> Vec<Verdict> {
            self.all.iter().map(|one| verdict(one, &self.all)).collect()
        }
    }

    #[test]
    fn the_host_of_one_that_is_silent_is_asked_at_once() {
        let scene = Scene::new()
            .with(4, None, Some((0, 10)), Some((12, 12)))
            .with(4, None, Some((0, 11)), None)
            .with(4, None, Some((0, 13)), None)
            .with(5, None, Some((0, 13)), None)
            .with(6, None, Some((0, 11)), None);
        assert_eq!(scene.wanted(), [1]);
    }

    const DEAD: Option<DownKind> = Some(DownKind::Dead);

    #[test]
    fn one_that_is_silent_while_another_is_heard_is_dead() {
        use Verdict::{Alive, Dead};
        let scene = Scene::new()
            .with(4, DEAD, Some((0, 10)), Some((12, 14)))
            .with(5, None, Some((0, 13)), None)
            .with(6, Some(DownKind::ShuttingDown), Some((0, 14)), None);
        assert_eq!(scene.verdicts(), [Dead, Alive, Alive]);
        assert_eq!(scene.wanted(), [] as [usize; 0]);
    }

    #[test]
    fn nobody_is_dead_for_sure_while_nobody_is_heard() {
        use Verdict::{Alive, Doubtful};
        let scene = Scene::new()
            .with(4, DEAD, Some((0, 10)), Some((12, 14)))
            .with(5, DEAD, Some((0, 11)), Some((12, 13)))
            .with(6, None, Some((0, 11)), Some((12, 12)))
            .with(7, None, None, None);
        assert_eq!(scene.verdicts(), [Doubtful, Doubtful, Alive, Alive]);
        assert_eq!(scene.wanted(), [3], "the one that may still answer");
    }

    #[test]
    fn whoever_is_heard_first_after_we_were_cut_off_says_nothing_about_the_time_before() {
        use Verdict::{Alive, Dead, Doubtful};
        let scene =
            Scene::new().with(4, DEAD, Some((0, 10)), Some((12, 40))).with(5, None, Some((41, 41)), None);
        assert_eq!(scene.verdicts(), [Doubtful, Alive]);
        let scene =
            Scene::new().with(4, DEAD, Some((0, 10)), Some((12, 46))).with(5, None, Some((41, 47)), None);
        assert_eq!(scene.verdicts(), [Dead, Alive], "and it was silent once more");
    }

    #[test]
    fn one_that_died_before_stays_dead_when_the_others_follow() {
        use Verdict::{Dead, Doubtful};
        let scene = Scene::new()
            .with(4, DEAD, Some((0, 10)), Some((12, 60)))
            .with(5, DEAD, Some((0, 50)), Some((52, 60)))
            .with(6, DEAD, Some((0, 51)), Some((52, 60)));
        assert_eq!(scene.verdicts(), [Dead, Doubtful, Doubtful]);
    }

    #[test]
    fn a_refusal_leaves_no_doubt() {
        use Verdict::{Dead, Doubtful};
        let scene =
            Scene::new().with(4, DEAD, Some((0, 14)), None).with(5, DEAD, Some((0, 12)), Some((13, 14)));
        assert_eq!(scene.verdicts(), [Dead, Dead], "and the network works");
        let scene =
            Scene::new().with(4, DEAD, Some((0, 12)), None).with(5, DEAD, Some((0, 12)), Some((13, 14)));
        assert_eq!(scene.verdicts(), [Dead, Doubtful]);
    }

    #[test]
    fn where_there_is_one_host_there_is_nobody_to_ask() {
        use Verdict::Dead;
        let scene = Scene::new().with(4, DEAD, Some((0, 10)), Some((12, 14))).with(
            4,
            DEAD,
            Some((0, 10)),
            Some((12, 14)),
        );
        assert_eq!(scene.verdicts(), [Dead, Dead]);
    }
}
