//! Which witnesses answer. Pure: times in, verdict out.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests that are remembered of each witness; later answers are too late in any case.
const REMEMBERED: usize = 16;
/// For the way there and back, and for a machine that is busy.
const SLACK: Duration = Duration::from_millis(100);

/// What the witnesses of one instance have answered.
///
/// An answer proves that the network was there when its *request* was sent: one that has waited in a queue while this
/// process was stopped proves nothing about now.
#[derive(Clone, Debug)]
pub struct Answers {
    /// How old a proof may be.
    limit: Duration,
    since: Instant,
    witnesses: Vec<Witness>,
}

#[derive(Clone, Debug)]
struct Witness {
    address: IpAddr,
    /// Not answered yet, oldest first.
    sent: VecDeque<(u16, Instant)>,
    /// When the newest answered request was sent.
    proof: Option<Instant>,
    /// Why it cannot be asked.
    trouble: Option<String>,
}

impl Answers {
    /// Nobody has answered yet. A request leaves every `period`; one that is lost is forgiven.
    pub fn new(witnesses: &[IpAddr], period: Duration, now: Instant) -> Self {
        let witness = |&address| Witness {
            address,
            sent: VecDeque::with_capacity(REMEMBERED),
            proof: None,
            trouble: None,
        };
        Self { limit: 2 * period + SLACK, since: now, witnesses: witnesses.iter().map(witness).collect() }
    }

    /// A request left for the witness with this index.
    pub fn sent(&mut self, index: usize, sequence: u16, now: Instant) {
        let Some(witness) = self.witnesses.get_mut(index) else { return };
        if witness.sent.len() == REMEMBERED {
            witness.sent.pop_front();
        }
        witness.sent.push_back((sequence, now));
        witness.trouble = None;
    }

    /// No request could leave.
    pub fn not_sent(&mut self, index: usize, why: String) {
        if let Some(witness) = self.witnesses.get_mut(index) {
            witness.trouble = Some(why);
        }
    }

    /// A request was answered; what was never sent, or has been answered already, says nothing.
    pub fn answered(&mut self, index: usize, sequence: u16) {
        let Some(witness) = self.witnesses.get_mut(index) else { return };
        if let Some(at) = witness.sent.iter().position(|(sent, _)| *sent == sequence) {
            witness.proof = witness.proof.max(Some(witness.sent[at].1));
            witness.sent.drain(..=at);
        }
    }

    /// Whether anybody has answered lately; always so where there is nobody to ask.
    ///
    /// # Errors
    /// Who has not, and for how long.
    pub fn verdict(&self, now: Instant) -> Result<(), String> {
        let proof = self.proof();
        if self.witnesses.is_empty()
            || proof.is_some_and(|proof| now.saturating_duration_since(proof) <= self.limit)
        {
            return Ok(());
        }
        let silence = now.saturating_duration_since(proof.unwrap_or(self.since)).as_millis();
        let lately = match proof {
            Some(_) => format!("answered for {silence} ms"),
            None => format!("answered yet, after {silence} ms"),
        };
        let addresses: Vec<String> =
            self.witnesses.iter().map(|witness| witness.address.to_string()).collect();
        let mut text = match addresses.as_slice() {
            [address] => format!("witness {address} has not {lately}"),
            addresses => format!("none of the witnesses {} has {lately}", addresses.join(", ")),
        };
        if let Some(trouble) = self.witnesses.iter().find_map(|witness| witness.trouble.as_ref()) {
            text = format!("{text} ({trouble})");
        }
        Err(text)
    }

    /// When a good verdict becomes a bad one without another answer.
    pub fn expires(&self) -> Option<Instant> {
        // The verdict is still good at the very limit.
        self.proof().map(|proof| proof + self.limit + Duration::from_millis(1))
    }

