//! What `xvip top` shows, and what a key does. Pure: what is new is passed in, what is to be done comes out.

use std::{collections::BTreeMap, time::Duration};

use super::rates::Rate;
use crate::{
    config::model::MAX_WEIGHT,
    control::{
        order::Order,
        protocol::{BackendAction, VipAction},
    },
    history::Event,
    status::{BackendStatus, DaemonState, ServiceStatus, Status, VrrpStatus},
};

#[cfg(test)]
mod tests;

/// A key that somebody pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One up.
    Up,
    /// One down.
    Down,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Yes, or done.
    Enter,
    /// No.
    Escape,
    /// The last character goes.
    Backspace,
    /// A character.
    Char(char),
    /// Ctrl-C.
    Interrupt,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ask the daemon for it.
    CarryOut(Order),
}

/// What can be selected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A VRRP instance.
    Instance(String),
    /// A backend of a service.
    Backend {
        /// The service.
        service: String,
        /// Its name.
        backend: String,
    },
}

/// What the keys mean at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keys select, and begin orders.
    Watch,
    /// Whether an order is meant.
    Confirm {
        /// In words.
        question: String,
        /// The order.
        order: Order,
    },
    /// A weight is typed.
    Weight {
        /// The service of the backend.
        service: String,
        /// The backend.
        backend: String,
        /// What is typed.
        text: String,
    },
    /// A filter is typed; it holds at once.
    Filter,
    /// What the keys do.
    Help,
}

/// A line about what was done, or could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The line.
    pub text: String,
    /// Whether it was done.
    pub well: bool,
}

/// How fast a backend's counters grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendRates {
    /// New connections.
    pub opened: Rate,
    /// Bytes from clients.
    pub bytes_in: Rate,
    /// Bytes to clients.
    pub bytes_out: Rate,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    status: Option<Status>,
    failure: Option<String>,
    rates: BTreeMap<(String, String), BackendRates>,
    total: BackendRates,
    events: Vec<Event>,
    selected: Option<Item>,
    filter: String,
    mode: Mode,
    message: Option<Message>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: None,
            failure: None,
            rates: BTreeMap::new(),
            total: BackendRates::default(),
            events: Vec::new(),
            selected: None,
            filter: String::new(),
            mode: Mode::Watch,
            message: None,
        }
    }
}

