//! Weighted backends -> Maglev table.
