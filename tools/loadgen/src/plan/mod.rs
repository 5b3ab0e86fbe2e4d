//! What one run does, fixed before it begins: scenarios, and what they are made of.
//!
//! Plain values and pure functions: nothing here knows a target, a socket or a clock. Start reading at
//! [`scenario`].

pub mod curve;
pub mod double11;
pub mod keys;
pub mod scenario;
pub mod schedule;
pub mod sizes;
pub mod threshold;
pub mod workload;