impl State {
    /// A new status, or why there is none, at `at` since any moment that is the same for all calls.
    pub fn seen(&mut self, at: Duration, outcome: Result<Status, String>) {
        let status = match outcome {
            Ok(status) => status,
            // What was there last stays on the screen.
            Err(why) => return self.failure = Some(why),
        };
        self.failure = None;
        let mut sums = [0_u64; 3];
        let mut rates = BTreeMap::new();
        for service in &status.services {
            for backend in &service.backends {
                let key = (service.name.clone(), backend.name.clone());
                let mut rate = self.rates.remove(&key).unwrap_or_default();
                let flows = &backend.flows;
                let counts = [flows.opened, flows.bytes_in, flows.bytes_out];
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum = sum.saturating_add(count);
                }
                rate.seen(at, counts);
                rates.insert(key, rate);
            }
        }
        self.rates = rates;
        self.total.seen(at, sums);
        self.status = Some(status);
        let items = self.items();
        if self.selected.as_ref().is_none_or(|selected| !items.contains(selected)) {
            // A backend is what one mostly wants.
            let backend = items.iter().find(|item| matches!(item, Item::Backend { .. }));
            self.selected = backend.or(items.first()).cloned();
        }
    }

    /// What has happened of late, the newest last.
    pub fn tell_events(&mut self, events: Vec<Event>) {
        self.events = events;
    }

    /// What became of an order.
    pub fn told(&mut self, message: Message) {
        self.message = Some(message);
    }

    /// Somebody pressed a key.
    pub fn press(&mut self, key: Key) -> Option<Action> {
        if key == Key::Interrupt {
            return Some(Action::Quit);
        }
        match std::mem::replace(&mut self.mode, Mode::Watch) {
            Mode::Watch => return self.press_in_watch(key),
            // Any key leaves it.
            Mode::Help => {}
            Mode::Confirm { question, order } => match key {
                Key::Char('y' | 'Y') | Key::Enter => return Some(Action::CarryOut(order)),
                Key::Char('n' | 'N' | 'q') | Key::Escape => {
                    self.message = Some(Message { text: "nothing was changed".to_owned(), well: true });
                }
                _ => self.mode = Mode::Confirm { question, order },
            },
            Mode::Weight { service, backend, text } => {
                return self.press_in_weight(key, service, backend, text);
            }
            Mode::Filter => self.press_in_filter(key),
        }
        None
    }

    fn press_in_watch(&mut self, key: Key) -> Option<Action> {
        self.message = None;
        match key {
            Key::Char('q') => return Some(Action::Quit),
            Key::Up | Key::Char('k') => self.select(|index, _| index.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(|index, last| (index + 1).min(last)),
            Key::Home | Key::Char('g') => self.select(|_, _| 0),
            Key::End | Key::Char('G') => self.select(|_, last| last),
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Escape => self.filter.clear(),
            Key::Char('d') => self.ask_backend(BackendAction::Drain { deadline_s: None }),
            Key::Char('D') => self.ask_backend(BackendAction::Disable),
            Key::Char('e') => self.ask_backend(BackendAction::Enable),
            Key::Char('w') => {
                if let Some((service, backend)) = self.backend_for_an_order() {
                    let (service, backend) = (service.name.clone(), backend.name.clone());
                    self.mode = Mode::Weight { service, backend, text: String::new() };
                }
            }
            Key::Char('r') => self.ask_vip(VipAction::Release),
            Key::Char('a') => self.ask_vip(VipAction::Acquire),
            Key::Enter | Key::Backspace | Key::Char(_) | Key::Interrupt => {}
        }
        None
    }

    fn press_in_weight(
        &mut self,
        key: Key,
        service: String,
        backend: String,
        mut text: String,
    ) -> Option<Action> {
        match key {
            Key::Enter => {
                let weight = match text.trim() {
                    "default" | "d" => Some(None),
                    text => text.parse().ok().filter(|weight| *weight <= u32::from(MAX_WEIGHT)).map(Some),
                };
                let Some(weight) = weight else {
                    let text = format!("a weight is 0 to {MAX_WEIGHT}, or default; nothing was changed");
                    self.message = Some(Message { text, well: false });
                    return None;
                };
                let action = BackendAction::Weight { weight };
                return Some(Action::CarryOut(Order::Backend { service, backend, action }));
            }
            Key::Escape => return None,
            Key::Backspace => drop(text.pop()),
            Key::Char(c) if text.len() < "default".len() => text.push(c),
            _ => {}
        }
        self.mode = Mode::Weight { service, backend, text };
        None
    }

    fn press_in_filter(&mut self, key: Key) {
        match key {
            Key::Enter => return,
            Key::Escape => return self.filter.clear(),
            Key::Backspace => drop(self.filter.pop()),
            Key::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.mode = Mode::Filter;
        let items = self.items();
        if self.selected.as_ref().is_none_or(|selected| !items.contains(selected)) {
            self.selected = items.into_iter().next();
        }
    }

    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let items = self.items();
        let Some(last) = items.len().checked_sub(1) else { return };
        let now = items.iter().position(|item| Some(item) == self.selected.as_ref()).unwrap_or(0);
        self.selected = items.into_iter().nth(to(now, last));
    }

    /// What can be selected, from top to bottom.
    pub fn items(&self) -> Vec<Item> {
        let Some(status) = &self.status else { return Vec::new() };
        let instances = status.vrrp.iter().map(|vrrp| Item::Instance(vrrp.name.clone()));
        let backends = status.services.iter().flat_map(|service| {
            let shown = service.backends.iter().filter(|backend| self.is_shown(service, backend));
            shown
                .map(|backend| Item::Backend { service: service.name.clone(), backend: backend.name.clone() })
        });
        instances.chain(backends).collect()
    }

    /// Whether the filter lets a backend through: its name, address, state or service has the text.
    pub fn is_shown(&self, service: &ServiceStatus, backend: &BackendStatus) -> bool {
        let filter = self.filter.to_lowercase();
        let texts = [&service.name, &service.vip, &backend.name, &backend.address, &backend.state];
        texts.iter().any(|text| text.to_lowercase().contains(&filter))
    }

    /// The selected backend, or why there is none that could be ordered about.
    fn backend_for_an_order(&mut self) -> Option<(&ServiceStatus, &BackendStatus)> {
        if !self.can_order() {
            return None;
        }
        let Some(Item::Backend { service, backend }) = self.selected.clone() else {
            let text = "select a backend first".to_owned();
            self.message = Some(Message { text, well: false });
            return None;
        };
        let service = self.status.as_ref()?.services.iter().find(|known| known.name == service)?;
        let backend = service.backends.iter().find(|known| known.name == backend)?;
        Some((service, backend))
    }

    /// Whether there is a daemon to carry anything out. If not, that is said.
    fn can_order(&mut self) -> bool {
        let up = self.is_up();
        if !up {
            let text = "the daemon is down: nobody can carry that out".to_owned();
            self.message = Some(Message { text, well: false });
        }
        up
    }

    fn ask_backend(&mut self, action: BackendAction) {
        let Some((service, backend)) = self.backend_for_an_order() else { return };
        let (name, active) = (&backend.name, backend.flows.active);
        let what = match action {
            BackendAction::Drain { .. } | BackendAction::Maintain => {
                format!("drain {name}: no new connections; it keeps its {active}")
            }
            BackendAction::Disable => format!("disable {name}: its {active} connections are RESET"),
            BackendAction::Enable => format!("enable {name}: as the file says"),
            BackendAction::Weight { .. } => format!("change the weight of {name}"),
        };
        let question = format!("{what} (service {})", service.name);
        let order = Order::Backend { service: service.name.clone(), backend: name.clone(), action };
        self.mode = Mode::Confirm { question, order };
    }

    fn ask_vip(&mut self, action: VipAction) {
        if !self.can_order() {
            return;
        }
        let vrrp = self.status.as_ref().map_or(&[][..], |status| &status.vrrp);
        let selected = vrrp.iter().find(|vrrp| self.selected == Some(Item::Instance(vrrp.name.clone())));
        let instance = selected.or(match vrrp {
            [only] => Some(only),
            _ => None,
        });
        let Some(VrrpStatus { name, vips, .. }) = instance else {
            let text = "select a VRRP instance first".to_owned();
            self.message = Some(Message { text, well: false });
            return;
        };
        let vips =
            vips.iter().map(|vip| vip.split('/').next().unwrap_or_default()).collect::<Vec<_>>().join(", ");
        let question = match action {
            VipAction::Release => format!("hand {vips} over to another node (vrrp {name})"),
            VipAction::Acquire => {
                format!("end a release, and take {vips} from nodes of lower priority (vrrp {name})")
            }
        };
        let order = Order::Vip { instance: name.clone(), action };
        self.mode = Mode::Confirm { question, order };
    }

    /// The last status; none before the first.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Whether the daemon told it, and just now.
    pub fn is_up(&self) -> bool {
        self.failure.is_none() && self.status.as_ref().is_some_and(|status| status.daemon == DaemonState::Up)
    }

    /// Why there is no newer status.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// How fast the counters of a backend grow.
    pub fn rates(&self, service: &str, backend: &str) -> Option<&BackendRates> {
        self.rates.get(&(service.to_owned(), backend.to_owned()))
    }

    /// How fast those of all backends together grow.
    pub fn total(&self) -> &BackendRates {
        &self.total
    }

    /// What has happened of late, the newest last.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What is selected.
    pub fn selected(&self) -> Option<&Item> {
        self.selected.as_ref()
    }

    /// The filter; empty: everything is shown.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// What the keys mean.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What was done last.
    pub fn message(&self) -> Option<&Message> {
        self.message.as_ref()
    }
}

impl BackendRates {
    fn seen(&mut self, at: Duration, [opened, bytes_in, bytes_out]: [u64; 3]) {
        self.opened.seen(at, opened);
        self.bytes_in.seen(at, bytes_in);
        self.bytes_out.seen(at, bytes_out);
    }
}
