//! A disk that loses power, a network that breaks, and a seeded executor with virtual time: whole
//! systems in one thread, from one seed.
//!
//! Start reading at [`disk::SimDisk`]; [`fault`] lists what can go wrong, `machine` decides the
//! fate of an operation, `platter` determines what a power cut keeps. [`run`] is the executor: it
//! polls woken tasks in seeded order and panics when no task can run, so a lost wake-up is a test
//! failure instead of a hang. [`clock`] is its time, and [`raft_runtime`] what the consensus engine
//! sees of both. [`network`] connects nodes. [`conformance`] is the suite that every disk passes, simulated and
//! real, and that a log passes on each of them; [`copies`] is what one log sends to another.
//!
//! Invariants:
//! - The same seed and the same calls produce the same operations, outcomes and trace hash.
//! - Nothing here reads a clock, starts a thread or draws a number that is not from the seed.
//!
//! Ordinary library code rather than test code, so unit tests, simulations and bug reports can all
//! use it.

pub mod buffer;
pub mod clock;
pub mod conformance;
pub mod copies;
pub mod disk;
pub mod fault;
mod machine;
pub mod network;
mod platter;
pub mod raft_runtime;
pub mod rng;
pub mod run;
pub mod store;

pub use clock::Clock;
pub use disk::SimDisk;
pub use fault::{Fault, On, Operation};
pub use network::{Address, Network, Node};
pub use raft_runtime::SimRuntime;
pub use rng::Rng;
pub use run::{Group, Tasks, pause, run};
pub use store::small_store;
