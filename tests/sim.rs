//! Simulations: whole parts of the system in one thread, from one seed, on a disk that fails.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

#[path = "sim/cluster/mod.rs"]
mod cluster;
#[path = "sim/delay.rs"]
mod delay;
#[path = "sim/locks.rs"]
mod locks;
#[path = "sim/retry.rs"]
mod retry;
#[path = "sim/shard.rs"]
mod shard;
#[path = "sim/storage/mod.rs"]
mod storage;
