//! What a run does, fixed before it starts: scenarios and their parts.
//!
//! Plain values and pure functions, without targets, sockets or clocks. Start reading at
//! [`scenario`].

pub mod curve;
pub mod double11;
pub mod fault;
pub mod keys;
pub mod scenario;
pub mod schedule;
pub mod sizes;
pub mod threshold;
pub mod workload;
