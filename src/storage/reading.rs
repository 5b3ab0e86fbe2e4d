//! Cold reads: messages that have left the tail cache, and searches by time and log offset. Direct
//! I/O; they share nothing with the write path except the device.
//!
//! A message is returned only if the checksum of its whole entry is correct.

use std::ops::Range;
use std::rc::Rc;

use zerocopy::FromBytes;

use crate::model::{Chunk, LogOffset, QueueOffset, Timestamp};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::entry::{
    ENTRY_ALIGN, Entry, EntryHeader, EntryKind, HEADER_SIZE, Parsed, parse,
};
use crate::storage::error::ReadError;
use crate::storage::index::Lookup;
use crate::storage::located::{Located, QueueKey};
use crate::storage::log::SegmentIndex;
use crate::storage::replay::Replayed;
use crate::storage::scan::LogReader;
use crate::storage::segment::{block_ceil, block_floor};
use crate::storage::slice::Slices;
use crate::storage::store::Store;

/// Maximum bytes per read, unless a single entry is larger.
pub const READ_SIZE: u64 = 1 << 20;

/// Messages further apart than this do not share a read, bytes: reading the gap would take longer
/// than another request.
const GAP_MAX: u64 = 64 << 10;
/// Bytes that a search for one entry reads after the requested offset, so that one read suffices for
/// most messages.
const READ_AFTER: usize = 16 << 10;
/// Messages that are a smaller part of their read than one in this many are copied out of it. A
/// reply that waits for a slow client then holds little more than its own size.
const COPY_FRACTION: usize = 4;

/// The part of an entry from a record on.
#[derive(Clone, Debug)]
pub struct EntryAt {
    pub kind: EntryKind,
    pub subject: u32,
    pub entry_offset: LogOffset,
    /// The payload from the requested position to its end.
    pub rest: Chunk,
}

impl EntryAt {
    fn new(header: &EntryHeader, rest: Chunk) -> Self {
        Self {
            kind: EntryKind(header.kind),
            subject: header.subject.get(),
            entry_offset: LogOffset(header.own_offset.get()),
            rest,
        }
    }
}

/// When a message was stored.
enum Stored {
    At(Timestamp),
    /// It is lost; the queue continues at `next`, if it does.
    Lost {
        next: Option<u64>,
    },
}

/// Bytes read from one segment.
struct Span {
    base: u64,
    bytes: Rc<dyn AsRef<[u8]>>,
    segment_end: u64,
}

impl<D: Disk> Store<D> {
    /// Reads messages in the given order. Neighbours share a read, so request adjacent messages in
    /// one call; the caller bounds the total.
    ///
    /// Returns at least the first message, and all up to the first that cannot be read. An error
    /// refers to the first; if it is [`ReadError::Damaged`], the index no longer shows that
    /// message.
    pub async fn read(&self, wanted: &[Located]) -> Result<Vec<Chunk>, ReadError> {
        let mut chunks = Vec::with_capacity(wanted.len());
        // Below this, messages are read one by one, because a shared read has failed.
        let mut single_below = 0;
        while let Some(first) = wanted.get(chunks.len()) {
            if let Some(chunk) = self.cached(first.offset, first.size) {
                chunks.push(chunk);
                continue;
            }
            let at = chunks.len();
            let hole = self.0.log.borrow().next_hole(first.entry_offset);
            let count = if at < single_below { 1 } else { neighbours(&wanted[at..], hole) };
            match self.read_group(&wanted[at..at + count], &mut chunks).await {
                Ok(()) => {}
                Err(_) if count > 1 => single_below = at + count,
                Err(_) if at > 0 => break,
                Err(error) => {
                    self.look_again(first, error).await?;
                    self.read_group(&wanted[..1], &mut chunks).await?;
                }
            }
        }
        Ok(chunks)
    }

    /// The entry that contains `offset`, which comes from a client and may be arbitrary.
    pub async fn read_entry_at(&self, offset: LogOffset) -> Result<EntryAt, ReadError> {
        if offset >= self.committed() {
            return Err(ReadError::Gone(offset));
        }
        self.0.log.borrow().check_readable(offset..offset.plus(1))?;
        if let Some(cached) = self.cached_entry_at(offset) {
            return Ok(cached);
        }
        let mut at = self.mark_before(offset).await?;
        let read_size = (offset.0 - at.0) as usize + READ_AFTER;
        let mut reader = self.reader_at(offset)?.with_read_size(read_size);
        loop {
            let Parsed::Entry(entry) = reader.parse_at(at).await? else {
                // Damage before it does not affect it.
                let after = reader.next_entry(at.plus(ENTRY_ALIGN as u64), offset.plus(1)).await?;
                at = after.ok_or_else(|| self.damage_or_gone(at))?;
                continue;
            };
            let header = entry.header;
            if offset < header.end() {
                let size = rest_size(&entry, offset).ok_or(ReadError::Gone(offset))?;
                return Ok(EntryAt::new(&header, reader.chunk(offset, size)));
            }
            at = header.end();
        }
    }

