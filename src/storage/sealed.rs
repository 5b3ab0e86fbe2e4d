//! The index file of a sealed segment: written once, never changed, rebuilt from the log if it is
//! lost.
//!
//! ```text
//!   block 0           head
//!   then              fences: the first run of every block of runs, when there are several
//!   then              runs, by queue: where its messages are in this file   (the directory)
//!   then              marks: places in the segment where an entry begins
//!   then              messages, run by run
//! ```
//!
//! Every block has its own checksum, number and segment, so a reader may load any part of the file
//! alone. Messages are addressed by slot, counted from the beginning of the file, so a division
//! gives the block and the position in it. A run is found by searching the fences, then one block.
//! Everything here is pure; [`sealing`](super::sealing) builds the blocks.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::{LogOffset, QueueId};
use crate::storage::disk::BLOCK_SIZE;
use crate::storage::links::{IndexLink, LINK_COUNT, Links, decode};
use crate::storage::located::{IndexMessage, QueueKey};

/// Precedes every block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockHead {
    /// CRC32C of the rest of the block; starts from the shard's seed.
    pub checksum: U32,
    /// Counts the blocks of the file from 0.
    pub number: U32,
    /// Base of the segment.
    pub segment: U64,
}

/// Body of block 0; the rest of it is zeros.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexHead {
    pub magic: [u8; 8],
    pub version: U32,
    pub run_count: U32,
    pub mark_count: U32,
    pub message_count: U32,
    pub segment_end: U64,
    /// Earliest and latest store time in the segment; both 0 if it has no message.
    pub first_stored_ms: U64,
    pub last_stored_ms: U64,
}

/// The sort key of a run: topic, queue, queue offset.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IndexFence {
    pub topic: U32,
    pub queue: U32,
    /// Queue offset of the first message.
    pub first: U64,
}

/// Messages of one queue with consecutive queue offsets.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IndexRun {
    pub topic: U32,
    pub queue: U32,
    /// Queue offset of the first message.
    pub first: U64,
    /// Slot of the first message.
    pub start: U32,
    pub count: U32,
    /// To older segments with messages of the queue.
    pub links: [IndexLink; LINK_COUNT],
}

pub const INDEX_MAGIC: [u8; 8] = *b"RINGMQIX";
pub const INDEX_VERSION: u32 = 2;

/// Bytes of a block after its head.
pub const BODY_SIZE: usize = BLOCK_SIZE - size_of::<BlockHead>();
pub const FENCES_PER_BLOCK: usize = BODY_SIZE / size_of::<IndexFence>();
pub const RUNS_PER_BLOCK: usize = BODY_SIZE / size_of::<IndexRun>();
pub const MARKS_PER_BLOCK: usize = BODY_SIZE / size_of::<U32>();
pub const MESSAGES_PER_BLOCK: usize = BODY_SIZE / size_of::<IndexMessage>();
/// Blocks that are loaded and kept together.
pub const BLOCKS_PER_PAGE: usize = 16;
/// Bytes that are loaded and kept together.
pub const PAGE_SIZE: usize = BLOCKS_PER_PAGE * BLOCK_SIZE;
/// Distance of marks in the segment, bytes, unless an entry is larger.
pub const MARK_DISTANCE: u64 = 64 << 10;

const _: () = {
    assert!(size_of::<BlockHead>() == 16);
    assert!(size_of::<IndexHead>() == 48);
    assert!(size_of::<IndexFence>() == 16);
    assert!(size_of::<IndexRun>() == 48);
    assert!(FENCES_PER_BLOCK * size_of::<IndexFence>() == BODY_SIZE);
    assert!(RUNS_PER_BLOCK * size_of::<IndexRun>() == BODY_SIZE);
    assert!(MESSAGES_PER_BLOCK * size_of::<IndexMessage>() == BODY_SIZE);
};

impl IndexFence {
    pub fn new(key: QueueKey, first: u64) -> Self {
        Self { topic: U32::new(key.topic), queue: U32::new(key.queue.0), first: U64::new(first) }
    }

    pub fn place(&self) -> (QueueKey, u64) {
        let queue = QueueId(self.queue.get());
        (QueueKey { topic: self.topic.get(), queue }, self.first.get())
    }
}

impl IndexRun {
    pub fn key(&self) -> QueueKey {
        QueueKey { topic: self.topic.get(), queue: QueueId(self.queue.get()) }
    }

    pub fn place(&self) -> (QueueKey, u64) {
        (self.key(), self.first.get())
    }

    /// Queue offset after the last message.
    pub fn end(&self) -> u64 {
        self.first.get() + u64::from(self.count.get())
    }

    /// `segment` is the base of the segment that the file is about.
    pub fn links(&self, segment: LogOffset) -> Links {
        decode(&self.links, segment, self.first.get())
    }
}

/// How many blocks each part of a file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub run_count: usize,
    pub mark_count: usize,
    message_blocks: usize,
}

impl Layout {
    pub fn new(run_count: usize, mark_count: usize, message_count: usize) -> Self {
        let message_blocks = message_count.div_ceil(MESSAGES_PER_BLOCK);
        Self { run_count, mark_count, message_blocks }
    }

