//! The storage engine of one shard: append, commit, read. Code that waits for the disk is here, in
//! [`opening`](super::opening), [`reading`](super::reading) and
//! [`maintenance`](super::maintenance); decisions are in [`log`](super::log) and the modules it
//! uses.
//!
//! ```text
//!   append ──▶ writer ──▶ commit_step ──▶ disk ──▶ watermarks ──▶ acknowledged, readable
//!                          (up to 8 at once)
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::model::{Chunk, LogOffset, Metrics, Timestamp};
use crate::planted::{self, Bug};
use crate::storage::append::{Append, AppendError, Appended};
use crate::storage::config::Flush;
use crate::storage::cuts::Awaited;
use crate::storage::disk::{Disk, DiskError, DiskErrorKind, DiskFile, Space};
use crate::storage::entry::EntryKind;
use crate::storage::error::EpochError;
use crate::storage::index::Index;
use crate::storage::log::{Log, Preparing, Segment, SegmentIndex, SpaceState, WriteJob};
use crate::storage::mark_signal::MarkSignal;
use crate::storage::raw::{RawEntry, RawError};
use crate::storage::replay::{MessagesOf, Replayed};
use crate::storage::segment::FileName;
use crate::storage::signal::{Signal, Turns};
use crate::storage::ticket::Ticket;
use crate::storage::upkeep::Upkeep;

/// What a committer's step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStep {
    /// A write completed, and watermarks may have advanced.
    Written,
    /// The next segment is ready.
    Prepared,
    /// The store was stopped and everything is written.
    Stopped,
}

/// Figures about a store, for metrics and the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub begin: u64,
    pub durable: u64,
    pub committed: u64,
    pub written: u64,
    pub end: u64,
    pub segment_count: usize,
    /// Prewritten files that can become segments.
    pub ready_count: usize,
    pub queue_count: usize,
    pub tail_cache_bytes: usize,
    pub index_cache_bytes: usize,
    pub writes_in_flight: usize,
    /// The append budget, or less while the device does not keep up.
    pub in_flight_max: u64,
    pub appends: u64,
    pub payload_bytes: u64,
    /// Bytes of the log in fillers.
    pub padding_bytes: u64,
    pub writes: u64,
    /// Bytes written to the device for the log itself.
    pub bytes_written: u64,
    pub syncs: u64,
    pub damaged_bytes: u64,
    pub is_disk_full: bool,
    pub is_fenced: bool,
    /// Space of the file system at the last check.
    pub disk_space: Option<Space>,
    /// Store time of the latest message in the oldest sealed segment.
    pub oldest_stored_at: Option<Timestamp>,
}

/// The store of one shard. A clone is a second handle.
pub struct Store<D: Disk>(pub(super) Rc<Shared<D>>);

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(super) struct Shared<D: Disk> {
    pub disk: D,
    pub log: RefCell<Log<D>>,
    pub index: RefCell<Index>,
    pub upkeep: RefCell<Upkeep<D>>,
    pub metrics: Rc<Metrics>,
    pub messages_of: MessagesOf,
    /// Segments whose index is being rebuilt.
    pub rebuilding: RefCell<Vec<LogOffset>>,
    /// A rebuild has ended.
    pub rebuilt: Signal,
    /// Serializes maintenance and cuts.
    pub background: Turns,
    /// Serializes syncs of the log: a second one would find nothing left to sync, and return before
    /// the first.
    pub syncs: Turns,
    pub is_stopping: Cell<bool>,
    /// There may be something to write, or the store stops.
    pub work: Signal,
    /// See [`Store::group_grows`].
    pub group_grows: Signal,
    /// The log is committed up to the mark that a task waits for, or may never be.
    pub commits: MarkSignal,
    /// A watermark advanced, a segment became available, or the log was fenced or cut.
    pub marks_changed: Signal,
}

/// The state that waiters check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub committed: LogOffset,
    pub is_fenced: bool,
    /// Number of cuts since the log was opened.
    pub cut_count: u32,
}

/// What a committer does next.
enum Job<D: Disk> {
    Write(WriteJob<D>),
    Prepare,
    Stop,
}

