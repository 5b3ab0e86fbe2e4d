//! Which segments may go. Pure: facts in, a count out.

use crate::model::{LogOffset, Timestamp};

/// What is known about a segment that is no longer being filled.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFacts {
    pub end: LogOffset,
    pub size: u64,
    /// When its latest message was stored; `None` without messages.
    pub last_stored: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
pub struct RetentionPolicy {
    /// Messages older than this may go, milliseconds.
    pub age_ms: u64,
    /// More of the log than this is not kept, bytes.
    pub bytes: u64,
}

/// How many of `sealed`, oldest first, are to go. `active_size` is what the segment being filled
/// takes, which counts and stays. Nothing at or above `keep_from` goes: recovery still needs it.
pub fn expired(
    sealed: &[SegmentFacts],
    active_size: u64,
    policy: RetentionPolicy,
    keep_from: LogOffset,
    now: Timestamp,
) -> usize {
    let may_go = sealed.partition_point(|segment| segment.end <= keep_from);
    let is_aged = |segment: &SegmentFacts| {
        segment.last_stored.is_some_and(|last| now.ms_since(last) > policy.age_ms)
    };
    // Only leading segments that are all old: while the clock was wrong, younger ones may stand in front
    // of one that seems old. One without messages goes with the next one that has some.
    let leading =
        sealed.iter().take_while(|segment| segment.last_stored.is_none() || is_aged(segment));
    let leading = &sealed[..leading.count()];
    let aged = leading.iter().rposition(is_aged).map_or(0, |index| index + 1);
    let mut total = active_size + sealed.iter().map(|segment| segment.size).sum::<u64>();
    let surplus = sealed
        .iter()
        .take_while(|segment| {
            let is_too_much = total > policy.bytes;
            total -= segment.size;
            is_too_much
        })
        .count();
    aged.max(surplus).min(may_go)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While the third segment was filled the clock stood at 5.
    #[test]
    fn a_segment_that_seems_old_takes_no_younger_ones_along() {
        let sealed: Vec<SegmentFacts> = (1..)
            .zip([30, 40, 5, 50])
            .map(|(number, stored)| SegmentFacts {
                end: LogOffset(number * 100),
                size: 100,
                last_stored: Some(Timestamp(stored)),
            })
            .collect();
        for (now, count) in [(60, 0), (71, 1), (81, 3), (91, 4)] {
            let policy = RetentionPolicy { age_ms: 40, bytes: u64::MAX };
            let found = expired(&sealed, 100, policy, LogOffset(400), Timestamp(now));
            assert_eq!(found, count, "at {now}");
        }
    }

    #[test]
    fn the_oldest_go_first_and_only_when_recovery_can_do_without() {
        let never = u64::MAX;
        // Segments of 100 bytes, last stored at 10, 20, never, 40.
        let stored = [Some(10), Some(20), None, Some(40)];
        let sealed: Vec<SegmentFacts> = (1..)
            .zip(stored)
            .map(|(number, stored)| SegmentFacts {
                end: LogOffset(number * 100),
                size: 100,
                last_stored: stored.map(Timestamp),
            })
            .collect();
        // now, age, bytes, keep from, expired
        let rows = [
            (50, never, never, 400, 0),
            (50, 100, never, 400, 0),
            (50, 35, never, 400, 1),
            (50, 29, never, 400, 2),
            (50, 20, never, 400, 2),
            (50, 9, never, 400, 4),
            (50, 9, never, 399, 3),
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
