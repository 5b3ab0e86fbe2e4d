//! Reads the log from disk entry by entry, and finds entries after a hole.
//!
//! A bad block of the disk counts as a hole and is remembered: recovery must not mistake the end of
//! the readable part for the end of the log.

use std::ops::Range;
use std::rc::Rc;

use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::model::{Chunk, LogOffset};
use crate::storage::disk::{BLOCK_SIZE, DiskError, DiskErrorKind, DiskFile};
use crate::storage::entry::{ENTRY_ALIGN, HEADER_SIZE, OWN_OFFSET_AT, Parsed, parse};
use crate::storage::recovery::{AfterHole, Chain};
use crate::storage::segment::block_floor;

/// Bytes per read, unless set otherwise.
pub const SCAN_SIZE: usize = 1 << 20;

pub struct LogReader<F> {
    segments: Vec<(Range<LogOffset>, F)>,
    seed: u32,
    window: Window,
    read_size: usize,
    pub bytes_read: u64,
    /// Whether the durable lag of entries refers to this disk. That of entries from another machine
    /// does not.
    pub trusts_lags: bool,
    /// Unreadable blocks, and why.
    pub unreadable: Vec<(Range<LogOffset>, DiskError)>,
}

/// A part of the log in memory.
#[derive(Clone)]
struct Window {
    base: u64,
    bytes: Rc<dyn AsRef<[u8]>>,
}

impl Window {
    fn end(&self) -> u64 {
        self.base + (*self.bytes).as_ref().len() as u64
    }

    /// The contents of the window from `at` on.
    fn from(&self, at: LogOffset) -> &[u8] {
        let bytes = (*self.bytes).as_ref();
        let skip = at.0.checked_sub(self.base).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| bytes.get(skip..)).unwrap_or_default()
    }
}

impl<F: DiskFile> LogReader<F> {
    /// `segments` are in log order.
    pub fn new(segments: Vec<(Range<LogOffset>, F)>, seed: u32) -> Self {
        let window = Window { base: 0, bytes: Rc::new([]) };
        Self {
            segments,
            seed,
            window,
            read_size: SCAN_SIZE,
            bytes_read: 0,
            trusts_lags: true,
            unreadable: Vec::new(),
        }
    }

    /// Reads at least `size` bytes at a time, instead of [`SCAN_SIZE`].
    pub fn with_read_size(mut self, size: usize) -> Self {
        self.read_size = size;
        self
    }

    /// `size` bytes at `at`, which are part of the entry parsed last.
    pub fn chunk(&self, at: LogOffset, size: usize) -> Chunk {
        let start = (at.0 - self.window.base) as usize;
        Chunk::new(self.window.bytes.clone(), start..start + size)
    }

