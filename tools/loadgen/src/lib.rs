//! The load generator: sends by a schedule that was fixed beforehand, consumes what it sent, and
//! reconciles every acknowledgement with what arrived.
//!
//! ```text
//!   options ──▶ steady ──▶ target            (finds or starts the brokers, makes the topic)
//!                 │
//!     schedule ──▶│ worker ─ connection ──▶ broker ──▶ consumer
//!     (what is    │   (one thread per          (one thread)
//!      due when)  │    generator)                  │
//!                 ▼                                ▼
//!              measure ──▶ live, report  ◀──────  audit
//! ```
//!
//! Start reading at [`run`]. What holds at all times:
//! - The schedule does not depend on the target: latency counts from the moment a message was due.
//! - Every due message ends in exactly one of five ways: acknowledged, refused, unknown (sent and
//!   not answered), or not sent; nothing is dropped without being counted.
//! - An acknowledgement is one bit in [`audit`], and so is an arrival; the audit compares all bits.
//!
//! Times are nanoseconds since the beginning of the run ([`clock::RunClock`]) unless a name says
//! otherwise.

pub mod assignment;
pub mod audit;
pub mod bitmap;
pub mod clock;
pub mod compare;
pub mod conclusion;
pub mod connection;
pub mod connector;
pub mod consumer;
pub mod control;
pub mod crc;
pub mod curve;
pub mod device;
pub mod document;
pub mod double11;
pub mod embedded;
pub mod environment;
pub mod faults;
pub mod file_run;
pub mod flow;
pub mod histogram;
pub mod interrupt;
pub mod keys;
pub mod live;
pub mod measure;
pub mod merge;
pub mod night;
pub mod options;
pub mod pace;
pub mod page;
pub mod payload;
pub mod plot;
pub mod poller;
pub mod producer;
pub mod progress;
pub mod ramp;
pub mod reply;
pub mod report;
pub mod reports;
pub mod routes;
pub mod rows;
pub mod run;
pub mod samples;
pub mod scenario;
pub mod schedule;
pub mod sizes;
pub mod steady;
pub mod summary;
pub mod target;
pub mod template;
pub mod units;
pub mod window;
pub mod worker;
pub mod workload;
