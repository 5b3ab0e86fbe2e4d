//! The client's side of the protocol: for the command line, for tests, for a broker that registers
//! itself, and for programs that send and receive on the fast path.
//!
//! ```text
//!   producer   consumer   admin   registrar         what one wants to do
//!        └────────┴─────┬────┴────────┘
//!                    remote                          NameServers, routes, who speaks what
//!                   blocking                         sockets and the clock
//!                    session                         one connection: bytes <-> answers
//! ```
//!
//! Start at [`producer`] or [`consumer`] to use it, at [`session`] to understand it. [`session`],
//! [`route_cache`], [`nameservers`] and the producer's [`outbox`](producer::outbox) decide without
//! I/O; sockets appear in [`blocking`] only, threads in [`registrar`] only. Another runtime needs
//! another [`blocking`], not another client.
//!
//! Servers ask, too: `poll_server_request` of [`session`], [`blocking`] and [`remote`] gives what came,
//! `reply` answers it.
//!
//! What always holds: every request ends in exactly one of *answered*, *not sent* and *unanswered*,
//! and what is not known is never reported as success or failure.
//!
//! Not here: how requests are written (`wire`), and group membership: a consumer here is told which
//! queues to read.

pub mod admin;
pub mod ask;
pub mod blocking;
pub mod consumer;
pub mod error;
pub mod nameservers;
pub mod producer;
pub mod registrar;
pub mod remote;
pub mod route_cache;
pub mod session;

pub use admin::Admin;
pub use consumer::Consumer;
pub use error::ClientError;
pub use producer::Producer;
pub use registrar::Registrar;
pub use remote::{ClientOptions, Remote};
