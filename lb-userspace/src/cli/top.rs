//! `xvip top`: the status, live, with keys for orders.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    colour::Colours,
    command::{SocketArgs, block_on, failed},
};
use crate::{
    config::model::DEFAULT_CONFIG,
    status::gather::Places,
    top::{
        draw::{Look, draw},
        feed,
        screen::{Input, Screen, inputs},
        state::{Action, State},
    },
};

/// The arguments of `xvip top`.
#[derive(Clone, Debug, clap::Args)]
pub struct TopArgs {
    /// How often to ask the daemon: 500ms, 1s, 5s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// The configuration file, for the pin path and the backends' names while the daemon is down
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 1s, 5s"))?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
    if allowed.contains(&interval) { Ok(interval) } else { Err("write 100ms to 1h".to_owned()) }
}

/// Shows the status until somebody leaves. Exits with 1 where there is no terminal.
pub fn run(args: &TopArgs) -> ExitCode {
    match block_on(watch(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn watch(args: &TopArgs) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("xvip top needs a terminal; `xvip status` prints the same once");
    }
    let places = Places { socket: args.socket.socket.clone(), config: args.config.clone() };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut news = feed::begin(places.clone(), args.interval)?;
    let mut screen = Screen::take().context("the terminal cannot be set up")?;
    let mut inputs = inputs()?;
    // What orders come to, in the order in which they are over.
    let (done, mut outcomes) = mpsc::channel(8);
    let mut state = State::default();
    let colours = Colours::of_stdout();
    loop {
        let look = Look { colours, now: SystemTime::now() };
        screen.terminal.draw(|frame| draw(frame, &state, &look))?;
        tokio::select! {
            input = inputs.recv() => {
                let action = match input {
                    Some(Input::Key(key)) => state.press(key),
                    Some(Input::Resized) => None,
                    None => bail!("the terminal is gone"),
                };
                match action {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::CarryOut(order)) => {
                        let (places, done) = (places.clone(), done.clone());
                        tokio::spawn(async move {
                            // Whoever has left need not know.
                            let _ = done.send(feed::carry_out(&places, order).await).await;
                        });
                    }
                    None => {}
                }
            }
            Some(feed::News { at, status, events }) = news.recv() => {
                state.seen(at, status);
                if let Some(events) = events {
                    state.tell_events(events);
                }
            }
            Some(message) = outcomes.recv() => state.told(message),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_a_flood_nor_for_ever() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert!(interval("1ms").is_err() && interval("2h").is_err() && interval("1").is_err());
    }
}