    /// As [`read_entry_at`](Self::read_entry_at), if the entry is still in memory.
    pub fn cached_entry_at(&self, offset: LogOffset) -> Option<EntryAt> {
        let log = &mut *self.0.log.borrow_mut();
        log.check_readable(offset..LogOffset(offset.0.checked_add(1)?)).ok()?;
        let segment = log.segment(offset)?;
        // A sealed segment has no marks in memory.
        let mark = mark_before(&segment.marks, segment.range.start, offset);
        let (start, bytes) = log.tail.buffer_around(offset)?;
        let begin = mark.max(start);
        let bytes = &bytes[(begin.0 - start.0) as usize..];
        let (at, bytes) = entry_around(offset, begin, bytes)?;
        match parse(bytes, at, bytes.len() as u64, log.config.checksum_seed) {
            Parsed::Entry(entry) => {
                let rest = log.tail.find(offset, rest_size(&entry, offset)?)?;
                Some(EntryAt::new(&entry.header, rest))
            }
            _ => None,
        }
    }

    /// Passes the entries of one segment from `from` on to `take`, until it returns false or `to`
    /// is reached. Skips damaged ones. Returns where the next call continues.
    pub async fn read_entries(
        &self,
        from: LogOffset,
        to: LogOffset,
        mut take: impl FnMut(&Replayed<'_>) -> bool,
    ) -> Result<LogOffset, ReadError> {
        let mut reader = self.reader_at(from)?;
        let mut slices = Slices::default();
        let mut at = from;
        while at < to {
            let Parsed::Entry(entry) = reader.parse_at(at).await? else {
                match reader.next_entry(at.plus(ENTRY_ALIGN as u64), to).await? {
                    Some(after) => at = after,
                    None => break,
                }
                continue;
            };
            at = entry.header.end();
            if entry.kind != EntryKind::FILLER && !take(&Replayed::new(&entry, true)) {
                return Ok(at);
            }
            slices.handled(1).await;
        }
        match reader.reads_nothing() {
            Some(fault) => Err(fault.into()),
            None => Ok(to),
        }
    }

    /// The first message stored at or after `time`, or the end if there is none. With `upper`, the
    /// last message stored at or before `time`, or the oldest if there is none.
    pub async fn offset_by_time(
        &self,
        key: QueueKey,
        time: Timestamp,
        upper: bool,
    ) -> Result<QueueOffset, ReadError> {
        let is_before = |stored: Timestamp| stored < time || (upper && stored == time);
        let Range { start, end } = self.with_index(|index| index.bounds(key));
        let (mut first, mut after) = (start, end);
        while first < after {
            let middle = first.midpoint(after);
            match self.stored_at(key, middle).await? {
                Stored::At(stored) if is_before(stored) => first = middle + 1,
                Stored::At(_) | Stored::Lost { next: None } => after = middle,
                // Lost messages have no time; the next one has.
                Stored::Lost { next: Some(next) } if next >= after => after = middle,
                Stored::Lost { next: Some(next) } => match self.stored_at(key, next).await? {
                    Stored::At(stored) if is_before(stored) => first = next + 1,
                    _ => after = middle,
                },
            }
        }
        let found = if upper { first.saturating_sub(1).max(start) } else { first };
        Ok(QueueOffset(found))
    }

    async fn stored_at(&self, key: QueueKey, offset: u64) -> Result<Stored, ReadError> {
        loop {
            match self.with_index(|index| index.find(key, QueueOffset(offset), 1)) {
                Lookup::Here(messages) => return Ok(Stored::At(messages[0].stored_at)),
                Lookup::Sealed(page) => self.load_index(page).await?,
                Lookup::Lost { next } => return Ok(Stored::Lost { next: Some(next.0) }),
                Lookup::Nothing => return Ok(Stored::Lost { next: None }),
            }
        }
    }

    async fn read_group(
        &self,
        group: &[Located],
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), ReadError> {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let begin = chunks.len();
        let mut span = self.read_span(first.entry_offset..last.end()).await?;
        let mut read_size = span.size();
        let mut checked: Option<(LogOffset, Range<u64>)> = None;
        for located in group {
            let at = located.entry_offset;
            if at.0 >= span.segment_end {
                // Neighbours in the log, in two files.
                span = self.read_span(at..last.end()).await?;
                read_size += span.size();
            }
            let payload = match &checked {
                Some((entry_offset, payload)) if *entry_offset == at => payload.clone(),
                _ => {
                    let payload = self.check_entry(&mut span, at).await?;
                    checked.insert((at, payload)).1.clone()
                }
            };
            let record = located.offset.0..located.end().0;
            if record.start < payload.start || record.end > payload.end {
                return Err(self.damage_or_gone(at));
            }
            chunks.push(span.chunk(record));
        }
        let_go(&mut chunks[begin..], read_size);
        Ok(())
    }

    /// Verifies the entry at `at` and returns the log offset of its payload. Reads on, exactly to
    /// the entry's end, if the span does not contain all of it.
    async fn check_entry(&self, span: &mut Span, at: LogOffset) -> Result<Range<u64>, ReadError> {
        let seed = self.0.log.borrow().config.checksum_seed;
        for _ in 0..3 {
            match span.parse(at, seed) {
                Parsed::Entry(entry) => {
                    let start = at.0 + HEADER_SIZE as u64;
                    return Ok(start..start + u64::from(entry.header.payload_size.get()));
                }
                Parsed::Truncated { needs } => {
                    *span = self.read_span(at..at.plus(needs as u64)).await?;
                }
                Parsed::Nothing { .. } | Parsed::Unsupported { .. } => break,
            }
        }
        Err(self.damage_or_gone(at))
    }

    /// Handles a message that could not be read because of `error`. Returns if it can be read now.
    /// Otherwise, if it is damaged, records the hole as recovery would: from the start of the entry
    /// to the next intact one.
    ///
    /// An unreadable block is damage too, but only while others can be read: a device that reads
    /// nothing at all has not lost anything yet.
    async fn look_again(&self, located: &Located, error: ReadError) -> Result<(), ReadError> {
        if let ReadError::Gone(_) = error {
            return Err(error);
        }
        let (at, end) = (located.entry_offset, located.end());
        let mut reader = self.reader_at(at)?;
        if self.is_readable(&mut reader, located).await? {
            return Ok(());
        }
        let aligned = LogOffset(end.0.next_multiple_of(ENTRY_ALIGN as u64));
        let search_end = self.committed().min(aligned.plus(READ_SIZE));
        let resume = reader.next_entry(aligned, search_end).await?.unwrap_or(aligned);
        if let Some(fault) = reader.reads_nothing() {
            return Err(fault.into());
        }
        // If the device has just recovered, it read the rest and can read this too.
        if reader.has_unreadable() && self.is_readable(&mut self.reader_at(at)?, located).await? {
            return Ok(());
        }
        // Another task may have found the same meanwhile, or the segment may have expired.
        self.0.log.borrow().check_readable(at..end)?;
        let hole = at..resume;
        self.0.log.borrow_mut().damaged.push(hole.clone());
        self.0.index.borrow_mut().hide(hole.clone());
        self.0.upkeep.borrow_mut().note_damage(hole);
        Err(ReadError::Damaged(at))
    }

    async fn is_readable(
        &self,
        reader: &mut LogReader<D::File>,
        located: &Located,
    ) -> Result<bool, ReadError> {
        let payload = located.entry_offset.plus(HEADER_SIZE as u64);
        match reader.parse_at(located.entry_offset).await? {
            Parsed::Entry(entry) => Ok(located.end() <= payload.plus(entry.payload.len() as u64)),
            _ => Ok(false),
        }
    }

    fn reader_at(&self, offset: LogOffset) -> Result<LogReader<D::File>, ReadError> {
        let mut log = self.0.log.borrow_mut();
        let segment = log.segment(offset).ok_or(ReadError::Gone(offset))?;
        let (range, file) = (segment.range.clone(), segment.file.clone());
        Ok(LogReader::new(vec![(range, file)], log.config.checksum_seed))
    }

    /// The data is not what the index promised: damage, unless the segment has expired meanwhile.
    fn damage_or_gone(&self, at: LogOffset) -> ReadError {
        if at < self.begin() { ReadError::Gone(at) } else { ReadError::Damaged(at) }
    }

    /// Reads `range`, rounded to whole blocks.
    async fn read_span(&self, range: Range<LogOffset>) -> Result<Span, ReadError> {
        let (file, start, segment_end) = {
            let mut log = self.0.log.borrow_mut();
            log.check_readable(range.clone())?;
            let segment = log.segment(range.start).ok_or(ReadError::Gone(range.start))?;
            (segment.file.clone(), segment.range.start.0, segment.range.end.0)
        };
        let base = block_floor(range.start.0);
        let end = block_ceil(range.end.0).min(segment_end);
        let bytes = file.read(base - start, (end - base) as usize).await?;
        Ok(Span { base, bytes, segment_end })
    }

    /// The start of an entry at or shortly before `offset`.
    async fn mark_before(&self, offset: LogOffset) -> Result<LogOffset, ReadError> {
        let (base, in_memory) = {
            let mut log = self.0.log.borrow_mut();
            let segment = log.segment(offset).ok_or(ReadError::Gone(offset))?;
            let base = segment.range.start;
            let marks = match segment.index {
                SegmentIndex::Memory => Some(mark_before(&segment.marks, base, offset)),
                SegmentIndex::File { .. } | SegmentIndex::Missing => None,
            };
            (base, marks)
        };
        if let Some(mark) = in_memory {
            return Ok(mark);
        }
        Ok(mark_before(&self.marks(base).await?, base, offset))
    }
}

impl Span {
    fn size(&self) -> usize {
        (*self.bytes).as_ref().len()
    }

