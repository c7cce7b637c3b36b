//! keepalived.conf, as keepalived 2.2.7 reads it; directives of later versions are known too.
//!
//! ```text
//! text --lines--> statements and brackets --tree--> directives --global, scripts, instance, ...--> RouterNode, Proxy
//! ```
//!
//! Where keepalived refuses a value and goes on with another one, so does the import, and says so. Where a file has lines
//! for several hosts (`@main priority 101`), each of these hosts becomes a node.

use super::{
    incumbent::Incumbent,
    ledger::Ledger,
    source::{FileId, Source},
};

mod balancer;
mod global;
mod instance;
mod keywords;
mod lines;
mod lints;
mod notes;
mod number;
mod objects;
mod reading;
mod sync_group;
mod tracking;
mod tree;
mod vip;
mod virtual_server;
mod words;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use balancer::{names_balancer, script_asks_for_balancer};
pub use lints::lint;

use notes::Notes;
use reading::Reading;

/// More hosts than that in one file are not told apart.
const MAX_HOSTS: usize = 8;

/// Reads a file: its virtual routers as a [`RouterNode`], one for each host that its lines tell apart, and its virtual servers
/// as proxies. What became of each line goes to `ledger`.
pub fn read(source: &Source, file: FileId, into: &mut Incumbent, ledger: &mut Ledger) {
    let mut notes = Notes::new(file, ledger);
    let hosts = lines::hosts(source);
    for (index, host) in hosts.iter().take(MAX_HOSTS).enumerate() {
        let pieces = lines::pieces(source, host.name(), &mut notes);
        let directives = tree::build(pieces, &mut notes);
        let mut reading = Reading::new(&mut notes);
        reading.file(&directives);
        let (node, proxies) = reading.finish(file, host.place(file));
        into.routers.push(node);
        // The virtual servers of a cluster are the same on each of its nodes.
        if index == 0 {
            into.proxies.extend(proxies);
        }
    }
    lines::complain_of_hosts(&hosts, MAX_HOSTS, &mut notes);
}

/// Whether a line says nothing: empty, a comment, or mere brackets.
pub fn is_blank(line: &str) -> bool {
    lines::without_comment(line).iter().all(|spot| matches!(spot.ch, '{' | '}') || spot.ch.is_whitespace())
}
