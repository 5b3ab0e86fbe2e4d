//! Missing or damaged index files are rebuilt from their segment, immediately and in memory, as an
//! image that serves lookups like the file. Maintenance writes it to disk afterwards.
//!
//! A queue's links to older segments are not in the segment. They are taken from the intact part of
//! the old directory; a run without links searches the older segments one by one.

use std::rc::Rc;

use crate::model::{LogOffset, Timestamp};
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile};
use crate::storage::entry::{ENTRY_ALIGN, EntryKind, Parsed};
use crate::storage::error::ReadError;
use crate::storage::images::{Image, ImageRoom};
use crate::storage::index::Index;
use crate::storage::links::Links;
use crate::storage::located::QueueKey;
use crate::storage::log::{Segment, SegmentIndex};
use crate::storage::publish::publish;
use crate::storage::replay::Replayed;
use crate::storage::scan::LogReader;
use crate::storage::sealed::{
    IndexRun, Layout, RUNS_PER_BLOCK, items, note_mark, open_block, open_head,
};
use crate::storage::sealing::{BlockWriter, IndexPlan};
use crate::storage::segment::FileName;
use crate::storage::slice::Slices;
use crate::storage::store::Store;

/// The messages of a segment.
struct Scanned {
    index: Index,
    marks: Vec<u32>,
    /// Whether everything could be read.
    is_final: bool,
}

/// A segment whose index is being rebuilt. If the task is dropped, another may do it.
struct Claim<'a, D: Disk>(&'a Store<D>, LogOffset);

impl<D: Disk> Drop for Claim<'_, D> {
    fn drop(&mut self) {
        self.0.0.rebuilding.borrow_mut().retain(|segment| *segment != self.1);
        self.0.0.rebuilt.notify();
    }
}

impl<D: Disk> Store<D> {
    /// Rebuilds the index of a sealed segment, unless that has happened since this version.
    /// Concurrent callers for the same segment wait.
    pub(super) async fn rebuild(
        &self,
        segment: LogOffset,
        seen: Option<u32>,
    ) -> Result<(), ReadError> {
        if self.index_version(segment) == seen {
            self.room_for_image(segment).await?;
        }
        let is_free = || !self.0.rebuilding.borrow().contains(&segment);
        self.0.rebuilt.wait(|| is_free().then_some(())).await;
        if self.index_version(segment) != seen {
            return Ok(());
        }
        self.0.rebuilding.borrow_mut().push(segment);
        let _claim = Claim(self, segment);
        let scanned = self.scan_segment(segment).await?;
        let salvaged = self.salvage_links(segment).await;
        let plan = IndexPlan::new(scanned.index.oldest_in_memory(), scanned.marks).await;
        drop(scanned.index);
        let bytes = Rc::new(self.encode(&plan, &salvaged).await);
        let image = Image { bytes, is_final: scanned.is_final };
        let (layout, stored_ms) = (plan.layout(), plan.segment.stored_ms);
        plan.release().await;
        let mut log = self.0.log.borrow_mut();
        if let Some(found) = log.segment(segment) {
            let version = seen.map_or(0, |version| version + 1);
            let last_stored = stored_ms.map(|(_, last)| Timestamp(last));
            found.index = SegmentIndex::File { file: None, last_stored, layout, version };
            self.0.index.borrow_mut().insert_image(segment, image);
            self.0.upkeep.borrow_mut().rebuilt.push(segment);
        }
        Ok(())
    }

    /// Waits until there is memory for another image; fails if there will be none.
    async fn room_for_image(&self, segment: LogOffset) -> Result<(), DiskError> {
        let room = || match self.0.index.borrow().images().room() {
            ImageRoom::Free => Some(Ok(())),
            ImageRoom::Later => None,
            ImageRoom::None => {
                let why = "index files are damaged, and rebuilt ones cannot be written";
                Some(Err(DiskErrorKind::Io(why.into())))
            }
        };
        let found = self.0.rebuilt.wait(room).await;
        let file = FileName::Index(segment).to_string();
        found.map_err(|kind| DiskError { operation: "rebuild", file, offset: 0, kind })
    }

    async fn scan_segment(&self, segment: LogOffset) -> Result<Scanned, ReadError> {
        let (range, mut reader) = {
            let mut log = self.0.log.borrow_mut();
            let seed = log.config.checksum_seed;
            let found = log.segment(segment).ok_or(ReadError::Gone(segment))?;
            let range = found.range.clone();
            (range.clone(), LogReader::new(vec![(range, found.file.clone())], seed))
        };
        let mut index = Index::new(0);
        index.begin_segment(range.clone());
        let mut marks = Vec::new();
        let mut slices = Slices::default();
        let mut at = range.start;
        while at < range.end {
            let Parsed::Entry(entry) = reader.parse_at(at).await? else {
                let after = reader.next_entry(at.plus(ENTRY_ALIGN as u64), range.end).await?;
                // Damage is recorded when a message there is read, or at the next start.
                match after {
                    Some(after) => at = after,
                    None => break,
                }
                continue;
            };
            note_mark(&mut marks, at.0 - range.start.0);
            let replayed = Replayed::new(&entry, true);
            let mut count = 1;
            if entry.kind != EntryKind::FILLER {
                (self.0.messages_of)(&replayed, &mut |key, offset, located| {
                    index.push(key, offset, located);
                    count += 1;
                });
            }
            at = entry.header.end();
            slices.handled(count).await;
        }
        if let Some(fault) = reader.reads_nothing() {
            return Err(fault.into());
        }
        Ok(Scanned { index, marks, is_final: !reader.has_unreadable() })
    }

