//! Replicated shards: a Raft group per shard, whose log is the shard's log.
//!
//! The consensus engine is `openraft`, built for one thread. It reaches its surroundings through
//! traits; this module implements those that need neither sockets nor a runtime, so replication
//! runs unchanged in a simulation.
//!
//! Start reading at [`channel`], which connects the tasks of the engine. What a task is, and what
//! time is, the runtime decides: `shard::raft_runtime` on a shard, `sim::raft_runtime` in a
//! simulation.

pub mod channel;
pub mod timeout;
