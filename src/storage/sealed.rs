//! The index file of a sealed segment: written once, never changed, made again from the log when it
//! is lost.
//!
//! ```text
//!   block 0           head
//!   then              runs: per queue, where its messages are in this file   (the directory)
//!   then              marks: places in the segment where an entry begins
//!   then              messages, run by run
//! ```
//!
//! Every block checks itself: checksum, its number, its segment. So a reader may load any part of the
//! file alone. Messages are addressed by slot, counted from the beginning of the file, which makes
//! block and place in it a division. Everything here is pure.

use std::mem::size_of;
use std::rc::Rc;

use zerocopy::byteorder::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::{LogOffset, QueueId, Timestamp};
use crate::storage::disk::BLOCK_SIZE;
use crate::storage::index::{Located, QueueKey};

/// In front of every block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockHead {
    /// CRC32C of the rest of the block; starts from the shard's seed.
    pub checksum: U32,
    /// Counts the blocks of the file from 0.
    pub number: U32,
    /// Base of the segment this is about.
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
    /// Earliest and latest time at which a message of the segment was stored; both 0 without one.
    pub first_stored_ms: U64,
    pub last_stored_ms: U64,
}

/// Messages of one queue with consecutive queue offsets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexRun {
    pub topic: U32,
    pub queue: U32,
    /// Queue offset of the first message.
    pub first: U64,
    /// Slot of the first message.
    pub start: U32,
    pub count: U32,
    /// When the first and the last message of the run were stored.
    pub first_stored_ms: U64,
    pub last_stored_ms: U64,
}

/// One message. Also how the index keeps messages in memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexMessage {
    /// Where the record begins in the segment.
    pub position: U32,
    pub size: U32,
    pub tag_hash: I32,
    /// Where the record's entry begins in the segment.
    pub entry_position: U32,
    pub stored_ms: U64,
}

pub const INDEX_MAGIC: [u8; 8] = *b"RINGMQIX";
pub const INDEX_VERSION: u32 = 1;

/// Bytes of a block behind its head.
const BODY_SIZE: usize = BLOCK_SIZE - size_of::<BlockHead>();
pub const RUNS_PER_BLOCK: usize = BODY_SIZE / size_of::<IndexRun>();
pub const MARKS_PER_BLOCK: usize = BODY_SIZE / size_of::<U32>();
pub const MESSAGES_PER_BLOCK: usize = BODY_SIZE / size_of::<IndexMessage>();
/// Blocks that are loaded and kept together.
pub const BLOCKS_PER_PAGE: usize = 16;
/// Bytes that are loaded and kept together.
pub const PAGE_SIZE: usize = BLOCKS_PER_PAGE * BLOCK_SIZE;
/// A mark at least every so many bytes of segment, unless an entry is larger.
pub const MARK_DISTANCE: u64 = 64 << 10;

const _: () = {
    assert!(size_of::<BlockHead>() == 16);
    assert!(size_of::<IndexHead>() == 48);
    assert!(size_of::<IndexRun>() == 40);
    assert!(size_of::<IndexMessage>() == 24);
    assert!(RUNS_PER_BLOCK * size_of::<IndexRun>() == BODY_SIZE);
    assert!(MESSAGES_PER_BLOCK * size_of::<IndexMessage>() == BODY_SIZE);
};

impl IndexMessage {
    /// `segment` is the base of the segment that holds the message.
    pub fn new(located: &Located, segment: LogOffset) -> Self {
        let position = |offset: LogOffset| {
            let position = offset.0.checked_sub(segment.0).expect("the message is in the segment");
            U32::new(u32::try_from(position).expect("segments are below 4 GiB"))
        };
        Self {
            position: position(located.offset),
            size: U32::new(located.size),
            tag_hash: I32::new(located.tag_hash),
            entry_position: position(located.entry_offset),
            stored_ms: U64::new(located.stored_at.0),
        }
    }

