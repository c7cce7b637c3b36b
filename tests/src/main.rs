//! The lab as a program: what `cargo xtask run` starts.
fn main() {}
