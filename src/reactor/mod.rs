//! Waits for everything that a thread waits for, in one ring and one system call: sockets, file
//! I/O, timers, and other threads.
//!
//! The executor parks in `io_uring_enter` too, but each of its passes over its three rings costs seven
//! system calls, and a message needs two passes. So here the executor never gets to park. One task
//! is always runnable, and polled after all others; when it finds that no other has run since it
//! was last polled, it waits in the kernel itself.
//!
//! ```text
//!   Host::run ──▶ executor ──▶ task ─▶ task ─▶ … ─▶ turn ─┬─ tasks have run: deliver what there is
//!                     ▲          ▲                  │     └─ none has: submit, and wait for a report,
//!                     │          └──────────────────┘                  a timer or another thread
//!                     └──────── the executor has requests of its own: it makes a pass
//! ```
//!
//! Invariants:
//! - All tasks of the thread are in one queue, first in first out, and spawned with [`spawn`]. A
//!   task that is not counted could be runnable while the thread sleeps. Only the tasks of
//!   [`spawn_first`] and [`spawn_urgent`] are not in it: however many tasks are runnable, they wait
//!   for a few milliseconds at most, or for one task.
//! - What the executor itself does for a task is awaited with [`hosted`], and what another thread
//!   completes with [`reachable`]. Otherwise both would be noticed late: when the thread is awake
//!   and its executor makes a pass.
//! - Nothing is submitted more than one turn late, however busy the tasks are.
//! - Only `ring` is `unsafe`.
//!
//! Start reading at [`core::Reactor::turn`]. Not here: what the tasks do, and their fairness
//! (`shard::turn`).

mod background;
mod blocking;
mod completion;
mod core;
mod flag;
mod foreign;
mod helper;
mod host;
mod in_background;
pub mod net;
mod passes;
mod reachable;
mod readiness;
mod ring;
mod sleep;
mod tasks;
mod timers;
mod transfer;
mod turns;
mod urgent;

#[cfg(test)]
mod tests;

pub use self::blocking::blocking;
pub use self::core::{look, take_longest_poll, task_count};
pub use self::host::{Host, HostError};
pub use self::in_background::background;
pub use self::reachable::{reachable, reachable_by_watchdog};
pub use self::ring::{OpenFile, TransferFile};
pub use self::sleep::{Sleep, sleep, sleep_until};
pub use self::tasks::{
    Task, hosted, pass, spare_turn, spawn, spawn_first, spawn_later, spawn_urgent,
};
pub use self::transfer::{read, sync, write};
pub use self::turns::{Turn, Turns};
