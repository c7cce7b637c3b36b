//! placeholder
pub struct Selection {
    pub no_e2e: bool,
    pub filters: Vec<String>,
}
pub fn run(_s: &Selection) -> anyhow::Result<std::process::ExitCode> {
    let _ = (crate::process::interrupted(), crate::process::End::TimedOut);
    anyhow::bail!("x")
}
