//! Carries out a scenario: producers, consumers, and what they measure and know of each message.
//!
//! ```text
//!   schedule ─▶ worker (a thread, many producers) ─▶ sockets ─▶ consumer (a thread for each group)
//!                  └──── measure, once a second ────▶ collector      └─▶ audit
//! ```
//!
//! Threads share nothing but two small values. Start reading at [`worker`] and [`consumer`]. Not here: what the
//! figures mean ([`crate::findings`]).

pub mod assignment;
pub mod audit;
pub mod bitmap;
pub mod connection;
pub mod connector;
pub mod consumer;
pub mod crc;
pub mod histogram;
pub mod measure;
pub mod pace;
pub mod payload;
pub mod poller;
pub mod producer;
pub mod reply;
pub mod template;
pub mod window;
pub mod worker;
