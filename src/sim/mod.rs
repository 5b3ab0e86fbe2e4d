//! A disk that loses power, and what drives it: whole systems in one thread, from one seed.
//!
//! Start at [`disk::SimDisk`]; [`fault`] lists what can go wrong, `machine` decides what becomes of
//! an operation, `platter` holds what a power cut keeps and loses. [`run`] is the executor: it polls
//! woken tasks in seeded order and panics when nothing can go on, so a lost wake-up is a test
//! failure and not a hang. [`conformance`] is the suite that every disk passes, this one and the
//! real one, and that a log passes on each of them; [`copies`] is what one log gives to another.
//!
//! What holds at all times:
//! - The same seed and the same calls give the same operations, outcomes and trace hash.
//! - Nothing here reads a clock, starts a thread or draws a number that is not from the seed.
//!
//! Ordinary library code, not test code: unit tests, simulations and bug reports use the same.

mod buffer;
pub mod conformance;
pub mod copies;
pub mod disk;
pub mod fault;
mod machine;
mod platter;
pub mod rng;
pub mod run;

pub use disk::SimDisk;
pub use fault::{Fault, On, Operation};
pub use rng::Rng;
pub use run::{Tasks, pause, run};
