//! The age of what a replica is missing: where the leader's log ended, and when it first did.

use std::collections::VecDeque;

use crate::model::{LogOffset, Moment};

/// Maximum number of log ends that are remembered; beyond that, older ones are thinned out.
const ENDS_MAX: usize = 1_024;
/// Times of older ends are accurate to one part in this many of their age.
const PRECISION: u64 = 32;

/// Where the leader's log ended, and when it first did: yields the age of what a replica is
/// missing.
#[derive(Debug, Default)]
pub struct Ends(VecDeque<(Moment, LogOffset)>);

impl Ends {
    pub fn note(&mut self, now: Moment, end: LogOffset) {
        if self.0.back().is_some_and(|(_, last)| *last >= end) {
            return;
        }
        if self.0.len() == ENDS_MAX {
            self.thin(now);
        }
        self.0.push_back((now, end));
    }

    /// Drops ends whose ages hardly differ from those of their neighbours.
    fn thin(&mut self, now: Moment) {
        let mut last: Option<Moment> = None;
        self.0.retain(|(at, _)| {
            let is_close =
                last.is_some_and(|last| PRECISION * at.ms_since(last) < now.ms_since(*at));
            if !is_close {
                last = Some(*at);
            }
            !is_close
        });
        if self.0.len() == ENDS_MAX {
            self.0.pop_front();
        }
    }

    /// Drops the times of what every replica has.
    pub fn forget_below(&mut self, end: LogOffset) {
        while self.0.front().is_some_and(|(_, known)| *known <= end) {
            self.0.pop_front();
        }
    }

    /// Drops everything, because the log was cut: the next end may be lower.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How long ago, in ms, the log first reached beyond `end`, as far as is known.
    pub fn age_ms(&self, end: LogOffset, now: Moment) -> u64 {
        let index = self.0.partition_point(|(_, known)| *known <= end);
        self.0.get(index).map_or(0, |(at, _)| now.ms_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_lacks_is_as_old_as_its_first_byte() {
        let mut ends = Ends::default();
        assert_eq!(ends.age_ms(LogOffset(0), Moment(50)), 0);
        for (at, end) in [(100, 10), (200, 20), (300, 20), (400, 30)] {
            ends.note(Moment(at), LogOffset(end));
        }
        let age = |ends: &Ends, end| ends.age_ms(LogOffset(end), Moment(500));
        assert_eq!([0, 10, 19, 20, 30].map(|end| age(&ends, end)), [400, 300, 300, 100, 0]);
        ends.forget_below(LogOffset(20));
        assert_eq!(age(&ends, 20), 100);
    }

    #[test]
    fn a_long_absence_is_remembered_in_bounded_memory() {
        let mut ends = Ends::default();
        let count = 50 * ENDS_MAX as u64;
        for nth in 0..count {
            ends.note(Moment(nth), LogOffset(nth + 1));
            assert!(ends.0.len() <= ENDS_MAX);
        }
        let age = ends.age_ms(LogOffset(count / 2), Moment(count));
        assert!(age.abs_diff(count / 2) < count / 10, "{age} of {count}");
    }
}
