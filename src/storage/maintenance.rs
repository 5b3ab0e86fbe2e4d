//! Background work, in small portions: watching disk space, retention, index files, snapshots, and
//! zeroing files ahead of need. One task does this, another one flushes. Appends and reads continue
//! meanwhile.

use std::ops::Range;
use std::rc::Rc;

use crate::model::{LogOffset, Moment, Now};
use crate::planted::{self, Bug};
use crate::storage::config::{CommitRule, Flush};
use crate::storage::disk::{Disk, DiskError, DiskErrorKind, DiskFile, Durability};
use crate::storage::log::{Log, SpaceState};
use crate::storage::proof::EndProof;
use crate::storage::publish::{make, publish_bytes, write_proof};
use crate::storage::recovery::damage_note;
use crate::storage::segment::FileName;
use crate::storage::snapshot::SnapshotPoint;
use crate::storage::store::Store;
use crate::storage::upkeep::Zeroing;
use crate::storage::writer::WRITE_SIZE;

/// With asynchronous flush, a flush begins when the last one is this old. Polled every 100 ms, it
/// begins within 400 ms of any acknowledged byte, unless the previous one takes longer. That leaves
/// 100 ms to make the byte durable within half a second.
const SYNC_INTERVAL_MS: u64 = 300;
/// A flush also begins when this much is unsynced, bytes: one long flush would delay concurrent
/// writes for longer than several short ones.
const SYNC_SIZE: u64 = 32 << 20;
/// The log counts as idle when nothing was appended for this long.
const PROVE_AFTER_MS: u64 = 100;
/// Interval between checks of the free space.
const SPACE_INTERVAL_MS: u64 = 1000;
/// Maximum number of writes of zeros per call; the rest follows in the next.
const ZERO_WRITES_MAX: usize = 64;

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    pub snapshot: Option<LogOffset>,
    pub indexes_written: usize,
    pub segments_expired: usize,
    pub segments_made_ready: usize,
}

impl<D: Disk> Store<D> {
    /// Does what is due, except flushing. When a snapshot is taken, `next_slice` is called until it
    /// returns nothing. Together the slices are the broker's state, each as of its own moment, and
    /// include entries that are not yet committed. Other tasks run between slices.
    ///
    /// Call it every 100 ms from one task; less often after a failure. A part that fails does not
    /// stop the others. The error is that of the first failed part; the next call retries it.
    /// [`is_fenced`](Self::is_fenced) says whether the log was closed.
    pub async fn maintain(
        &self,
        now: Now,
        force_snapshot: bool,
        next_slice: impl FnMut() -> Vec<u8>,
    ) -> Result<Maintained, DiskError> {
        let _turn = self.0.background.turn().await;
        let mut done = Maintained::default();
        if self.is_fenced() {
            return Ok(done);
        }
        let failed = &mut None;
        or_note(self.write_damage_notes().await, failed);
        or_note(self.watch_space(now.moment).await, failed);
        done.segments_expired = or_note(self.expire(now).await, failed);
        or_note(self.rebuild_missing().await, failed);
        while or_note(self.write_image().await, failed) || or_note(self.write_index().await, failed)
        {
            done.indexes_written += 1;
        }
        done.snapshot = or_note(self.keep_snapshot(force_snapshot, next_slice).await, failed);
        or_note(self.remove_retired().await, failed);
        done.segments_made_ready = usize::from(or_note(self.write_zeros().await, failed));
        or_note(self.prove_end(now.moment).await, failed);
        failed.take().map_or(Ok(done), Err)
    }

    /// With asynchronous flush, syncs what is written, if due. A failure closes the log.
    ///
    /// Call it every 100 ms, from a task of its own: a large index file or a slow directory sync
    /// must not delay the flush.
    pub async fn flush(&self, now: Moment) -> Result<(), DiskError> {
        let is_async = self.0.log.borrow().config.flush == Flush::Async;
        if !is_async || self.is_fenced() || !self.sync_is_due(now) {
            return Ok(());
        }
        self.sync().await
    }

    /// Damage found by reads since the last call.
    pub fn take_damage(&self) -> Vec<Range<LogOffset>> {
        std::mem::take(&mut self.0.upkeep.borrow_mut().unreported)
    }

    /// Segments whose index was missing or damaged and has been rebuilt since the last call.
    pub fn take_rebuilt(&self) -> Vec<LogOffset> {
        std::mem::take(&mut self.0.upkeep.borrow_mut().rebuilt)
    }

