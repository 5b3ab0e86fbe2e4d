//! The NameServer: which broker serves which topic, kept in memory under leases.
//!
//! Start reading at [`Routes`]: requests and the time go in, replies come out. NameServers do not
//! know of each other; every broker registers with all of them.
//!
//! Invariants: nothing is stored, so a restarted NameServer is complete again once the brokers have
//! re-registered. Equal state gives equal replies, in sorted order, because some clients compare
//! replies as text (remoting reference, 2.4).
//!
//! Not here: sockets, connections and the clock (the caller gives each connection a
//! [`ConnectionId`] and reports when it closes), and how requests are encoded (`wire`).

mod registration;
mod routes;

pub use routes::{ConnectionId, Limits, Routes};
