//! What the XDP program and user space share.
#![cfg_attr(not(test), no_std)]