impl<D: Disk> Store<D> {
    /// Appends an entry. `fill` must fill the payload completely; it also gets the payload's log
    /// offset. The append may be acknowledged once [`committed`](Self::committed) has reached its
    /// end.
    pub fn append(
        &self,
        append: Append,
        fill: impl FnOnce(&mut [u8], LogOffset),
    ) -> Result<Appended, AppendError> {
        let (outcome, is_grouped) = {
            let log = &mut *self.0.log.borrow_mut();
            (log.append(append, fill), log.group_end.is_some())
        };
        self.0.work.notify_one();
        if is_grouped {
            self.0.group_grows.notify();
        }
        outcome
    }

    /// Appends entries of another replica of this log byte for byte: all of `bytes`, or nothing.
    /// [`raw`](super::raw) documents their form. Each goes to `apply`, except fillers. Only with
    /// [`CommitRule::Driven`](super::CommitRule::Driven).
    pub fn append_raw(
        &self,
        bytes: &[u8],
        mut apply: impl FnMut(&mut Index, Replayed<'_>),
    ) -> Result<(), RawError> {
        let outcome = self.0.log.borrow_mut().append_raw(bytes);
        // Also on failure: a missing segment must be prepared.
        self.0.work.notify_one();
        let entries = outcome?;
        self.with_index(|index| {
            for RawEntry { entry, .. } in &entries {
                if entry.kind != EntryKind::FILLER {
                    apply(index, Replayed::new(entry, false));
                }
            }
        });
        Ok(())
    }

    /// Ends the current group of entries, which is replicated as a whole; it can be written now.
    /// From the first call on, nothing of a group that has not ended is written, except full
    /// buffers.
    pub fn end_group(&self) {
        self.0.log.borrow_mut().end_group();
        self.0.work.notify_one();
        self.0.group_grows.notify();
    }

    /// Notified when something is appended to a group, a group ends, or another replica leads.
    pub fn group_grows(&self) -> &Signal {
        &self.0.group_grows
    }

    /// Sets whether another replica leads. If so, only [`append_raw`](Self::append_raw) appends.
    pub fn set_following(&self, is_following: bool) {
        self.0.log.borrow_mut().set_following(is_following);
        // A group that has not ended is written now.
        self.0.work.notify();
        self.0.notify_marks();
        self.0.group_grows.notify();
    }

    pub fn is_following(&self) -> bool {
        self.0.log.borrow().is_following
    }

    /// Where the segment of the next entry ends.
    pub fn segment_end(&self) -> LogOffset {
        let log = self.0.log.borrow();
        let end = LogOffset(log.writer.segment_end());
        if end > log.end() { end } else { end.plus(log.config.segment_size) }
    }

    /// Ordinal of the newest entry; 0 without one.
    pub fn newest_ordinal(&self) -> u64 {
        self.0.log.borrow().writer.next_ordinal() - 1
    }

    /// Epoch of new entries.
    pub fn epoch(&self) -> u32 {
        self.0.log.borrow().writer.epoch()
    }

    /// Begins an epoch after a won election: new entries have it. Refused if the log's epoch is
    /// later.
    pub fn begin_epoch(&self, epoch: u32) -> Result<(), EpochError> {
        self.0.log.borrow_mut().writer.begin_epoch(epoch)
    }

    pub fn has_room(&self, payload_size: usize) -> bool {
        let has_room = self.0.log.borrow_mut().has_room(payload_size);
        if !has_room {
            self.0.work.notify();
        }
        has_room
    }

    /// Maximum size of an entry's payload.
    pub fn payload_size_max(&self) -> usize {
        self.0.log.borrow().payload_size_max()
    }

    /// Maximum bytes in flight: appended and not yet written.
    pub fn append_budget(&self) -> usize {
        self.0.log.borrow().config.append_budget_bytes
    }

    /// Queues for room, after all earlier tickets. Fails if too many wait.
    pub fn ticket(&self, payload_size: usize) -> Result<Ticket, AppendError> {
        let room = self.0.log.borrow().room.clone();
        room.ticket(payload_size)
    }

    /// How many more bytes may wait for room before those that wait reach what may be in flight.
    pub fn spare_room(&self) -> u64 {
        self.0.log.borrow().room.spare()
    }

    /// Runs `append`, which appends `payload_size` bytes, when it is its turn and there is room.
    /// Runs it again if it found no room after all.
    pub async fn with_room<T>(
        &self,
        payload_size: usize,
        mut append: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, AppendError> {
        let ticket = self.ticket(payload_size)?;
        loop {
            ticket.granted().await;
            match ticket.spend(&mut append) {
                Err(AppendError::NoRoom) => ticket.wait_again(payload_size),
                outcome => return outcome,
            }
        }
    }

    /// Waits until there is space for another segment, or the log is fenced.
    pub async fn can_grow(&self) {
        let look = || {
            let log = self.0.log.borrow();
            (log.space != SpaceState::Full || log.fault.is_some()).then_some(())
        };
        self.0.marks_changed.wait(look).await;
    }

    /// The committed watermark: everything below it may be acknowledged and read.
    pub fn committed(&self) -> LogOffset {
        self.0.log.borrow().committed()
    }

    /// The durable watermark: everything below it is on stable media.
    pub fn durable(&self) -> LogOffset {
        self.0.log.borrow().durable()
    }

    /// The written watermark: the device has everything below it.
    pub fn written(&self) -> LogOffset {
        self.0.log.borrow().written()
    }

    /// Commits everything below `mark` as soon as it is also written. `mark` never decreases. Only
    /// with [`CommitRule::Driven`](super::CommitRule::Driven).
    pub fn commit_to(&self, mark: LogOffset) {
        self.0.log.borrow_mut().commit_to(mark);
        self.0.notify_marks();
    }

    /// The last watermark passed to [`commit_to`](Self::commit_to); initially the committed
    /// watermark at opening. May be ahead of what is written here.
    pub fn driven_to(&self) -> LogOffset {
        self.0.log.borrow().commit.driven_to
    }

    pub fn end(&self) -> LogOffset {
        self.0.log.borrow().end()
    }

    /// The lowest offset that the log still has.
    pub fn begin(&self) -> LogOffset {
        self.0.log.borrow().begin()
    }

    pub fn is_fenced(&self) -> bool {
        self.0.log.borrow().fault.is_some()
    }

    /// One step of a committer: waits for something to write, writes it, and advances the
    /// watermarks.
    /// Run it in a loop in [`WRITES_IN_FLIGHT_MAX`](super::WRITES_IN_FLIGHT_MAX) tasks. An error
    /// means that the log is closed.
    pub async fn commit_step(&self) -> Result<CommitStep, DiskError> {
        let job = self.0.work.wait(|| self.poll_job()).await?;
        self.0.work.notify_one();
        match job {
            Job::Write(job) => self.write(job).await,
            Job::Prepare => self.prepare().await,
            Job::Stop => Ok(CommitStep::Stopped),
        }
    }

    /// Lets the committers stop once everything appended is written.
    pub fn stop(&self) {
        self.0.is_stopping.set(true);
        self.0.work.notify();
    }

    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.get()
    }

    /// Waits until everything appended is written, or the log is fenced.
    pub async fn drained(&self) {
        self.0
            .marks_changed
            .wait(|| {
                let log = self.0.log.borrow();
                (log.written() == log.end() || log.fault.is_some()).then_some(())
            })
            .await;
    }

    /// Waits until the log is committed up to `end`, which must not lie beyond its current end.
    /// False if that will never happen: the log is fenced, or the entry there was cut off.
    pub fn reached(&self, end: LogOffset) -> impl Future<Output = bool> {
        let awaited = Awaited { end, cut_count: self.0.log.borrow().cuts.count() };
        self.0.commits.wait(end, move || {
            let log = self.0.log.borrow();
            if log.cuts.have_taken(awaited) {
                return Some(false);
            }
            let is_reached = reached_mark(&log) >= end;
            (is_reached || log.fault.is_some()).then_some(is_reached)
        })
    }

    /// Marks the end of an append as awaited from now on, so that a later wait learns whether the
    /// append was cut off meanwhile.
    pub fn awaited(&self, end: LogOffset) -> Awaited {
        Awaited { end, cut_count: self.0.log.borrow().cuts.count() }
    }

    /// Waits until everything up to an append is on stable media, or on the device with
    /// asynchronous flush. False if that will never happen: the log is fenced, or it was cut off.
    pub fn stored(&self, awaited: Awaited) -> impl Future<Output = bool> {
        self.0.marks_changed.wait(move || {
            let log = self.0.log.borrow();
            if log.cuts.have_taken(awaited) {
                return Some(false);
            }
            let mark = match log.config.flush {
                Flush::Sync => log.durable(),
                Flush::Async => log.written(),
            };
            let is_stored = mark >= awaited.end;
            (is_stored || log.fault.is_some()).then_some(is_stored)
        })
    }

    /// The state that waiters check.
    pub fn standing(&self) -> Standing {
        let log = self.0.log.borrow();
        let (committed, is_fenced) = (log.committed(), log.fault.is_some());
        Standing { committed, is_fenced, cut_count: log.cuts.count() }
    }

    /// Whether the awaited entry was cut off.
    pub fn was_cut(&self, awaited: Awaited) -> bool {
        self.0.log.borrow().cuts.have_taken(awaited)
    }

    /// Access to the index. Do not append inside `access`.
    pub fn with_index<T>(&self, access: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = self.0.index.borrow_mut();
        self.0.index_new_segments(&mut index);
        access(&mut index)
    }

    /// `size` bytes at `offset` if they are committed and still in memory. They lie within one
    /// entry.
    pub fn cached(&self, offset: LogOffset, size: u32) -> Option<Chunk> {
        self.0.log.borrow().cached(offset, size)
    }

    /// The metrics of this shard.
    pub fn metrics(&self) -> &Rc<Metrics> {
        &self.0.metrics
    }

    /// Whether messages are refused because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.0.log.borrow().space != SpaceState::Enough
    }

