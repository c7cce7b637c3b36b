//! The `xvip` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::cli::command::main()
}