    /// Parses what is at `at`. Outside of all segments there is nothing.
    pub async fn parse_at(&mut self, at: LogOffset) -> Result<Parsed<'_>, DiskError> {
        let Some((range, _)) = self.segment(at) else {
            return Ok(Parsed::Nothing { claimed_size: None });
        };
        let (room, seed) = (range.end.0 - at.0, self.seed);
        // Once for the header, and again once the header gives the size.
        for _ in 0..2 {
            match parse(self.window.from(at), at, room, seed) {
                Parsed::Truncated { needs } => self.load(at, needs).await?,
                _ => break,
            }
        }
        match parse(self.window.from(at), at, room, seed) {
            Parsed::Truncated { .. } => Ok(Parsed::Nothing { claimed_size: None }),
            seen => Ok(seen),
        }
    }

    /// Searches everything after `hole`, up to `to`, for entries that the chain accepts later.
    /// Stops early when one proves that a place after `hole` was on stable media.
    pub async fn search(
        &mut self,
        hole: LogOffset,
        to: Option<LogOffset>,
        chain: &Chain,
    ) -> Result<AfterHole, DiskError> {
        let mut after = AfterHole::default();
        let from = hole.plus(ENTRY_ALIGN as u64);
        let ranges: Vec<_> = self.segments.iter().map(|(range, _)| range.clone()).collect();
        for range in ranges {
            let end = to.map_or(range.end, |to| range.end.min(to));
            let mut at = range.start.max(from);
            while at.plus(HEADER_SIZE as u64) <= end {
                self.load(at, HEADER_SIZE).await?;
                let window = self.window.clone();
                for place in candidates(&window, at).filter(|&place| place < end) {
                    self.consider(place, chain, &mut after).await?;
                    if after.first.is_some() && after.proven_durable > hole {
                        return Ok(after);
                    }
                }
                // The last place in the window whose own-offset field is outside of it.
                at = LogOffset(window.end() - OWN_OFFSET_AT as u64);
            }
        }
        Ok(after)
    }

    /// Start of the first intact entry in `from..to`.
    pub async fn next_entry(
        &mut self,
        from: LogOffset,
        to: LogOffset,
    ) -> Result<Option<LogOffset>, DiskError> {
        let mut at = from;
        while at < to
            && self.segment(at).is_some_and(|(range, _)| at.plus(HEADER_SIZE as u64) <= range.end)
        {
            self.load(at, HEADER_SIZE).await?;
            let window = self.window.clone();
            for place in candidates(&window, at).filter(|&place| place < to) {
                if let Parsed::Entry(_) = self.parse_at(place).await? {
                    return Ok(Some(place));
                }
            }
            at = LogOffset(window.end() - OWN_OFFSET_AT as u64);
        }
        Ok(None)
    }

    pub fn has_unreadable(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// The bytes at `range`; zeros for what is unreadable or in no segment.
    pub async fn copy(&mut self, range: Range<LogOffset>) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
        let mut done = 0;
        while done < bytes.len() {
            let at = range.start.plus(done as u64);
            if self.segment(at).is_none() {
                break;
            }
            self.load(at, HEADER_SIZE).await?;
            let found = self.window.from(at);
            let count = found.len().min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&found[..count]);
            done += count.max(BLOCK_SIZE);
        }
        Ok(bytes)
    }

    /// The error, if not a single block could be read.
    pub fn reads_nothing(&self) -> Option<DiskError> {
        let missing: u64 =
            self.unreadable.iter().map(|(range, _)| range.end.0 - range.start.0).sum();
        let (_, error) = self.unreadable.last()?;
        (missing == self.bytes_read).then(|| error.clone())
    }

    /// Whether the reader has the segment at `at`.
    pub fn has(&self, at: LogOffset) -> bool {
        self.segment(at).is_some()
    }

    /// Drops the segments that end at `at` or before, which it keeps open even if they are deleted.
    pub fn drop_before(&mut self, at: LogOffset) {
        let passed = self.segments.iter().take_while(|(range, _)| range.end <= at).count();
        self.segments.drain(..passed);
    }

    fn segment(&self, at: LogOffset) -> Option<&(Range<LogOffset>, F)> {
        let after = self.segments.partition_point(|(range, _)| range.start <= at);
        let found = &self.segments[after.checked_sub(1)?];
        found.0.contains(&at).then_some(found)
    }

    async fn consider(
        &mut self,
        place: LogOffset,
        chain: &Chain,
        after: &mut AfterHole,
    ) -> Result<(), DiskError> {
        let trusts_lags = self.trusts_lags;
        match self.parse_at(place).await? {
            Parsed::Entry(entry) if chain.accepts_later(&entry.header) => {
                after.first.get_or_insert(place);
                if trusts_lags {
                    let proven = entry.header.proves_durable();
                    after.proven_durable = after.proven_durable.max(proven);
                }
                after.last_end = after.last_end.max(entry.header.end());
            }
            Parsed::Nothing { claimed_size: None } | Parsed::Truncated { .. } => return Ok(()),
            Parsed::Entry(_) | Parsed::Nothing { .. } | Parsed::Unsupported { .. } => {}
        }
        after.wipe_to = after.wipe_to.max(place.plus(HEADER_SIZE as u64));
        Ok(())
    }

    /// Loads a window that begins with the block of `at` and contains at least `needs` bytes from
    /// there, limited by the segment.
    async fn load(&mut self, at: LogOffset, needs: usize) -> Result<(), DiskError> {
        let Some((range, file)) = self.segment(at) else { return Ok(()) };
        let base = block_floor(at.0);
        let room = usize::try_from(range.end.0 - base).unwrap_or(usize::MAX);
        let wanted = ((at.0 - base) as usize + needs).next_multiple_of(BLOCK_SIZE);
        let (size, file) =
            (wanted.max(self.read_size.next_multiple_of(BLOCK_SIZE)).min(room), file.clone());
        let start = range.start.0;
        let bytes = match file.read(base - start, size).await {
            Ok(bytes) => bytes,
            Err(error) if may_be_one_block(&error) => {
                self.read_block_by_block(&file, start, base, size).await?
            }
            Err(error) => return Err(error),
        };
        self.bytes_read += size as u64;
        self.window = Window { base, bytes };
        Ok(())
    }

    async fn read_block_by_block(
        &mut self,
        file: &F,
        start: u64,
        base: u64,
        size: usize,
    ) -> Result<Rc<dyn AsRef<[u8]>>, DiskError> {
        let mut bytes = vec![0; size];
        for (index, block) in bytes.chunks_mut(BLOCK_SIZE).enumerate() {
            let at = base + (index * BLOCK_SIZE) as u64;
            match file.read(at - start, BLOCK_SIZE).await {
                Ok(found) => block.copy_from_slice((*found).as_ref()),
                Err(error) if may_be_one_block(&error) => {
                    let range = LogOffset(at)..LogOffset(at + BLOCK_SIZE as u64);
                    self.unreadable.push((range, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Rc::new(bytes))
    }
}

pub fn may_be_one_block(error: &DiskError) -> bool {
    matches!(error.kind, DiskErrorKind::Io(_) | DiskErrorKind::Short { .. })
}

/// Places in the window, from `at` on, whose own-offset field has their offset.
fn candidates(window: &Window, at: LogOffset) -> impl Iterator<Item = LogOffset> {
    let first = at.0 + OWN_OFFSET_AT as u64;
    let bytes = window.from(LogOffset(first));
    let whole = bytes.len() / size_of::<U64>() * size_of::<U64>();
    let words = <[U64]>::ref_from_bytes(&bytes[..whole]).expect("any whole number of words");
    let places = (at.0..).step_by(ENTRY_ALIGN);
    words
        .iter()
        .zip(places)
        .filter(|(word, place)| word.get() == *place)
        .map(|(_, place)| LogOffset(place))
}
