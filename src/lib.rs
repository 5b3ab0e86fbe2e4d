//! RingMQ: a message broker that speaks the RocketMQ remoting protocol.
//!
//! The modules, lowest layer first. A module uses only those above it in this list;
//! `tests/layering.rs` holds the exact table.

/// The shared vocabulary: names, offsets, records, requests, replies.
pub mod model;

/// Bugs that tests plant.
pub mod planted;

/// Converts between bytes and requests or replies: one frame, three header encodings.
pub mod wire;

/// What a thread waits for: sockets, file I/O, timers, other threads.
pub mod reactor;

/// The log of one shard, on a real or simulated disk.
pub mod storage;

/// What a broker does with a request; no sockets, no clock.
pub mod broker;

/// The route table of a NameServer; no sockets, no clock.
pub mod nameserver;

/// The client side of the protocol.
pub mod client;

/// Replicated shards: what the consensus engine needs, without sockets.
pub mod replication;

/// A disk that loses power, a network that breaks, and a seeded executor with virtual time.
pub mod sim;

/// Options of the servers.
pub mod config;

/// The runtime: executors, sockets, start and stop.
pub mod shard;

/// The command line.
pub mod cli;
