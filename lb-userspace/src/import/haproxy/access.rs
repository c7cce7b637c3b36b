//! Who may connect: `acl ... src` and the rules that use it (HAProxy 2.6's manual, §7).

use std::{collections::BTreeMap, rc::Rc};

use super::{address, file::Line, roles::Scribe, words::Word};
use crate::{
    config::model::Prefix,
    import::{
        ledger::Fate,
        source::{At, Place},
    },
};

/// The access rules of a frontend, while its lines are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Networks by the name of their `acl`; `None` where it asks for something else.
    lists: BTreeMap<String, Option<Rc<Vec<Prefix>>>>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    place: Place,
    /// When it is looked at: `connection`, `session`, `content`.
    stage: u8,
    accepts: bool,
    condition: Condition,
}

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: it always holds.
    Always,
    /// The source is in one of these.
    From(Rc<Vec<Prefix>>),
    /// The source is in none of these.
    NotFrom(Rc<Vec<Prefix>>),
    /// Something else.
    Other,
}

/// The acls that HAProxy defines itself, and what they come to for a TCP connection.
const BUILT_IN: [(&str, Condition); 3] =
    [("TRUE", Condition::Always), ("FALSE", Condition::Other), ("LOCALHOST", Condition::Other)];

/// More networks than xvip has room for.
const MOST: usize = 4096;

const IN_WORDS: &str = "xvip lets in by the source's network alone (`service.allow`)";

impl Access {
    /// Reads an `acl` line.
    pub fn acl(&mut self, line: &Line, scribe: &mut Scribe<'_>) {
        if line.words.len() < 3 {
            scribe.wrong(line.place, "an acl has a name, a criterion and values");
            return;
        }
        let networks = networks(line.from(2));
        match &networks {
            Some(_) => scribe.note(line.place, Fate::Exact, "", "its networks go where the acl is used"),
            None => {
                let note = "xvip does not look into what is sent; of acls it knows lists of source networks";
                scribe.note(line.place, Fate::NotPossible, "", note);
            }
        }
        // Several lines with one name are alternatives.
        let entry = self.lists.entry(line.word(1).to_owned()).or_insert_with(|| Some(Rc::default()));
        match (entry.as_mut(), networks) {
            (Some(known), Some(more)) => Rc::make_mut(known).extend(more),
            _ => *entry = None,
        }
    }

    /// Reads a `tcp-request` line.
    pub fn rule(&mut self, line: &Line, scribe: &mut Scribe<'_>) {
        let place = line.place;
        match (line.word(1), line.word(2)) {
            ("inspect-delay", _) => {
                scribe.note(place, Fate::NotNeeded, "", "xvip does not wait for what a client sends");
            }
            (
                stage @ ("connection" | "session" | "content"),
                verb @ ("accept" | "reject" | "silent-drop"),
            ) => {
                let stage = match stage {
                    "connection" => 0,
                    "session" => 1,
                    _ => 2,
                };
                let condition = self.condition(line.from(3));
                if verb == "accept" && condition == Condition::Other && line.word(1) == "content" {
                    let note = "waits for what the client sends; xvip does not look into it";
                    scribe.note(place, Fate::NotNeeded, "", note);
                } else {
                    self.rules.push(Rule { place, stage, accepts: verb == "accept", condition });
                }
            }
            ("connection" | "session" | "content", verb) => {
                let (fate, note) = match verb {
                    "" => return scribe.wrong(place, "what is to be done is missing"),
                    "expect-proxy" | "expect-netscaler-cip" => (
                        Fate::NotPossible,
                        "xvip reads no PROXY header: clients have to reach it by themselves",
                    ),
                    _ if verb.starts_with("track-sc") || verb.starts_with("sc-") => (
                        Fate::NotPossible,
                        "xvip counts new connections of each source: `service.new_connections_per_source`",
                    ),
                    _ if TCP_ACTIONS.iter().any(|known| verb.starts_with(known)) => (
                        Fate::NotPossible,
                        "xvip does not look into what is sent, and changes no other properties of a connection",
                    ),
                    _ => (Fate::Unknown, "nothing is known of this action"),
                };
                scribe.always(place, fate, "", note);
            }
            _ => scribe.always(
                place,
                Fate::Unknown,
                "",
                format!("nothing is known of `tcp-request {}`", line.word(1)),
            ),
        }
    }

    /// What the words from `if` or `unless` on ask for.
    pub fn condition(&self, words: &[Word]) -> Condition {
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let (unless, terms) = match texts.split_first() {
            None => return Condition::Always,
            Some((&"if", terms)) => (false, terms),
            Some((&"unless", terms)) => (true, terms),
            Some(_) => return Condition::Other,
        };
        let found = match terms {
            ["{", ..]
                if terms.last() == Some(&"}") && terms.iter().filter(|term| **term == "{").count() == 1 =>
            {
                networks(&words[2..words.len() - 1])
                    .map_or(Condition::Other, |networks| Condition::From(Rc::new(networks)))
            }
            ["!", name] => self.named(name).negated(),
            [name] => match name.strip_prefix('!') {
                Some(name) => self.named(name).negated(),
                None => self.named(name),
            },
            // Alternatives: all of them networks.
            _ => {
                let alternatives = terms.split(|term| matches!(*term, "or" | "||"));
                let mut all = Vec::new();
                for alternative in alternatives {
                    match alternative {
                        [name] => match self.named(name) {
                            Condition::From(more) if all.len() < MOST => all.extend(more.iter().copied()),
                            _ => return Condition::Other,
                        },
                        _ => return Condition::Other,
                    }
                }
                Condition::From(Rc::new(all))
            }
        };
        if unless { found.negated() } else { found }
    }

