//! Opening a log: list the files; read the snapshot, the proof of the end and the directories of
//! index files; walk the entries that these do not cover ([`walk`]); cut or quarantine what is
//! invalid; wipe leftovers after the end ([`wipe`]). The decisions are in
//! [`recovery`](super::recovery).
//!
//! Invariants when it returns: everything found is on stable media, and no file has anything after
//! the end that could be taken for an entry. If nothing was torn, no byte of the log has changed.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use crate::model::{LogOffset, Metrics};
use crate::planted::{self, Bug};
use crate::storage::config::{CommitRule, Epoch, StoreConfig};
use crate::storage::copy::LogCopy;
use crate::storage::cuts::Cuts;
use crate::storage::cutting::{Cut, CutAfter, Hold};
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile};
use crate::storage::error::{CutError, EpochError, OpenError};
use crate::storage::index::Index;
use crate::storage::log::{CommitMark, Log, Preparing, Segment, SpaceState};
use crate::storage::mark_signal::MarkSignal;
use crate::storage::proof::{EndProof, PROOF_BLOCKS};
use crate::storage::publish::{publish_bytes, read_all, remove_if_any, write_proof};
use crate::storage::recovery::{Chain, RecoveryReport, damage_note};
use crate::storage::replay::{MessagesOf, Replayed};
use crate::storage::scan::{LogReader, may_be_one_block};
use crate::storage::sealed::{IndexHead, Layout};
use crate::storage::segment::{
    FileName, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, block_ceil, block_floor,
};
use crate::storage::signal::{Signal, Turns};
use crate::storage::snapshot::{SnapshotPoint, decode};
use crate::storage::store::{Shared, Store};
use crate::storage::tail::TailCache;
use crate::storage::takeover::finish_takeover;
use crate::storage::ticket::SharedRoom;
use crate::storage::upkeep::Upkeep;
use crate::storage::writer::{Writer, WriterStart};

mod directory;
mod files;
mod found;
mod walk;
mod wipe;

use directory::{read_directory, read_head};
use files::Files;
use found::Found;
use walk::{Walk, Walked};
use wipe::wipe;

/// Maximum size of the copy of a cut tail, bytes: more than can be in flight at once.
const CUT_SIZE_MAX: u64 = 64 << 20;

/// A log that is being opened.
pub struct Opening<D: Disk> {
    disk: D,
    config: StoreConfig,
    snapshot: Option<(SnapshotPoint, Vec<u8>)>,
    /// Offsets of all intact snapshots, oldest first.
    snapshots: Vec<LogOffset>,
    proof: Option<EndProof>,
    segments: Vec<Found<D::File>>,
    ready: Vec<u64>,
    next_ready: u64,
    index: Index,
    /// Segments that have left the log but whose index files still exist.
    retired: Vec<LogOffset>,
    report: RecoveryReport,
    /// How many of the damaged ranges in the report already have a file from an earlier opening.
    noted: usize,
    /// The running log that this one replaces.
    running: Option<Running<D>>,
}

/// A running log that is replaced by one that is being opened.
enum Running<D: Disk> {
    /// By what remains of it.
    Cut(Cut<D>),
    /// By a copy of another replica's log.
    Replaced(Hold<D>),
}

impl<D: Disk> Running<D> {
    fn cut(&self) -> Option<&Cut<D>> {
        match self {
            Self::Cut(cut) => Some(cut),
            Self::Replaced(_) => None,
        }
    }

