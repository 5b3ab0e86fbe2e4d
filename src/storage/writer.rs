//! The end of the log in memory: where entries are placed, and how buffers become writes.
//!
//! Entries are assembled in the open buffer, which the device later reads from; only the payload is
//! copied, once. A full buffer is sealed: a filler entry pads it to a block boundary, and the next
//! buffer begins there. If the open buffer is written before it is full, the rest of its last block
//! is zeros, and the next buffer begins with a copy of that block. The same holds for entries of
//! another replica of the log ([`raw`](super::raw)), which bring their own fillers.
//!
//! Invariants: every buffer begins at a block boundary of the log; an entry lies in one buffer and
//! one segment; after the last entry of a buffer or segment there is either no space or room for a
//! filler.
//!
//! No I/O here: [`store`](super::store) performs the writes. [`group_commit`](super::group_commit)
//! decides which may run at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use zerocopy::IntoBytes;

use crate::model::LogOffset;
use crate::storage::append::{Append, Appended};
use crate::storage::disk::{BLOCK_SIZE, BlockBuffer};
use crate::storage::entry::{EntryKind, HEADER_SIZE, NewEntry, entry_size};
use crate::storage::error::EpochError;
use crate::storage::group_commit::{GroupCommit, Take};
use crate::storage::raw::{RawEntry, RawStart};
use crate::storage::segment::{block_ceil, block_floor};

/// Bytes of an ordinary write buffer. Larger writes gained nothing on any disk we measured.
pub const WRITE_SIZE: usize = 1 << 20;
/// A write that fills less than its buffer divided by this is copied to a smaller one, so that the
/// tail cache does not hold a large buffer for a small write.
const COPY_FRACTION: usize = 4;
/// When other writes are in flight, an open buffer with at least this many new bytes is sealed
/// rather than split, so that the next buffer need not wait for it. The filler costs the device no
/// more than writing the shared block twice.
const SEAL_EARLY_SIZE: u64 = 128 << 10;

/// A write to perform.
pub struct Write<B> {
    /// Log offset of the buffer's first byte.
    pub base: u64,
    pub buffer: Rc<B>,
    /// Allocated memory, bytes; exceeds the contents if the buffer was truncated.
    pub memory: usize,
    /// The part of the log that this write completes.
    pub range: Range<u64>,
}

/// Where the log continues after recovery.
#[derive(Clone, Copy, Debug)]
pub struct WriterStart {
    pub end: u64,
    pub segment_end: u64,
    pub epoch: u32,
    /// Epoch of the newest entry; 0 without one.
    pub last_epoch: u32,
    pub next_ordinal: u64,
    pub seed: u32,
}

pub struct Writer<B> {
    seed: u32,
    /// Epoch of new entries.
    epoch: u32,
    /// Epoch of the newest entry. Not above `epoch`.
    last_epoch: u32,
    next_ordinal: u64,
    /// The newest entry came from another replica, and so will its filler.
    is_raw: bool,
    /// Everything below is on stable media.
    durable: u64,
    segment_end: u64,
    open: OpenBuffer<B>,
    /// In the order of the sealed ranges in `commit`.
    sealed: VecDeque<Filled<B>>,
    commit: GroupCommit,
    padding_bytes: u64,
}

struct OpenBuffer<B> {
    buffer: B,
    base: u64,
    len: usize,
}

struct Filled<B> {
    base: u64,
    buffer: B,
    memory: usize,
}

impl<B: BlockBuffer> Writer<B> {
    /// `prefix` is the content of the log's last, partial block.
    pub fn new(start: WriterStart, prefix: &[u8], alloc: impl Fn(usize) -> B) -> Self {
        let base = block_floor(start.end);
        assert!(prefix.len() as u64 == start.end - base && start.end <= start.segment_end);
        let room = usize::try_from(start.segment_end - base).unwrap_or(WRITE_SIZE);
        let mut buffer = alloc(room.clamp(BLOCK_SIZE, WRITE_SIZE));
        buffer.as_mut()[..prefix.len()].copy_from_slice(prefix);
        Self {
            seed: start.seed,
            epoch: start.epoch,
            last_epoch: start.last_epoch,
            is_raw: false,
            next_ordinal: start.next_ordinal,
            durable: start.end,
            segment_end: start.segment_end,
            open: OpenBuffer { buffer, base, len: prefix.len() },
            sealed: VecDeque::new(),
            commit: GroupCommit::new(start.end),
            padding_bytes: 0,
        }
    }

