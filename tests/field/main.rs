//! Field cases: one file for each kind of report that users of RocketMQ, its clients and its tools have
//! made in public, as they would meet it here.
//!
//! Each file begins with what was reported and where reports of that kind are found. A case starts real
//! servers and talks to them with a client of its own ([`client`]), which shares no code with ours: what
//! both sides of a shared codec get wrong would go unnoticed.

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
