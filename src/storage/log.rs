//! The log of one shard as a value: segments, the writer at its end, the tail cache, and whether it
//! accepts appends. Makes decisions and never waits. [`store`](super::store) performs them.
//!
//! ```text
//!   begin <= durable <= written <= end      committed <= written      (offsets in the log)
//! ```
//!
//! | Watermark | Everything below | Owner |
//! |---|---|---|
//! | `end` | was appended | [`GroupCommit`](super::group_commit::GroupCommit) |
//! | `written` | the device has | the same |
//! | `durable` | is on stable media | [`Writer`] |
//! | `committed` | may be acknowledged and read, and never changes | [`Log`] |
//!
//! Without replication, `committed` equals `durable`, or with asynchronous flush `written`;
//! `durable` then follows within half a second. With [`CommitRule::Driven`] the store's owner
//! advances it.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use crate::model::{Chunk, LogOffset, Metrics, Timestamp};
use crate::planted::{self, Bug};
use crate::storage::append::{Append, AppendError, Appended, SpaceClass};
use crate::storage::config::{CommitRule, Flush, StoreConfig};
use crate::storage::cuts::Cuts;
use crate::storage::disk::{Disk, DiskError, Durability, Space};
use crate::storage::entry::{HEADER_SIZE, PAYLOAD_SIZE_MAX, entry_size};
use crate::storage::error::ReadError;
use crate::storage::group_commit::Take;
use crate::storage::raw::{self, RawEntry, RawError};
use crate::storage::room::Gate;
use crate::storage::scan::LogReader;
use crate::storage::sealed::{Layout, note_mark};
use crate::storage::tail::TailCache;
use crate::storage::ticket::SharedRoom;
use crate::storage::writer::{Write, Writer};

pub(super) struct Log<D: Disk> {
    pub disk: D,
    pub config: StoreConfig,
    pub writer: Writer<D::Buffer>,
    /// Admission of appends.
    pub room: SharedRoom,
    /// Oldest first; the last one is the active segment.
    pub segments: VecDeque<Segment<D::File>>,
    /// The segment after the active one.
    pub next: Option<Segment<D::File>>,
    pub preparing: Preparing,
    pub commit: CommitMark,
    pub tail: TailCache<D::Buffer>,
    /// The failure that fenced the log.
    pub fault: Option<DiskError>,
    /// Its end is being cut off: no appends, no new segments.
    pub is_held: bool,
    /// Another replica leads: only its entries are appended.
    pub is_following: bool,
    /// Where the last group of entries that is replicated as a whole ends; `None` if entries are
    /// not grouped. Entries after it are not written before their group has ended: the write that
    /// completes the group would have to wait for an earlier write of the same block.
    pub group_end: Option<LogOffset>,
    pub cuts: Cuts,
    pub space: SpaceState,
    /// Space of the file system at the last check; `None` before the first one.
    pub disk_space: Option<Space>,
    /// Parts of the log that recovery or a read found damaged, in no order.
    pub damaged: Vec<Range<LogOffset>>,
    /// Numbers of the ready files: fully written, new or recycled, and renamed when they become
    /// segments.
    pub ready: Vec<u64>,
    /// Number of the next ready file.
    pub next_ready: u64,
    pub metrics: Rc<Metrics>,
}

/// The committed watermark.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommitMark {
    rule: CommitRule,
    flush: Flush,
    mark: LogOffset,
    /// The watermark set by the owner of a driven log. May be ahead of `written`.
    pub driven_to: LogOffset,
}

impl CommitMark {
    /// Starts with everything below `mark` committed.
    pub fn new(config: &StoreConfig, mark: LogOffset) -> Self {
        let StoreConfig { commit: rule, flush, .. } = *config;
        Self { rule, flush, mark, driven_to: mark }
    }

    fn handle_moved(&mut self, durable: LogOffset, written: LogOffset) {
        let mark = match (self.rule, self.flush) {
            (CommitRule::Local, Flush::Sync) => durable,
            (CommitRule::Local, Flush::Async) => written,
            (CommitRule::Driven, _) if planted::is(Bug::ShowsUncommitted) => written,
            (CommitRule::Driven, _) => self.driven_to.min(written),
        };
        assert!(mark >= self.mark);
        self.mark = mark;
    }
}

pub(super) struct Segment<F> {
    pub range: Range<LogOffset>,
    pub file: F,
    /// Positions at which entries begin, at least [`MARK_DISTANCE`](super::sealed::MARK_DISTANCE)
    /// apart. In memory until they are in the index file.
    pub marks: Vec<u32>,
    pub index: SegmentIndex<F>,
    /// Has writes that are not synced yet.
    pub is_unsynced: bool,
}

