//! Decides what is written together, which writes may be in flight at once, and how far the log is
//! written.
//!
//! Does no I/O, holds no bytes and reads no clock: the caller performs what
//! [`poll_write`](GroupCommit::poll_write) returns and reports to
//! [`handle_written`](GroupCommit::handle_written). No append waits for others to join: entries
//! appended while writes are in flight form the next group.
//!
//! ```text
//!   appended ──▶ open ──seal──▶ sealed, sealed, … ──▶ in flight ──▶ written
//!                  └────────── not full yet ────────▶
//! ```
//!
//! A sealed range ends at a block boundary, so the next one shares no block with it and both may be
//! in flight. A write of the open range may end inside a block. So may a sealed range in a log that
//! takes entries from another replica. The next range begins with that same block and waits. So a
//! block is never in two writes at once, and a block that is written again keeps its prefix.

use std::collections::VecDeque;
use std::ops::Range;

use crate::planted::{self, Bug};
use crate::storage::segment::{block_ceil, block_floor};

/// Maximum number of writes in flight per log. The executor handles completions and submits new
/// writes between other work, so a device that four full writes keep busy needs eight in flight.
pub const WRITES_IN_FLIGHT_MAX: usize = 8;
/// With this many writes in flight, an open buffer is not written but fills further: more small
/// writes would only make commits smaller and each message more expensive.
const OPEN_IN_FLIGHT_MAX: usize = 4;

/// Owns the watermarks `written <= submitted <= end`. All numbers are log offsets.
#[derive(Debug)]
pub struct GroupCommit {
    /// The device has everything below. Never advances once the log is fenced.
    written: u64,
    /// The highest end of any write so far.
    submitted: u64,
    end: u64,
    /// Start of the part of the open range that is not submitted.
    open_start: u64,
    /// Sealed ranges not yet submitted, oldest first.
    sealed: VecDeque<Range<u64>>,
    in_flight: Vec<Range<u64>>,
    is_fenced: bool,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// The sealed range at this index of the queue. It leaves the queue.
    Sealed(usize, Range<u64>),
    /// All of the open range.
    Open(Range<u64>),
}

