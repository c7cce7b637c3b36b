//! What became of the address in every case, as one table at the end.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lb_tests::sampler::Held;

use crate::pair::{Limits, Side};

/// One case.
pub struct Row {
    pub speech: String,
    /// We are higher, lower or equal.
    pub relation: &'static str,
    pub case: String,
    /// Who had the address in the end, and alone.
    pub owner: Side,
    pub held: Held,
    /// From the beginning until then.
    pub took: Duration,
    pub limits: Limits,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

pub fn add(row: Row) {
    ROWS.lock().unwrap_or_else(PoisonError::into_inner).push(row);
}

/// All of them so far, in order; `done` of `all` elections have ended.
pub fn print(done: usize, all: usize) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by(|one, other| (&one.speech, one.relation).cmp(&(&other.speech, other.relation)));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<22} {:<6} {:<32} {:<10} {:>9} {:>9} {:>9} {:>9}",
        "", "we are", "case", "owner", "overlap", "gap", "at most", "settled"
    );
    for row in rows.iter() {
        let _ = writeln!(
            text,
            "{:<22} {:<6} {:<32} {:<10} {:>9} {:>9} {:>9} {:>9}",
            row.speech,
            row.relation,
            row.case,
            row.owner.to_string(),
            ms(row.held.both),
            ms(row.held.none),
            if row.limits.none > Duration::from_secs(20) { "-".to_owned() } else { ms(row.limits.none) },
            ms(row.took),
        );
    }
    let coarsest = rows.iter().map(|row| row.held.resolution).max().unwrap_or_default();
    println!(
        "{text}{} cases in {done} of {all} elections; from one sample to the next at most {}",
        rows.len(),
        ms(coarsest)
    );
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
