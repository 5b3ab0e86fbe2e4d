//! Real processes, real sockets, a real disk: what must hold for users of the binary.
//!
//! Each test starts its own servers on its own ports and ends them by process id. No test sleeps to
//! wait for a state: states are polled for, with a deadline.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod commands;
mod connections;
mod crash;
mod delay;
mod groups;
mod held;
mod leases;
mod lifecycle;
mod memory;
mod nameservers;
mod operation;
mod pressure;
mod replicas;
mod server;
mod tails;
mod tree;
mod upgrade;
mod wire;
