//! What the data plane itself logs: a drop that should not happen, with the addresses of the packet. At most one line a
//! second for each reason and CPU; how many there are is in the counters.

use lb_common::reason::DropReason;
use log::{Log, Metadata, Record};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::dataplane::{Dataplane, DataplaneError};

/// The task that writes the data plane's lines into our log, for as long as this lives.
#[derive(Debug)]
pub struct DropLog(JoinHandle<()>);

impl DropLog {
    /// Begins. Needs a Tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// Where the object has no log, or it has been taken already.
    pub fn begin(dataplane: &mut Dataplane) -> Result<Self, DataplaneError> {
        let mut lines = dataplane.log_lines(Translator)?;
        Ok(Self(tokio::spawn(async move {
            while let Ok(mut guard) = lines.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })))
    }
}

impl Drop for DropLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts names in place of the numbers.
pub struct Translator;

impl Log for Translator {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        match translate(&text) {
            Some((reason, source, destination)) => {
                warn!(reason = reason.name(), source, destination, "the data plane dropped a packet");
            }
            None => warn!("the data plane: {text}"),
        }
    }

    fn flush(&self) {}
}

/// The line of `lb-ebpf/src/log.rs`: reason, source, its port, destination, its port.
fn translate(line: &str) -> Option<(DropReason, String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[reason, source, from, destination, to] = words.as_slice() else { return None };
    let reason = *DropReason::ALL.get(reason.parse::<usize>().ok()?)?;
    Some((reason, end(source, from), end(destination, to)))
}

fn end(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_data_plane_gets_its_names() {
        let index = DropReason::ALL.iter().position(|&reason| reason == DropReason::NextHopUnknown);
        let line = format!("{} 10.0.0.7 4000 10.0.0.10 6443", index.expect("a reason"));
        let translated = translate(&line);
        let expected = (DropReason::NextHopUnknown, "10.0.0.7:4000".to_owned(), "10.0.0.10:6443".to_owned());
        assert_eq!(translated, Some(expected));
        assert_eq!(translate("0 fd00::7 1 fd00::a 2").map(|line| line.1).as_deref(), Some("[fd00::7]:1"));
        for line in ["", "99 a 1 b 2", "x a 1 b 2", "1 a 1 b", "1 a 1 b 2 c"] {
            assert_eq!(translate(line), None, "{line}");
        }
    }
}
