//! The files of a copy of another replica's log while they arrive, beside the log that they will
//! replace.
//!
//! ```text
//!   copy.list ─▶ NAME.staged.tmp ─▶ checked to its end, synced ─▶ NAME.staged ─▶ … ─▶ takeover
//! ```
//!
//! After an interruption, complete files that are the same in the next list are kept, whoever sends
//! it: below the committed watermark all replicas have the same bytes. Every byte is checked before
//! its file counts as complete: segments entry by entry, index files block by block.

use std::rc::Rc;

use crate::model::LogOffset;
use crate::storage::copy::{CopyFile, CopyPart, LogCopy};
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile, Durability};
use crate::storage::entry::{EntryKind, Parsed, parse};
use crate::storage::publish::{make, open_if_any, publish_bytes, read_all, remove_if_any};
use crate::storage::recovery::Chain;
use crate::storage::sealed::{Layout, open_block, open_head};
use crate::storage::segment::FileName;
use crate::storage::snapshot::decode;
use crate::storage::store::Store;

/// Why a file of a copy was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StagingError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{file} is damaged at log offset {at}")]
    Damaged { file: FileName, at: LogOffset },
    #[error("its list of files is not a whole log")]
    NotWhole,
}

/// The place beside a log in which copies arrive.
pub struct Staging<D: Disk> {
    disk: D,
    seed: u32,
    segment_size: u64,
    reserve_bytes: u64,
}

impl<D: Disk> Store<D> {
    pub fn staging(&self) -> Staging<D> {
        let log = self.0.log.borrow();
        Staging {
            disk: self.0.disk.clone(),
            seed: log.config.checksum_seed,
            segment_size: log.config.segment_size,
            reserve_bytes: log.config.reserve_bytes,
        }
    }
}

impl<D: Disk> Staging<D> {
    /// Prepares for `copy`: keeps the files that an earlier attempt has completed, if they belong to
    /// it too, and removes all others. Returns the files that are missing.
    pub async fn begin(&self, copy: &LogCopy) -> Result<Vec<CopyFile>, StagingError> {
        if !copy.is_whole(self.segment_size) {
            return Err(StagingError::NotWhole);
        }
        let known = read_list(&self.disk, FileName::CopyList, self.seed).await?;
        let known = known.unwrap_or_default().files;
        let is_kept = |file: &CopyFile| known.contains(file);
        let staged =
            self.clear(|name| copy.files.iter().any(|file| is_kept(file) && file.name() == *name));
        let staged = staged.await?;
        publish_bytes(&self.disk, FileName::CopyList, &copy.encode(self.seed)).await?;
        let is_missing = |file: &&CopyFile| !staged.contains(&file.name());
        Ok(copy.files.iter().filter(is_missing).copied().collect())
    }

    /// Removes what has arrived, because it is no longer needed.
    pub async fn discard(&self) -> Result<(), DiskError> {
        self.clear(|_| false).await?;
        remove_if_any(&self.disk, &FileName::CopyList).await?;
        self.disk.sync_directory().await
    }

    /// Whether something has arrived that was not taken over.
    pub async fn has_any(&self) -> Result<bool, DiskError> {
        Ok(read_list(&self.disk, FileName::CopyList, self.seed).await?.is_some())
    }

    /// Durably removes staged files, except those that `keeps` names. Returns what is left.
    async fn clear(&self, keeps: impl Fn(&FileName) -> bool) -> Result<Vec<FileName>, DiskError> {
        let mut left = Vec::new();
        for (text, _) in self.disk.list().await? {
            match FileName::parse(&text) {
                Some(FileName::Staged(name)) if keeps(&name) => left.push(*name),
                Some(FileName::Staged(_)) => self.disk.remove(&text).await?,
                Some(FileName::Unfinished(name)) if matches!(*name, FileName::Staged(_)) => {
                    self.disk.remove(&text).await?;
                }
                _ => {}
            }
        }
        self.disk.sync_directory().await?;
        Ok(left)
    }

    /// Begins to store a file. Takes no space from the reserve.
    pub async fn receive(&self, file: CopyFile) -> Result<Arriving<D>, StagingError> {
        let size = match file.part {
            CopyPart::Segment => self.segment_size,
            CopyPart::Snapshot | CopyPart::Index => file.size.next_multiple_of(BLOCK_SIZE as u64),
        };
        let name = file.name().staged().unfinished().to_string();
        let free = self.disk.space().await?.free_bytes;
        if free < self.reserve_bytes.saturating_add(size) {
            let kind = DiskErrorKind::NoSpace;
            return Err(DiskError { operation: "create", file: name, offset: 0, kind }.into());
        }
        let target = make(&self.disk, &name, size).await?;
        let (disk, check) = (self.disk.clone(), Check::new(&file, self));
        Ok(Arriving { disk, file, target, position: 0, check })
    }
}

/// A file that is arriving.
pub struct Arriving<D: Disk> {
    disk: D,
    file: CopyFile,
    target: D::File,
    position: u64,
    check: Check,
}

