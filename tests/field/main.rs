//! Field cases: one file for each kind of public report about RocketMQ, its clients and its tools,
//! as users would meet it here.
//!
//! Each file begins with the symptom and where such reports are found. A case starts real servers
//! and talks to them with a separate client ([`client`]) that shares no code with ours, because a
//! mistake in a shared codec would go unnoticed.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod addresses;
mod bad_element;
mod bad_frame;
mod client;
mod clock_jump;
mod closed_topic;
mod create;
mod gone;
mod last_stored;
mod permissions;
mod reserved_names;
mod runtime_keys;
mod server;
