//! What an admin orders on the page: the fields of a form, and what becomes of them. The reading is pure.

use std::{collections::BTreeMap, time::Duration};

use super::{seen::Watch, sessions::Message};
pub use crate::control::order::Order;
use crate::control::{
    order::begun,
    protocol::{BackendAction, BackendOrder, RebalanceOrder, Request, VipAction},
};

/// The largest deadline, as `xvip backend drain --deadline` has it at most: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a form's `what` field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `drain`
    Drain,
    /// `disable`
    Disable,
    /// `enable`
    Enable,
    /// `weight`
    Weight,
    /// `release`
    Release,
    /// `acquire`
    Acquire,
    /// `rebalance`
    Rebalance,
}

impl What {
    /// All, with their words.
    const WORDS: [(Self, &'static str); 7] = [
        (Self::Drain, "drain"),
        (Self::Disable, "disable"),
        (Self::Enable, "enable"),
        (Self::Weight, "weight"),
        (Self::Release, "release"),
        (Self::Acquire, "acquire"),
        (Self::Rebalance, "rebalance"),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(what, _)| *what == self).map_or("", |(_, word)| word)
    }

    /// What a word means.
    pub fn read(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(what, _)| *what)
    }
}

/// Whom an order is about: what a link on the page says before the admin is asked for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What is to be done.
    pub what: What,
    /// The service; empty for a VIP.
    pub service: String,
    /// The backend, or the VRRP instance; empty for a rebalance.
    pub name: String,
}

impl Subject {
    /// Of a query or a form; nothing where it does not say all that is needed.
    pub fn read(fields: &BTreeMap<String, String>) -> Option<Self> {
        let what = What::read(fields.get("what")?)?;
        let field = |name: &str| fields.get(name).filter(|text| !text.is_empty()).cloned();
        let (service, name) = match what {
            What::Drain | What::Disable | What::Enable | What::Weight => (field("service")?, field("name")?),
            What::Release | What::Acquire => (String::new(), field("name")?),
            What::Rebalance => (field("service")?, String::new()),
        };
        Some(Self { what, service, name })
    }
}

impl Order {
    /// What a whole form means.
    ///
    /// # Errors
    /// What is wrong with it, for the one who filled it in.
    pub fn read(fields: &BTreeMap<String, String>) -> Result<Self, String> {
        let subject = Subject::read(fields).ok_or("the form does not say what to do, or with whom")?;
        let Subject { what, service, name } = subject;
        let field = |name: &str| fields.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
        let action = match what {
            What::Release => return Ok(Self::Vip { instance: name, action: VipAction::Release }),
            What::Acquire => return Ok(Self::Vip { instance: name, action: VipAction::Acquire }),
            What::Rebalance => return Ok(Self::Rebalance { service }),
            What::Disable => BackendAction::Disable,
            What::Enable => BackendAction::Enable,
            What::Drain => BackendAction::Drain { deadline_s: field("deadline").map(deadline).transpose()? },
            What::Weight => BackendAction::Weight { weight: field("weight").map(weight).transpose()? },
        };
        Ok(Self::Backend { service, backend: name, action })
    }

    /// Has the controller do it, in the name of `by`.
    pub async fn carry_out(self, watch: &Watch, by: &str) -> Message {
        let failed = |error: String| Message { lines: vec![error], is_error: true };
        let silent = || failed("xvip did not answer in time: look whether it was done".to_owned());
        match self {
            Self::Backend { service, backend, action } => {
                let order = BackendOrder { backend, service: Some(service), action, by: None };
                let by = by.to_owned();
                let Some(answer) = watch.ask(|reply| Request::Backend { order, by, reply }).await else {
                    return silent();
                };
                match answer.error {
                    Some(error) => failed(error),
                    None => Message { lines: [answer.lines, answer.warnings].concat(), is_error: false },
                }
            }
            Self::Vip { instance, action } => {
                let by = Some(by.to_owned());
                let request = |reply| Request::Vip { action, name: Some(instance), by, reply };
                let Some(answer) = watch.ask(request).await else { return silent() };
                if let Some(error) = answer.error {
                    return failed(error);
                }
                let instances = answer.instances.join(", ");
                let seconds = answer.patience_ms.div_ceil(1000);
                let line =
                    format!("vrrp {instances}: told to {action} its VIPs; that takes {seconds} s at most");
                Message { lines: vec![line], is_error: false }
            }
            Self::Rebalance { service } => {
                let order =
                    RebalanceOrder { service: Some(service), dry_run: false, by: Some(by.to_owned()) };
                let Some(answer) = watch.ask(|reply| Request::Rebalance(order, reply)).await else {
                    return silent();
                };
                match answer.error {
                    Some(error) => failed(error),
                    None => Message { lines: answer.plans.iter().map(begun).collect(), is_error: false },
                }
            }
        }
    }
}

