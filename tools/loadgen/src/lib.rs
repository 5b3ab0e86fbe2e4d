//! The load generator: sends according to a fixed schedule, consumes what it sent, and reconciles
//! every acknowledgement with what arrived.
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
//! Each part uses only what comes before it in this list: [`units`], [`clock`], [`last_ack`],
//! [`background`]; [`options`]; [`plan`]; [`target`]; [`engine`]; [`findings`]; [`show`];
//! [`commands`]. (Exceptions: the types of [`plan`] into which options are parsed, the minimum
//! message size, the producer group, histograms, fault marks, gaps and samples.) Start reading at
//! [`commands::run`]. Invariants:
//! - The schedule does not depend on the target: latency counts from the moment at which a message
//!   was due, so there is no coordinated omission.
//! - Every due message has exactly one outcome: acknowledged, refused, unknown (sent, but not
//!   answered), not sent, or one-way. Nothing is dropped without being counted.
//! - An acknowledgement is one bit in [`engine::audit`], and so is an arrival; the audit compares all
//!   bits.
//!
//! Times are nanoseconds since the start of the run ([`clock::RunClock`]) unless a name says
//! otherwise.

pub mod background;
pub mod clock;
pub mod commands;
pub mod engine;
pub mod findings;
#[cfg(test)]
mod golden;
pub mod interrupt;
pub mod last_ack;
pub mod options;
pub mod plan;
pub mod show;
pub mod target;
pub mod units;
