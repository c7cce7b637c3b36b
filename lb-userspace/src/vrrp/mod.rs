//! VRRP: codec, state machine, sockets.
