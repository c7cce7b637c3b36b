//! A real browser, headless Chromium, driven over its DevTools protocol. It talks through two pipes
//! (`--remote-debugging-pipe`), each message a JSON object and a NUL: no port is opened, and no library is needed.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::netns::{Netns, NetnsError};
use crate::wait;

/// Generous: on a busy machine a browser takes its time to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Neither does anything on the network by itself, nor wants rights or graphics that a test has not.
const FLAGS: [&str; 15] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--lang=en",
];

/// Why a browser did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// The pipes or a file.
    #[error("the browser's pipes: {0}")]
    Io(#[from] io::Error),
    /// It did not answer, or it is gone.
    #[error("the browser did not answer to {0}")]
    Silent(String),
    /// It refused.
    #[error("the browser refused {method}: {why}")]
    Refused {
        /// What it was told.
        method: String,
        /// What it said.
        why: String,
    },
    /// Something did not happen in time.
    #[error("{0}")]
    TimedOut(#[from] wait::TimedOut),
}

/// A browser with one page. Dropping it kills and reaps it.
pub struct Browser {
    child: Child,
    commands: File,
    /// To wake the reader with when the browser has gone.
    answers: File,
    messages: Receiver<Value>,
    events: VecDeque<Value>,
    next: u64,
    session: Option<String>,
}

impl Browser {
    /// Starts one on a machine; what it keeps, it keeps below `dir`.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub fn start(machine: &Netns, dir: &Path) -> Result<Self, BrowserError> {
        let home = dir.join("browser");
        fs::create_dir_all(&home)?;
        let [commands, answers] = ["commands", "answers"].map(|name| home.join(name));
        for pipe in [&commands, &answers] {
            mkfifo(pipe, Mode::S_IRWXU).map_err(io::Error::from)?;
        }
        // Open at both ends, a FIFO waits for nobody (fifo(7)).
        let open = |pipe: &PathBuf| OpenOptions::new().read(true).write(true).open(pipe);
        let (to, from) = (open(&commands)?, open(&answers)?);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg("exec \"$@\" 3<\"$COMMANDS\" 4>\"$ANSWERS\"")
            .arg("sh")
            .arg("chromium")
            .args(FLAGS);
        command.arg(format!("--user-data-dir={}", home.join("profile").display())).arg("about:blank");
        command.env("COMMANDS", &commands).env("ANSWERS", &answers).env("HOME", &home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(home.join("log"))?);
        let child = machine.spawn(&mut command)?;
        let mut reading = from.try_clone()?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let (mut pending, mut buffer) = (Vec::new(), vec![0; 65_536]);
            while let Ok(count @ 1..) = reading.read(&mut buffer) {
                pending.extend_from_slice(&buffer[..count]);
                while let Some(end) = pending.iter().position(|byte| *byte == 0) {
                    let rest = pending.split_off(end + 1);
                    let message = serde_json::from_slice(&pending[..end]);
                    pending = rest;
                    // What is no message is our own word that it is over.
                    let Ok(message) = message else { return };
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            child,
            commands: to,
            answers: from,
            messages,
            events: VecDeque::new(),
            next: 1,
            session: None,
        };
        browser.attach()?;
        Ok(browser)
    }

    fn attach(&mut self) -> Result<(), BrowserError> {
        let page = loop {
            let targets = self.call("Target.getTargets", json!({}))?;
            let mut targets = targets["targetInfos"].as_array().into_iter().flatten();
            let page = targets.find(|target| target["type"] == "page");
            if let Some(page) = page.and_then(|page| page["targetId"].as_str()) {
                break page.to_owned();
            }
            thread::sleep(Duration::from_millis(20));
        };
        let attached = self.call("Target.attachToTarget", json!({ "targetId": page, "flatten": true }))?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Accessibility.enable", "Log.enable"] {
            self.call(domain, json!({}))?;
        }
        Ok(())
    }

    /// Calls a method of the protocol, and returns its result.
    ///
    /// # Errors
    /// When the browser refuses or does not answer.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, BrowserError> {
        let id = self.next;
        self.next += 1;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(BrowserError::Silent(method.to_owned()));
                }
            };
            if message["id"] != json!(id) {
                self.events.push_back(message);
                continue;
            }
            return match message.get("error") {
                Some(error) => {
                    Err(BrowserError::Refused { method: method.to_owned(), why: error.to_string() })
                }
                None => Ok(message["result"].clone()),
            };
        }
    }

    /// The value of an expression of JavaScript.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value, BrowserError> {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            Some(why) => Err(BrowserError::Refused { method: expression.to_owned(), why: why.to_string() }),
            None => Ok(result["result"]["value"].clone()),
        }
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn go_to(&mut self, url: &str) -> Result<(), BrowserError> {
        let result = self.call("Page.navigate", json!({ "url": url }))?;
        match result["errorText"].as_str() {
            None => self.until("document.readyState === 'complete' && location.href !== 'about:blank'"),
            Some(why) => Err(BrowserError::Refused { method: url.to_owned(), why: why.to_owned() }),
        }
    }

    /// Waits until an expression is true. While a page changes to another one, nothing is.
    ///
    /// # Errors
    /// When it does not become true in time; with what the page shows instead.
    pub fn until(&mut self, expression: &str) -> Result<(), BrowserError> {
        let end = Instant::now() + PATIENCE;
        loop {
            if matches!(self.evaluate(expression), Ok(Value::Bool(true))) {
                return Ok(());
            }
            if Instant::now() >= end {
                let shown = self.text().unwrap_or_default();
                let what = format!("{expression}; the page shows:\n{shown}");
                return Err(wait::TimedOut { what, limit: PATIENCE }.into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the page shows.
    ///
    /// # Errors
    /// As [`Browser::evaluate`].
    pub fn text(&mut self) -> Result<String, BrowserError> {
        let text = self.evaluate("document.body.innerText")?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Presses a key and lets it go: `Tab` or `Enter`.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn press(&mut self, key: &str) -> Result<(), BrowserError> {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            other => panic!("no key {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if let Some(text) = text.filter(|_| kind == "keyDown") {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Types a text into what has the focus.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn type_text(&mut self, text: &str) -> Result<(), BrowserError> {
        self.call("Input.insertText", json!({ "text": text })).map(drop)
    }

    /// The name of what has the focus, as it is read aloud.
    ///
    /// # Errors
    /// As [`Browser::evaluate`].
    pub fn focused(&mut self) -> Result<String, BrowserError> {
        let name = self.evaluate(
            "(e => e.getAttribute('aria-label') ?? e.labels?.[0]?.innerText ?? e.innerText ?? '')(document.activeElement)",
        )?;
        Ok(name.as_str().unwrap_or_default().trim().to_owned())
    }

    /// Presses Tab until what has this name has the focus.
    ///
    /// # Errors
    /// When nothing has that name.
    pub fn tab_to(&mut self, name: &str) -> Result<(), BrowserError> {
        let mut seen = Vec::new();
        for _ in 0..200 {
            let focused = self.focused()?;
            if focused == name {
                return Ok(());
            }
            seen.push(focused);
            self.press("Tab")?;
        }
        seen.dedup();
        Err(BrowserError::Refused { method: format!("Tab to {name:?}"), why: format!("{seen:?}") })
    }

    /// What everything that can be used is, and is called, for who does not see it: role and name.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn controls(&mut self) -> Result<Vec<(String, String)>, BrowserError> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree["nodes"].as_array().into_iter().flatten();
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let used =
            ["button", "link", "textbox", "spinbutton", "checkbox", "combobox", "image", "img", "table"];
        Ok(nodes
            .filter(|node| node["ignored"] != json!(true))
            .map(|node| (text(&node["role"]), text(&node["name"])))
            .filter(|(role, _)| used.contains(&role.as_str()))
            .collect())
    }

    /// Errors that the browser has found: in a script, or what the page's policy forbids.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn complaints(&mut self) -> Result<Vec<String>, BrowserError> {
        // Whatever came before the answer is there then.
        self.evaluate("1")?;
        let of = |event: &Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(event["params"].to_string()),
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                Some(event["params"]["entry"].to_string())
            }
            _ => None,
        };
        Ok(self.events.iter().filter_map(of).collect())
    }

    /// Draws the whole page on a screen of that width, light or dark, into a PNG file. Also tells whether it is wider than
    /// the screen.
    ///
    /// # Errors
    /// When it cannot be drawn or written.
    pub fn draw(&mut self, file: &Path, width: u32, dark: bool) -> Result<bool, BrowserError> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }))?;
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let overflows = self.evaluate("document.documentElement.scrollWidth > innerWidth")?;
        let shot =
            self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }))?;
        let data = shot["data"].as_str().unwrap_or_default();
        let png = BASE64_STANDARD.decode(data).map_err(|error| io::Error::other(error.to_string()))?;
        fs::write(file, png)?;
        Ok(overflows == json!(true))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.answers.write_all(b"!\0");
    }
}
