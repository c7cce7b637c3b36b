//! Health of the backends.
