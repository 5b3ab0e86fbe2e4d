//! RingMQ: a message broker that speaks the RocketMQ remoting protocol.
//!
//! The map, lowest layer first. A module uses only what stands above it in this list;
//! `tests/layering.rs` holds the exact table.

/// The vocabulary everyone shares: names, offsets, records, requests, replies.
pub mod model;

/// Bytes to requests and replies to bytes: one frame, three header encodings.
pub mod wire;

/// The log of one shard, on a disk that is real or simulated.
pub mod storage;

/// What a broker does with a request; no sockets, no clock.
pub mod broker;

/// The route table of a NameServer; no sockets, no clock.
pub mod nameserver;

/// The client's side of the protocol.
pub mod client;

/// A disk that loses power, and what drives it.
pub mod sim;

/// Options of the servers.
pub mod config;

/// The runtime: executors, sockets, start and stop.
pub mod shard;

/// The command line.
pub mod cli;
