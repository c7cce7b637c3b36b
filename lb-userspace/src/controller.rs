//! The one event loop; it owns all state.
