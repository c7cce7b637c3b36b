//! Writes the packages; `cargo xtask package` calls it.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use lb_packaging::{Source, deb, rpm};

#[derive(Parser)]
#[command(about = "Write the packages of xvip")]
struct Arguments {
    /// The workspace's root
    #[arg(long, value_name = "DIRECTORY")]
    root: PathBuf,
    /// The `xvip` to be packed, without symbols
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// The time of everything in the packages, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    epoch: u64,
    /// Where the packages go
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Pack quickly rather than well
    #[arg(long)]
    fast: bool,
}

fn main() -> ExitCode {
    let Arguments { root, binary, epoch, out, fast } = Arguments::parse();
    let source = Source { root, binary, epoch, fast };
    let written = deb::write(&source, &out).and_then(|deb| Ok([deb, rpm::write(&source, &out)?]));
    match written {
        Ok(packages) => {
            for package in packages {
                println!("{}", package.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
