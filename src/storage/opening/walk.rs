//! Walks a log that is being opened: entry by entry, skipping what index files cover and holes that
//! are damage, to its end. [`recovery`](crate::storage::recovery) decides what a hole is.
//!
//! Invariant: everything below `at` was replayed, is covered, or is reported as damaged.

use std::ops::Range;

use super::directory::read_directory;
use super::found::Found;
use crate::model::LogOffset;
use crate::storage::disk::{DiskError, DiskFile};
use crate::storage::entry::{EntryKind, HEADER_SIZE, Parsed};
use crate::storage::error::OpenError;
use crate::storage::index::Index;
use crate::storage::recovery::{Chain, HoleKind, RecoveryReport, classify};
use crate::storage::replay::Replayed;
use crate::storage::scan::LogReader;
use crate::storage::segment::FileName;
use crate::storage::slice::Slices;
use crate::storage::snapshot::SnapshotPoint;

/// Where a walk ended.
pub struct Walked {
    pub end: LogOffset,
    pub next_ordinal: u64,
    /// Epoch of the newest entry; 0 without one.
    pub epoch: u32,
    /// Leftovers after the end, which must be wiped.
    pub left_over: Option<Range<LogOffset>>,
}

pub struct Walk<'a, F> {
    pub segments: &'a mut [Found<F>],
    pub index: &'a mut Index,
    pub report: &'a mut RecoveryReport,
    pub reader: &'a mut LogReader<F>,
    pub point: Option<SnapshotPoint>,
    pub seed: u32,
    /// The proof of the end, if there is one.
    pub proof: Option<SnapshotPoint>,
    /// Where the walk must end; an entry ends there.
    pub stop_at: Option<LogOffset>,
    pub at: LogOffset,
    pub chain: Chain,
    /// A torn tail that contains intact entries.
    pub tail: Option<Range<LogOffset>>,
    /// Leftovers after the end, which must be wiped.
    pub left_over: Option<Range<LogOffset>>,
}

/// What a step of the walk found.
enum Step {
    Advanced,
    Hole { claimed_size: u64 },
    End,
}

