//! The client side of the protocol: for the command line, for tests, for a broker that registers
//! itself, and for programs that send and receive at high rates.
//!
//! ```text
//!              group_consumer
//!                   │
//!   producer   consumer   admin   registrar         what a program wants to do
//!        └────────┴─────┬────┴────────┘
//!                    remote                          NameServers, routes, header encodings
//!                   blocking                         sockets and the clock
//!                    session                         one connection: bytes <-> replies
//! ```
//!
//! Start reading at [`producer`], [`group_consumer`] or [`consumer`] to use the client, at
//! [`session`] to understand it. [`session`], [`route_cache`], [`nameservers`], [`replicas`], the
//! producer's [`outbox`](producer::outbox) and a group's [`membership`](group_consumer::membership)
//! do no I/O; only [`blocking`] has sockets, only [`registrar`] has threads. Another runtime needs
//! another [`blocking`], not another client.
//!
//! Servers send requests too: `poll_server_request` of [`session`], [`blocking`] and [`remote`]
//! returns them, and `reply` answers them.
//!
//! Invariant: every request ends as exactly one of *answered*, *not sent* and *unanswered*, and an
//! unknown outcome is never reported as success or failure.
//!
//! Not here: how requests are encoded (`wire`).

pub mod admin;
pub mod ask;
pub mod blocking;
pub mod consumer;
pub mod error;
pub mod group_consumer;
pub mod nameservers;
pub mod producer;
pub mod registrar;
pub mod remote;
pub mod replicas;
pub mod route_cache;
pub mod session;

pub use admin::Admin;
pub use consumer::Consumer;
pub use error::ClientError;
pub use group_consumer::GroupConsumer;
pub use producer::Producer;
pub use registrar::Registrar;
pub use remote::{ClientOptions, Remote};
