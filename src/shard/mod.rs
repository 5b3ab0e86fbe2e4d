//! The runtime: executors, sockets, start and stop.
//!
//! ```text
//!   run ─▶ one thread for each shard ─▶ seat: recover, listen, serve, stop
//!                                          │
//!        listener ─▶ connection ─▶ service (broker or nameserver)
//!                        ▲              │
//!                        └── shard ◀────┘   committers, tick, inbox move answers on
//! ```
//!
//! Start at [`run`], then `connection`, which is where a request spends its life. `shard` has all
//! connections of one thread, `common` is what they share. [`executor`] starts threads so that they begin, and [`nudge`]
//! wakes those that went to sleep with work left; [`preflight`] says before anything starts what the
//! machine lacks.
//!
//! What holds at all times:
//! - A connection lives on the shard it was made to. Between threads travel only requests about the
//!   broker as a whole (`mesh`).
//! - No task is cancelled and no handle of a pending task is dropped: the runtime would leak it.
//!   Tasks are detached, and stop by a message or a flag.
//!
//! No rule about messages is here (`broker`), and none about bytes (`wire`).

mod announce;
mod asked;
mod broker;
mod budget;
mod calls;
mod clock;
mod common;
mod connection;
mod data;
pub mod error;
pub mod executor;
mod input;
mod listener;
mod manifest;
mod mesh;
mod nameserver;
pub mod nudge;
mod output;
mod parked;
mod parting;
mod plan;
pub mod preflight;
mod replies;
pub mod run;
mod seat;
mod service;
#[allow(clippy::module_inception)] // The module is the runtime of shards, the type is one of them.
mod shard;
mod signals;
mod turn;