impl<F: DiskFile> Walk<'_, F> {
    /// Walks to the end of the log.
    pub async fn run(
        &mut self,
        apply: &mut impl FnMut(&mut Index, Replayed<'_>),
    ) -> Result<(), OpenError> {
        let begin = self.segments.first().map_or(LogOffset(0), |found| found.segment.range.start);
        self.at = self.point.map_or(begin, |point| point.offset.min(begin));
        let mut slices = Slices::default();
        loop {
            self.meet_witnesses();
            if self.stop_at.is_some_and(|stop_at| stop_at <= self.at) {
                return Ok(());
            }
            match self.step(apply).await? {
                Step::Advanced => slices.handled(1).await,
                Step::End => return Ok(()),
                Step::Hole { claimed_size } => {
                    if self.is_torn_at_hole(claimed_size).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// At their offsets, the snapshot and the proof provide the next ordinal and epoch.
    fn meet_witnesses(&mut self) {
        let here = |point: &SnapshotPoint| point.offset == self.at && point.next_ordinal > 0;
        if let Some(point) = self.point.into_iter().chain(self.proof).find(here) {
            let last_ordinal = Some(point.next_ordinal - 1);
            let epoch = self.chain.epoch.max(point.epoch);
            self.chain = Chain { last_ordinal, is_broken: false, epoch };
        }
    }

    async fn step(
        &mut self,
        apply: &mut impl FnMut(&mut Index, Replayed<'_>),
    ) -> Result<Step, OpenError> {
        let at = self.at;
        let after = self.segments.partition_point(|found| found.segment.range.start <= at);
        let here = after.checked_sub(1).map(|index| &self.segments[index]);
        let Some(found) = here.filter(|found| found.segment.range.contains(&at)) else {
            let is_gap = after < self.segments.len()
                || self.point.into_iter().chain(self.proof).any(|point| at < point.offset);
            return Ok(if is_gap { Step::Hole { claimed_size: 0 } } else { Step::End });
        };
        let range = found.segment.range.clone();
        if range.start == at && self.is_indexed(after - 1).await? {
            self.chain.last_ordinal = None;
            self.at = range.end;
            return Ok(Step::Advanced);
        }
        let found = &mut self.segments[after - 1];
        found.is_walked = true;
        if self.index.newest_segment() < Some(range.start) {
            self.report.indexes_rebuilt += usize::from(found.is_covered);
            self.index.begin_segment(range);
        }
        let boundary = self.point.map_or(LogOffset(0), |point| point.offset);
        match self.reader.parse_at(at).await? {
            Parsed::Entry(entry)
                if self.chain.accepts(&entry.header)
                    && (at >= boundary || entry.header.end() <= boundary) =>
            {
                self.segments[after - 1].segment.note_entry(at);
                self.chain.take(&entry.header);
                self.at = entry.header.end();
                let in_snapshot = at < boundary;
                if entry.kind != EntryKind::FILLER {
                    self.report.entries_replayed += 1;
                    apply(self.index, Replayed::new(&entry, in_snapshot));
                }
                Ok(Step::Advanced)
            }
            Parsed::Unsupported { version } => Err(OpenError::Unsupported { at, version }),
            Parsed::Nothing { claimed_size } => {
                Ok(Step::Hole { claimed_size: claimed_size.unwrap_or(0) })
            }
            Parsed::Entry(_) | Parsed::Truncated { .. } => Ok(Step::Hole { claimed_size: 0 }),
        }
    }

    /// Whether the index can do without the segment's entries, thanks to the rows of the snapshot
    /// or the directory of its index file. Segments with messages in memory are always the newest
    /// ones, so after one that must be walked, all are.
    async fn is_indexed(&mut self, number: usize) -> Result<bool, DiskError> {
        let found = &self.segments[number];
        if found.segment.range.end <= self.rows_cover() {
            self.report.indexes_rebuilt += usize::from(found.index.is_none());
            return Ok(true);
        }
        let Some((file, head)) =
            found.index.as_ref().filter(|_| self.index.newest_segment().is_none())
        else {
            return Ok(false);
        };
        let range = &found.segment.range;
        let runs = read_directory(file, head, range.start, self.seed).await?;
        runs.iter().flatten().for_each(|run| self.index.add_run(range, run));
        Ok(runs.is_some())
    }

    /// The rows of the snapshot cover everything below.
    fn rows_cover(&self) -> LogOffset {
        let point = self.point.map_or(LogOffset(0), |point| point.offset);
        self.index.rows_cover().min(point)
    }

    /// Classifies the hole at the current place. Continues after it unless the log ends here.
    async fn is_torn_at_hole(&mut self, claimed_size: u64) -> Result<bool, OpenError> {
        let hole = self.at;
        let bound = self.known_to_go_on();
        let after = self.reader.search(hole, bound, &self.chain).await?;
        match classify(hole, bound, &after) {
            HoleKind::Torn => {
                let mut unreadable = self.reader.unreadable.iter();
                if let Some((block, fault)) = unreadable.find(|(block, _)| block.end > hole) {
                    return Err(self.unreadable_end(block.start, fault));
                }
                let is_untouched = self.chain.last_ordinal.is_none()
                    && self.point.is_none()
                    && self.proof.is_none();
                if is_untouched && claimed_size > 0 {
                    return Err(OpenError::Foreign { at: hole });
                }
                let end = after.last_end.max(hole.plus(claimed_size));
                self.report.torn_bytes = end.0 - hole.0;
                self.tail = after.first.map(|_| hole..end);
                let claimed = if claimed_size > 0 { HEADER_SIZE as u64 } else { 0 };
                let wipe_to = after.wipe_to.max(hole.plus(claimed));
                self.left_over = (wipe_to > hole).then_some(hole..wipe_to);
                Ok(true)
            }
            HoleKind::Damaged { resume } => {
                let is_noted =
                    |noted: &Range<LogOffset>| noted.start <= hole && resume <= noted.end;
                if !self.report.damaged.iter().any(is_noted) {
                    self.report.damaged.push(hole..resume);
                }
                self.chain.is_broken = true;
                self.at = resume;
                Ok(false)
            }
        }
    }

    fn unreadable_end(&self, at: LogOffset, fault: &DiskError) -> OpenError {
        let bases = self.segments.iter().map(|found| found.segment.range.start);
        let base = bases.filter(|&base| base <= at).max().unwrap_or(at);
        let file = FileName::Segment(base).to_string();
        OpenError::Unreadable { at, file, position: at.0 - base.0, fault: fault.clone() }
    }

    /// The first place after the current one that the log is known to have reached.
    fn known_to_go_on(&self) -> Option<LogOffset> {
        let rows_cover = self.rows_cover();
        let is_known =
            |found: &&Found<F>| found.index.is_some() || found.segment.range.end <= rows_cover;
        let covered = self.segments.iter().filter(is_known);
        let covered = covered.map(|found| found.segment.range.start);
        let points = self.point.into_iter().chain(self.proof).map(|point| point.offset);
        covered.chain(points).filter(|&place| place > self.at).min()
    }
}
