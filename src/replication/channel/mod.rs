//! Channels between the tasks of one thread, as the consensus engine requires them.
//!
//! The engine passes several messages per log entry between its tasks, and with the channels of a
//! thread-safe library these cost as much as the rest of the engine. Everything here is an `Rc`, a
//! `Cell` and a list of wakers.
//!
//! Invariants:
//! - Tasks are woken in the order in which they began to wait, so a simulation is reproducible.
//! - A future that is dropped while it waits leaves no waker behind and takes no wake from others:
//!   where several may wait for the same thing, all of them are woken.
//! - Nothing is borrowed while a waker or a message is dropped, because either may run code that
//!   uses the same channel.

mod handles;
mod mpsc;
mod mutex;
mod oneshot;
pub mod waiters;
mod watch;

pub use mpsc::Mpsc;
pub use mutex::Mutex;
pub use oneshot::{Oneshot, SenderDropped};
pub use watch::Watch;