    fn proof(&self) -> Option<Instant> {
        self.witnesses.iter().filter_map(|witness| witness.proof).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(200);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn addresses(hosts: &[u8]) -> Vec<IpAddr> {
        hosts.iter().map(|&host| IpAddr::from([172, 16, 0, host])).collect()
    }

    #[test]
    fn nobody_to_ask_is_fine() {
        let now = Instant::now();
        assert_eq!(Answers::new(&[], PERIOD, now).verdict(now + ms(10_000)), Ok(()));
    }

    #[test]
    fn an_answer_counts_for_two_periods_and_some() {
        let begin = Instant::now();
        let mut answers = Answers::new(&addresses(&[1]), PERIOD, begin);
        let unheard = answers.verdict(begin + ms(300)).expect_err("no answer yet");
        assert_eq!(unheard, "witness 172.16.0.1 has not answered yet, after 300 ms");
        answers.sent(0, 1, begin);
        assert!(answers.verdict(begin).is_err(), "a request is no answer");
        answers.answered(0, 1);
        assert_eq!(answers.verdict(begin + ms(500)), Ok(()));
        let error = answers.verdict(begin + ms(812)).expect_err("silent");
        assert_eq!(error, "witness 172.16.0.1 has not answered for 812 ms");
        let expires = answers.expires().expect("it was good");
        assert!(answers.verdict(expires).is_err() && answers.verdict(expires - ms(1)).is_ok());
    }

    #[test]
    fn one_lost_request_is_forgiven_and_two_are_not() {
        let begin = Instant::now();
        let mut answers = Answers::new(&addresses(&[1]), PERIOD, begin);
        for (sequence, at) in [(1, 0), (2, 200), (3, 400), (4, 600)] {
            answers.sent(0, sequence, begin + ms(at));
        }
        answers.answered(0, 1);
        assert_eq!(answers.verdict(begin + ms(499)), Ok(()));
        answers.answered(0, 3);
        assert_eq!(answers.verdict(begin + ms(899)), Ok(()));
        assert!(answers.verdict(begin + ms(901)).is_err());
    }

    #[test]
    fn what_waited_while_we_were_stopped_proves_nothing() {
        let begin = Instant::now();
        let mut answers = Answers::new(&addresses(&[1]), PERIOD, begin);
        answers.sent(0, 1, begin);
        // Read only a minute later.
        answers.answered(0, 1);
        assert!(answers.verdict(begin + ms(60_000)).is_err());
    }

    #[test]
    fn answers_to_nothing_and_old_ones_do_not_count() {
        let begin = Instant::now();
        let mut answers = Answers::new(&addresses(&[1]), PERIOD, begin);
        answers.answered(0, 7);
        assert!(answers.verdict(begin).is_err(), "never asked");
        answers.sent(0, 1, begin);
        answers.sent(0, 2, begin + ms(200));
        answers.answered(0, 2);
        answers.answered(0, 1);
        assert_eq!(
            answers.verdict(begin + ms(700)),
            Ok(()),
            "an older answer does not take back a newer one"
        );
        answers.sent(5, 1, begin);
        answers.answered(5, 1);
        for sequence in 0..100 {
            answers.sent(0, sequence, begin + ms(1000));
        }
        assert_eq!(answers.witnesses[0].sent.len(), REMEMBERED);
    }

    #[test]
    fn one_of_several_is_enough() {
        let begin = Instant::now();
        let mut answers = Answers::new(&addresses(&[1, 9]), PERIOD, begin);
        answers.sent(0, 1, begin);
        answers.sent(1, 1, begin);
        answers.answered(1, 1);
        assert_eq!(answers.verdict(begin + ms(100)), Ok(()));
        answers.not_sent(0, "Network is unreachable".into());
        let error = answers.verdict(begin + ms(900)).expect_err("silent");
        let expected =
            "none of the witnesses 172.16.0.1, 172.16.0.9 has answered for 900 ms (Network is unreachable)";
        assert_eq!(error, expected);
        answers.sent(0, 2, begin + ms(900));
        assert!(!answers.verdict(begin + ms(901)).expect_err("silent").contains("unreachable"));
    }
}
