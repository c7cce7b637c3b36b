//! What `xvip status` shows.
