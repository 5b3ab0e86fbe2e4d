//! The runtime of a shard: executors, and what keeps them going.
//!
//! [`nudge`] wakes executors that went to sleep with work left. No rule about messages is here.

pub mod nudge;