impl GroupCommit {
    /// Starts with everything below `start` written.
    pub fn new(start: u64) -> Self {
        Self {
            written: start,
            submitted: start,
            end: start,
            open_start: start,
            sealed: VecDeque::new(),
            in_flight: Vec::with_capacity(WRITES_IN_FLIGHT_MAX),
            is_fenced: false,
        }
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether the open range is not empty.
    pub fn has_open(&self) -> bool {
        self.open_start < self.end
    }

    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    /// Extends the open range to `end`.
    pub fn handle_append(&mut self, end: u64) {
        assert!(end > self.end);
        self.end = end;
    }

    /// Seals the open range, which ends at a block boundary.
    pub fn handle_seal(&mut self) {
        assert!(block_floor(self.end) == self.end);
        self.handle_split();
    }

    /// Seals the open range, wherever it ends. What follows may begin in the same block.
    pub fn handle_split(&mut self) {
        assert!(self.open_start < self.end);
        self.sealed.push_back(self.open_start..self.end);
        self.open_start = self.end;
    }

    /// The oldest range that may be written now.
    pub fn peek_write(&self) -> Option<Take> {
        if self.is_fenced || self.in_flight.len() == WRITES_IN_FLIGHT_MAX {
            return None;
        }
        let is_permitted = |&index: &usize| self.is_permitted(index, &self.sealed[index]);
        if let Some(index) = (0..self.sealed.len()).find(is_permitted) {
            return Some(Take::Sealed(index, self.sealed[index].clone()));
        }
        let open = self.open_start..self.end;
        let is_worth_it = !open.is_empty() && self.in_flight.len() < OPEN_IN_FLIGHT_MAX;
        (is_worth_it && self.is_permitted(self.sealed.len(), &open)).then_some(Take::Open(open))
    }

    /// Takes the range that [`peek_write`](Self::peek_write) returns; its write is in flight from
    /// here on.
    pub fn poll_write(&mut self) -> Option<Take> {
        let take = self.peek_write()?;
        let range = match &take {
            Take::Sealed(index, _) => self.sealed.remove(*index).expect("it was just found there"),
            Take::Open(range) => {
                self.open_start = self.end;
                range.clone()
            }
        };
        self.submitted = self.submitted.max(range.end);
        self.in_flight.push(range);
        self.check();
        Some(take)
    }

    /// Records that the write of the range that begins at `start` succeeded. Returns whether
    /// `written` advanced.
    pub fn handle_written(&mut self, start: u64) -> bool {
        let index = self.in_flight.iter().position(|range| range.start == start);
        self.in_flight.swap_remove(index.expect("only writes in flight end"));
        if self.is_fenced {
            return false;
        }
        let before = self.written;
        let oldest_in_flight = self.in_flight.iter().map(|range| range.start).min();
        let oldest_sealed = self.sealed.front().map(|range| range.start);
        let oldest_in_flight =
            oldest_in_flight.filter(|_| !planted::is(Bug::CountsWritesOutOfOrder));
        let missing = [oldest_in_flight, oldest_sealed, Some(self.open_start)];
        self.written = missing.into_iter().flatten().min().expect("the open range always counts");
        self.check();
        self.written > before
    }

    /// Handles a failed write: `written` no longer advances, and no further write begins.
    pub fn fence(&mut self) {
        self.is_fenced = true;
    }

    /// Whether `range` shares no block with any write in flight, nor with the range that must be
    /// written before it: the last of the first `count` sealed ones.
    fn is_permitted(&self, count: usize, range: &Range<u64>) -> bool {
        let first_block = block_floor(range.start);
        let before = count.checked_sub(1).map(|last| &self.sealed[last]);
        let is_shared = planted::is(Bug::SharesBlocksBetweenWrites);
        is_shared
            || self.in_flight.iter().chain(before).all(|other| {
                block_ceil(other.end) <= first_block || range.end <= block_floor(other.start)
            })
    }

    fn check(&self) {
        assert!(self.written <= self.submitted && self.submitted <= self.end);
        assert!(self.open_start <= self.end);
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // Lists of writes, most of them short.
mod tests {
    use super::*;

    /// One step of a scenario.
    enum Step {
        Append(u64),
        Seal,
        Split,
        Written(u64),
        Fence,
    }
    use Step::*;

    fn run(steps: &[(Step, &[Range<u64>], u64)]) {
        let mut commit = GroupCommit::new(0);
        for (index, (step, writes, written)) in steps.iter().enumerate() {
            match step {
                Append(end) => commit.handle_append(*end),
                Seal => commit.handle_seal(),
                Split => commit.handle_split(),
                Written(start) => _ = commit.handle_written(*start),
                Fence => commit.fence(),
            }
            let mut begun = Vec::new();
            while let Some(Take::Sealed(_, range) | Take::Open(range)) = commit.poll_write() {
                begun.push(range);
            }
            assert_eq!((&begun[..], commit.written()), (*writes, *written), "step {index}");
        }
    }

    #[test]
    fn appends_during_a_write_share_the_next_one() {
        run(&[
            (Append(100), &[0..100], 0),
            (Append(200), &[], 0),
            (Append(300), &[], 0),
            (Written(0), &[100..300], 100),
            (Written(100), &[], 300),
        ]);
    }

    #[test]
    fn sealed_ranges_are_written_concurrently_and_count_in_order() {
        run(&[
            (Append(4096), &[0..4096], 0),
            (Append(8192), &[4096..8192], 0),
            (Append(12288), &[8192..12288], 0),
            (Written(4096), &[], 0),
            (Written(0), &[], 8192),
            (Written(8192), &[], 12288),
        ]);
    }

    #[test]
    fn ranges_that_share_a_block_wait_and_others_overtake_them() {
        run(&[
            (Append(5000), &[0..5000], 0),
            (Append(16384), &[], 0),
            (Seal, &[], 0),
            (Append(20000), &[16384..20000], 0),
            (Append(32768), &[], 0),
            (Written(16384), &[20000..32768], 0),
            (Written(0), &[5000..16384], 5000),
            (Written(20000), &[], 5000),
            (Written(5000), &[], 32768),
        ]);
    }

    /// The later range has the block's final content.
    #[test]
    fn ranges_that_share_a_block_are_written_in_order() {
        run(&[
            (Append(100), &[0..100], 0),
            (Append(5000), &[], 0),
            (Split, &[], 0),
            (Append(6000), &[], 0),
            (Split, &[], 0),
            (Append(7000), &[], 0),
            (Written(0), &[100..5000], 100),
            (Written(100), &[5000..6000], 5000),
            (Written(5000), &[6000..7000], 6000),
        ]);
    }

    #[test]
    fn writes_in_flight_are_bounded() {
        let mut commit = GroupCommit::new(0);
        for index in 1..=WRITES_IN_FLIGHT_MAX as u64 + 1 {
            commit.handle_append(index * 4096);
            commit.handle_seal();
        }
        let count = std::iter::from_fn(|| commit.poll_write()).count();
        assert_eq!(count, WRITES_IN_FLIGHT_MAX);
        commit.handle_written(0);
        let next = WRITES_IN_FLIGHT_MAX as u64 * 4096;
        assert_eq!(commit.poll_write(), Some(Take::Sealed(0, next..next + 4096)));
    }

    /// More small writes would only make the commits smaller.
    #[test]
    fn an_open_range_waits_while_many_writes_are_in_flight() {
        let mut commit = GroupCommit::new(0);
        for index in 1..=OPEN_IN_FLIGHT_MAX as u64 {
            commit.handle_append(index * 4096);
            commit.handle_seal();
            assert!(commit.poll_write().is_some());
        }
        let start = OPEN_IN_FLIGHT_MAX as u64 * 4096;
        commit.handle_append(start + 100);
        assert_eq!(commit.poll_write(), None);
        commit.handle_written(0);
        assert_eq!(commit.poll_write(), Some(Take::Open(start..start + 100)));
    }

    #[test]
    fn nothing_counts_as_written_after_a_failure() {
        run(&[
            (Append(4096), &[0..4096], 0),
            (Append(8192), &[4096..8192], 0),
            (Fence, &[], 0),
            (Append(9000), &[], 0),
            (Written(0), &[], 0),
        ]);
    }
}
