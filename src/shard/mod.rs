//! The runtime: executors, sockets, start and stop.
//!
//! ```text
//!   run ─▶ one thread for each shard ─▶ shard_thread: recover, listen, serve, stop
//!                                          │
//!        listener ─▶ connection ─▶ service (broker or nameserver)
//!                        ▲              │
//!                        └── shard ◀────┘   committers, tick, inbox move replies on
//! ```
//!
//! Start reading at [`run`], then `connection`, which shows the life of a request. `shard` owns all
//! connections of one thread, and `common` is what they share. [`executor`] starts threads
//! reliably, [`nudge`] wakes executors that parked with work left, and [`preflight`] checks the
//! machine before anything starts. [`tree`] runs several brokers on one machine. [`raft_runtime`]
//! is what the consensus engine runs on.
//!
//! Invariants:
//! - A connection stays on the shard that accepted it. Threads exchange only requests that concern
//!   the whole broker (`mesh`).
//! - No task is cancelled and no handle of a pending task is dropped: the runtime would leak it.
//!   Tasks are detached, and stop by a message or a flag.
//!
//! Not here: what messages mean (`broker`), and how they are encoded (`wire`).

mod announce;
mod asked;
mod broker;
mod budget;
mod calls;
pub mod clock;
mod common;
mod connection;
mod connection_limit;
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
mod patience;
mod plan;
pub mod preflight;
pub mod raft_runtime;
mod readers;
mod replication;
mod replies;
pub mod run;
mod service;
#[allow(clippy::module_inception)] // The module is the runtime of shards, the type is one of them.
mod shard;
mod shard_thread;
mod signals;
pub mod tree;
mod turn;
mod uncommitted;

pub use plan::replication_port;