    fn parse(&self, at: LogOffset, seed: u32) -> Parsed<'_> {
        let bytes = (*self.bytes).as_ref();
        let skip = at.0.checked_sub(self.base).and_then(|skip| usize::try_from(skip).ok());
        let bytes = skip.and_then(|skip| bytes.get(skip..)).unwrap_or_default();
        parse(bytes, at, self.segment_end.saturating_sub(at.0), seed)
    }

    /// The part at `range` of the log, which is in the span.
    fn chunk(&self, range: Range<u64>) -> Chunk {
        let start = (range.start - self.base) as usize;
        Chunk::new(self.bytes.clone(), start..start + (range.end - range.start) as usize)
    }
}

/// How many of `wanted` can share a read with the first. `hole` is the first damaged position after
/// it.
fn neighbours(wanted: &[Located], hole: LogOffset) -> usize {
    let start = wanted[0].entry_offset;
    let end_max = start.plus(READ_SIZE).min(hole);
    let (mut last, mut last_end) = (start, wanted[0].end());
    let others = wanted[1..].iter().take_while(|located| {
        let is_next = located.entry_offset >= last
            && located.entry_offset <= last_end.plus(GAP_MAX)
            && located.end() <= end_max;
        (last, last_end) = (located.entry_offset, located.end());
        is_next
    });
    1 + others.count()
}

