//! The packages of xvip, for Debian and for distributions with RPM, of one list of files.
//!
//! ```text
//! binary, packaging/, docs/, the command line -> contents -> [File] -> deb (dpkg-deb), rpm (the crate)
//! ```
//!
//! The same sources and the same binary give the same bytes: every time in a package is that of the last commit.

pub mod configuration_page;
pub mod contents;
pub mod deb;
pub mod libraries;
pub mod manual_pages;
pub mod rpm;

use std::path::PathBuf;

/// What the packages are made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The workspace's root.
    pub root: PathBuf,
    /// The `xvip` to be packed, without symbols.
    pub binary: PathBuf,
    /// Seconds since 1970: the time of everything in the packages (`SOURCE_DATE_EPOCH`).
    pub epoch: u64,
    /// Packed quickly rather than well: for tests.
    pub fast: bool,
}

/// The version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// One line about the package.
pub const SUMMARY: &str = "virtual IP and XDP load balancer for Kubernetes API servers";
/// More about it; lines of at most 78 characters.
pub const DESCRIPTION: &str = "xvip replaces HAProxy and keepalived in front of the API servers of a\n\
    Kubernetes cluster: an XDP program forwards VIP:6443 to the healthy ones\n\
    inside the kernel, and a controller checks them and owns the virtual\n\
    address by VRRP.";
/// Whom a packager's tool names; `XVIP_MAINTAINER` in the environment is another one.
pub const MAINTAINER: &str = "The xvip authors <xvip@xvip.invalid>";

/// Who answers for the package.
#[must_use]
pub fn maintainer() -> String {
    std::env::var("XVIP_MAINTAINER").unwrap_or_else(|_| MAINTAINER.to_owned())
}
