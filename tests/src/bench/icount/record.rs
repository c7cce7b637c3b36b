//! Counts that were written down once, and what has become of them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How much more than recorded is none, where everything that has a say in it is as it was: so many instructions, or that
/// share. The counts are exact; but a packet's key decides which chain of the hash table it is in.
const SLACK: f64 = 3.0;
const SHARE: f64 = 0.01;
/// The same with another kernel, emulator or compiler: all of them have a say in each instruction, and none of them is ours.
/// (From Linux 6.1 to 6.12 it was 2 % of a program, and 8 % of a whole path.)
const SHARE_ELSEWHERE: f64 = 0.15;

/// What counts were made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What `uname -r` says.
    pub kernel: String,
    /// What QEMU calls its version.
    pub qemu: String,
    /// What the compiler of the XDP programs calls its version.
    pub compiler: String,
}

/// Instructions per packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What they were made with.
    pub made: Made,
    /// Of each case.
    pub instructions: BTreeMap<String, f64>,
}

impl Record {
    /// What is worth to be said about `now`, a line each: everything that has changed, and what it was made with.
    ///
    /// # Errors
    /// The same, where a case takes more than recorded, or there are other cases than recorded.
    pub fn compare(&self, now: &Self) -> Result<String, String> {
        let same = self.made == now.made;
        let mut lines = Vec::new();
        if !same {
            lines.push(format!(
                "recorded with {}, now {}: {:.0} % more would be none",
                self.made.text(),
                now.made.text(),
                SHARE_ELSEWHERE * 100.0
            ));
        }
        let mut bad = false;
        let names: BTreeSet<_> = self.instructions.keys().chain(now.instructions.keys()).collect();
        for name in names {
            match (self.instructions.get(name), now.instructions.get(name)) {
                (Some(was), Some(is)) => {
                    let slack = if same { SLACK.max(was * SHARE) } else { SLACK.max(was * SHARE_ELSEWHERE) };
                    bad |= is - was > slack;
                    let word = if is - was > slack {
                        "MORE"
                    } else if was - is > slack {
                        "fewer"
                    } else if was == is {
                        continue;
                    } else {
                        "about the same"
                    };
                    let percent = (is / was - 1.0) * 100.0;
                    lines.push(format!(
                        "{name}: {is:.0} instructions, recorded {was:.0} ({percent:+.1} %): {word}"
                    ));
                }
                (None, Some(is)) => {
                    bad = true;
                    lines.push(format!("{name}: {is:.0} instructions, NOT RECORDED"));
                }
                (Some(was), None) => {
                    bad = true;
                    lines.push(format!("{name}: NOT COUNTED, recorded {was:.0}"));
                }
                (None, None) => {}
            }
        }
        let text = lines.join("\n");
        if bad { Err(text) } else { Ok(text) }
    }
}

impl Made {
    fn text(&self) -> String {
        format!("Linux {}, QEMU {}, {}", self.kernel, self.qemu, self.compiler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kernel: &str, counts: &[(&str, f64)]) -> Record {
        let made = Made {
            kernel: kernel.to_owned(),
            qemu: "10.0.8".to_owned(),
            compiler: "rustc 1.96.0".to_owned(),
        };
        let instructions = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Record { made, instructions }
    }

    #[test]
    fn as_many_or_fewer_are_well_and_a_few_more_too() {
        let was = record("6.1.0-56", &[("nat", 1000.0), ("pass", 100.0)]);
        assert_eq!(was.compare(&was), Ok(String::new()));
        for (nat, pass) in [(1010.0, 103.0), (500.0, 10.0)] {
            let now = record("6.1.0-56", &[("nat", nat), ("pass", pass)]);
            assert!(was.compare(&now).is_ok(), "{nat} {pass}");
        }
        let fewer = was.compare(&record("6.1.0-56", &[("nat", 900.0), ("pass", 100.0)])).unwrap();
        assert_eq!(fewer, "nat: 900 instructions, recorded 1000 (-10.0 %): fewer");
    }

    #[test]
    fn more_than_that_is_not() {
        let was = record("6.1.0-56", &[("nat", 1000.0), ("pass", 100.0)]);
        for (nat, pass) in [(1011.0, 100.0), (1000.0, 104.0)] {
            let now = record("6.1.0-56", &[("nat", nat), ("pass", pass)]);
            let text = was.compare(&now).unwrap_err();
            assert!(text.contains("MORE") && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn cases_that_come_or_go_are_to_be_recorded() {
        let was = record("6.1.0-56", &[("nat", 1000.0)]);
        let now = record("6.1.0-56", &[("nat", 1000.0), ("pass", 100.0)]);
        assert!(was.compare(&now).unwrap_err().contains("NOT RECORDED"));
        assert!(now.compare(&was).unwrap_err().contains("NOT COUNTED"));
    }

    #[test]
    fn another_kernel_has_more_room_and_is_told() {
        let was = record("6.1.0-56", &[("nat", 1000.0)]);
        let text = was.compare(&record("6.1.0-60", &[("nat", 1140.0)])).unwrap();
        assert!(text.contains("6.1.0-56") && text.contains("6.1.0-60"), "{text}");
        assert!(was.compare(&record("6.1.0-60", &[("nat", 1160.0)])).is_err());
    }
}
