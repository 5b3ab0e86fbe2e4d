//! What becomes of a request: the types that [`Broker::handle`](super::Broker::handle) and its
//! continuations return. The broker decides; the caller sends the replies, waits for room and for
//! commits, and reads the disk.
//!
//! A reply is sent once: an outcome is a reply, the promise of one at a mark of the log, or a pull
//! that still owes it.

use super::held::PullTask;
use super::origin::Origin;
use crate::model::reply::Produced;
use crate::model::{Chunk, LogOffset, Refusal, Reply};

/// How long a refused producer is asked to wait before it retries, ms.
pub const RETRY_AFTER_MS: u64 = 50;

/// A reply and its messages.
#[derive(Debug)]
pub struct Answer<R = Reply> {
    pub reply: Result<R, Refusal>,
    pub chunks: Vec<Chunk>,
}

impl<R> Answer<R> {
    pub fn refused(refusal: Refusal) -> Self {
        Self { reply: Err(refusal), chunks: Vec::new() }
    }
}

/// What [`Broker::handle`](super::Broker::handle) did with a request.
#[derive(Debug)]
pub enum Handled<R = Reply> {
    Done(Outcome<R>),
    /// Nothing was done, because the log has no room for `size` bytes. Retry when it has.
    NoRoom {
        size: usize,
    },
    /// The request may take time: await [`Broker::operate`](super::Broker::operate).
    Operation,
}

/// The outcome of a request.
#[derive(Debug)]
pub enum Outcome<R = Reply> {
    Now(Answer<R>),
    /// The reply to send once [`Broker::committed`](super::Broker::committed) has reached `mark`;
    /// becomes [`Refusal::OutcomeUnknown`] if the shard is fenced before that.
    Committed {
        mark: LogOffset,
        reply: R,
    },
    /// The reply is returned later by [`Broker::advance`](super::Broker::advance) or
    /// [`Broker::act`](super::Broker::act), with the origin.
    Held,
    /// The disk must be read first: await [`Broker::pull_cold`](super::Broker::pull_cold).
    Cold(Box<PullTask>),
}

/// The reply to a pull that was held.
#[derive(Debug)]
pub struct Released<R = Reply> {
    pub origin: Origin,
    pub outcome: Outcome<R>,
}

/// Messages that have been appended.
pub struct Stored {
    /// They are stored once the log is committed up to here.
    pub(super) mark: LogOffset,
    pub(super) produced: Produced,
}

impl From<Stored> for Handled {
    fn from(Stored { mark, produced }: Stored) -> Self {
        Self::Done(Outcome::Committed { mark, reply: Reply::Produced(produced) })
    }
}
