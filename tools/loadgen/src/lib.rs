//! The load generator: sends by a schedule that was fixed beforehand, consumes what it sent, and
//! reconciles every acknowledgement with what arrived.
//!
//! ```text
//!   options ─▶ commands ─▶ plan::scenario          (what will be due when, who takes it, what breaks)
//!                 │             │
//!                 │             ▼
//!   target ──────▶└─▶ engine: workers ─▶ brokers ─▶ consumers
//!  (finds or starts            └──▶ measure ◀── audit ◀──┘
//!   the brokers)                       │
//!                                      ▼
//!                    findings::report ─▶ show: text, page, comparison
//! ```
//!
//! Each part uses what stands above it in this list: [`units`], [`clock`], [`progress`],
//! [`background`]; [`options`]; [`plan`]; [`target`]; [`engine`]; [`findings`]; [`show`]; [`commands`].
//! (What a message holds at least, and marks of faults and samples, are values of parts below that
//! parts above name.) Start reading at [`commands::run`]. What holds at all times:
//! - The schedule does not depend on the target: latency counts from the moment a message was due.
//! - Every due message ends in exactly one way: acknowledged, refused, unknown (sent and not
//!   answered), not sent, or sent without asking for an answer; nothing is dropped without being
//!   counted.
//! - An acknowledgement is one bit in [`engine::audit`], and so is an arrival; the audit compares all
//!   bits.
//!
//! Times are nanoseconds since the beginning of the run ([`clock::RunClock`]) unless a name says
//! otherwise.

pub mod background;
pub mod clock;
pub mod commands;
pub mod engine;
pub mod findings;
#[cfg(test)]
mod golden;
pub mod interrupt;
pub mod options;
pub mod plan;
pub mod progress;
pub mod show;
pub mod target;
pub mod units;