    pub fn stats(&self) -> StoreStats {
        let (log, index) = (self.0.log.borrow(), self.0.index.borrow());
        StoreStats {
            begin: log.begin().0,
            durable: log.durable().0,
            committed: log.committed().0,
            written: log.written().0,
            end: log.end().0,
            segment_count: log.segments.len(),
            ready_count: log.ready.len(),
            queue_count: index.queue_count(),
            tail_cache_bytes: log.tail.size(),
            index_cache_bytes: index.cached_bytes(),
            writes_in_flight: log.writer.commit().in_flight_count(),
            in_flight_max: log.room.in_flight_max(),
            appends: log.metrics.appends.get(),
            payload_bytes: log.metrics.payload_bytes.get(),
            padding_bytes: log.writer.padding_bytes(),
            writes: log.metrics.writes.get(),
            bytes_written: log.metrics.bytes_written.get(),
            syncs: log.metrics.syncs.get(),
            damaged_bytes: log.damaged.iter().map(|hole| hole.end.0 - hole.start.0).sum(),
            is_disk_full: log.space != SpaceState::Enough,
            is_fenced: log.fault.is_some(),
            disk_space: log.disk_space,
            oldest_stored_at: log.segments.front().and_then(Segment::last_stored),
        }
    }

    fn poll_job(&self) -> Option<Result<Job<D>, DiskError>> {
        let mut log = self.0.log.borrow_mut();
        if let Some(fault) = &log.fault {
            return Some(Err(fault.clone()));
        }
        if log.should_prepare() {
            log.preparing = Preparing::Running;
            return Some(Ok(Job::Prepare));
        }
        if let Some(job) = log.poll_write() {
            return Some(Ok(Job::Write(job)));
        }
        let is_done = self.0.is_stopping.get() && log.written() == log.end();
        is_done.then_some(Ok(Job::Stop))
    }