pub(super) enum SegmentIndex<F> {
    /// Its messages are in the memory of the index.
    Memory,
    /// There is an index file or an image of one, opened on first use. A rebuilt one has a new
    /// version.
    File { file: Option<F>, last_stored: Option<Timestamp>, layout: Layout, version: u32 },
    /// The index file is missing or damaged, and has yet to be rebuilt.
    Missing,
}

/// Whether the next segment is being prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preparing {
    No,
    /// An append waits for it.
    Wanted,
    /// A committer is preparing it.
    Running,
}

/// Whether the file system has room for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceState {
    Enough,
    /// Less than the reserve is free: ordinary appends are refused, and reserved ones use the space
    /// that the log has.
    BelowReserve,
    /// There was no space for the next segment.
    Full,
}

/// A write to perform.
pub(super) struct WriteJob<D: Disk> {
    pub file: D::File,
    pub position: u64,
    pub buffer: Rc<D::Buffer>,
    pub range: Range<u64>,
    pub durability: Durability,
}

impl<F> Segment<F> {
    pub fn new(range: Range<LogOffset>, file: F) -> Self {
        let index = SegmentIndex::Memory;
        Self { range, file, marks: Vec::new(), index, is_unsynced: false }
    }

    pub fn size(&self) -> u64 {
        self.range.end.0 - self.range.start.0
    }

    /// Store time of its latest message, from its index file; `None` without one.
    pub fn last_stored(&self) -> Option<Timestamp> {
        match &self.index {
            SegmentIndex::File { last_stored, .. } => *last_stored,
            SegmentIndex::Memory | SegmentIndex::Missing => None,
        }
    }

    /// Remembers that an entry begins at `offset`, if the last mark is far enough away.
    pub fn note_entry(&mut self, offset: LogOffset) {
        note_mark(&mut self.marks, offset.0 - self.range.start.0);
    }
}

impl<D: Disk> Log<D> {
    pub fn begin(&self) -> LogOffset {
        self.segments.front().expect("a log has a segment").range.start
    }

    /// The committed watermark: everything below it may be acknowledged and read.
    pub fn committed(&self) -> LogOffset {
        self.commit.mark
    }

    pub fn durable(&self) -> LogOffset {
        LogOffset(self.writer.durable())
    }

    pub fn written(&self) -> LogOffset {
        LogOffset(self.writer.written())
    }

    pub fn end(&self) -> LogOffset {
        LogOffset(self.writer.end())
    }

    /// The segment that holds `offset`.
    pub fn segment(&mut self, offset: LogOffset) -> Option<&mut Segment<D::File>> {
        let after = self.segments.partition_point(|segment| segment.range.start <= offset);
        let found = self.segments.get_mut(after.checked_sub(1)?)?;
        found.range.contains(&offset).then_some(found)
    }

    /// Returns a reader of the whole log on disk, including what is not committed.
    pub fn reader(&self) -> LogReader<D::File> {
        let segments =
            self.segments.iter().map(|segment| (segment.range.clone(), segment.file.clone()));
        LogReader::new(segments.collect(), self.config.checksum_seed)
    }

    fn active(&mut self) -> &mut Segment<D::File> {
        self.segments.back_mut().expect("a log has a segment")
    }

    pub fn append(
        &mut self,
        append: Append,
        fill: impl FnOnce(&mut [u8], LogOffset),
    ) -> Result<Appended, AppendError> {
        let size = self.admit(append)?;
        while !self.writer.segment_has_room(size) {
            self.roll()?;
        }
        let alloc = |size| self.disk.buffer(size);
        let appended = self.writer.append(append, fill, alloc);
        self.room.handle_append(size, self.in_flight());
        self.active().note_entry(appended.entry_offset);
        self.metrics.appends.add(1);
        self.metrics.payload_bytes.add(append.payload_size as u64);
        Ok(appended)
    }

