//! The NameServer: who serves which topic, kept in memory under leases.
//!
//! Start at [`Routes`], which is all of it: requests and the time go in, replies come out. Several
//! NameServers know nothing of each other; every broker registers with all of them.
//!
//! What always holds: nothing is written anywhere, so a NameServer that starts anew is right again
//! as soon as the brokers have repeated themselves; equal state gives equal answers, in sorted order,
//! because some clients compare answers as texts (remoting reference, 2.4).
//!
//! Not here: sockets, connections and the clock (the caller gives each connection a
//! [`ConnectionId`] and reports when it closes), and how requests are encoded (`wire`).

mod registration;
mod routes;

pub use routes::{ConnectionId, Limits, Routes};
