//! New connections, one after the other, while something happens.

use std::error::Error;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lb_tests::topology::Lab;

use super::talks::{SOON, Talk};

/// Has clients come to these addresses in turn while `event` happens, each for one round, and returns how many there were.
/// Fails if one of them was not served.
pub fn served_while(
    lab: &Lab,
    addresses: &[SocketAddr],
    event: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<usize, Box<dyn Error>> {
    let over = AtomicBool::new(false);
    let come = || {
        let mut outcomes: Vec<Result<(), String>> = Vec::new();
        for address in addresses.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let talk = || -> Result<(), Box<dyn Error>> {
                Talk::over(TcpStream::connect_timeout(address, SOON)?)?.round()
            };
            outcomes.push(talk().map_err(|error| error.to_string()));
            thread::sleep(Duration::from_millis(5));
        }
        outcomes
    };
    let (happened, outcomes) = thread::scope(|scope| {
        let newcomers = scope.spawn(|| lab.client().run(come));
        let happened = event();
        over.store(true, Ordering::Relaxed);
        (happened, newcomers.join())
    });
    happened?;
    let outcomes = outcomes.map_err(|_| "the newcomers' thread panicked")??;
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    match failed.first() {
        Some(why) => {
            Err(format!("{} of {} newcomers failed, one with: {why}", failed.len(), outcomes.len()).into())
        }
        None => Ok(outcomes.len()),
    }
}
