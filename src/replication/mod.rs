//! Copies of a shard on several machines: a Raft group per shard, whose log is the shard's log. One
//! copy leads; what it stores is committed when most copies have it on stable media.
//!
//! ```text
//!   clients ─▶ broker of the leader ─▶ its log ─┬─▶ written ─▶ flushed ──────────────┐
//!                                               └─▶ followers: appended ─▶ flushed ──┤
//!              replies, visible messages ◀── the committed mark ◀── engine: by most ◀┘
//! ```
//!
//! The consensus engine is `openraft`, built for one thread. It reaches its surroundings through
//! traits; this module implements those that need neither sockets nor a runtime, so replication
//! runs unchanged in a simulation. Start reading at [`replica`]; then [`log`] and [`machine`], the
//! two sides of the shard that the engine sees, and [`network`] with [`link`] and [`wire`], its way
//! to the other copies. [`copying`] sends and receives a whole log, and [`arrivals`] is what a
//! receiver has of one. [`acquaintance`] recognizes directories that are not what they were. [`host`]
//! is what all this needs of the shard. [`types`] names the engine's types, [`members`] encodes who
//! has a copy, [`lease`] says for how long a leader is the only one. [`survey`] is what a leader knows
//! of the others, [`preference`] decides who should lead, and [`hand_over`] makes it so. [`channel`]
//! connects the tasks of the engine. What a task
//! is, and what time is, the runtime decides: `shard::raft_runtime` on a shard, `sim::raft_runtime`
//! in a simulation.
//!
//! Invariants:
//! - An entry of the engine is a group of entries of the log that ends with the fact that says so
//!   (`broker::raft_entries`); its term is their epoch. So the logs of all copies are the same,
//!   byte for byte, up to the committed mark.
//! - A vote is durable before anyone learns of it. So is the identity of a directory, and that of the
//!   others.
//! - Whether this copy leads follows from the vote alone. A copy that led restores its state from
//!   the log before it follows.
//!
//! Not here: who registers with NameServers, and sockets (`shard::replication`).

pub mod acquaintance;
pub mod arrivals;
pub mod change;
pub mod channel;
pub mod copying;
pub mod ends;
mod entries;
pub mod hand_over;
pub mod host;
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