/// Copies chunks that are a small part of their read.
fn let_go(chunks: &mut [Chunk], read_size: usize) {
    let size: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    if size * COPY_FRACTION > read_size {
        return;
    }
    let mut bytes = Vec::with_capacity(size);
    chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
    let all = Chunk::from_vec(bytes);
    let mut at = 0;
    for chunk in chunks {
        let end = at + chunk.len();
        *chunk = all.slice(at..end);
        at = end;
    }
}

/// Bytes of the payload from `offset` on, which is in the entry; `None` if it is not in the payload.
fn rest_size(entry: &Entry<'_>, offset: LogOffset) -> Option<usize> {
    let payload = entry.header.own_offset.get() + HEADER_SIZE as u64;
    let skip = usize::try_from(offset.0.checked_sub(payload)?).ok()?;
    entry.payload.len().checked_sub(skip).filter(|&size| size > 0)
}

/// The entry around `offset` and what follows it, from headers alone. `bytes` begin at `at`, with an
/// entry.
fn entry_around(
    offset: LogOffset,
    mut at: LogOffset,
    mut bytes: &[u8],
) -> Option<(LogOffset, &[u8])> {
    loop {
        let (header, _) = EntryHeader::ref_from_prefix(bytes).ok()?;
        if header.own_offset.get() != at.0 {
            return None;
        }
        if offset < header.end() {
            return Some((at, bytes));
        }
        bytes = bytes.get(usize::try_from(header.size()).ok()?..)?;
        at = header.end();
    }
}

fn mark_before(marks: &[u32], base: LogOffset, offset: LogOffset) -> LogOffset {
    let position = offset.0 - base.0;
    let after = marks.partition_point(|&mark| u64::from(mark) <= position);
    base.plus(after.checked_sub(1).map_or(0, |index| u64::from(marks[index])))
}