    pub fn located(&self, segment: LogOffset) -> Located {
        Located {
            offset: segment.plus(u64::from(self.position.get())),
            size: self.size.get(),
            tag_hash: self.tag_hash.get(),
            stored_at: Timestamp(self.stored_ms.get()),
            entry_offset: segment.plus(u64::from(self.entry_position.get())),
        }
    }

    /// Where the record ends in the segment.
    pub fn end(&self) -> u64 {
        u64::from(self.position.get()) + u64::from(self.size.get())
    }
}

impl IndexRun {
    pub fn key(&self) -> QueueKey {
        QueueKey { topic: self.topic.get(), queue: QueueId(self.queue.get()) }
    }
}

/// How many blocks each part of a file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub run_blocks: usize,
    pub mark_blocks: usize,
    pub mark_count: usize,
    pub message_blocks: usize,
}

impl Layout {
    fn new(run_count: usize, mark_count: usize, message_count: usize) -> Self {
        Self {
            run_blocks: run_count.div_ceil(RUNS_PER_BLOCK),
            mark_blocks: mark_count.div_ceil(MARKS_PER_BLOCK),
            mark_count,
            message_blocks: message_count.div_ceil(MESSAGES_PER_BLOCK),
        }
    }

    pub fn of(head: &IndexHead) -> Self {
        let [runs, marks, messages] =
            [head.run_count, head.mark_count, head.message_count].map(|count| count.get() as usize);
        Self::new(runs, marks, messages)
    }

    /// Number of the first block of marks.
    pub fn marks_at(&self) -> usize {
        1 + self.run_blocks
    }

    fn messages_at(&self) -> usize {
        self.marks_at() + self.mark_blocks
    }

    pub fn block_count(&self) -> usize {
        self.messages_at() + self.message_blocks
    }

    pub fn size(&self) -> u64 {
        (self.block_count() * BLOCK_SIZE) as u64
    }
}

/// What an index file is made from. Shares the messages with the index, so that the index may change
/// while the file is being written.
#[derive(Debug)]
pub struct IndexPlan {
    pub segment: LogOffset,
    pub segment_end: LogOffset,
    pub runs: Vec<PlannedRun>,
    pub marks: Vec<u32>,
    /// Earliest and latest time of storing.
    pub stored_ms: Option<(u64, u64)>,
}

#[derive(Debug)]
pub struct PlannedRun {
    pub key: QueueKey,
    pub first: u64,
    pub messages: Rc<Vec<IndexMessage>>,
}

impl IndexPlan {
    fn message_count(&self) -> usize {
        self.runs.iter().map(|run| run.messages.len()).sum()
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.runs.len(), self.marks.len(), self.message_count())
    }

    /// The slot at which each run begins.
    pub fn starts(&self) -> impl Iterator<Item = u32> {
        let first = self.layout().messages_at() * MESSAGES_PER_BLOCK;
        self.runs.iter().scan(first, |slot, run| {
            let start = *slot;
            *slot += run.messages.len();
            Some(u32::try_from(start).expect("a segment has fewer messages"))
        })
    }

    fn head(&self) -> IndexHead {
        let count = |count: usize| U32::new(u32::try_from(count).expect("counts fit a segment"));
        let (first_stored_ms, last_stored_ms) = self.stored_ms.unwrap_or((0, 0));
        IndexHead {
            magic: INDEX_MAGIC,
            version: U32::new(INDEX_VERSION),
            run_count: count(self.runs.len()),
            mark_count: count(self.marks.len()),
            message_count: count(self.message_count()),
            segment_end: U64::new(self.segment_end.0),
            first_stored_ms: U64::new(first_stored_ms),
            last_stored_ms: U64::new(last_stored_ms),
        }
    }

    fn directory(&self) -> impl Iterator<Item = IndexRun> {
        self.runs.iter().zip(self.starts()).map(|(run, start)| IndexRun {
            topic: U32::new(run.key.topic),
            queue: U32::new(run.key.queue.0),
            first: U64::new(run.first),
            start: U32::new(start),
            count: U32::new(run.messages.len() as u32),
            first_stored_ms: run.messages.first().map_or(U64::ZERO, |message| message.stored_ms),
            last_stored_ms: run.messages.last().map_or(U64::ZERO, |message| message.stored_ms),
        })
    }

    /// Makes the blocks of the file, one after another at every call.
    pub fn encode(&self, seed: u32) -> impl FnMut(&mut [u8]) + '_ {
        let layout = self.layout();
        let mut number = 0;
        let mut runs = self.directory();
        let mut marks = self.marks.iter().map(|&mark| U32::new(mark));
        let mut messages = self.runs.iter().flat_map(|run| run.messages.iter().copied());
        move |block| {
            let body = &mut block[size_of::<BlockHead>()..];
            body.fill(0);
            if number == 0 {
                put(body, std::iter::once(self.head()));
            } else if number < layout.marks_at() {
                put(body, &mut runs);
            } else if number < layout.messages_at() {
                put(body, &mut marks);
            } else {
                put(body, &mut messages);
            }
            seal_block(block, number as u32, self.segment, seed);
            number += 1;
        }
    }
}