    /// Writes a `.damaged` file for every hole that reads found.
    pub(super) async fn write_damage_notes(&self) -> Result<(), DiskError> {
        loop {
            let hole = self.0.upkeep.borrow().damage.last().cloned();
            let Some(hole) = hole else { return Ok(()) };
            let note = damage_note(&hole);
            publish_bytes(&self.0.disk, FileName::Damaged(hole.clone()), note.as_bytes()).await?;
            self.0.upkeep.borrow_mut().damage.retain(|noted| *noted != hole);
        }
    }

    /// Writes a proof of the end once the log is idle. Without it, bit rot in the last group would
    /// look like a write that was in flight: recovery would cut the group, including its intact
    /// entries. In a log of entries from another machine, which prove nothing about this disk, a
    /// proof is written at every call.
    async fn prove_end(&self, now: Moment) -> Result<(), DiskError> {
        let Some(point) = self.unproven_end(now) else { return Ok(()) };
        let (number, seed) = {
            let (log, upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow());
            let number = upkeep.proof.map_or(0, |proof| proof.number.get() + 1);
            (number, log.config.checksum_seed)
        };
        let proof = EndProof::new(number, point, seed);
        if write_proof(&self.0.disk, &proof).await? {
            self.0.upkeep.borrow_mut().proof = Some(proof);
        }
        Ok(())
    }

    /// The place up to which the log is on stable media, if a proof of that is due.
    fn unproven_end(&self, now: Moment) -> Option<SnapshotPoint> {
        let (log, mut upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow_mut());
        let (end, durable) = (log.end(), log.durable());
        if upkeep.idle_from.0 != end {
            upkeep.idle_from = (end, now);
        }
        let proven =
            upkeep.proof.map(|proof| proof.point().offset).max(upkeep.snapshots.last().copied());
        let is_idle = durable == end && now.ms_since(upkeep.idle_from.1) >= PROVE_AFTER_MS;
        let is_due = is_idle || log.config.commit == CommitRule::Driven;
        let is_new = proven.unwrap_or_default() < durable;
        let next_ordinal = if durable == end { log.writer.next_ordinal() } else { 0 };
        let point = SnapshotPoint { offset: durable, next_ordinal, epoch: log.writer.last_epoch() };
        (is_due && is_new && log.fault.is_none()).then_some(point)
    }

    fn sync_is_due(&self, now: Moment) -> bool {
        let (log, mut upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow_mut());
        let is_due = log.written().0 - log.durable().0 >= SYNC_SIZE
            || now.ms_since(upkeep.synced_at) >= SYNC_INTERVAL_MS;
        if is_due {
            upkeep.synced_at = now;
        }
        is_due
    }

    /// Makes everything written so far durable. A failure closes the log.
    pub async fn sync(&self) -> Result<(), DiskError> {
        let _turn = self.0.syncs.turn().await;
        let (written, files) = {
            let mut log = self.0.log.borrow_mut();
            let unsynced = log.segments.iter_mut().filter(|segment| segment.is_unsynced);
            let files: Vec<D::File> = unsynced
                .map(|segment| {
                    segment.is_unsynced = false;
                    segment.file.clone()
                })
                .collect();
            (log.written(), files)
        };
        let began = self.0.disk.clock_ns();
        let mut outcome = Ok(());
        for file in &files {
            outcome = outcome.and(file.sync().await);
        }
        if !files.is_empty() {
            self.0.metrics.flush.record(self.0.disk.clock_ns() - began);
        }
        if outcome.is_err() && planted::is(Bug::RetriesFailedFlushes) {
            return Ok(());
        }
        let outcome = self.0.apply(outcome, |log| {
            log.metrics.syncs.add(files.len() as u64);
            log.handle_durable(written);
        });
        self.0.wake_waiters();
        if outcome.is_err() {
            self.0.work.notify();
        }
        outcome
    }

    /// Checks the free space: whether messages may be accepted, and whether to retry after a full
    /// disk.
    async fn watch_space(&self, now: Moment) -> Result<(), DiskError> {
        {
            let mut upkeep = self.0.upkeep.borrow_mut();
            let checked_at = upkeep.space_checked_at;
            if checked_at.is_some_and(|at| now.ms_since(at) < SPACE_INTERVAL_MS) {
                return Ok(());
            }
            upkeep.space_checked_at = Some(now);
        }
        let space = self.0.disk.space().await?;
        let before = {
            let mut log = self.0.log.borrow_mut();
            log.disk_space = Some(space);
            log.note_space(space.free_bytes)
        };
        if before != SpaceState::Enough {
            self.0.work.notify();
            self.0.wake_waiters();
        }
        Ok(())
    }

