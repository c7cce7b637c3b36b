//! The lab, and what the tests share.
