//! Unsent replies of one connection, by what they wait for.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::output::Output;
use crate::storage::Awaited;
use crate::wire::ReplyTo;

pub struct Replies<R> {
    pub output: Output,
    /// In the order of the log offsets that they wait for.
    pub uncommitted: VecDeque<UncommittedReply<R>>,
    /// Bytes of the requests that `uncommitted` answers: appended and not yet committed.
    pub in_flight: usize,
    /// By ticket.
    pub held: HashMap<u64, ReplyTo>,
    pub next_ticket: u64,
    /// Cold pulls and operations.
    pub tasks: usize,
    /// Maximum bytes of replies that are being read from disk.
    pub promised: usize,
}

impl<R> Default for Replies<R> {
    fn default() -> Self {
        let (output, uncommitted, held) = Default::default();
        Self { output, uncommitted, in_flight: 0, held, next_ticket: 0, tasks: 0, promised: 0 }
    }
}

/// A reply that may be sent once the log is committed up to `mark`, and becomes a refusal if that
/// was cut off.
pub struct UncommittedReply<R> {
    pub mark: Awaited,
    /// `None` for a one-way request.
    pub to: Option<ReplyTo>,
    pub reply: R,
    /// Bytes of the request.
    pub size: usize,
    pub read_at: Instant,
}
