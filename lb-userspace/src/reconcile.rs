//! Desired and observed -> ordered changes.
