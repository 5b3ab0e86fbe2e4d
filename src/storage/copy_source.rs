//! Sends a copy of the log: lists its files and reads them, while the log continues to grow.
//!
//! Retention deletes nothing that a copy still needs, while the disk has space and the copy is not
//! older than [`HOLD_MAX_NS`]. After that, reads of what is deleted fail ([`CopyReadError::Gone`]),
//! and the receiver starts again with a newer list, of which it already has most files.

use std::collections::BTreeMap;

use crate::model::LogOffset;
use crate::storage::copy::{CopyFile, CopyPart, LogCopy};
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskFile};
use crate::storage::log::SpaceState;
use crate::storage::publish::open_if_any;
use crate::storage::segment::FileName;
use crate::storage::store::Store;

/// How long a copy holds back retention.
const HOLD_MAX_NS: u64 = 3_600 * 1_000_000_000;

/// Why a part of a file was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyReadError {
    #[error("{0} was deleted meanwhile")]
    Gone(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A copy in progress.
pub struct CopySource<D: Disk> {
    store: Store<D>,
    copy: LogCopy,
    hold: u64,
    /// The last file read that is not a segment.
    open: Option<(usize, D::File)>,
}

impl<D: Disk> Store<D> {
    /// Offset of the newest snapshot on disk.
    pub fn newest_snapshot(&self) -> Option<LogOffset> {
        self.0.upkeep.borrow().snapshots.last().copied()
    }

    /// Begins a copy that ends at `end`, which is committed, with the snapshot at `snapshot`.
    /// Everything in the snapshot must be below `end`.
    pub async fn begin_copy(
        &self,
        snapshot: LogOffset,
        end: LogOffset,
    ) -> Result<CopySource<D>, CopyReadError> {
        let hold = {
            let until_ns = self.0.disk.clock_ns().saturating_add(HOLD_MAX_NS);
            self.0.upkeep.borrow_mut().copies.begin(self.begin(), until_ns)
        };
        let (store, copy) = (self.clone(), LogCopy { end, files: Vec::new() });
        let mut source = CopySource { store, copy, hold, open: None };
        source.list(snapshot).await?;
        Ok(source)
    }

    /// The log offset from which on retention deletes nothing.
    pub(super) fn held_by_copies(&self) -> LogOffset {
        match self.0.log.borrow().space {
            SpaceState::Enough => self.0.upkeep.borrow().copies.from(self.0.disk.clock_ns()),
            SpaceState::BelowReserve | SpaceState::Full => LogOffset(u64::MAX),
        }
    }
}

impl<D: Disk> CopySource<D> {
    pub fn copy(&self) -> &LogCopy {
        &self.copy
    }

    /// Ends the hold: retention may delete everything from now on.
    pub fn release(&self) {
        self.store.0.upkeep.borrow_mut().copies.end(self.hold);
    }

    async fn list(&mut self, snapshot: LogOffset) -> Result<(), CopyReadError> {
        let (mut indexes, mut state) = (BTreeMap::new(), None);
        for (name, size) in self.store.0.disk.list().await? {
            match FileName::parse(&name) {
                Some(FileName::Index(place)) => _ = indexes.insert(place, size),
                Some(FileName::Snapshot(place)) if place == snapshot => state = Some(size),
                _ => {}
            }
        }
        let gone = || CopyReadError::Gone(FileName::Snapshot(snapshot).to_string());
        let size = state.ok_or_else(gone)?;
        let mut files = vec![CopyFile { part: CopyPart::Snapshot, place: snapshot, size }];
        let index =
            |(&place, &size): (&LogOffset, &u64)| CopyFile { part: CopyPart::Index, place, size };
        let log = self.store.0.log.borrow();
        // Includes those of segments that have left the log: a start may need them to know what
        // queues have lost.
        files.extend(indexes.range(..log.begin()).map(index));
        for segment in log.segments.iter().filter(|segment| segment.range.start < self.copy.end) {
            let (place, end) = (segment.range.start, segment.range.end.min(self.copy.end));
            files.push(CopyFile { part: CopyPart::Segment, place, size: end.0 - place.0 });
            if segment.range.end <= snapshot {
                files.extend(indexes.get_key_value(&place).map(index));
            }
        }
        drop(log);
        self.copy.files = files;
        Ok(())
    }

    /// Reads `size` bytes at `position` of a file, both multiples of the block size; less at its
    /// end.
    pub async fn read(
        &mut self,
        number: usize,
        position: u64,
        size: usize,
    ) -> Result<Vec<u8>, CopyReadError> {
        let file = self.copy.files.get(number).copied();
        let Some(file) = file.filter(|file| position < file.size) else {
            return Err(CopyReadError::Gone(format!("file {number} at {position}")));
        };
        let gone = || CopyReadError::Gone(file.name().to_string());
        let source = self.open(number, file).await?;
        let count = (file.size - position).min(size as u64) as usize;
        let bytes = source.read(position, count.next_multiple_of(BLOCK_SIZE)).await?;
        // The file may have become another segment's meanwhile.
        if file.part == CopyPart::Segment && file.place < self.store.begin() {
            return Err(gone());
        }
        let bytes = (*bytes).as_ref().get(..count).ok_or_else(gone)?.to_vec();
        if file.part == CopyPart::Segment && position + count as u64 == file.size {
            self.note_sent(file);
        }
        Ok(bytes)
    }

    /// Retention may delete what has been sent, except the last segment.
    fn note_sent(&self, file: CopyFile) {
        let end = file.place.plus(file.size);
        if end < self.copy.end {
            self.store.0.upkeep.borrow_mut().copies.move_on(self.hold, end);
        }
    }

    async fn open(&mut self, number: usize, file: CopyFile) -> Result<D::File, CopyReadError> {
        let name = file.name().to_string();
        if file.part == CopyPart::Segment {
            let mut log = self.store.0.log.borrow_mut();
            let segment = log.segment(file.place);
            return segment.map(|found| found.file.clone()).ok_or(CopyReadError::Gone(name));
        }
        if let Some((known, open)) = &self.open
            && *known == number
        {
            return Ok(open.clone());
        }
        let found = open_if_any(&self.store.0.disk, &file.name()).await?;
        let open = found.ok_or(CopyReadError::Gone(name))?;
        self.open = Some((number, open.clone()));
        Ok(open)
    }
}

impl<D: Disk> Drop for CopySource<D> {
    fn drop(&mut self) {
        self.release();
    }
}