    pub fn of(head: &IndexHead) -> Self {
        let [runs, marks, messages] =
            [head.run_count, head.mark_count, head.message_count].map(|count| count.get() as usize);
        Self::new(runs, marks, messages)
    }

    pub fn run_blocks(&self) -> usize {
        self.run_count.div_ceil(RUNS_PER_BLOCK)
    }

    /// Number of the first block of runs. Fences precede it, from block 1 on.
    pub fn runs_at(&self) -> usize {
        let fence_blocks = match self.run_blocks() {
            0 | 1 => 0,
            run_blocks => run_blocks.div_ceil(FENCES_PER_BLOCK),
        };
        1 + fence_blocks
    }

    /// Number of the first block of marks.
    pub fn marks_at(&self) -> usize {
        self.runs_at() + self.run_blocks()
    }

    pub fn mark_blocks(&self) -> usize {
        self.mark_count.div_ceil(MARKS_PER_BLOCK)
    }

    pub fn messages_at(&self) -> usize {
        self.marks_at() + self.mark_blocks()
    }

    pub fn block_count(&self) -> usize {
        self.messages_at() + self.message_blocks
    }

    pub fn size(&self) -> u64 {
        (self.block_count() * BLOCK_SIZE) as u64
    }
}

/// Fills `body` with as many items as it holds.
pub fn put<T: IntoBytes + Immutable>(body: &mut [u8], items: impl Iterator<Item = T>) {
    for (place, item) in body.chunks_exact_mut(size_of::<T>()).zip(items) {
        place.copy_from_slice(item.as_bytes());
    }
}

/// Writes the head of a block whose body is complete.
pub fn seal_block(block: &mut [u8], number: u32, segment: LogOffset, seed: u32) {
    let mut head =
        BlockHead { checksum: U32::ZERO, number: U32::new(number), segment: U64::new(segment.0) };
    block[..size_of::<BlockHead>()].copy_from_slice(head.as_bytes());
    head.checksum.set(crc32c::crc32c_append(seed, &block[size_of::<U32>()..]));
    block[..size_of::<BlockHead>()].copy_from_slice(head.as_bytes());
}

/// The body of block `number`, if `block` contains it and is intact.
pub fn open_block(block: &[u8], number: usize, segment: LogOffset, seed: u32) -> Option<&[u8]> {
    let (head, body) = BlockHead::ref_from_prefix(block).ok()?;
    let is_intact = body.len() == BODY_SIZE
        && head.number.get() as usize == number
        && head.segment.get() == segment.0
        && head.checksum.get() == crc32c::crc32c_append(seed, &block[size_of::<U32>()..]);
    is_intact.then_some(body)
}

/// Whether all blocks of a page, of which `first` is the first block's number, are intact.
pub fn is_page_intact(page: &[u8], first: usize, segment: LogOffset, seed: u32) -> bool {
    let mut blocks = page.chunks(BLOCK_SIZE).enumerate();
    blocks.all(|(index, block)| open_block(block, first + index, segment, seed).is_some())
}

/// The head in block 0, if its version is supported.
pub fn open_head(block: &[u8], segment: LogOffset, seed: u32) -> Option<IndexHead> {
    let body = open_block(block, 0, segment, seed)?;
    let (head, _) = IndexHead::read_from_prefix(body).ok()?;
    (head.magic == INDEX_MAGIC && head.version.get() == INDEX_VERSION).then_some(head)
}

/// The slots for items in the body of a block. The layout says how many are used.
pub fn items<T: FromBytes + Immutable + KnownLayout + Unaligned>(body: &[u8]) -> &[T] {
    let whole = body.len() / size_of::<T>() * size_of::<T>();
    <[T]>::ref_from_bytes(&body[..whole]).expect("any whole number of items")
}

/// The body of block `number`, from an intact page that begins with block `first`.
pub fn body_in_page(page: &[u8], first: usize, number: usize) -> Option<&[u8]> {
    let at = number.checked_sub(first)? * BLOCK_SIZE;
    page.get(at + size_of::<BlockHead>()..at + BLOCK_SIZE)
}

/// The block that contains the message in `slot`.
pub fn block_of_slot(slot: u32) -> usize {
    slot as usize / MESSAGES_PER_BLOCK
}

/// The message in `slot`, from a page whose first block has the number `first`.
pub fn message_in_page(page: &[u8], first: usize, slot: u32) -> Option<IndexMessage> {
    let body = body_in_page(page, first, block_of_slot(slot))?;
    items(body).get(slot as usize % MESSAGES_PER_BLOCK).copied()
}

/// Positions in a segment at which entries begin, [`MARK_DISTANCE`] apart or more. An entry begins at
/// `position`.
pub fn note_mark(marks: &mut Vec<u32>, position: u64) {
    if marks.last().is_none_or(|&last| position >= u64::from(last) + MARK_DISTANCE) {
        marks.push(u32::try_from(position).expect("segments are below 4 GiB"));
    }
}
