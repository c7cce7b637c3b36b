//! Do the XDP programs load, attach natively and forward on the kernels that customers have? On Debian's stock ones,
//! booted in QEMU; the cases are in `src/guest.rs`. The first run fetches kernels and QEMU with apt (about 110 MB).
//!
//! `XVIP_GUEST_CASES=WORD` runs only the cases whose names contain it.
//!
//! Runner: alone, threads 2

use std::path::Path;

fn run_on(series: &str) {
    // Cargo's directory for a package's tests is `tmp` in its target directory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below target");
    let only = std::env::var("XVIP_GUEST_CASES").unwrap_or_default();
    if let Err(error) = lb_tests::vm::run_cases(&target.join("xtask"), series, &only) {
        panic!("{error}");
    }
}

#[test]
fn everything_works_on_debians_linux_6_1() {
    run_on("6.1");
}

#[test]
fn everything_works_on_debians_linux_6_12() {
    run_on("6.12");
}