    /// Zeroes files ahead of need while the device is idle. True if a file became ready.
    ///
    /// Each write is durable: otherwise zeros would pile up in the device's cache, and all would
    /// have to reach the media before the next message is acknowledged.
    async fn write_zeros(&self) -> Result<bool, DiskError> {
        if !self.is_idle() || !self.begin_zeroing().await? {
            return Ok(false);
        }
        let mut zeroing = self.0.upkeep.borrow_mut().zeroing.take().expect("begun above");
        let name = FileName::Ready(zeroing.number);
        let unfinished = name.clone().unfinished().to_string();
        match self.go_on_zeroing(&mut zeroing).await {
            Ok(true) => {}
            Ok(false) => {
                self.0.upkeep.borrow_mut().zeroing = Some(zeroing);
                return Ok(false);
            }
            Err(error) => {
                // The next attempt begins with a new file.
                self.0.disk.remove(&unfinished).await.ok();
                return Err(error);
            }
        }
        self.0.disk.rename(&unfinished, &name.to_string()).await?;
        self.0.log.borrow_mut().ready.push(zeroing.number);
        self.0.disk.sync_directory().await?;
        Ok(true)
    }

    /// True once the whole file is zeroed.
    async fn go_on_zeroing(&self, zeroing: &mut Zeroing<D>) -> Result<bool, DiskError> {
        let size = zeroing.file.size();
        for _ in 0..ZERO_WRITES_MAX {
            let room = size - zeroing.position;
            if room == 0 || !self.is_still_idle() {
                break;
            }
            let mut zeros = self.0.disk.buffer(WRITE_SIZE.min(room as usize));
            zeros.as_mut().fill(0);
            let written = zeros.as_ref().len() as u64;
            let zeros = Rc::new(zeros);
            zeroing.file.write(zeroing.position, zeros, Durability::Durable).await?;
            zeroing.position += written;
        }
        if zeroing.position < size {
            return Ok(false);
        }
        zeroing.file.sync().await?;
        Ok(true)
    }

    /// Whether nothing was appended since the last call.
    fn is_idle(&self) -> bool {
        let (log, mut upkeep) = (self.0.log.borrow(), self.0.upkeep.borrow_mut());
        let end = log.end();
        upkeep.end_seen.replace(end) == Some(end) && log.written() == end
    }

    fn is_still_idle(&self) -> bool {
        Some(self.end()) == self.0.upkeep.borrow().end_seen
    }

    /// Begins to zero a file if one is needed and there is space. Returns whether one is being
    /// zeroed.
    async fn begin_zeroing(&self) -> Result<bool, DiskError> {
        if self.0.upkeep.borrow().zeroing.is_some() {
            return Ok(true);
        }
        let (size, reserve) = {
            let log = self.0.log.borrow();
            if log.ready.len() >= log.config.ready_segments {
                return Ok(false);
            }
            (log.config.segment_size, log.config.reserve_bytes)
        };
        let free = self.0.disk.space().await?.free_bytes;
        // Another segment must fit besides, or the pool would take space from the log itself.
        if free < reserve.saturating_add(2 * size) {
            return Ok(false);
        }
        let number = self.0.log.borrow_mut().take_ready_number();
        let name = FileName::Ready(number).unfinished().to_string();
        match make(&self.0.disk, &name, size).await {
            Ok(file) => {
                let zeroing = Zeroing { number, file, position: 0 };
                self.0.upkeep.borrow_mut().zeroing = Some(zeroing);
                Ok(true)
            }
            Err(error) if error.kind == DiskErrorKind::NoSpace => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl<D: Disk> Log<D> {
    /// Notes the free space. Returns the previous state.
    fn note_space(&mut self, free: u64) -> SpaceState {
        let before = self.space;
        let reserve = self.config.reserve_bytes;
        let can_grow = self.next.is_some()
            || !self.ready.is_empty()
            || free >= reserve.saturating_add(self.config.segment_size);
        self.space = match before {
            SpaceState::Full if !can_grow => SpaceState::Full,
            _ if free < reserve => SpaceState::BelowReserve,
            _ => SpaceState::Enough,
        };
        before
    }

    pub(super) fn take_ready_number(&mut self) -> u64 {
        self.next_ready += 1;
        self.next_ready - 1
    }
}

/// The result of a part of the work, or the default if it failed. Keeps the first failure.
fn or_note<T: Default>(outcome: Result<T, DiskError>, failed: &mut Option<DiskError>) -> T {
    outcome.unwrap_or_else(|error| {
        failed.get_or_insert(error);
        T::default()
    })
}
