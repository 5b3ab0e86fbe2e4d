//! Removes segments from the log: which ones, what happens to their files, and how their queues are
//! updated.
//!
//! A segment is removed in four steps: its queues are updated, it leaves memory, its file is
//! renamed or removed, and its index file is removed once no snapshot needs it. After a crash in
//! between, the next start repeats the first step from the index file.

use std::ops::Range;

use crate::model::{LogOffset, Moment, Now, Timestamp};
use crate::storage::ages::{ClockStep, Unaged};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::log::{Segment, SegmentIndex};
use crate::storage::publish::{remove_if_any, unless_missing};
use crate::storage::retention::{RetentionPolicy, SegmentFacts, expired};
use crate::storage::segment::FileName;
use crate::storage::snapshot::SNAPSHOTS_KEPT;
use crate::storage::store::Store;
use crate::storage::upkeep::Retiring;

impl<D: Disk> Store<D> {
    /// Removes the segments that retention no longer keeps. Oldest first, each durably before the
    /// next, even if a step fails, so that the next start finds no gap in the log.
    pub(super) async fn expire(&self, now: Now) -> Result<usize, DiskError> {
        self.note_time(now);
        self.finish_retiring().await?;
        let free_to = self.0.upkeep.borrow().free_to.min(self.held_by_copies());
        let expired = self.expired(now);
        let count = expired.iter().take_while(|segment| segment.end <= free_to).count();
        for _ in 0..count {
            // If this fails to update the queues, a lookup notices when it reaches the segment.
            self.move_oldest(self.begin()).await.ok();
            self.begin_retiring();
            self.finish_retiring().await?;
        }
        Ok(count)
    }

    /// The segments that retention does not keep any more, oldest first, whether
    /// [`free_to`](Self::free_to) lets it delete them or not.
    pub fn expired(&self, now: Now) -> Vec<Range<LogOffset>> {
        let count = self.expired_count(self.elapsed(now.moment));
        let log = self.0.log.borrow();
        log.segments.iter().take(count).map(|segment| segment.range.clone()).collect()
    }

    /// Sets the limit of retention: it deletes no segment that ends above `end`, until the next
    /// call. Before the first call it may delete all.
    pub fn free_to(&self, end: LogOffset) {
        self.0.upkeep.borrow_mut().free_to = end;
    }

    /// Updates the clocks, and the list of full segments.
    pub fn note_time(&self, now: Now) {
        let (log, mut index) = (self.0.log.borrow(), self.0.index.borrow_mut());
        let ages = index.ages_mut();
        ages.observe(now);
        let newest = ages.newest();
        let after = log.segments.partition_point(|segment| Some(segment.range.start) <= newest);
        let full_count = log.segments.len().saturating_sub(1 + after);
        for segment in log.segments.range(after..).take(full_count) {
            let (base, last_stored) = (segment.range.start, segment.last_stored());
            ages.note_full(&Unaged { base, last_stored });
        }
    }

    /// Elapsed time, as a time of day that steps of the wall clock do not affect: for determining
    /// ages.
    pub fn elapsed(&self, moment: Moment) -> Timestamp {
        self.0.index.borrow().ages().elapsed(moment)
    }

    /// The stamp for something whose age will be determined by [`elapsed`](Self::elapsed).
    pub fn elapsed_stamp(&self, moment: Moment) -> Timestamp {
        self.0.index.borrow().ages().stamp(moment)
    }

    /// Wall clock steps detected since the last call.
    pub fn take_clock_steps(&self) -> Vec<ClockStep> {
        self.0.index.borrow_mut().ages_mut().take_steps()
    }

    fn expired_count(&self, now: Timestamp) -> usize {
        let (log, upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow());
        // The older snapshot may have to replace the newer one, and needs the log after it.
        let Some(older) = upkeep.snapshots.len().checked_sub(SNAPSHOTS_KEPT) else { return 0 };
        let keep_from = upkeep.snapshots[older];
        let has_file = |segment: &&Segment<D::File>| !matches!(segment.index, SegmentIndex::Memory);
        let index = self.0.index.borrow();
        let facts = |segment: &Segment<D::File>| SegmentFacts {
            end: segment.range.end,
            size: segment.size(),
            full_at: index.ages().full_at(segment.range.start),
        };
        let sealed: Vec<SegmentFacts> =
            log.segments.iter().take_while(has_file).map(facts).collect();
        let kept = log.segments.iter().skip(sealed.len());
        let kept_size = kept.map(|segment| segment.size()).sum();
        let config = &log.config;
        let policy =
            RetentionPolicy { age_ms: config.retention_age_ms, bytes: config.retention_bytes };
        expired(&sealed, kept_size, policy, keep_from, now).min(log.segments.len() - 1)
    }

    /// Removes the oldest segment. Its file becomes a ready one or is deleted; a damaged one is
    /// kept for the operator under another name.
    fn begin_retiring(&self) {
        let mut log = self.0.log.borrow_mut();
        let segment = log.segments.pop_front().expect("counted among the segments");
        let Range { start: base, end } = segment.range.clone();
        let is_damaged = log.damaged.iter().any(|hole| hole.start < end && base < hole.end);
        let is_wanted = segment.size() == log.config.segment_size
            && log.ready.len() < log.config.ready_segments;
        let becomes = match is_damaged {
            true => Some(FileName::Kept(base)),
            false => is_wanted.then(|| FileName::Ready(log.take_ready_number())),
        };
        let (begin, log_end) = (log.begin(), log.end());
        drop(log);
        self.with_index(|index| index.drop_before(begin));
        let mut upkeep = self.0.upkeep.borrow_mut();
        upkeep.retiring = Some(Retiring { base, becomes });
        upkeep.retired.push((base, log_end));
    }

    /// Completes the removal of the last segment. A failed attempt may have done any part of it.
    pub(super) async fn finish_retiring(&self) -> Result<(), DiskError> {
        let retiring = self.0.upkeep.borrow().retiring.clone();
        let Some(Retiring { base, becomes }) = retiring else { return Ok(()) };
        let disk = &self.0.disk;
        let name = FileName::Segment(base).to_string();
        unless_missing(match &becomes {
            Some(other) => disk.rename(&name, &other.to_string()).await,
            None => disk.remove(&name).await,
        })?;
        disk.sync_directory().await?;
        let ready = match becomes {
            Some(FileName::Ready(number)) => {
                let name = FileName::Ready(number).to_string();
                disk.open(&name).await.is_ok().then_some(number)
            }
            _ => None,
        };
        self.0.log.borrow_mut().ready.extend(ready);
        let mut upkeep = self.0.upkeep.borrow_mut();
        upkeep.retiring = None;
        upkeep.space_checked_at = None;
        Ok(())
    }

    /// Removes index files of segments that left the log before the oldest snapshot was begun:
    /// every snapshot then has the oldest offsets of queues without them.
    pub(super) async fn remove_retired(&self) -> Result<(), DiskError> {
        loop {
            let base = {
                let upkeep = self.0.upkeep.borrow();
                let older = upkeep.snapshots.len().checked_sub(SNAPSHOTS_KEPT);
                let known_from = older.map(|older| upkeep.snapshots[older]);
                match (upkeep.retired.first(), known_from) {
                    (Some(&(base, log_end)), Some(known_from)) if log_end < known_from => base,
                    _ => return Ok(()),
                }
            };
            remove_if_any(&self.0.disk, &FileName::Index(base)).await?;
            self.0.upkeep.borrow_mut().retired.retain(|(retired, _)| *retired != base);
        }
    }
}
