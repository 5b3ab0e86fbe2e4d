//! The ages of segments, in elapsed time rather than wall clock time.
//!
//! The wall clock may jump by years, and back. So ages are counted on a separate clock, which runs
//! with the monotonic clock and is never set:
//!
//! ```text
//!   begin      reads what the snapshot remembers (AgesHead), or else the wall clock
//!   observe    every 100 ms: notes steps of the wall clock, which change nothing here
//!   full       when each full segment was found full, by this clock (SegmentAge)
//! ```
//!
//! The time between two runs of the broker is known only from the wall clock. This *absence* is
//! added once that clock has run for [`ABSENCE_PROOF_MS`] without a step, and only up to
//! [`ABSENCE_MAX_MS`]. Until then nothing counts as older because of it, and new stamps are made as
//! if it had been added ([`Clock::latest`]), so that they do not seem older afterwards.
//!
//! Invariant: `full` is in the order of the log, and its readings never decrease.
//!
//! Snapshots contain all of it, which is enough: retention deletes only segments below the older
//! snapshot, and those are in the newer one.

use std::collections::VecDeque;
use std::mem::size_of;

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::{LogOffset, Moment, Now, Timestamp};

/// A difference between the two clocks that grows by less than this is drift, ms.
const STEP_MIN_MS: i64 = 1_000;
/// How long the wall clock must run without a step before the absence is trusted, ms.
const ABSENCE_PROOF_MS: u64 = 600_000;
/// A longer absence is considered a wrong clock and does not count, ms: 90 days.
pub const ABSENCE_MAX_MS: u64 = 90 * 86_400_000;
/// Maximum number of unread steps; further ones are dropped.
const STEPS_MAX: usize = 16;

/// A step of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// Its value without the step.
    pub expected: Timestamp,
    pub found: Timestamp,
}

impl ClockStep {
    /// Size of the step; negative for backward.
    pub fn ms(&self) -> i64 {
        self.found.0 as i64 - self.expected.0 as i64
    }
}

/// Both clocks when the ages were written to a snapshot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AgesHead {
    /// The clock by which segments age.
    pub elapsed_ms: U64,
    pub wall_ms: U64,
}

/// When a full segment was found full.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentAge {
    pub segment: U64,
    /// By the clock of [`AgesHead::elapsed_ms`].
    pub full_ms: U64,
}

const _: () = {
    assert!(size_of::<AgesHead>() == 16);
    assert!(size_of::<SegmentAge>() == 16);
};

/// A full segment whose age is in no snapshot: its base, and the latest store time of its messages,
/// if they are in an index file.
pub(super) struct Unaged {
    pub base: LogOffset,
    pub last_stored: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Ages {
    /// From the snapshot, before the clock runs.
    saved: Option<AgesHead>,
    clock: Option<Clock>,
    full: VecDeque<(LogOffset, Timestamp)>,
    steps: Vec<ClockStep>,
    /// No snapshot since the last step: a restart would take the step for elapsed time.
    has_unsaved_step: bool,
}

/// The clock by which segments age.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Its value at `since`.
    reading: Timestamp,
    since: Moment,
    /// The last readings of both clocks.
    seen: Now,
    /// When the wall clock last stepped, to tell a step from drift.
    agreed: Now,
    /// What the last run left, until the absence is added or dropped.
    pending: Option<AgesHead>,
}

impl Clock {
    fn begin(now: Now, saved: Option<AgesHead>) -> Self {
        let reading = saved.map_or(now.wall, |saved| Timestamp(saved.elapsed_ms.get()));
        Self { reading, since: now.moment, seen: now, agreed: now, pending: saved }
    }

    fn at(&self, moment: Moment) -> Timestamp {
        self.reading.plus_ms(moment.ms_since(self.since))
    }

    /// Its value at `moment`, including a pending absence.
    fn latest(&self, moment: Moment) -> Timestamp {
        self.at(moment).plus_ms(self.absence_ms().min(ABSENCE_MAX_MS))
    }

    /// How long the broker was stopped, by the wall clock; 0 once that has been added or dropped.
    fn absence_ms(&self) -> u64 {
        let running_ms = self.seen.moment.ms_since(self.since);
        self.pending.map_or(0, |saved| {
            let left_at = Timestamp(saved.wall_ms.get());
            self.seen.wall.ms_since(left_at).saturating_sub(running_ms)
        })
    }

    fn observe(&mut self, now: Now) -> Option<ClockStep> {
        self.seen = now;
        let expected = self.agreed.wall.plus_ms(now.moment.ms_since(self.agreed.moment));
        let step = ClockStep { expected, found: now.wall };
        let is_step = step.ms().abs() >= STEP_MIN_MS;
        if is_step {
            self.agreed = now;
        }
        is_step.then_some(step)
    }

