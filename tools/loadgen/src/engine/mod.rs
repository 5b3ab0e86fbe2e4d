//! Executes a scenario: producers, consumers, measurements, and both sides of the audit.
//!
//! ```text
//!   schedule ─▶ worker (a thread, many producers) ─▶ sockets ─▶ consumer (a thread per member)
//!                  └──── measure, once a second ────▶ collector      └─▶ audit
//! ```
//!
//! Threads share only the time of the last acknowledgement and the routes; the members of a group
//! also share its audit. Start reading at [`worker`] and [`consumer`]. Not here: what the figures
//! mean ([`crate::findings`]).

pub mod assignment;
pub mod audit;
pub mod bitmap;
pub mod connection;
pub mod connector;
pub mod consumer;
pub mod crc;
pub mod histogram;
pub mod measure;
pub mod members;
pub mod pace;
pub mod payload;
pub mod poller;
pub mod producer;
pub mod reply;
pub mod template;
pub mod window;
pub mod worker;
