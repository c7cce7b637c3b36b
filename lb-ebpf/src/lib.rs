//! Empty on purpose: a build dependency needs a library target, and this one makes cargo rebuild the program.
#![no_std]
