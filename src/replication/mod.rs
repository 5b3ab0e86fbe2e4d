//! Replicas of a shard on several machines: a Raft group per shard, whose log is the shard's log.
//! One replica leads; what it stores is committed once a majority has it on stable media.
//!
//! ```text
//!   clients ─▶ broker of the leader ─▶ its log ─┬─▶ written ─▶ flushed ──────────────┐
//!                                               └─▶ followers: appended ─▶ flushed ──┤
//!            replies, visible messages ◀── committed watermark ◀── engine: majority ◀┘
//! ```
//!
//! The consensus engine is `openraft`, built for one thread. It reaches its surroundings through
//! traits; this module implements those that need neither sockets nor a runtime, so replication
//! runs unchanged in a simulation. Start reading at [`replica`]; then [`log`] and [`machine`], the
//! two sides of the shard that the engine sees, and [`network`] with [`link`] and [`wire`], its way
//! to the other replicas. [`copying`] sends and receives a whole log, and [`arrivals`] tracks the
//! copies that a receiver is getting. [`known_peers`] recognizes directories that are not what
//! they were. [`host`] is what all this needs from the shard. [`types`] names the engine's types,
//! [`members`] encodes who the members are, and [`lease`] determines for how long a leader is the
//! only one. [`survey`] is what a leader knows about the others, [`preference`] decides which
//! replica should lead, and [`leader_transfer`] transfers the leadership. [`channel`] connects the tasks
//! of the engine. The runtime defines what a task is and what time is: `shard::raft_runtime` on a
//! shard, `sim::raft_runtime` in a simulation.
//!
//! Invariants:
//! - An entry of the engine is a group of entries of the log that ends with a fact marking its end
//!   (`broker::raft_entries`); its term is their epoch. So the logs of all replicas are the same,
//!   byte for byte, up to the committed watermark.
//! - A vote is durable before any other replica learns of it. So are the identity of a directory
//!   and those of the others.
//! - Whether this replica leads follows from the vote alone. A replica that led restores its state
//!   from the log before it follows.
//!
//! Not here: registration with NameServers, and sockets (`shard::replication`).

pub mod arrivals;
pub mod change;
pub mod channel;
pub mod copying;
pub mod ends;
mod entries;
pub mod host;
pub mod known_peers;
pub mod leader_transfer;
mod lease;
pub mod link;
mod log;
pub mod machine;
pub mod members;
pub mod network;
pub mod preference;
pub mod replica;
pub mod survey;
mod throttle;
pub mod timeout;
pub mod types;
pub mod wire;