    async fn write(&self, job: WriteJob<D>) -> Result<CommitStep, DiskError> {
        let began = self.0.disk.clock_ns();
        let outcome = job.file.write(job.position, job.buffer.clone(), job.durability).await;
        let ended = self.0.disk.clock_ns();
        self.0.metrics.write.record(ended - began);
        let goes_on = planted::is(Bug::GoesOnAfterFailedWrites);
        let outcome = if goes_on { Ok(()) } else { outcome };
        let outcome = self.0.apply(outcome, |log| {
            log.handle_written(&job, began..ended);
            CommitStep::Written
        });
        self.0.work.notify();
        self.0.wake_waiters();
        outcome
    }

    /// Prepares the next segment. A full disk does not fence the log: maintenance tries again when
    /// there is space. Nor does a temporary lack of file descriptors.
    async fn prepare(&self) -> Result<CommitStep, DiskError> {
        let made = self.0.make_segment().await;
        let outcome = match made {
            Err(error) if error.kind == DiskErrorKind::NoSpace => {
                self.0.log.borrow_mut().space = SpaceState::Full;
                Ok(None)
            }
            Err(error) if error.kind == DiskErrorKind::NoDescriptor => {
                tracing::error!("{error}; retrying");
                Ok(None)
            }
            made => made,
        };
        self.0.log.borrow_mut().preparing = Preparing::No;
        let outcome = self.0.apply(outcome, |_| CommitStep::Prepared);
        self.0.work.notify();
        self.0.wake_waiters();
        outcome
    }
}