/// Fills `body` with as many items as it holds.
fn put<T: IntoBytes + Immutable>(body: &mut [u8], items: impl Iterator<Item = T>) {
    for (place, item) in body.chunks_exact_mut(size_of::<T>()).zip(items) {
        place.copy_from_slice(item.as_bytes());
    }
}

fn seal_block(block: &mut [u8], number: u32, segment: LogOffset, seed: u32) {
    let mut head =
        BlockHead { checksum: U32::ZERO, number: U32::new(number), segment: U64::new(segment.0) };
    block[..size_of::<BlockHead>()].copy_from_slice(head.as_bytes());
    head.checksum.set(crc32c::crc32c_append(seed, &block[size_of::<U32>()..]));
    block[..size_of::<BlockHead>()].copy_from_slice(head.as_bytes());
}

/// The body of block `number`, if that is what `block` holds and it is intact.
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

/// The head in block 0, if it is one that we can read.
pub fn open_head(block: &[u8], segment: LogOffset, seed: u32) -> Option<IndexHead> {
    let body = open_block(block, 0, segment, seed)?;
    let (head, _) = IndexHead::read_from_prefix(body).ok()?;
    (head.magic == INDEX_MAGIC && head.version.get() == INDEX_VERSION).then_some(head)
}

/// The items in the blocks of `bytes`, of which `first` is the first block's number.
pub fn open_items<T: FromBytes + Immutable + KnownLayout + Unaligned + Copy>(
    bytes: &[u8],
    first: usize,
    count: usize,
    segment: LogOffset,
    seed: u32,
) -> Option<Vec<T>> {
    let mut items = Vec::with_capacity(count.min(bytes.len()));
    for (index, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
        let body = open_block(block, first + index, segment, seed)?;
        let whole = body.len() / size_of::<T>() * size_of::<T>();
        let wanted = count - items.len();
        let found = <[T]>::ref_from_bytes(&body[..whole]).ok()?;
        items.extend_from_slice(&found[..found.len().min(wanted)]);
    }
    (items.len() == count).then_some(items)
}

/// Block of the file that holds the message in `slot`.
pub fn block_of_slot(slot: u32) -> usize {
    slot as usize / MESSAGES_PER_BLOCK
}

/// The message in `slot`, from a page whose first block has the number `first`.
pub fn message_in_page(page: &[u8], first: usize, slot: u32) -> Option<IndexMessage> {
    let block = block_of_slot(slot).checked_sub(first)?;
    let within = slot as usize % MESSAGES_PER_BLOCK * size_of::<IndexMessage>();
    let at = block * BLOCK_SIZE + size_of::<BlockHead>() + within;
    IndexMessage::read_from_bytes(page.get(at..at + size_of::<IndexMessage>())?).ok()
}
