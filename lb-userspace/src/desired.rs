//! Config, health and VRRP state -> what the kernel should have.