impl<D: Disk> Shared<D> {
    /// Grants room and wakes waiters, after a watermark advanced, a segment became available, or
    /// the log was fenced.
    pub fn wake_waiters(&self) {
        self.log.borrow().grant_room();
        self.notify_marks();
    }

    fn notify_marks(&self) {
        let (reached, is_fenced) = {
            let log = self.log.borrow();
            (reached_mark(&log), log.fault.is_some())
        };
        match is_fenced {
            true => self.commits.notify_all(),
            false => self.commits.advance(reached),
        }
        self.marks_changed.notify();
    }

    /// Applies `then` to the log if an operation has succeeded, and fences the log if it failed.
    pub fn apply<T, U>(
        &self,
        outcome: Result<T, DiskError>,
        then: impl FnOnce(&mut Log<D>) -> U,
    ) -> Result<U, DiskError> {
        let mut log = self.log.borrow_mut();
        match outcome {
            Ok(_) => Ok(then(&mut log)),
            Err(fault) => {
                log.fence(fault.clone());
                Err(fault)
            }
        }
    }

    /// Adds new segments to the index.
    pub fn index_new_segments(&self, index: &mut Index) {
        let log = self.log.borrow();
        let newest = index.newest_segment();
        let is_new = |segment: &&Segment<D::File>| {
            newest < Some(segment.range.start) && matches!(segment.index, SegmentIndex::Memory)
        };
        let fresh = log.segments.iter().rev().take_while(is_new).count();
        for segment in log.segments.range(log.segments.len() - fresh..) {
            index.begin_segment(segment.range.clone());
        }
    }

    /// Makes the next segment from a ready file, or else creates one. Its name is durable before it
    /// is used; otherwise an acknowledged entry could be lost with the name.
    async fn make_segment(&self) -> Result<Option<()>, DiskError> {
        let (base, size, ready, reserve) = {
            let mut log = self.log.borrow_mut();
            let base = log.segments.back().expect("a log has a segment").range.end;
            (base, log.config.segment_size, log.ready.pop(), log.config.reserve_bytes)
        };
        let name = FileName::Segment(base).to_string();
        let file = match ready {
            Some(number) => {
                self.disk.rename(&FileName::Ready(number).to_string(), &name).await?;
                self.disk.open(&name).await?
            }
            None => self.create_segment(&name, size, reserve).await?,
        };
        if !planted::is(Bug::ForgetsDirectories) {
            self.disk.sync_directory().await?;
        }
        let range = base..base.plus(file.size());
        self.log.borrow_mut().next = Some(Segment::new(range, file));
        Ok(Some(()))
    }

    /// Never takes space from the reserve.
    async fn create_segment(
        &self,
        name: &str,
        size: u64,
        reserve: u64,
    ) -> Result<D::File, DiskError> {
        let free = self.disk.space().await?.free_bytes;
        if free < reserve.saturating_add(size) {
            let kind = DiskErrorKind::NoSpace;
            return Err(DiskError { operation: "create", file: name.into(), offset: 0, kind });
        }
        self.disk.create(name, size).await
    }
}

/// Everything below it may be acknowledged.
fn reached_mark<D: Disk>(log: &Log<D>) -> LogOffset {
    match planted::is(Bug::AcknowledgesOnOneCopy) {
        true => log.committed().max(log.durable()),
        false => log.committed(),
    }
}
