//! How far one queue has been handed out and acknowledged, and what may therefore be committed.
//!
//! ```text
//!   committed ≤ settled ≤ position
//!               everything before it was acknowledged, or did not match the filter
//! ```
//!
//! Batches may be acknowledged in any order and in part; only what is acknowledged without a gap is
//! settled.

use std::collections::VecDeque;

use crate::model::QueueOffset;

/// Maximum number of batches of a queue that are handed out and not acknowledged. At the limit, the
/// queue is not read any further.
pub const OPEN_BATCHES_MAX: usize = 4;

#[derive(Debug)]
pub struct Ledger {
    /// Offset of the next message to read.
    position: QueueOffset,
    /// What the broker has, as far as it has confirmed it.
    committed: Option<QueueOffset>,
    /// Handed out and not acknowledged to their end, oldest first.
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    first: QueueOffset,
    /// Everything from `first` up to here is acknowledged.
    done: QueueOffset,
    /// Offset behind the batch.
    next: QueueOffset,
}

impl Ledger {
    pub fn new(position: QueueOffset, committed: Option<QueueOffset>) -> Self {
        Self { position, committed, open: VecDeque::new() }
    }

    pub fn position(&self) -> QueueOffset {
        self.position
    }

    /// Whether the queue is not to be read until more is acknowledged.
    pub fn is_full(&self) -> bool {
        self.open.len() >= OPEN_BATCHES_MAX
    }

    /// The messages up to `next` were handed out. Returns the offset of the first one.
    pub fn handle_fetched(&mut self, next: QueueOffset) -> QueueOffset {
        let first = std::mem::replace(&mut self.position, next);
        self.open.push_back(Open { first, done: first, next });
        first
    }

    /// No message up to `next` is for this group.
    pub fn handle_passed(&mut self, next: QueueOffset) {
        self.position = next;
    }

    /// The messages before `offset` of the batch that begins at `first` are acknowledged.
    pub fn handle_acknowledged(&mut self, first: QueueOffset, offset: QueueOffset) {
        if let Some(open) = self.open.iter_mut().find(|open| open.first == first) {
            open.done = open.done.max(offset.min(open.next));
        }
        while self.open.pop_front_if(|open| open.done == open.next).is_some() {}
    }

    pub fn handle_committed(&mut self, offset: QueueOffset) {
        self.committed = Some(offset);
    }

    /// The offset before which everything is acknowledged.
    pub fn settled(&self) -> QueueOffset {
        self.open.front().map_or(self.position, |open| open.done)
    }

    /// The offset to commit, if the broker does not have it.
    pub fn uncommitted(&self) -> Option<QueueOffset> {
        let settled = self.settled();
        (self.committed != Some(settled)).then_some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> QueueOffset {
        QueueOffset(offset)
    }

    #[test]
    fn only_what_is_acknowledged_without_a_gap_is_committed() {
        let mut ledger = Ledger::new(at(10), Some(at(10)));
        assert_eq!(ledger.uncommitted(), None);
        let [first, second, third] = [20, 30, 40].map(|next| ledger.handle_fetched(at(next)));
        assert_eq!((first, second, third), (at(10), at(20), at(30)));
        assert_eq!(ledger.uncommitted(), None, "nothing is acknowledged");

        ledger.handle_acknowledged(second, at(30));
        assert_eq!(ledger.uncommitted(), None, "the first batch is missing");
        ledger.handle_acknowledged(first, at(15));
        assert_eq!(ledger.uncommitted(), Some(at(15)), "a part of a batch");
        ledger.handle_acknowledged(first, at(12));
        assert_eq!(ledger.uncommitted(), Some(at(15)), "nothing is taken back");
        ledger.handle_acknowledged(first, at(20));
        assert_eq!(ledger.uncommitted(), Some(at(30)), "with the second batch");
        ledger.handle_acknowledged(third, at(99));
        assert_eq!(ledger.uncommitted(), Some(at(40)), "not beyond the batch");
        ledger.handle_committed(at(40));
        assert_eq!(ledger.uncommitted(), None);
    }

    #[test]
    fn messages_that_do_not_match_are_settled_once_all_before_them_are() {
        let mut ledger = Ledger::new(at(0), None);
        assert_eq!(ledger.uncommitted(), Some(at(0)), "where the group begins");
        ledger.handle_passed(at(5));
        assert_eq!(ledger.uncommitted(), Some(at(5)));
        let first = ledger.handle_fetched(at(8));
        ledger.handle_passed(at(12));
        assert_eq!((ledger.settled(), ledger.position()), (at(5), at(12)));
        ledger.handle_acknowledged(first, at(8));
        assert_eq!(ledger.settled(), at(12));
    }

    #[test]
    fn a_queue_is_not_read_on_while_too_much_is_open() {
        let mut ledger = Ledger::new(at(0), None);
        let last = OPEN_BATCHES_MAX as u64;
        for next in 1..=last {
            assert!(!ledger.is_full());
            ledger.handle_fetched(at(next));
        }
        assert!(ledger.is_full());
        ledger.handle_acknowledged(at(1), at(2));
        assert!(ledger.is_full(), "the oldest one is open");
        ledger.handle_acknowledged(at(0), at(1));
        assert!(!ledger.is_full());
    }
}
