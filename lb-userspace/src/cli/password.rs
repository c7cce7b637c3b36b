//! `xvip password`: hashes a password for `[[http.user]]`.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::command::failed;
use crate::password;

/// The arguments of `xvip password`.
#[derive(Clone, Debug, clap::Args)]
pub struct PasswordArgs {}

/// Asks for a password twice without showing it, or takes the first line of standard input where that is no terminal, and
/// prints its hash. Exits with 0, or 1 if there is no password.
pub fn run(_: &PasswordArgs) -> ExitCode {
    match hashed() {
        Ok(hash) => {
            println!("{hash}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn hashed() -> anyhow::Result<String> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let first = rpassword::prompt_password("password: ").context("reading from the terminal")?;
        let second = rpassword::prompt_password("again: ").context("reading from the terminal")?;
        if first != second {
            bail!("these are two different passwords");
        }
        first
    } else {
        let mut line = String::new();
        stdin.lock().read_line(&mut line).context("reading standard input")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    Ok(password::hash(&password)?)
}
