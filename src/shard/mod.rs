//! The runtime of a shard: executors, and what keeps them going.
//!
//! [`preflight`] checks the machine before the first executor is built; [`nudge`] wakes executors
//! that went to sleep with work left. No rule about messages is here.

pub mod nudge;
pub mod preflight;
