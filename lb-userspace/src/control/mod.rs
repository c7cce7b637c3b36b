//! The control socket: HTTP and JSON over a unix socket, for the command line and for scripts
//! (`curl --unix-socket /run/xvip/control.sock http://xvip/v1/status`).
pub mod asker;
pub mod client;
mod limits;
pub mod order;
pub mod protocol;
pub mod server;
