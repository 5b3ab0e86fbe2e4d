//! Simulations: whole parts of the system in one thread, from one seed, on a disk that fails.
//!
//! A separate package, because it is compiled with optimizations: seeds then take a third of the
//! time. While you work on a simulation, `--config profile.dev.package.simulations.opt-level=0`
//! compiles it faster.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

mod cluster;
mod delay;
mod locks;
mod planted;
mod recall;
mod retry;
mod shard;
mod storage;