fn deadline(text: &str) -> Result<u64, String> {
    let wrong = || format!("the deadline must be a time like 10m or 90s, not {text:?}");
    let number: Option<u64> = text.parse().ok();
    let duration = match number {
        Some(seconds) => Duration::from_secs(seconds),
        // Longer texts could overflow the library's sums.
        None if text.len() <= 12 => humantime::parse_duration(text).map_err(|_| wrong())?,
        None => return Err(wrong()),
    };
    if duration > LONGEST {
        return Err("the deadline must be within a year".to_owned());
    }
    Ok(duration.as_secs())
}

fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= 256);
    weight.ok_or_else(|| format!("the weight must be 0 to 256, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<Order, String> {
        Order::read(&super::super::asked::fields(text.as_bytes()))
    }

    fn of(action: BackendAction) -> Result<Order, String> {
        Ok(Order::Backend { service: "api".to_owned(), backend: "m1".to_owned(), action })
    }

    #[test]
    fn each_form_means_one_order() {
        for (form, expected) in [
            ("what=drain&service=api&name=m1", of(BackendAction::Drain { deadline_s: None })),
            ("what=drain&service=api&name=m1&deadline=", of(BackendAction::Drain { deadline_s: None })),
            (
                "what=drain&service=api&name=m1&deadline=10m",
                of(BackendAction::Drain { deadline_s: Some(600) }),
            ),
            (
                "what=drain&service=api&name=m1&deadline=+90+",
                of(BackendAction::Drain { deadline_s: Some(90) }),
            ),
            ("what=disable&service=api&name=m1", of(BackendAction::Disable)),
            ("what=enable&service=api&name=m1", of(BackendAction::Enable)),
            ("what=weight&service=api&name=m1&weight=0", of(BackendAction::Weight { weight: Some(0) })),
            ("what=weight&service=api&name=m1&weight=", of(BackendAction::Weight { weight: None })),
            (
                "what=release&name=main",
                Ok(Order::Vip { instance: "main".to_owned(), action: VipAction::Release }),
            ),
            (
                "what=acquire&name=main",
                Ok(Order::Vip { instance: "main".to_owned(), action: VipAction::Acquire }),
            ),
            ("what=rebalance&service=api", Ok(Order::Rebalance { service: "api".to_owned() })),
        ] {
            assert_eq!(order(form), expected, "{form}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for form in [
            "",
            "what=fly&service=api&name=m1",
            "what=drain&name=m1",
            "what=drain&service=api",
            "what=drain&service=api&name=",
            "what=drain&service=api&name=m1&name=m2",
            "what=drain&service=api&name=m1&deadline=soon",
            "what=drain&service=api&name=m1&deadline=99999999999999999999",
            "what=drain&service=api&name=m1&deadline=18446744073709551615s+1000000000ns",
            "what=drain&service=api&name=m1&deadline=366d",
            "what=weight&service=api&name=m1&weight=257",
            "what=weight&service=api&name=m1&weight=-1",
            "what=release",
            "what=rebalance",
        ] {
            assert!(order(form).is_err(), "{form}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for (what, word) in What::WORDS {
            assert_eq!((what.word(), What::read(word)), (word, Some(what)));
        }
    }
}