    /// Adds the absence once the wall clock is trusted. Returns true if that is decided now.
    fn settle_absence(&mut self) -> bool {
        let is_proven = self.seen.moment.ms_since(self.agreed.moment) >= ABSENCE_PROOF_MS;
        if self.pending.is_none() || !is_proven {
            return false;
        }
        let absence_ms = self.absence_ms();
        self.pending = None;
        match absence_ms <= ABSENCE_MAX_MS {
            true => self.reading = self.reading.plus_ms(absence_ms),
            false => tracing::warn!(
                "by the wall clock this broker was stopped for {} days; retention ignores them",
                absence_ms / 86_400_000
            ),
        }
        true
    }
}

impl Ages {
    /// Updates from the clocks.
    pub(super) fn observe(&mut self, now: Now) {
        let saved = self.saved;
        let clock = self.clock.get_or_insert_with(|| Clock::begin(now, saved));
        let step = clock.observe(now);
        if clock.settle_absence() {
            let latest = clock.at(now.moment);
            self.full.iter_mut().for_each(|(_, full_at)| *full_at = latest.min(*full_at));
        }
        self.has_unsaved_step |= step.is_some();
        if self.steps.len() < STEPS_MAX {
            self.steps.extend(step);
        }
    }

    /// The clock's value at `moment`, to determine ages; 0 before it runs.
    pub(super) fn elapsed(&self, moment: Moment) -> Timestamp {
        self.clock.map_or(Timestamp(0), |clock| clock.at(moment))
    }

    /// The stamp for an event at `moment`.
    pub(super) fn stamp(&self, moment: Moment) -> Timestamp {
        self.clock.map_or(Timestamp(0), |clock| clock.latest(moment))
    }

    pub(super) fn take_steps(&mut self) -> Vec<ClockStep> {
        std::mem::take(&mut self.steps)
    }

    pub(super) fn has_unsaved_step(&self) -> bool {
        self.has_unsaved_step
    }

    pub(super) fn handle_saved(&mut self) {
        self.has_unsaved_step = false;
    }

    /// The newest segment that has an age.
    pub(super) fn newest(&self) -> Option<LogOffset> {
        self.full.back().map(|&(base, _)| base)
    }

    /// Records that another segment is full, newer than all with an age.
    pub(super) fn note_full(&mut self, segment: &Unaged) {
        let Some(clock) = &self.clock else { return };
        let latest = clock.latest(clock.seen.moment);
        let oldest = self.full.back().map_or(Timestamp(0), |&(_, full_at)| full_at);
        let stamped = segment.last_stored.map(|stored| self.reading_of(stored));
        let full_at = stamped.unwrap_or(latest).min(latest).max(oldest);
        self.full.push_back((segment.base, full_at));
    }

    /// This clock's value when the wall clock of the last run showed `stamp`.
    fn reading_of(&self, stamp: Timestamp) -> Timestamp {
        match self.saved {
            None => stamp,
            Some(AgesHead { elapsed_ms, wall_ms }) => {
                Timestamp((stamp.0 + elapsed_ms.get()).saturating_sub(wall_ms.get()))
            }
        }
    }

    /// When the segment at `base` was found full.
    pub(super) fn full_at(&self, base: LogOffset) -> Option<Timestamp> {
        let index = self.full.binary_search_by_key(&base, |&(base, _)| base).ok()?;
        Some(self.full[index].1)
    }

    pub(super) fn drop_before(&mut self, begin: LogOffset) {
        while self.full.pop_front_if(|(base, _)| *base < begin).is_some() {}
    }

    /// Drops the ages from the segment at `active` on: the log now ends there, and it is not full.
    pub(super) fn drop_from(&mut self, active: LogOffset) {
        while self.full.pop_back_if(|(base, _)| *base >= active).is_some() {}
    }

    /// The head of the ages in a snapshot; `None` before the clock runs. While an absence is
    /// pending, the next run must add it too.
    pub fn head(&self) -> Option<AgesHead> {
        let clock = self.clock?;
        let Now { wall, moment } = clock.seen;
        let (elapsed_ms, wall_ms) = (U64::new(clock.at(moment).0), U64::new(wall.0));
        Some(clock.pending.unwrap_or(AgesHead { elapsed_ms, wall_ms }))
    }

