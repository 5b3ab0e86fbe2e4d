//! Takes snapshots. First the offset of the snapshot is fixed, then the broker writes its state in
//! slices. Other tasks of the shard run between slices, so the state keeps changing: later slices
//! may include entries after the snapshot's offset. The broker's facts set values instead of
//! changing them, so replaying from that offset leads to the same state.
//!
//! Invariant: a snapshot gets its final name only once the log is on stable media and committed up
//! to its end at the last slice. Nothing in the snapshot can be lost or cut off. In a log that is
//! committed in groups, that group must be whole on stable media: after a start, part of a group is
//! cut off.

use std::cell::Cell;
use std::rc::Rc;

use crate::model::LogOffset;
use crate::planted::{self, Bug};
use crate::storage::config::CommitRule;
use crate::storage::disk::{Disk, DiskError};
use crate::storage::log::SpaceState;
use crate::storage::publish::publish_parts;
use crate::storage::segment::FileName;
use crate::storage::slice::yield_now;
use crate::storage::snapshot::{SNAPSHOTS_KEPT, SnapshotPoint, SnapshotSum};
use crate::storage::store::Store;
use crate::storage::upkeep::Taken;

use zerocopy::IntoBytes;

/// The next snapshot is due after this many times its size of log. Bounds the share of snapshots in
/// the device's work; a restart replays at most that much.
const LOG_PER_SNAPSHOT: u64 = 8;

impl<D: Disk> Store<D> {
    /// Takes a snapshot when one is due or requested, and publishes it as soon as the invariant
    /// allows.
    pub(super) async fn keep_snapshot(
        &self,
        is_wanted: bool,
        next_slice: impl FnMut() -> Vec<u8>,
    ) -> Result<Option<LogOffset>, DiskError> {
        let newest = self.0.upkeep.borrow().snapshots.last().copied();
        let has_step = self.0.index.borrow().ages().has_unsaved_step();
        if newest == Some(self.end()) && !has_step {
            return Ok(newest.filter(|_| is_wanted));
        }
        let is_taken = self.0.upkeep.borrow().taken.is_some();
        let is_due = is_wanted || (!is_taken && (has_step || self.snapshot_is_due()));
        if is_due && self.may_take_slices() {
            let taken = self.take_slices(next_slice).await;
            self.0.upkeep.borrow_mut().taken = Some(Rc::new(taken));
        }
        let taken = self.0.upkeep.borrow().taken.clone();
        let Some(taken) = taken else { return Ok(None) };
        if is_wanted {
            self.wait_until_fixed(taken.end).await?;
        }
        if !self.is_fixed(&taken) {
            return Ok(None);
        }
        self.publish_snapshot(&taken).await.map(Some)
    }

    /// A snapshot includes what queues have lost to retention. While a segment is partly removed, a
    /// start could find it again.
    fn may_take_slices(&self) -> bool {
        self.0.upkeep.borrow().retiring.is_none()
    }

    fn snapshot_is_due(&self) -> bool {
        let (log, upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow());
        let newest = upkeep.snapshots.last().copied().unwrap_or(log.begin());
        let segment = log.config.segment_size;
        let interval = match log.space {
            SpaceState::Enough => segment.max(LOG_PER_SNAPSHOT * upkeep.snapshot_size),
            // Retention cannot free space before there are newer snapshots.
            SpaceState::BelowReserve | SpaceState::Full => segment,
        };
        log.end().0 - newest.0 >= interval
    }

    async fn take_slices(&self, mut next_slice: impl FnMut() -> Vec<u8>) -> Taken {
        let point = {
            let log = self.0.log.borrow();
            let (next_ordinal, epoch) = (log.writer.next_ordinal(), log.writer.last_epoch());
            SnapshotPoint { offset: log.end(), next_ordinal, epoch }
        };
        self.0.index.borrow_mut().ages_mut().handle_saved();
        let mut sum = SnapshotSum::new(self.0.log.borrow().config.checksum_seed);
        let mut slices = Vec::new();
        loop {
            let slice = next_slice();
            if slice.is_empty() {
                break;
            }
            sum.add(&slice);
            slices.push(slice);
            yield_now().await;
        }
        Taken { point, end: self.end(), fixed_by: Cell::default(), slices, sum }
    }

    /// Whether nothing in the snapshot can be lost or cut off any more.
    fn is_fixed(&self, taken: &Taken) -> bool {
        let log = self.0.log.borrow();
        if planted::is(Bug::PublishesSnapshotsEarly) {
            return log.fault.is_none();
        }
        if log.fault.is_some() || log.committed() < taken.end {
            return false;
        }
        let by = taken.fixed_by.get().unwrap_or(match log.config.commit {
            CommitRule::Local => taken.end,
            CommitRule::Driven => log.commit.driven_to,
        });
        taken.fixed_by.set(Some(by));
        log.durable() >= by
    }

    /// Waits until the snapshot is fixed, as far as that depends on this log alone.
    async fn wait_until_fixed(&self, end: LogOffset) -> Result<(), DiskError> {
        let commits_alone = self.0.log.borrow().config.commit == CommitRule::Local;
        self.0
            .marks_changed
            .wait(|| {
                let log = self.0.log.borrow();
                let mark = if commits_alone { log.committed() } else { log.written() };
                (mark >= end || log.fault.is_some()).then_some(())
            })
            .await;
        if !self.is_fenced() && self.durable() < end {
            self.sync().await?;
        }
        Ok(())
    }

    async fn publish_snapshot(&self, taken: &Taken) -> Result<LogOffset, DiskError> {
        let head = taken.sum.head(taken.point);
        let offset = taken.point.offset;
        let mut parts = vec![head.as_bytes()];
        parts.extend(taken.slices.iter().map(Vec::as_slice));
        publish_parts(&self.0.disk, FileName::Snapshot(offset), &parts).await?;
        let outdated = {
            let mut upkeep = self.0.upkeep.borrow_mut();
            upkeep.taken = None;
            // After a clock step there is another one at the same offset.
            if upkeep.snapshots.last() != Some(&offset) {
                upkeep.snapshots.push(offset);
            }
            upkeep.snapshot_size = head.payload_size.get();
            let count = upkeep.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
            upkeep.snapshots.drain(..count).collect::<Vec<_>>()
        };
        for offset in outdated {
            self.0.disk.remove(&FileName::Snapshot(offset).to_string()).await?;
        }
        Ok(offset)
    }
}
