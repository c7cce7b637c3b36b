//! Gratuitous ARP: telling the network where the VIP is now.
