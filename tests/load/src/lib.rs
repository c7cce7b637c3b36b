//! Many plain TCP connections, and the servers that answer them: what `cargo xtask bench tcp` loads a balancer with.
//!
//! A crate of its own because it is always compiled with optimizations (`[profile.dev.package.lb-load]`): time that the
//! clients and the servers take is time that all stacks of the benchmark have in common, and would make them look more
//! alike than they are. One thread serves; as many ask as there are processors; each waits in `epoll` for thousands of
//! sockets ([`mio`]).

pub mod client;
pub mod latency;
pub mod message;
pub mod processors;
pub mod server;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open connections that a process needs to be allowed: more than the largest test of memory has.
const DESCRIPTORS: u64 = 300_000;

/// Lets this process have hundreds of thousands of open connections, or, without the right to that, as many as it may;
/// returns how many descriptors that is.
pub fn raise_descriptor_limit() -> u64 {
    let raised = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
    if let (Err(_), Ok((_, hard))) = (raised, getrlimit(Resource::RLIMIT_NOFILE)) {
        // Whoever needs more than that will see it fail.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}
