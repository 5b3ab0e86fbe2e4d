//! When committed offsets are written to the log next, and how that ended the last time.
//! [`upkeep`](super::upkeep) writes them and sets the deadline of a flush that is due;
//! [`offset_requests`](super::offset_requests) waits for it.
//!
//! Invariant: at most one flush is due, and it counts once it has ended, however it ended.

use crate::model::{Moment, Refusal};

/// Minimum time between two facts about offsets (the reference flushes every 5 s; remoting
/// reference, 5.6).
pub const FLUSH_EVERY_MS: u64 = 1_000;

/// State of writing offsets to the log.
#[derive(Default)]
pub struct Flush {
    is_due: bool,
    last: Option<Moment>,
    count: u64,
    failed: Option<Refusal>,
}

impl Flush {
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Makes a flush due. Returns when: at `now`, or some time after the last one.
    pub fn schedule(&mut self, now: Moment) -> Moment {
        self.is_due = true;
        self.last.map_or(now, |last| last.plus_ms(FLUSH_EVERY_MS))
    }

    /// A flush has written everything, or has failed for good.
    pub fn end(&mut self, now: Moment, failed: Option<Refusal>) {
        *self = Self { is_due: false, last: Some(now), count: self.count + 1, failed };
    }

    /// Number of flushes that have ended.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How the last flush ended, if more than `count` have.
    pub fn outcome_since(&self, count: u64) -> Option<Result<(), Refusal>> {
        (self.count > count).then(|| self.failed.clone().map_or(Ok(()), Err))
    }
}
