//! Real processes, real sockets, a real disk: what must hold for whoever runs the binary.
//!
//! Each test has servers of its own on ports of its own and ends them by their process id. Nothing
//! sleeps to wait for a state: it is polled for, with a deadline.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod commands;
mod connections;
mod crash;
mod groups;
mod held;
mod leases;
mod lifecycle;
mod memory;
mod nameservers;
mod operation;
mod pressure;
mod server;
mod wire;
