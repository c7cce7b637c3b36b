//! One decision of the data plane, as its programs sent it. Pure.

use lb_common::{
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    trace::{EVENT_LEN, Event},
};

/// A decision with the frames before and after it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What became of it.
    pub event: Event,
    /// The beginning of the frame as it came in.
    pub received: &'a [u8],
    /// The beginning of the frame as it was sent; `None` where none was.
    pub sent: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// From the bytes of the ring buffer; `None` where they are no record.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, frames) = bytes.split_at_checked(EVENT_LEN)?;
        let (at_ns, words) = header.split_first_chunk()?;
        let mut words =
            words.chunks_exact(4).filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let mut word = || words.next();
        let event = Event {
            at_ns: u64::from_ne_bytes(*at_ns),
            session: word()?,
            cpu: word()?,
            ingress: word()?,
            egress: word()?,
            counter: word()?,
            action: word()?,
            received_len: word()?,
            received_kept: word()?,
            sent_len: word()?,
            sent_kept: word()?,
        };
        let depth = if event.sent_len > 0 { frames.len() / 2 } else { frames.len() };
        let (received, sent) = frames.split_at_checked(depth)?;
        Some(Self {
            event,
            received: received.get(..event.received_kept as usize)?,
            sent: if event.sent_len > 0 { Some(sent.get(..event.sent_kept as usize)?) } else { None },
        })
    }

    /// The verdict; `None` for a number that this version does not know.
    pub fn verdict(&self) -> Option<Verdict> {
        verdict(self.event.counter)
    }
}

/// The verdict that has this index in the `COUNTERS` map.
pub fn verdict(counter: u32) -> Option<Verdict> {
    let pass = PassReason::ALL.iter().map(|&reason| Verdict::Pass(reason));
    let drop = DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason));
    let transmit = TransmitReason::ALL.iter().map(|&reason| Verdict::Transmit(reason));
    pass.chain(drop).chain(transmit).find(|verdict| verdict.counter() == counter)
}

/// `pass`, `drop` or `transmit`, the reason's name and the sentence that explains it.
pub fn words(verdict: Option<Verdict>) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Some(Verdict::Pass(reason)) => ("pass", reason.name(), reason.description().trim()),
        Some(Verdict::Drop(reason)) => ("drop", reason.name(), reason.description().trim()),
        Some(Verdict::Transmit(reason)) => ("transmit", reason.name(), reason.description().trim()),
        None => ("unknown", "unknown", "A reason that this version of xvip does not know."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: [u32; 10], frames: usize) -> Vec<u8> {
        let mut bytes = 7_u64.to_ne_bytes().to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend((0..frames).map(|index| index as u8));
        bytes
    }

    #[test]
    fn a_record_has_one_frame_or_two() {
        let dropped = bytes([1, 2, 3, 4, 32, 1, 1500, 192, 0, 0], 192);
        let record = Record::parse(&dropped).expect("a record");
        assert_eq!((record.event.at_ns, record.event.cpu, record.received.len()), (7, 2, 192));
        assert_eq!((record.sent, words(record.verdict()).0), (None, "drop"));
        let sent = bytes([1, 2, 3, 4, 64, 3, 60, 60, 80, 80], 384);
        let record = Record::parse(&sent).expect("a record");
        assert_eq!(record.received, &(0..60).collect::<Vec<u8>>());
        assert_eq!(record.sent.map(|sent| (sent.len(), sent[0])), Some((80, 192)));
        assert_eq!(words(record.verdict()).1, "to-backend");
    }

    #[test]
    fn what_is_no_record_is_none() {
        let whole = bytes([1, 2, 3, 4, 64, 3, 60, 60, 80, 80], 384);
        for len in [0, 8, EVENT_LEN - 1, EVENT_LEN + 10] {
            assert!(Record::parse(&whole[..len]).is_none(), "{len}");
        }
        assert!(Record::parse(&bytes([0, 0, 0, 0, 0, 0, 9, u32::MAX, 0, 0], 192)).is_none());
    }

    #[test]
    fn every_counter_has_at_most_one_verdict_and_its_own() {
        let known: Vec<Verdict> = (0..lb_common::reason::COUNTERS).filter_map(verdict).collect();
        assert_eq!(known.len(), PassReason::ALL.len() + DropReason::ALL.len() + TransmitReason::ALL.len());
        assert!(known.iter().all(|&known| verdict(known.counter()) == Some(known)));
        assert_eq!(verdict(31), None);
    }
}