    fn named(&self, name: &str) -> Condition {
        match self.lists.get(name) {
            Some(Some(networks)) => Condition::From(networks.clone()),
            Some(None) => Condition::Other,
            None => BUILT_IN
                .iter()
                .find(|(built_in, _)| *built_in == name)
                .map_or(Condition::Other, |(_, condition)| condition.clone()),
        }
    }

    /// What becomes of the rules of `defaults`: there is no place for what several frontends have in common.
    pub fn unsettled(&mut self, scribe: &mut Scribe<'_>) {
        for rule in std::mem::take(&mut self.rules) {
            let note = "a rule in `defaults` is not imported: write service.allow where it holds";
            scribe.note(rule.place, Fate::NotPossible, "", note);
        }
    }

    /// Who may connect by the rules of each stage in their order, the first that holds counting; empty: everybody. Says of each rule what
    /// became of it.
    pub fn settle(&mut self, scribe: &mut Scribe<'_>) -> Vec<At<Prefix>> {
        let mut rules = std::mem::take(&mut self.rules);
        rules.sort_by_key(|rule| rule.stage);
        let mut accepted: Vec<At<Prefix>> = Vec::new();
        let mut result = None;
        let mut impossible = false;
        for rule in rules {
            let place = rule.place;
            if result.is_some() {
                scribe.note(place, Fate::NotNeeded, "", "a rule before it has decided");
                continue;
            }
            let at = |networks: Rc<Vec<Prefix>>| -> Vec<_> {
                networks.iter().map(|network| At::new(*network, place)).collect()
            };
            match (rule.accepts, rule.condition) {
                _ if accepted.len() > MOST => {
                    scribe.note(place, Fate::NotPossible, "", format!("there are more than {MOST} networks"));
                    impossible = true;
                }
                _ if impossible => {
                    let note = format!("{IN_WORDS}, and a rule before this one cannot be had");
                    scribe.note(place, Fate::NotPossible, "", note);
                }
                (true, Condition::From(networks)) => {
                    accepted.extend(at(networks));
                    scribe.note(place, Fate::Exact, "service.allow", "");
                }
                (true, Condition::Always) => {
                    scribe.note(place, Fate::Exact, "", "everybody may connect");
                    // Who came before adds nothing.
                    accepted.clear();
                    result = Some(());
                }
                (false, Condition::NotFrom(networks)) => {
                    accepted.extend(at(networks));
                    scribe.note(place, Fate::Exact, "service.allow", "");
                    result = Some(());
                }
                (false, Condition::Always) if !accepted.is_empty() => {
                    scribe.note(place, Fate::Exact, "service.allow", "");
                    result = Some(());
                }
                (false, Condition::Always) => {
                    scribe.note(place, Fate::NotPossible, "", "this lets nobody in: leave the service out");
                    impossible = true;
                }
                (false, _) => {
                    let note = "whom this keeps out can connect to xvip: it has lists of networks to let in \
                                (`service.allow`), no others";
                    scribe.note(place, Fate::NotPossible, "", note);
                }
                (true, _) => {
                    let note = format!("lets in by something else than networks: {IN_WORDS}");
                    scribe.note(place, Fate::NotPossible, "", note);
                    // Whom this lets in must not be kept out by a later rule.
                    impossible = true;
                }
            }
        }
        // Without a rule that keeps the others out, everybody may connect.
        if result.is_none() {
            accepted.clear();
        }
        accepted
    }
}

/// Actions of `tcp-request` rules besides those that are read.
const TCP_ACTIONS: [&str; 24] = [
    "capture",
    "do-resolve",
    "lua.",
    "send-spoe-group",
    "set-dst",
    "set-src",
    "set-mark",
    "set-tos",
    "set-var",
    "unset-var",
    "set-log-level",
    "set-nice",
    "set-priority",
    "set-fc-",
    "set-bc-",
    "set-bandwidth-limit",
    "switch-mode",
    "use-service",
    "attach-srv",
    "do-log",
    "pause",
    "close",
    "ot-group",
    "set-retries",
];

impl Condition {
    fn negated(self) -> Self {
        match self {
            Self::From(networks) => Self::NotFrom(networks),
            Self::NotFrom(networks) => Self::From(networks),
            Self::Always | Self::Other => Self::Other,
        }
    }
}

/// The networks of `src A B ...`; `None` where it is another criterion, or they are in a file.
fn networks(words: &[Word]) -> Option<Vec<Prefix>> {
    let (criterion, values) = words.split_first()?;
    if criterion.text != "src" {
        return None;
    }
    let mut values = values.iter().peekable();
    while let Some(flag) = values.next_if(|value| value.text.starts_with('-')) {
        match flag.text.as_str() {
            // `--` ends the flags; `-n` forbids name look-ups; `-m ip` is the default.
            "--" => break,
            "-n" => {}
            "-m" if values.next().is_some_and(|method| method.text == "ip") => {}
            _ => return None,
        }
    }
    let networks: Option<Vec<_>> = values.map(|value| address::prefix(&value.text)).collect();
    networks.filter(|networks| !networks.is_empty())
}
