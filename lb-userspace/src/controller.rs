//! The one event loop; it owns all state.
mod reserved_ports;
