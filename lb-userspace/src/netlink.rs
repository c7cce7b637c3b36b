//! Addresses, links, neighbours: observe and apply.
