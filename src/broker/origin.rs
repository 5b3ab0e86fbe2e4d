//! Where a request comes from, and where its reply goes. The broker stores and compares origins; only
//! the shard knows what is behind the numbers, so nothing here refers to a socket.

use crate::model::Principal;
use crate::model::record::Host;

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Number of the connection; 0 for requests from inside the process.
    pub connection: u64,
    /// The connection's id of this request; returned with the reply of a held pull.
    pub ticket: u64,
    /// The producer's address.
    pub host: Host,
    pub principal: Principal,
    /// Whether a reply is expected.
    pub wants_answer: bool,
}

impl Default for Origin {
    fn default() -> Self {
        let host = Host { address: [0; 4], port: 0.into() };
        let principal = Principal::Anonymous;
        Self { connection: 0, ticket: 0, host, principal, wants_answer: true }
    }
}