    fn replace(self, log: Log<D>, index: Index, upkeep: Upkeep<D>) -> Store<D> {
        match self {
            Self::Cut(cut) => cut.replace(log, index, upkeep),
            Self::Replaced(hold) => hold.replace(log, index, upkeep),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Lists files, reads the newest intact snapshot and the directories of the index files.
    pub async fn open(disk: D, config: StoreConfig) -> Result<Opening<D>, OpenError> {
        Opening::open(disk, config).await
    }

    /// Durably cuts off all entries after the one with this ordinal, while the store keeps running.
    /// Refused if any of them is committed. Treat the result like a log that is being opened:
    /// restore the state from its snapshot, then replay. Once that has succeeded, this store and
    /// all its clones are the shorter log. If the result is dropped earlier or fails, the log is
    /// unchanged or fenced.
    ///
    /// Committers must be running, because appended entries are written first. Appends wait
    /// meanwhile.
    pub async fn cut_to(&self, ordinal: u64) -> Result<Opening<D>, CutError> {
        Opening::of_cut(self.hold_at(CutAfter::Ordinal(ordinal)).await?).await
    }

    /// The same for everything from `offset` on, a place between two entries.
    pub async fn cut_at(&self, offset: LogOffset) -> Result<Opening<D>, CutError> {
        Opening::of_cut(self.hold_at(CutAfter::Offset(offset)).await?).await
    }

    /// Durably replaces the log by a copy, all of whose files are staged, while the store keeps
    /// running. Treat the result like a log that is being opened: restore the state from its
    /// snapshot, then replay. Once that has succeeded, this store and all its clones are the copy,
    /// which is committed to its end. If it fails, the log is unchanged or fenced.
    ///
    /// Committers must be running. Appends wait meanwhile.
    pub async fn take_over(&self, copy: &LogCopy) -> Result<Opening<D>, CutError> {
        Opening::of_copy(self.begin_takeover(copy).await?).await
    }
}

impl<D: Disk> Opening<D> {
    async fn open(disk: D, config: StoreConfig) -> Result<Self, OpenError> {
        check_segment_size(config.segment_size)?;
        finish_takeover(&disk, config.checksum_seed).await?;
        let files = Files::list(&disk).await?;
        for name in &files.unfinished {
            disk.remove(&name.to_string()).await?;
        }
        let index = Index::new(config.index_cache_bytes);
        let report = RecoveryReport { damaged: files.damaged.clone(), ..Default::default() };
        let mut opening = Self {
            disk,
            config,
            snapshot: None,
            snapshots: Vec::new(),
            proof: None,
            segments: Vec::new(),
            ready: Vec::new(),
            next_ready: files.ready.last().map_or(0, |(newest, _)| newest + 1),
            index,
            retired: Vec::new(),
            report,
            noted: files.damaged.len(),
            running: None,
        };
        opening.read_snapshots(&files).await?;
        opening.read_proof(&files).await?;
        opening.check_beginning(&files)?;
        opening.open_segments(&files).await?;
        opening.take_ready(&files).await?;
        Ok(opening)
    }

    /// Opens the part of a log that remains after a cut.
    async fn of_cut(cut: Cut<D>) -> Result<Self, CutError> {
        let mut opening = Self::reopen(&cut.hold).await?;
        opening.running = Some(Running::Cut(cut));
        Ok(opening)
    }

    /// Opens a copy that is about to replace a log.
    async fn of_copy(hold: Hold<D>) -> Result<Self, CutError> {
        let mut opening = Self::reopen(&hold).await?;
        opening.running = Some(Running::Replaced(hold));
        Ok(opening)
    }

    async fn reopen(hold: &Hold<D>) -> Result<Self, CutError> {
        let store = hold.store();
        let config = store.0.log.borrow().config.clone();
        Ok(Self::open(store.0.disk.clone(), config).await?)
    }

    fn cut(&self) -> Option<&Cut<D>> {
        self.running.as_ref().and_then(Running::cut)
    }

    /// The committed watermark of the log once it is open; its end with [`CommitRule::Local`].
    pub fn committed(&self) -> LogOffset {
        match (&self.running, self.config.commit) {
            (Some(Running::Cut(cut)), _) => cut.hold.store().committed(),
            (Some(Running::Replaced(_)), _) | (None, CommitRule::Local) => LogOffset(u64::MAX),
            (None, CommitRule::Driven) => {
                let begin = self.segments.first().map(|found| found.segment.range.start);
                self.snapshots.last().copied().or(begin).unwrap_or_default()
            }
        }
    }

    /// The broker's state, as given to the snapshot.
    pub fn snapshot(&self) -> Option<&[u8]> {
        self.snapshot.as_ref().map(|(_, payload)| &payload[..])
    }

    /// For restoring the queues from the snapshot, before the replay.
    pub fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Passes every entry that the snapshot and index files do not cover to `apply`, oldest first,
    /// and prepares the log for appends. `messages_of` is used to rebuild index files that are
    /// found damaged later.
    pub async fn replay(
        mut self,
        messages_of: MessagesOf,
        mut apply: impl FnMut(&mut Index, Replayed<'_>),
    ) -> Result<(Store<D>, RecoveryReport), OpenError> {
        if let Some(first) = self.segments.first() {
            self.index.drop_before(first.segment.range.start);
        }
        self.take_in_retired().await?;
        let walked = self.walk(&mut apply).await?;
        // A running log keeps its epoch.
        let epoch = if self.running.is_none() { self.epoch(walked.epoch)? } else { walked.epoch };
        for &offset in &self.report.snapshots_damaged {
            self.disk.remove(&FileName::Snapshot(offset).to_string()).await?;
        }
        self.note_damage().await?;
        for found in self.segments.iter().filter(|found| found.is_walked || !found.is_covered) {
            found.segment.file.sync().await?;
        }
        if let Some(Running::Cut(cut)) = &mut self.running {
            cut.hold.begin_changing();
            self.remove_proof().await?;
        }
        let may_leave = match self.cut().is_some() {
            true => Bug::LeavesCutsOnDisk,
            false => Bug::LeavesTornTails,
        };
        if let Some(left_over) = walked.left_over.clone()
            && !planted::is(may_leave)
        {
            let segments = self.segments.iter().map(|found| &found.segment);
            let files = segments.map(|segment| (segment.range.clone(), segment.file.clone()));
            wipe(&self.disk, files, left_over).await?;
        }
        self.settle_end(walked.end).await?;
        self.into_store(walked, epoch, messages_of).await
    }

    async fn read_snapshots(&mut self, files: &Files) -> Result<(), DiskError> {
        for &offset in &files.snapshots {
            let name = FileName::Snapshot(offset).to_string();
            let bytes = match read_all(&self.disk.open(&name).await?).await {
                // Falls back to the older snapshot, as for a damaged one.
                Err(error) if may_be_one_block(&error) => Vec::new(),
                bytes => bytes?,
            };
            match decode(&bytes, self.config.checksum_seed) {
                Some((point, payload)) if point.offset == offset => {
                    self.snapshots.push(offset);
                    self.snapshot = Some((point, payload.to_vec()));
                }
                _ => self.report.snapshots_damaged.push(offset),
            }
        }
        self.report.snapshot = self.snapshots.last().copied();
        Ok(())
    }

    /// A proof that is damaged or unreadable proves nothing.
    async fn read_proof(&mut self, files: &Files) -> Result<(), DiskError> {
        if !files.has_proof {
            return Ok(());
        }
        let file = self.disk.open(&FileName::EndProof.to_string()).await?;
        for number in 0..PROOF_BLOCKS {
            let block = match file.read(number * BLOCK_SIZE as u64, BLOCK_SIZE).await {
                Err(error) if may_be_one_block(&error) => continue,
                block => block?,
            };
            let found = EndProof::decode((*block).as_ref(), self.config.checksum_seed);
            let newest = self.proof.map(|proof| proof.number.get());
            self.proof = found.filter(|found| Some(found.number.get()) > newest).or(self.proof);
        }
        Ok(())
    }

    /// Removes the proof: it covers what is cut off, so the next start would report that as damage.
    async fn remove_proof(&mut self) -> Result<(), DiskError> {
        remove_if_any(&self.disk, &FileName::EndProof).await?;
        self.proof = None;
        self.disk.sync_directory().await
    }

    /// The epoch of new entries, if the newest entry has epoch `found`.
    fn epoch(&self, found: u32) -> Result<u32, OpenError> {
        match self.config.epoch {
            Epoch::Found => Ok(found.max(1)),
            Epoch::Given(given) if given >= found => Ok(given),
            Epoch::Given(given) => Err(EpochError { given, found }.into()),
        }
    }

    fn check_beginning(&self, files: &Files) -> Result<(), OpenError> {
        match (files.segments.first(), self.report.snapshot) {
            (None, Some(snapshot)) => Err(OpenError::LogMissing { snapshot }),
            (Some(&(begin, _)), None) if begin.0 > 0 => Err(OpenError::NoSnapshot { begin }),
            _ => Ok(()),
        }
    }

    async fn open_segments(&mut self, files: &Files) -> Result<(), DiskError> {
        for &(base, size) in &files.segments {
            let file = self.disk.open(&FileName::Segment(base).to_string()).await?;
            let range = base..base.plus(block_floor(size));
            let is_covered = self.report.snapshot.is_some_and(|covered| range.end <= covered);
            let mut index = None;
            if is_covered && files.indexes.contains(&base) {
                index = self.open_index(&range).await?;
            }
            let segment = Segment::new(range, file);
            self.segments.push(Found { segment, is_covered, index, is_walked: false });
        }
        let begin = files.segments.first().map(|(begin, _)| *begin);
        for &base in files.indexes.iter().filter(|base| !files.has_segment(**base)) {
            match begin {
                Some(begin) if base < begin => self.retired.push(base),
                _ => self.disk.remove(&FileName::Index(base).to_string()).await?,
            }
        }
        Ok(())
    }

    /// An index file and its head; `None` if it is damaged.
    async fn open_index(
        &self,
        range: &Range<LogOffset>,
    ) -> Result<Option<(D::File, IndexHead)>, DiskError> {
        let file = self.disk.open(&FileName::Index(range.start).to_string()).await?;
        let head = read_head(&file, range.start, self.config.checksum_seed).await;
        let is_whole = |head: &IndexHead| {
            head.segment_end.get() == range.end.0 && Layout::of(head).size() <= file.size()
        };
        Ok(head.filter(is_whole).map(|head| (file, head)))
    }

    /// Updates the queues for segments that left the log after the snapshot was taken. If a
    /// directory is unreadable, an oldest offset stays too low until a lookup gets there.
    async fn take_in_retired(&mut self) -> Result<(), DiskError> {
        let seed = self.config.checksum_seed;
        for &base in &self.retired {
            let file = self.disk.open(&FileName::Index(base).to_string()).await?;
            let Some(head) = read_head(&file, base, seed).await else { continue };
            let runs = read_directory(&file, &head, base, seed).await?;
            runs.iter().flatten().for_each(|run| self.index.note_oldest(run.key(), run.end()));
        }
        Ok(())
    }

    /// Files of the right size may become segments; others are removed.
    async fn take_ready(&mut self, files: &Files) -> Result<(), DiskError> {
        for &(number, size) in &files.ready {
            if size == self.config.segment_size {
                self.ready.push(number);
            } else {
                self.disk.remove(&FileName::Ready(number).to_string()).await?;
            }
        }
        Ok(())
    }

    async fn walk(
        &mut self,
        apply: &mut impl FnMut(&mut Index, Replayed<'_>),
    ) -> Result<Walked, OpenError> {
        let files = self
            .segments
            .iter()
            .map(|found| (found.segment.range.clone(), found.segment.file.clone()));
        let mut reader = LogReader::new(files.collect(), self.config.checksum_seed);
        reader.trusts_lags = self.config.commit == CommitRule::Local;
        let point = self.snapshot.as_ref().map(|(point, _)| *point);
        let proof = self.proof.as_ref().map(EndProof::point);
        let cut = self.cut().map(|cut| (cut.point, cut.end));
        let mut walk = Walk {
            segments: &mut self.segments,
            index: &mut self.index,
            report: &mut self.report,
            reader: &mut reader,
            point,
            seed: self.config.checksum_seed,
            proof: cut.map(|(place, _)| place).or(proof),
            stop_at: cut.map(|(place, _)| place.offset),
            at: LogOffset(0),
            chain: Chain::default(),
            tail: None,
            left_over: None,
        };
        walk.run(apply).await?;
        let (end, chain, tail) = (walk.at, walk.chain, walk.tail);
        let left_over = match cut {
            Some((place, end)) => Some(place.offset..end).filter(|range| !range.is_empty()),
            None => walk.left_over,
        };
        if let Some(tail) = tail {
            self.keep_tail(&mut reader, tail).await?;
        }
        self.report.bytes_scanned = reader.bytes_read;
        let next_ordinal = chain.last_ordinal.unwrap_or(0) + 1;
        Ok(Walked { end, next_ordinal, epoch: chain.epoch, left_over })
    }

    /// Writes a note for every damaged range that has none yet.
    async fn note_damage(&self) -> Result<(), DiskError> {
        for hole in &self.report.damaged[self.noted..] {
            let name = FileName::Damaged(hole.clone());
            match publish_bytes(&self.disk, name, damage_note(hole).as_bytes()).await {
                // The report has it too, and a full disk must not prevent opening.
                Err(error) if error.kind != DiskErrorKind::NoSpace => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies a tail that is about to be cut. By the rules, nothing in it was acknowledged; the
    /// copy allows a repair if that is wrong.
    async fn keep_tail(
        &mut self,
        reader: &mut LogReader<D::File>,
        tail: Range<LogOffset>,
    ) -> Result<(), DiskError> {
        let end = tail.end.min(tail.start.plus(CUT_SIZE_MAX));
        let bytes = reader.copy(tail.start..end).await?;
        match publish_bytes(&self.disk, FileName::Cut(tail.start), &bytes).await {
            Ok(()) => self.report.tail_kept = Some(tail.start),
            Err(error) if error.kind == DiskErrorKind::NoSpace => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes the segment that contains `end` the last one. Later segments contain nothing
    /// acknowledged, and become the next segment or ready files.
    async fn settle_end(&mut self, end: LogOffset) -> Result<(), DiskError> {
        let count = self.segments.partition_point(|found| found.segment.range.start < end);
        let count = count.max(usize::from(self.segments.first().is_some_and(|first| {
            // A first start that was interrupted left a file that is not a segment yet.
            let is_whole = first.segment.size() == self.config.segment_size;
            is_whole || first.segment.range.start > LogOffset(0)
        })));
        for found in self.segments.split_off(count) {
            let segment = found.segment;
            // If the log ends just before it, the walk has added it to the index.
            self.index.forget_segment(segment.range.start);
            let name = FileName::Segment(segment.range.start).to_string();
            if segment.size() == self.config.segment_size {
                let number = self.next_ready;
                self.next_ready += 1;
                self.disk.rename(&name, &FileName::Ready(number).to_string()).await?;
                self.ready.push(number);
            } else {
                self.disk.remove(&name).await?;
            }
        }
        let log_end = self.segments.last().map(|found| found.segment.range.end);
        if log_end.is_none_or(|log_end| log_end < end) {
            let base = LogOffset(block_ceil(end.0));
            let name = FileName::Segment(base).to_string();
            let file = self.disk.create(&name, self.config.segment_size).await?;
            let segment = Segment::new(base..base.plus(file.size()), file);
            let (index, is_covered, is_walked) = (None, false, true);
            self.segments.push(Found { segment, is_covered, index, is_walked });
        }
        // Its messages go to memory, even if the walk did not reach it.
        let last = self.segments.last_mut().expect("there is one now");
        last.is_walked |= !last.is_covered;
        self.disk.sync_directory().await
    }

    async fn into_store(
        self,
        walked: Walked,
        epoch: u32,
        messages_of: MessagesOf,
    ) -> Result<(Store<D>, RecoveryReport), OpenError> {
        let snapshot_size = self.snapshot().map_or(0, |payload| payload.len() as u64);
        let committed = self.committed();
        let Self {
            disk,
            config,
            snapshots,
            proof,
            segments,
            ready,
            next_ready,
            mut index,
            mut report,
            retired,
            running,
            ..
        } = self;
        let segments: VecDeque<_> = segments.into_iter().map(Found::settled).collect();
        let last = segments.back().expect("settled above");
        let end = walked.end.max(last.range.start);
        let prefix = read_prefix(last, end).await?;
        let next_ordinal = walked.next_ordinal;
        let point = SnapshotPoint { offset: end, next_ordinal, epoch: walked.epoch };
        let proof = prove_end(&disk, &config, proof, &snapshots, point).await?;
        let start = WriterStart {
            end: end.0,
            segment_end: last.range.end.0,
            epoch,
            last_epoch: walked.epoch,
            next_ordinal: walked.next_ordinal,
            seed: config.checksum_seed,
        };
        report.begin = segments.front().expect("settled above").range.start;
        report.end = end;
        report.epoch = start.epoch;
        let is_in_log = |hole: &&Range<LogOffset>| hole.end > report.begin;
        let damaged: Vec<_> = report.damaged.iter().filter(is_in_log).cloned().collect();
        damaged.iter().for_each(|hole| index.hide(hole.clone()));
        let metrics = Rc::<Metrics>::default();
        let log = Log {
            // With `CommitRule::Local`, everything that was found, and is now synced, is committed.
            commit: CommitMark::new(&config, committed.min(end)),
            writer: Writer::new(start, &prefix, |size| disk.buffer(size)),
            room: SharedRoom::new(config.append_budget_bytes as u64),
            disk: disk.clone(),
            tail: TailCache::new(config.tail_cache_bytes),
            segments,
            next: None,
            preparing: Preparing::No,
            fault: None,
            is_held: false,
            is_following: false,
            group_end: None,
            cuts: Cuts::default(),
            space: SpaceState::Enough,
            disk_space: None,
            damaged,
            ready,
            next_ready,
            metrics: metrics.clone(),
            config,
        };
        let mut upkeep = Upkeep::new(snapshots, snapshot_size, proof);
        upkeep.retired = retired.into_iter().map(|base| (base, end)).collect();
        if let Some(running) = running {
            return Ok((running.replace(log, index, upkeep), report));
        }
        let store = Store(Rc::new(Shared {
            disk,
            log: log.into(),
            index: index.into(),
            upkeep: upkeep.into(),
            metrics,
            messages_of,
            rebuilding: Vec::new().into(),
            rebuilt: Signal::default(),
            background: Turns::default(),
            syncs: Turns::default(),
            is_stopping: false.into(),
            work: Signal::default(),
            group_grows: Signal::default(),
            commits: MarkSignal::default(),
            marks_changed: Signal::default(),
        }));
        Ok((store, report))
    }
}

/// Proves that everything found is now on stable media. In a log without a snapshot, the proof also
/// identifies the log before its first write can be torn.
async fn prove_end<D: Disk>(
    disk: &D,
    config: &StoreConfig,
    proof: Option<EndProof>,
    snapshots: &[LogOffset],
    end: SnapshotPoint,
) -> Result<Option<EndProof>, DiskError> {
    let proven = proof.map(|proof| proof.point().offset).max(snapshots.last().copied());
    if proven >= Some(end.offset) {
        return Ok(proof);
    }
    let number = proof.map_or(0, |proof| proof.number.get() + 1);
    let next = EndProof::new(number, end, config.checksum_seed);
    let is_written = write_proof(disk, &next).await?;
    Ok(if is_written { Some(next) } else { proof })
}

/// The content of the last, partial block before `end`.
async fn read_prefix<F: DiskFile>(last: &Segment<F>, end: LogOffset) -> Result<Vec<u8>, DiskError> {
    let base = block_floor(end.0);
    let size = (end.0 - base) as usize;
    if size == 0 {
        return Ok(Vec::new());
    }
    let block = last.file.read(base - last.range.start.0, BLOCK_SIZE).await?;
    Ok((*block).as_ref()[..size].to_vec())
}

fn check_segment_size(size: u64) -> Result<(), OpenError> {
    let is_possible = (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&size)
        && size.is_multiple_of(BLOCK_SIZE as u64);
    if is_possible { Ok(()) } else { Err(OpenError::SegmentSize(size)) }
}