impl<D: Disk> Arriving<D> {
    /// How much has arrived, bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Checks and writes the bytes at [`position`](Self::position): whole blocks, unless they are
    /// the file's last ones.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StagingError> {
        self.check.take(bytes).map_err(|at| self.damaged(at))?;
        let mut buffer = self.disk.buffer(bytes.len().next_multiple_of(BLOCK_SIZE));
        let (here, rest) = buffer.as_mut().split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        rest.fill(0);
        self.target.write(self.position, Rc::new(buffer), Durability::Written).await?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file, all of which has arrived: it is complete, and durable.
    pub async fn complete(self) -> Result<(), StagingError> {
        self.check.check_end(self.file.size).map_err(|at| self.damaged(at))?;
        self.target.sync().await?;
        let staged = self.file.name().staged();
        self.disk.rename(&staged.clone().unfinished().to_string(), &staged.to_string()).await?;
        Ok(self.disk.sync_directory().await?)
    }

    fn damaged(&self, at: LogOffset) -> StagingError {
        StagingError::Damaged { file: self.file.name(), at }
    }
}

/// Checks the bytes of a file as they arrive. Errors say at which log offset.
enum Check {
    Segment(SegmentCheck),
    Snapshot { place: LogOffset, seed: u32, bytes: Vec<u8> },
    Index { segment: LogOffset, seed: u32, head: Vec<u8>, blocks: usize },
}

struct SegmentCheck {
    seed: u32,
    start: LogOffset,
    end: LogOffset,
    /// Everything below is checked.
    at: LogOffset,
    chain: Chain,
    /// What has arrived from `at` on: part of an entry.
    pending: Vec<u8>,
    /// Bytes to come that a filler covers.
    covered: usize,
}

impl Check {
    fn new<D: Disk>(file: &CopyFile, staging: &Staging<D>) -> Self {
        let (place, seed) = (file.place, staging.seed);
        match file.part {
            CopyPart::Segment => Self::Segment(SegmentCheck {
                seed,
                start: place,
                end: place.plus(staging.segment_size),
                at: place,
                chain: Chain::default(),
                pending: Vec::new(),
                covered: 0,
            }),
            CopyPart::Snapshot => Self::Snapshot { place, seed, bytes: Vec::new() },
            CopyPart::Index => Self::Index { segment: place, seed, head: Vec::new(), blocks: 0 },
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), LogOffset> {
        match self {
            Self::Segment(check) => check.take(bytes),
            Self::Snapshot { bytes: all, .. } => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Self::Index { segment, seed, head, blocks } => {
                for block in bytes.chunks(BLOCK_SIZE) {
                    open_block(block, *blocks, *segment, *seed).ok_or(*segment)?;
                    if *blocks == 0 {
                        block.clone_into(head);
                    }
                    *blocks += 1;
                }
                Ok(())
            }
        }
    }

    fn check_end(&self, size: u64) -> Result<(), LogOffset> {
        match self {
            Self::Segment(check) => {
                let is_whole = check.covered == 0 && check.pending.is_empty();
                let is_all = check.at == check.start.plus(size);
                if is_whole && is_all { Ok(()) } else { Err(check.at) }
            }
            Self::Snapshot { place, seed, bytes } => {
                let point = decode(bytes, *seed).map(|(point, _)| point.offset);
                if point == Some(*place) { Ok(()) } else { Err(*place) }
            }
            Self::Index { segment, seed, head, blocks } => {
                let layout = open_head(head, *segment, *seed).map(|head| Layout::of(&head));
                let is_all = layout.is_some_and(|layout| layout.block_count() == *blocks);
                if is_all { Ok(()) } else { Err(*segment) }
            }
        }
    }
}

impl SegmentCheck {
    fn take(&mut self, bytes: &[u8]) -> Result<(), LogOffset> {
        let skipped = self.covered.min(bytes.len());
        self.covered -= skipped;
        self.pending.extend_from_slice(&bytes[skipped..]);
        let mut done = 0;
        loop {
            let (rest, room) = (&self.pending[done..], self.end.0 - self.at.0);
            if rest.is_empty() {
                break;
            }
            match parse(rest, self.at, room, self.seed) {
                Parsed::Entry(entry) if self.chain.accepts(&entry.header) => {
                    let size = entry.header.size() as usize;
                    let is_filler = entry.kind == EntryKind::FILLER;
                    if !is_filler && rest.len() < size {
                        break;
                    }
                    self.chain.take(&entry.header);
                    self.at = entry.header.end();
                    self.covered = size.saturating_sub(rest.len());
                    done += size - self.covered;
                }
                Parsed::Truncated { .. } => break,
                _ => return Err(self.at),
            }
        }
        self.pending.drain(..done);
        Ok(())
    }
}

/// The list of files in `name`; `None` if there is none or it is damaged.
pub(super) async fn read_list<D: Disk>(
    disk: &D,
    name: FileName,
    seed: u32,
) -> Result<Option<LogCopy>, DiskError> {
    let Some(file) = open_if_any(disk, &name).await? else { return Ok(None) };
    Ok(LogCopy::decode(&read_all(&file).await?, seed))
}