    pub fn written(&self) -> u64 {
        self.commit.written()
    }

    pub fn end(&self) -> u64 {
        self.commit.end()
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// Epoch of new entries.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Epoch of the newest entry; 0 without one.
    pub fn last_epoch(&self) -> u32 {
        self.last_epoch
    }

    /// Begins an epoch: new entries have it from now on.
    pub fn begin_epoch(&mut self, epoch: u32) -> Result<(), EpochError> {
        if epoch < self.epoch {
            return Err(EpochError { given: epoch, found: self.epoch });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Takes over from `old`, whose end was cut off or which was replaced, the state that is not in
    /// the entries.
    pub fn continue_from(&mut self, old: &Self) {
        self.epoch = self.epoch.max(old.epoch);
        self.padding_bytes = old.padding_bytes;
    }

    /// Where raw entries must continue, in a segment that ends at `segment_end`.
    pub fn raw_start(&self, segment_end: u64) -> RawStart {
        RawStart {
            end: LogOffset(self.end()),
            segment_end: LogOffset(segment_end),
            next_ordinal: self.next_ordinal,
            epoch: self.last_epoch,
            seed: self.seed,
        }
    }

    /// Where the current segment ends.
    pub fn segment_end(&self) -> u64 {
        self.segment_end
    }

    /// Bytes of fillers, including what they cover.
    pub fn padding_bytes(&self) -> u64 {
        self.padding_bytes
    }

    pub fn commit(&self) -> &GroupCommit {
        &self.commit
    }

    /// Records that everything below `mark` is on stable media.
    pub fn handle_durable(&mut self, mark: u64) {
        assert!(mark <= self.written());
        self.durable = self.durable.max(mark);
    }

    /// What has not been taken for a write yet, from `at` to the end of its buffer. A buffer may end
    /// with zeros in place of what the next one has, so the newest counts.
    pub fn peek(&self, at: LogOffset) -> Option<&[u8]> {
        let open = (self.open.base, &self.open.buffer.as_ref()[..self.open.len]);
        let sealed = self.sealed.iter().map(|filled| (filled.base, filled.buffer.as_ref()));
        [open].into_iter().chain(sealed.rev()).find_map(|(base, bytes)| {
            let skip = usize::try_from(at.0.checked_sub(base)?).ok()?;
            bytes.get(skip..).filter(|rest| !rest.is_empty())
        })
    }

    /// Whether an entry of `size` bytes fits into the current segment.
    pub fn segment_has_room(&self, size: usize) -> bool {
        self.open_fits(size) || leaves_room(size as u64, self.segment_end - self.sealed_end())
    }

    /// Closes the current segment and continues in the one at `next`.
    pub fn roll(&mut self, next: Range<u64>, alloc: impl Fn(usize) -> B) {
        assert!(next.start == self.segment_end && self.open.end() <= self.segment_end);
        if self.open.end() < self.segment_end && !self.open_fits(HEADER_SIZE) {
            self.seal_and_open(self.sealed_end(), 0, &alloc);
        }
        self.segment_end = next.end;
        self.seal_and_open(next.start, 0, alloc);
    }

    /// Appends an entry for which [`segment_has_room`](Self::segment_has_room).
    pub fn append(
        &mut self,
        append: Append,
        fill: impl FnOnce(&mut [u8], LogOffset),
        alloc: impl Fn(usize) -> B,
    ) -> Appended {
        let Append { kind, subject, payload_size, .. } = append;
        let size = entry_size(payload_size);
        if !self.open_fits(size) {
            self.seal_and_open(self.sealed_end(), size, alloc);
        }
        let new = self.new_entry(kind, subject);
        let payload_offset = new.at.plus(HEADER_SIZE as u64);
        let entry = self.open.place(size);
        fill(&mut entry[HEADER_SIZE..HEADER_SIZE + payload_size], payload_offset);
        new.seal(entry, payload_size, self.seed);
        self.commit.handle_append(self.open.end());
        Appended { entry_offset: new.at, payload_offset, end: LogOffset(self.open.end()) }
    }

    /// Appends an entry that continues [`raw_start`](Self::raw_start). Adds no filler: if the entry
    /// does not fit into the open buffer, that buffer is split off, possibly inside a block.
    pub fn append_raw(&mut self, raw: &RawEntry<'_>, alloc: impl Fn(usize) -> B) {
        let header = raw.entry.header;
        if !self.open_fits(raw.bytes.len()) {
            self.split_off(raw.bytes.len(), &alloc);
        }
        self.open.place(raw.bytes.len()).copy_from_slice(raw.bytes);
        let end = header.end().0;
        self.commit.handle_append(end);
        self.next_ordinal = header.ordinal.get() + 1;
        self.last_epoch = header.epoch.get();
        self.epoch = self.epoch.max(self.last_epoch);
        self.is_raw = true;
        if raw.entry.kind == EntryKind::FILLER {
            self.padding_bytes += header.size();
            let next = self.new_buffer(end, 0, &alloc);
            let spent = std::mem::replace(&mut self.open, next);
            self.commit.handle_seal();
            self.sealed.push_back(spent.filled());
        }
    }

    /// The next write that may begin now.
    pub fn poll_write(&mut self, alloc: impl Fn(usize) -> B) -> Option<Write<B>> {
        if let Some(Take::Open(range)) = self.commit.peek_write()
            && self.should_seal_early(&range)
        {
            self.seal_and_open(self.sealed_end(), 0, &alloc);
        }
        let (filled, range) = match self.commit.poll_write()? {
            Take::Sealed(index, range) => {
                (self.sealed.remove(index).expect("one buffer per sealed range"), range)
            }
            Take::Open(range) => (self.split(alloc), range),
        };
        let Filled { base, buffer, memory } = filled;
        Some(Write { base, buffer: Rc::new(buffer), memory, range })
    }

    /// Records that the write of the range that begins at `start` succeeded. Returns whether the
    /// written watermark advanced.
    pub fn handle_written(&mut self, start: u64) -> bool {
        self.commit.handle_written(start)
    }

    pub fn fence(&mut self) {
        self.commit.fence();
    }

    fn open_fits(&self, size: usize) -> bool {
        leaves_room(size as u64, self.open.limit(self.segment_end) - self.open.end())
    }

    /// Where the open buffer ends once it is sealed.
    fn sealed_end(&self) -> u64 {
        let end = self.open.end();
        if block_floor(end) == end { end } else { block_ceil(end + HEADER_SIZE as u64) }
    }

    fn should_seal_early(&self, pending: &Range<u64>) -> bool {
        let new_bytes = pending.end - pending.start;
        let ends_inside_a_block = block_floor(pending.end) != pending.end;
        !self.is_raw
            && self.commit.in_flight_count() > 0
            && new_bytes >= SEAL_EARLY_SIZE
            && ends_inside_a_block
    }

    /// Seals the open buffer, padding it to `end` with a filler if it is shorter, and opens the
    /// next one there, with room for an entry of `size` bytes.
    fn seal_and_open(&mut self, end: u64, size: usize, alloc: impl Fn(usize) -> B) {
        if self.open.end() < end {
            self.fill_up(end);
        }
        let next = self.new_buffer(end, size, alloc);
        let spent = std::mem::replace(&mut self.open, next);
        if spent.len > 0 {
            self.commit.handle_seal();
            self.sealed.push_back(spent.filled());
        }
    }

    fn new_buffer(&self, base: u64, size: usize, alloc: impl Fn(usize) -> B) -> OpenBuffer<B> {
        let room = usize::try_from(self.segment_end - base).unwrap_or(usize::MAX);
        let wanted = (size + HEADER_SIZE).next_multiple_of(BLOCK_SIZE).max(WRITE_SIZE);
        OpenBuffer { buffer: alloc(wanted.min(room).max(BLOCK_SIZE)), base, len: 0 }
    }

    /// Lets the contents of the open buffer be written without what follows.
    pub fn split_open(&mut self, alloc: impl Fn(usize) -> B) {
        if self.commit.has_open() {
            let filled = self.split(alloc);
            self.commit.handle_split();
            self.sealed.push_back(filled);
        }
    }

    /// Takes the contents of the open buffer for a write. The next buffer begins with a copy of the
    /// last block, unless that block is full.
    fn split(&mut self, alloc: impl Fn(usize) -> B) -> Filled<B> {
        let (base, len) = (self.open.base, self.open.len);
        let (tail, size) = (len - len % BLOCK_SIZE, len.next_multiple_of(BLOCK_SIZE));
        if size * COPY_FRACTION <= self.open.buffer.as_ref().len() {
            let mut buffer = alloc(size);
            let open = self.open.buffer.as_mut();
            buffer.as_mut()[..len].copy_from_slice(&open[..len]);
            buffer.as_mut()[len..size].fill(0);
            open.copy_within(tail..len, 0);
            self.open.base += tail as u64;
            self.open.len -= tail;
            return Filled { base, buffer, memory: size };
        }
        let mut next = self.new_buffer(base + tail as u64, 0, alloc);
        next.place(len - tail).copy_from_slice(&self.open.buffer.as_ref()[tail..len]);
        let spent = std::mem::replace(&mut self.open, next);
        spent.filled()
    }

    /// Opens a buffer with room for `size` more bytes that begins with a copy of the open buffer's
    /// last block.
    fn split_off(&mut self, size: usize, alloc: impl Fn(usize) -> B) {
        let tail = self.open.len - self.open.len % BLOCK_SIZE;
        let prefix = self.open.len - tail;
        let mut next = self.new_buffer(self.open.base + tail as u64, prefix + size, alloc);
        next.place(prefix).copy_from_slice(&self.open.buffer.as_ref()[tail..self.open.len]);
        let spent = std::mem::replace(&mut self.open, next);
        if self.commit.has_open() {
            self.commit.handle_split();
            self.sealed.push_back(spent.filled());
        }
    }

    fn fill_up(&mut self, end: u64) {
        let size = end - self.open.end();
        let header = self.new_entry(EntryKind::FILLER, 0).filler(size, self.seed);
        self.open.place(HEADER_SIZE).copy_from_slice(header.as_bytes());
        self.commit.handle_append(end);
        self.padding_bytes += size;
    }

    fn new_entry(&mut self, kind: EntryKind, subject: u32) -> NewEntry {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.last_epoch = self.epoch;
        self.is_raw = false;
        let (at, durable) = (LogOffset(self.open.end()), LogOffset(self.durable));
        NewEntry { kind, subject, at, ordinal, epoch: self.epoch, durable }
    }
}

impl<B: BlockBuffer> OpenBuffer<B> {
    fn end(&self) -> u64 {
        self.base + self.len as u64
    }

    /// Up to where the buffer may be filled, in a segment that ends at `segment_end`.
    fn limit(&self, segment_end: u64) -> u64 {
        segment_end.min(self.base + self.buffer.as_ref().len() as u64)
    }

    fn place(&mut self, size: usize) -> &mut [u8] {
        let placed = &mut self.buffer.as_mut()[self.len..self.len + size];
        self.len += size;
        placed
    }

    /// The buffer, ready to write: whole blocks, every byte specified.
    fn filled(mut self) -> Filled<B> {
        let memory = self.buffer.as_ref().len();
        let size = self.len.next_multiple_of(BLOCK_SIZE);
        self.buffer.as_mut()[self.len..size].fill(0);
        self.buffer.truncate(size);
        Filled { base: self.base, buffer: self.buffer, memory }
    }
}

/// Whether an entry of `size` bytes fits into `rest` bytes and leaves either nothing or room for a
/// filler.
fn leaves_room(size: u64, rest: u64) -> bool {
    size == rest || size + HEADER_SIZE as u64 <= rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Rng;
    use crate::storage::append::SpaceClass;
    use crate::storage::entry::{Entry, PAYLOAD_SIZE_MAX, Parsed, parse};
    use crate::storage::raw;

    const SEED: u32 = 3;
    const MESSAGES: EntryKind = EntryKind(3);

    struct Memory(Vec<u8>);

    impl AsRef<[u8]> for Memory {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl AsMut<[u8]> for Memory {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    impl BlockBuffer for Memory {
        fn truncate(&mut self, size: usize) {
            self.0.truncate(size);
        }
    }

    /// Memory in which unfilled bytes are recognizable.
    fn alloc(size: usize) -> Memory {
        assert!(size > 0 && size.is_multiple_of(BLOCK_SIZE));
        Memory(vec![0xEE; size])
    }

    fn writer(segment_end: u64) -> Writer<Memory> {
        let (epoch, last_epoch, next_ordinal) = (1, 0, 1);
        let start =
            WriterStart { end: 0, segment_end, epoch, last_epoch, next_ordinal, seed: SEED };
        Writer::new(start, &[], alloc)
    }

    /// The raw entries in `image`, one by one.
    fn raw_entries(image: &[u8], segment_end: u64) -> Vec<&[u8]> {
        let raw = |entry: &Entry<'_>| {
            let at = entry.header.own_offset.get() as usize;
            let is_filler = entry.kind == EntryKind::FILLER;
            let size = if is_filler { HEADER_SIZE } else { entry.header.size() as usize };
            &image[at..at + size]
        };
        walk(image, segment_end).iter().map(raw).collect()
    }

    /// Appends whole entries of another log, in the segment where the first one belongs.
    fn append_raw(writer: &mut Writer<Memory>, bytes: &[u8], segment_size: u64) {
        if writer.end() == writer.segment_end() {
            let end = writer.segment_end();
            writer.roll(end..end + segment_size, alloc);
        }
        for entry in raw::check(bytes, writer.raw_start(writer.segment_end())).unwrap() {
            writer.append_raw(&entry, alloc);
        }
    }

    fn byte_at(payload_offset: LogOffset) -> u8 {
        (payload_offset.0 / 8) as u8
    }

    fn append(writer: &mut Writer<Memory>, size: usize) -> Appended {
        assert!(writer.segment_has_room(entry_size(size)));
        let fill = |payload: &mut [u8], at: LogOffset| payload.fill(byte_at(at));
        let append =
            Append { kind: MESSAGES, subject: 0, payload_size: size, space: SpaceClass::Ordinary };
        writer.append(append, fill, alloc)
    }

    /// Performs all possible writes on `image`, one after another.
    fn write_all(writer: &mut Writer<Memory>, image: &mut Vec<u8>) -> Vec<usize> {
        let mut sizes = Vec::new();
        while let Some(write) = writer.poll_write(alloc) {
            sizes.push((*write.buffer).as_ref().len());
            land(writer, &write, image);
        }
        sizes
    }

    fn land(writer: &mut Writer<Memory>, write: &Write<Memory>, image: &mut Vec<u8>) {
        let (base, bytes) = (write.base as usize, (*write.buffer).as_ref());
        image.resize(image.len().max(base + bytes.len()), 0);
        image[base..base + bytes.len()].copy_from_slice(bytes);
        writer.handle_written(write.range.start);
    }

    /// Walks `image` from its start; every byte must belong to an entry or be zero.
    fn walk(image: &[u8], segment_end: u64) -> Vec<Entry<'_>> {
        let mut entries: Vec<Entry<'_>> = Vec::new();
        let mut at = 0;
        while at < image.len() {
            let room = segment_end - at as u64 % segment_end;
            let Parsed::Entry(entry) = parse(&image[at..], LogOffset(at as u64), room, SEED) else {
                assert!(image[at..].iter().all(|&byte| byte == 0), "rubbish at {at}");
                break;
            };
            assert_eq!(entry.header.ordinal.get(), entries.len() as u64 + 1);
            at += entry.header.size() as usize;
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn the_log_reads_back_without_gaps_whatever_the_sizes() {
        const SEGMENT: u64 = 1 << 21;
        for seed in 0..40u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = move |below: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % below
            };
            let mut writer = writer(SEGMENT);
            let (mut image, mut count) = (Vec::new(), 0);
            for _ in 0..60 {
                let size = [next(200), 4000 + next(200), next(300_000), next(1_500_000)];
                let size = size[next(4) as usize] as usize;
                if !writer.segment_has_room(entry_size(size)) {
                    let end = writer.segment_end;
                    writer.roll(end..end + SEGMENT, alloc);
                }
                append(&mut writer, size);
                count += 1;
                if next(3) == 0 {
                    write_all(&mut writer, &mut image);
                }
            }
            write_all(&mut writer, &mut image);
            assert_eq!(writer.written(), writer.end(), "seed {seed}");
            let messages = walk(&image, SEGMENT)
                .into_iter()
                .filter(|entry| entry.kind == MESSAGES)
                .inspect(|entry| {
                    let at = entry.header.own_offset.get() + HEADER_SIZE as u64;
                    let byte = byte_at(LogOffset(at));
                    assert!(entry.payload.iter().all(|&b| b == byte), "seed {seed}");
                });
            assert_eq!(messages.count(), count, "seed {seed}");
        }
    }

    /// The result depends neither on the other log's buffers nor on when writes happen here.
    #[test]
    fn a_log_of_raw_entries_has_the_same_bytes_and_can_be_continued() {
        const SEGMENT: u64 = 1 << 21;
        for seed in 0..20 {
            let mut rng = Rng::from_seed(seed);
            let (mut first, mut other) = (writer(SEGMENT), writer(SEGMENT));
            let (mut image, mut copy) = (Vec::new(), Vec::new());
            let mut known = 0;
            for turn in 0..6 {
                for _ in 0..20 {
                    let sizes = [rng.below(200), 4000 + rng.below(200), rng.below(1_500_000)];
                    let size = *rng.pick(&sizes) as usize;
                    if !first.segment_has_room(entry_size(size)) {
                        let end = first.segment_end();
                        first.roll(end..end + SEGMENT, alloc);
                    }
                    append(&mut first, size);
                    if rng.chance(1, 3) {
                        write_all(&mut first, &mut image);
                    }
                }
                write_all(&mut first, &mut image);
                let mut in_flight = Vec::new();
                for bytes in &raw_entries(&image, SEGMENT)[known..] {
                    append_raw(&mut other, bytes, SEGMENT);
                    known += 1;
                    in_flight.extend(rng.coin().then(|| other.poll_write(alloc)).flatten());
                    if rng.coin() && !in_flight.is_empty() {
                        let write = in_flight.swap_remove(rng.index(in_flight.len()));
                        land(&mut other, &write, &mut copy);
                    }
                }
                in_flight.iter().for_each(|write| land(&mut other, write, &mut copy));
                write_all(&mut other, &mut copy);
                assert_eq!((other.written(), other.end()), (first.end(), first.end()));
                let (found, expected) = (raw_entries(&copy, SEGMENT), raw_entries(&image, SEGMENT));
                assert!(found == expected, "seed {seed}, turn {turn}");
                // The two logs swap roles.
                std::mem::swap(&mut first, &mut other);
                std::mem::swap(&mut image, &mut copy);
            }
        }
    }

    #[test]
    fn epochs_rise() {
        let mut writer = writer(1 << 20);
        assert_eq!((writer.epoch(), writer.last_epoch()), (1, 0));
        writer.begin_epoch(4).unwrap();
        assert_eq!((writer.epoch(), writer.last_epoch()), (4, 0), "nothing has it yet");
        append(&mut writer, 10);
        assert_eq!(writer.last_epoch(), 4);
        assert_eq!(writer.begin_epoch(3), Err(EpochError { given: 3, found: 4 }));
        writer.begin_epoch(4).unwrap();
    }

    #[test]
    fn a_small_write_takes_whole_blocks_and_the_last_one_is_written_again() {
        let mut writer = writer(1 << 28);
        let mut image = Vec::new();
        append(&mut writer, 100);
        assert_eq!(write_all(&mut writer, &mut image), [4096]);
        append(&mut writer, 5000);
        assert_eq!(write_all(&mut writer, &mut image), [8192]);
        assert_eq!(walk(&image, 1 << 28).len(), 2);
    }

    #[test]
    fn an_entry_larger_than_a_buffer_gets_one_of_its_own() {
        let mut writer = writer(1 << 28);
        append(&mut writer, 100);
        let large = append(&mut writer, PAYLOAD_SIZE_MAX);
        assert_eq!(large.entry_offset, LogOffset(4096));
        let mut image = Vec::new();
        write_all(&mut writer, &mut image);
        assert_eq!(walk(&image, 1 << 28).len(), 3);
    }

    #[test]
    fn a_concurrent_write_is_sealed_so_that_the_next_need_not_wait() {
        let mut writer = writer(1 << 28);
        append(&mut writer, 4096 - HEADER_SIZE);
        let first = writer.poll_write(alloc).unwrap();
        append(&mut writer, 200_000);
        let second = writer.poll_write(alloc).unwrap();
        append(&mut writer, 200_000);
        let third = writer.poll_write(alloc).expect("shares no block with the second");
        for write in [third, second, first] {
            writer.handle_written(write.range.start);
        }
        assert_eq!(writer.written(), writer.end());
    }

    #[test]
    fn an_entry_that_exactly_fills_the_segment_needs_no_filler() {
        let mut writer = writer(8192);
        append(&mut writer, 8192 - HEADER_SIZE);
        assert!(!writer.segment_has_room(HEADER_SIZE));
        writer.roll(8192..16384, alloc);
        append(&mut writer, 10);
        let mut image = Vec::new();
        write_all(&mut writer, &mut image);
        assert_eq!(walk(&image, 8192).len(), 2);
    }
}
