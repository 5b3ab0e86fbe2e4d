//! Decides which segments may be deleted. Pure.

use crate::model::{LogOffset, Timestamp};
use crate::planted::{self, Bug};

/// A full segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFacts {
    pub end: LogOffset,
    pub size: u64,
    /// When it was found full, by the clock of [`ages`](super::ages); `None` until it has been.
    pub full_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
pub struct RetentionPolicy {
    /// Maximum age of messages, milliseconds.
    pub age_ms: u64,
    /// Maximum size of the log, bytes.
    pub bytes: u64,
}

/// How many of `sealed`, oldest first, may be deleted. `active_size` is the size of the active
/// segment, which counts and stays. Nothing at or above `keep_from` is deleted, because recovery
/// still needs it. `now` is by the clock of `full_at`.
pub fn expired(
    sealed: &[SegmentFacts],
    active_size: u64,
    policy: RetentionPolicy,
    keep_from: LogOffset,
    now: Timestamp,
) -> usize {
    let may_go = sealed.partition_point(|segment| segment.end <= keep_from);
    let is_aged = |segment: &SegmentFacts| {
        segment.full_at.is_some_and(|full_at| now.ms_since(full_at) > policy.age_ms)
    };
    let aged = sealed.iter().take_while(|segment| is_aged(segment)).count();
    let mut total = active_size + sealed.iter().map(|segment| segment.size).sum::<u64>();
    let surplus = sealed
        .iter()
        .take_while(|segment| {
            let is_too_much = total > policy.bytes;
            total -= segment.size;
            is_too_much
        })
        .count();
    let may_go = if planted::is(Bug::DeletesWhatRecoveryNeeds) { sealed.len() } else { may_go };
    aged.max(surplus).min(may_go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_segments_expire_first_unless_recovery_needs_them() {
        let never = u64::MAX;
        // Segments of 100 bytes, full at 10, 20, 30, and one of which it is not known.
        let full_at = [Some(10), Some(20), Some(30), None];
        let sealed: Vec<SegmentFacts> = (1..)
            .zip(full_at)
            .map(|(number, full_at)| SegmentFacts {
                end: LogOffset(number * 100),
                size: 100,
                full_at: full_at.map(Timestamp),
            })
            .collect();
        // now, age, bytes, keep from, expired
        let rows = [
            (50, never, never, 400, 0),
            (50, 100, never, 400, 0),
            (50, 35, never, 400, 1),
            (50, 29, never, 400, 2),
            (50, 20, never, 400, 2),
            (50, 19, never, 400, 3),
            (50, 19, never, 299, 2),
            (50, 0, never, 400, 3),
            (50, never, 500, 400, 0),
            (50, never, 499, 400, 1),
            (50, never, 0, 400, 4),
            (50, never, 0, 150, 1),
            (5, 0, never, 400, 0),
        ];
        for row @ (now, age_ms, bytes, keep_from, count) in rows {
            let policy = RetentionPolicy { age_ms, bytes };
            let found = expired(&sealed, 100, policy, LogOffset(keep_from), Timestamp(now));
            assert_eq!(found, count, "{row:?}");
        }
    }
}
