//! `xvip top`: the status, live. [`state`] is what is shown and what a key does, [`draw`] is how it looks; both are pure.
//! [`screen`] is the terminal, and [`feed`] asks for what is new.
pub mod draw;
pub mod feed;
pub mod rates;
pub mod screen;
pub mod state;
