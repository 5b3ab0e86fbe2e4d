//! Who is at the other end of a connection.

use crate::model::record::Host;

/// The other end of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub host: Host,
    /// Number of its language (remoting reference, 1.2).
    pub language: u8,
    /// Version that it sends (remoting reference, 1.6).
    pub version: i32,
}