    /// The ages of up to `count_max` segments from `from` on.
    pub fn rows_from(
        &self,
        from: LogOffset,
        count_max: usize,
    ) -> impl Iterator<Item = SegmentAge> + '_ {
        let first = self.full.partition_point(|&(base, _)| base < from);
        self.full.range(first..).take(count_max).map(|&(base, full_at)| SegmentAge {
            segment: U64::new(base.0),
            full_ms: U64::new(full_at.0),
        })
    }

    /// Restores from a snapshot. For use before the clock runs.
    pub fn restore(&mut self, head: AgesHead, rows: &[SegmentAge]) {
        self.saved = Some(head);
        for row in rows {
            let (base, full_at) = (LogOffset(row.segment.get()), Timestamp(row.full_ms.get()));
            if self.newest() < Some(base) {
                self.full.push_back((base, full_at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const START: Timestamp = Timestamp(1_700_000_000_000);

    /// In a run whose monotonic clock begins at 0 when the wall clock shows [`START`] plus
    /// `begin_ms`.
    fn at(begin_ms: u64, passed_ms: u64) -> Now {
        Now { wall: START.plus_ms(begin_ms + passed_ms), moment: Moment(passed_ms) }
    }

    /// The ages that the next run restores.
    fn restarted(ages: &Ages) -> Ages {
        let mut next = Ages::default();
        let rows: Vec<SegmentAge> = ages.rows_from(LogOffset(0), 100).collect();
        next.restore(ages.head().unwrap(), &rows);
        next
    }

    /// A run of a second, with one full segment.
    fn first_run() -> Ages {
        let mut ages = Ages::default();
        ages.observe(at(0, 0));
        ages.observe(at(0, 1_000));
        ages.note_full(&Unaged { base: LogOffset(0), last_stored: None });
        ages
    }

    fn full_ms(ages: &Ages) -> Vec<u64> {
        ages.full.iter().map(|(_, full_at)| full_at.ms_since(START)).collect()
    }

    #[test]
    fn clock_steps_are_reported_with_their_size_and_drift_is_not() {
        let mut ages = Ages::default();
        let seen = [(0, 0), (10, 400), (20, 900), (30, HOUR_MS), (40, HOUR_MS), (50, 0)];
        for (passed_ms, ahead_ms) in seen {
            ages.observe(at(ahead_ms, passed_ms));
            assert_eq!(ages.elapsed(Moment(passed_ms)), START.plus_ms(passed_ms));
        }
        let sizes: Vec<i64> = ages.take_steps().iter().map(ClockStep::ms).collect();
        assert_eq!(sizes, [HOUR_MS as i64, -(HOUR_MS as i64)]);
        assert!(ages.has_unsaved_step() && ages.take_steps().is_empty());
    }

    #[test]
    fn an_absence_counts_once_the_wall_clock_has_proven_itself() {
        let decade_ms = 87_600 * HOUR_MS;
        // By how much the wall clock is ahead, until when, and what is added, and when, for an
        // absence of one hour.
        let rows = [
            (0, 0, ABSENCE_PROOF_MS, HOUR_MS),
            (decade_ms, 2_000, ABSENCE_PROOF_MS + 2_000, HOUR_MS),
            (decade_ms, u64::MAX, ABSENCE_PROOF_MS, 0),
        ];
        for (ahead_ms, until_ms, proven_ms, added_ms) in rows {
            let mut second = restarted(&first_run());
            for passed_ms in (0..2 * ABSENCE_PROOF_MS).step_by(1_000) {
                let wrong_ms = if passed_ms < until_ms { ahead_ms } else { 0 };
                second.observe(at(1_000 + HOUR_MS + wrong_ms, passed_ms));
                let added_ms = if passed_ms < proven_ms { 0 } else { added_ms };
                let expected = START.plus_ms(1_000 + passed_ms + added_ms);
                assert_eq!(second.elapsed(Moment(passed_ms)), expected, "{passed_ms}");
                assert!(second.stamp(Moment(passed_ms)) >= expected);
            }
        }
    }

    /// The absence does not make a segment older that was filled before the crash but is in no
    /// snapshot, or that was filled before the absence counts.
    #[test]
    fn an_absence_makes_nothing_older_that_came_after_it() {
        let mut second = restarted(&first_run());
        second.observe(at(3 * HOUR_MS, 0));
        let before_crash = Some(START.plus_ms(2 * HOUR_MS));
        second.note_full(&Unaged { base: LogOffset(100), last_stored: before_crash });
        second.observe(at(3 * HOUR_MS, 5_000));
        second.note_full(&Unaged { base: LogOffset(200), last_stored: None });
        let full = [1_000, 2 * HOUR_MS, 3 * HOUR_MS + 5_000];
        assert_eq!(full_ms(&second), full);
        let mut third = restarted(&second);
        for mut ages in [second, {
            third.observe(at(3 * HOUR_MS, 0));
            third
        }] {
            ages.observe(at(3 * HOUR_MS, ABSENCE_PROOF_MS));
            assert_eq!(full_ms(&ages), full);
            let elapsed = ages.elapsed(Moment(ABSENCE_PROOF_MS));
            assert_eq!(elapsed, START.plus_ms(3 * HOUR_MS + ABSENCE_PROOF_MS));
        }
    }

    #[test]
    fn stamps_count_only_as_far_as_they_fit() {
        let mut second = restarted(&first_run());
        second.observe(at(HOUR_MS, 0));
        // Before all others, and years ahead.
        for (base, stored_ms) in [(100, 5), (200, 100_000 * HOUR_MS)] {
            let last_stored = Some(START.plus_ms(stored_ms));
            second.note_full(&Unaged { base: LogOffset(base), last_stored });
        }
        assert_eq!(full_ms(&second), [1_000, 1_000, HOUR_MS]);
        second.drop_before(LogOffset(200));
        assert_eq!(second.full_at(LogOffset(100)), None);
        assert!(second.full_at(LogOffset(200)).is_some());
    }
}