    /// The queues' links from the intact part of the old directory, in order.
    async fn salvage_links(&self, segment: LogOffset) -> Vec<(QueueKey, Links)> {
        let mut links = Vec::new();
        self.salvage_into(segment, &mut links).await.ok();
        links
    }

    async fn salvage_into(
        &self,
        segment: LogOffset,
        links: &mut Vec<(QueueKey, Links)>,
    ) -> Result<(), DiskError> {
        let seed = self.0.log.borrow().config.checksum_seed;
        let known = {
            let mut log = self.0.log.borrow_mut();
            match log.segment(segment).map(|found| &found.index) {
                Some(SegmentIndex::File { layout, .. }) => Some(*layout),
                _ => None,
            }
        };
        let file = self.0.disk.open(&FileName::Index(segment).to_string()).await?;
        let layout = match known {
            Some(layout) => layout,
            None => {
                let block = file.read(0, BLOCK_SIZE).await?;
                match open_head((*block).as_ref(), segment, seed) {
                    Some(head) => Layout::of(&head),
                    None => return Ok(()),
                }
            }
        };
        let mut slices = Slices::default();
        for block in 0..layout.run_blocks() {
            let number = layout.runs_at() + block;
            let Ok(bytes) = file.read((number * BLOCK_SIZE) as u64, BLOCK_SIZE).await else {
                continue;
            };
            let count = (layout.run_count - block * RUNS_PER_BLOCK).min(RUNS_PER_BLOCK);
            if let Some(body) = open_block((*bytes).as_ref(), number, segment, seed) {
                let runs = items::<IndexRun>(body)[..count].iter();
                links.extend(runs.map(|run| (run.key(), run.links(segment))));
            }
            slices.handled(count).await;
        }
        Ok(())
    }

    async fn encode(&self, plan: &IndexPlan, salvaged: &[(QueueKey, Links)]) -> Vec<u8> {
        let seed = self.0.log.borrow().config.checksum_seed;
        let links = |key: QueueKey, first: u64| {
            let found = salvaged.binary_search_by_key(&key, |(of, _)| *of);
            found.map_or_else(|_| Links::guess(plan.base(), first), |index| salvaged[index].1)
        };
        let mut writer = BlockWriter::new(plan, seed, links);
        let mut slices = Slices::default();
        let mut bytes = vec![0; plan.layout().size() as usize];
        for block in bytes.chunks_exact_mut(BLOCK_SIZE) {
            let count = writer.fill(block);
            slices.handled(count).await;
        }
        bytes
    }

    /// Rebuilds the index of a segment for which the start found none.
    pub(super) async fn rebuild_missing(&self) -> Result<(), DiskError> {
        let missing = {
            let log = self.0.log.borrow();
            let is_missing =
                |segment: &&Segment<D::File>| matches!(segment.index, SegmentIndex::Missing);
            log.segments.iter().find(is_missing).map(|segment| segment.range.start)
        };
        // The task that writes images must not wait for one to be written.
        let has_room = self.0.index.borrow().images().room() == ImageRoom::Free;
        let Some(segment) = missing.filter(|_| has_room) else { return Ok(()) };
        match self.rebuild(segment, None).await {
            Err(ReadError::Fault(fault)) => Err(fault),
            Err(ReadError::Gone(_) | ReadError::Damaged(_)) | Ok(()) => Ok(()),
        }
    }

    /// Writes a rebuilt index file. False if there is none to write.
    pub(super) async fn write_image(&self) -> Result<bool, DiskError> {
        let unwritten = self.0.index.borrow().images().unwritten();
        let Some((segment, image)) = unwritten else { return Ok(false) };
        let mut blocks = image.bytes.chunks_exact(BLOCK_SIZE);
        let count = blocks.len();
        let name = FileName::Index(segment);
        let written = publish(&self.0.disk, name, count, async |block: &mut [u8]| {
            block.copy_from_slice(blocks.next().expect("as many blocks as were announced"));
        })
        .await;
        self.0.index.borrow_mut().handle_image_written(segment, written.is_ok());
        self.0.rebuilt.notify();
        written.map(|()| true)
    }
}