    /// Appends entries of another replica of this log byte for byte: all of `bytes`, or nothing.
    pub fn append_raw<'a>(&mut self, bytes: &'a [u8]) -> Result<Vec<RawEntry<'a>>, RawError> {
        assert!(
            self.config.commit == CommitRule::Driven,
            "a log that commits alone takes no foreign entries"
        );
        if self.fault.is_some() {
            return Err(AppendError::Fenced.into());
        }
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        self.check_held()?;
        let is_full = self.end().0 == self.writer.segment_end();
        let segment_end = match (is_full, &self.next) {
            (false, _) => self.writer.segment_end(),
            (true, Some(next)) => next.range.end.0,
            (true, None) => return Err(self.roll().expect_err("there is no next one").into()),
        };
        let entries = raw::check(bytes, self.writer.raw_start(segment_end))?;
        self.room.admit(SpaceClass::Reserved, bytes.len())?;
        if is_full {
            self.roll()?;
        }
        for raw in &entries {
            self.writer.append_raw(raw, |size| self.disk.buffer(size));
            self.active().note_entry(LogOffset(raw.entry.header.own_offset.get()));
            self.metrics.appends.add(1);
            self.metrics.payload_bytes.add(raw.entry.payload.len() as u64);
        }
        self.room.handle_append(bytes.len(), self.in_flight());
        Ok(entries)
    }

    /// Whether an ordinary append could succeed now. Requests a segment if that is what is missing.
    pub fn has_room(&mut self, payload_size: usize) -> bool {
        let size = entry_size(payload_size);
        let has_place = self.writer.segment_has_room(size) || self.next.is_some();
        if !has_place {
            self.want_next();
        }
        has_place && !self.is_held && self.room.admits(SpaceClass::Ordinary, size)
    }

    /// Grants the waiting tickets that now fit.
    pub fn grant_room(&self) {
        let gate = match self.room.gate() {
            _ if self.fault.is_some() || self.space != SpaceState::Enough => Gate::Over,
            _ if self.is_held => Gate::NoSegment,
            Gate::NoSegment if self.next.is_none() => Gate::NoSegment,
            _ => Gate::Open,
        };
        self.room.handle_in_flight(self.in_flight(), gate);
    }

    /// Bytes appended and not yet written.
    fn in_flight(&self) -> u64 {
        self.end().0 - self.written().0
    }

    pub fn should_prepare(&self) -> bool {
        let active = self.segments.back().expect("a log has a segment");
        let is_half_full = (self.end().0 - active.range.start.0) * 2 >= active.size();
        self.next.is_none()
            && self.fault.is_none()
            && !self.is_held
            && self.space != SpaceState::Full
            && match self.preparing {
                Preparing::No => is_half_full,
                Preparing::Wanted => true,
                Preparing::Running => false,
            }
    }

    /// Ends the current group of entries, which is replicated as a whole. It can be written now, by
    /// itself: what follows must not delay it.
    pub fn end_group(&mut self) {
        self.group_end = Some(self.end());
        if !self.is_following {
            self.writer.split_open(|size| self.disk.buffer(size));
        }
    }

    /// Sets whether another replica leads; if so, this one appends no entries of its own. Appends
    /// that wait for room find out immediately.
    pub fn set_following(&mut self, is_following: bool) {
        self.is_following = is_following;
        if is_following {
            self.room.handle_in_flight(self.in_flight(), Gate::Over);
        }
    }

    /// The next write that may begin now.
    pub fn poll_write(&mut self) -> Option<WriteJob<D>> {
        if let Some(group_end) = self.group_end
            && !self.is_held
            && !self.is_following
            && let Some(Take::Open(range)) = self.writer.commit().peek_write()
            && group_end.0 < range.end
        {
            return None;
        }
        let Write { base, buffer, memory, range } =
            self.writer.poll_write(|size| self.disk.buffer(size))?;
        self.tail.insert(base, range.clone(), buffer.clone(), memory);
        let is_durable = self.config.flush == Flush::Sync;
        let is_flushed = is_durable && !planted::is(Bug::SkipsFlushes);
        let durability = if is_flushed { Durability::Durable } else { Durability::Written };
        let segment = self.segment(LogOffset(base)).expect("writes go to segments of the log");
        let position = base - segment.range.start.0;
        Some(WriteJob { file: segment.file.clone(), position, buffer, range, durability })
    }

    /// Records that `job` was written, during `took` on the disk's clock, nanoseconds.
    pub fn handle_written(&mut self, job: &WriteJob<D>, took: Range<u64>) {
        self.metrics.writes.add(1);
        let size = (*job.buffer).as_ref().len() as u64;
        self.metrics.bytes_written.add(size);
        self.metrics.write_size.record(size);
        if job.durability == Durability::Written
            && let Some(segment) = self.segment(LogOffset(job.range.start))
        {
            segment.is_unsynced = true;
        }
        self.writer.handle_written(job.range.start);
        self.room.handle_written(took, self.written().0, self.in_flight());
        let mut durable = self.durable();
        let is_durable = job.durability == Durability::Durable || planted::is(Bug::SkipsFlushes);
        if is_durable && self.config.flush == Flush::Sync {
            durable = self.written();
        }
        self.handle_durable(durable);
    }

    /// Records that everything below `mark` is on stable media.
    pub fn handle_durable(&mut self, mark: LogOffset) {
        self.writer.handle_durable(mark.0);
        self.commit.handle_moved(self.durable(), self.written());
        self.check();
    }

    /// Commits everything below `mark`, as the owner of a driven log requests.
    pub fn commit_to(&mut self, mark: LogOffset) {
        assert!(self.config.commit == CommitRule::Driven, "this log commits by itself");
        assert!(
            self.commit.driven_to <= mark && mark <= self.end(),
            "committed moves on, to the end"
        );
        self.commit.driven_to = mark;
        self.commit.handle_moved(self.durable(), self.written());
        self.check();
    }

    /// Takes over from `old` the state that an opening does not find on disk. This log is what is
    /// left of `old` below `place`.
    pub fn continue_from(&mut self, old: &mut Self, place: LogOffset) {
        assert!(old.commit.driven_to <= place, "what is committed is never cut");
        self.take_from(old);
        self.commit = old.commit;
        self.group_end = old.group_end.map(|end| end.min(place));
        if !planted::is(Bug::ForgetsCuts) {
            self.cuts.note(place);
        }
        self.tail = std::mem::replace(&mut old.tail, TailCache::new(0));
        self.tail.drop_after(place);
        self.check();
    }

    /// Takes over from `old` what does not depend on its entries.
    pub fn take_from(&mut self, old: &mut Self) {
        self.room = old.room.clone();
        (self.space, self.disk_space) = (old.space, old.disk_space);
        self.metrics = old.metrics.clone();
        self.is_following = old.is_following;
        self.writer.continue_from(&old.writer);
        self.cuts = std::mem::take(&mut old.cuts);
    }

    /// Closes the log for good. Only the first fault is kept.
    pub fn fence(&mut self, fault: DiskError) {
        self.writer.fence();
        self.fault.get_or_insert(fault);
    }

    /// `size` bytes at `offset`, if they are committed and in memory.
    pub fn cached(&self, offset: LogOffset, size: u32) -> Option<Chunk> {
        let is_committed = offset.plus(u64::from(size)) <= self.committed();
        (is_committed && offset >= self.begin()).then(|| self.tail.find(offset, size as usize))?
    }

    /// Whether `range` is committed, not yet deleted, and not known to be damaged.
    pub fn check_readable(&self, range: Range<LogOffset>) -> Result<(), ReadError> {
        if range.start < self.begin() || range.end > self.committed() {
            return Err(ReadError::Gone(range.start));
        }
        let is_hit = |hole: &&Range<LogOffset>| hole.start < range.end && range.start < hole.end;
        match self.damaged.iter().find(is_hit) {
            Some(hole) => Err(ReadError::Damaged(hole.start.max(range.start))),
            None => Ok(()),
        }
    }

    /// Start of the first damaged range at or after `at`.
    pub fn next_hole(&self, at: LogOffset) -> LogOffset {
        let starts = self.damaged.iter().map(|hole| hole.start).filter(|&start| start >= at);
        starts.min().unwrap_or(LogOffset(u64::MAX))
    }

    fn admit(&self, append: Append) -> Result<usize, AppendError> {
        let Append { payload_size, space, .. } = append;
        let size = entry_size(payload_size);
        if self.fault.is_some() {
            return Err(AppendError::Fenced);
        }
        let takes_all = planted::is(Bug::StoresAsFollower);
        if self.is_following && space != SpaceClass::Engine && !takes_all {
            return Err(AppendError::NotLeader);
        }
        if payload_size > self.payload_size_max() {
            return Err(AppendError::TooLarge);
        }
        if space == SpaceClass::Ordinary && self.space != SpaceState::Enough {
            return Err(AppendError::DiskFull);
        }
        self.check_held()?;
        self.room.admit(space, size)?;
        Ok(size)
    }

    /// Appends that waited for the end of the hold are tried again, and find out whether there is a
    /// segment.
    pub fn end_hold(&mut self) {
        self.is_held = false;
        self.room.handle_in_flight(self.in_flight(), Gate::Open);
    }

    /// While the log is held, appends wait as they do for a missing segment.
    fn check_held(&self) -> Result<(), AppendError> {
        if self.is_held {
            self.room.handle_no_segment();
            return Err(AppendError::NoRoom);
        }
        Ok(())
    }

    /// Maximum size of an entry's payload.
    pub fn payload_size_max(&self) -> usize {
        let segment = usize::try_from(self.config.segment_size).unwrap_or(usize::MAX);
        PAYLOAD_SIZE_MAX.min(segment - 2 * HEADER_SIZE)
    }

    fn want_next(&mut self) {
        if self.preparing == Preparing::No {
            self.preparing = Preparing::Wanted;
        }
    }

    /// Continues in the next segment, if there is one.
    fn roll(&mut self) -> Result<(), AppendError> {
        let Some(next) = self.next.take() else {
            self.want_next();
            self.room.handle_no_segment();
            let is_full = self.space == SpaceState::Full;
            return Err(if is_full { AppendError::DiskFull } else { AppendError::NoRoom });
        };
        let range = next.range.start.0..next.range.end.0;
        self.writer.roll(range, |size| self.disk.buffer(size));
        self.segments.push_back(next);
        Ok(())
    }

    fn check(&self) {
        assert!(self.begin() <= self.durable() && self.durable() <= self.written());
        assert!(self.written() <= self.end() && self.committed() <= self.written());
    }
}
