//! The kernel side: load, attach, pin; maps: observe and apply.
