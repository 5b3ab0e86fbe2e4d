//! Builds index files: for a full segment, and for one whose index file was lost.
//!
//! A segment can have messages of a hundred thousand queues, so everything is done in slices:
//! sorting, building blocks, updating queues, freeing memory. Between two slices the index may
//! change in any way, except that messages are added only to the newest segment, and that a single
//! task seals and retires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::size_of;
use std::ops::Range;
use std::rc::Rc;

use zerocopy::byteorder::little_endian::{U32, U64};

use crate::model::{LogOffset, Timestamp};
use crate::planted::{self, Bug};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::index::{MemoryRun, MemorySegment};
use crate::storage::links::{Links, encode};
use crate::storage::located::QueueKey;
use crate::storage::log::SegmentIndex;
use crate::storage::publish::publish;
use crate::storage::sealed::{
    BlockHead, FENCES_PER_BLOCK, INDEX_MAGIC, INDEX_VERSION, IndexFence, IndexHead, IndexRun,
    Layout, MARKS_PER_BLOCK, MESSAGES_PER_BLOCK, RUNS_PER_BLOCK, put, seal_block,
};
use crate::storage::segment::FileName;
use crate::storage::slice::{SLICE_ITEMS, Slices, yield_now};
use crate::storage::store::Store;

/// The input of an index file.
pub(super) struct IndexPlan {
    pub segment: Rc<MemorySegment>,
    /// The runs of the segment, sorted by queue and queue offset, as positions in the segment.
    order: Vec<u32>,
    marks: Vec<u32>,
    message_count: usize,
}

impl IndexPlan {
    pub async fn new(segment: Rc<MemorySegment>, marks: Vec<u32>) -> Self {
        let (order, message_count) = sorted(&segment).await;
        Self { segment, order, marks, message_count }
    }

    pub fn base(&self) -> LogOffset {
        self.segment.range.start
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.order.len(), self.marks.len(), self.message_count)
    }

    /// Frees the memory.
    pub async fn release(self) {
        let Some(mut segment) = Rc::into_inner(self.segment) else { return };
        let mut slices = Slices::default();
        loop {
            match segment.free_some() {
                0 => return,
                count => slices.handled(count).await,
            }
        }
    }

    fn run(&self, index: usize) -> &MemoryRun {
        self.segment.run(self.order[index])
    }

    fn key(&self, index: usize) -> QueueKey {
        self.segment.head(self.order[index]).key
    }

    fn head(&self) -> IndexHead {
        let count = |count: usize| U32::new(u32::try_from(count).expect("counts fit a segment"));
        let (first_stored_ms, last_stored_ms) = self.segment.stored_ms.unwrap_or((0, 0));
        IndexHead {
            magic: INDEX_MAGIC,
            version: U32::new(INDEX_VERSION),
            run_count: count(self.order.len()),
            mark_count: count(self.marks.len()),
            message_count: count(self.message_count),
            segment_end: U64::new(self.segment.range.end.0),
            first_stored_ms: U64::new(first_stored_ms),
            last_stored_ms: U64::new(last_stored_ms),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Writes the index file of the oldest full segment without one. False if there is none, or it
    /// is not on stable media yet.
    pub(super) async fn write_index(&self) -> Result<bool, DiskError> {
        let full = self.with_index(|index| index.oldest_sealed_in_memory());
        let Some(range) = full.filter(|range| self.is_settled(range)) else {
            return Ok(false);
        };
        let (marks, seed) = {
            let mut log = self.0.log.borrow_mut();
            let segment = log.segment(range.start).expect("in memory and so in the log");
            (segment.marks.clone(), log.config.checksum_seed)
        };
        let in_memory = self.0.index.borrow().oldest_in_memory();
        let plan = IndexPlan::new(in_memory, marks).await;
        let links = |key: QueueKey, _| self.0.index.borrow().links(key);
        let mut writer = BlockWriter::new(&plan, seed, links);
        let mut slices = Slices::default();
        let block_count = plan.layout().block_count();
        let fill = async |block: &mut [u8]| slices.handled(writer.fill(block)).await;
        publish(&self.0.disk, FileName::Index(range.start), block_count, fill).await?;
        self.move_into_file(plan, range).await;
        Ok(true)
    }

    /// Whether the segment is on stable media and nothing in it will change.
    fn is_settled(&self, range: &Range<LogOffset>) -> bool {
        let log = self.0.log.borrow();
        let is_early = planted::is(Bug::IndexesUnsyncedSegments);
        log.durable().min(log.committed()) >= range.end || is_early
    }

    /// Moves messages out of memory once their planned file exists. While the queues are updated
    /// one by one, lookups find the messages both in memory and in the file.
    async fn move_into_file(&self, plan: IndexPlan, range: Range<LogOffset>) {
        {
            let mut log = self.0.log.borrow_mut();
            let segment = log.segment(range.start).expect("only this task takes segments out");
            let last_stored = plan.segment.stored_ms.map(|(_, last)| Timestamp(last));
            let layout = plan.layout();
            segment.index = SegmentIndex::File { file: None, last_stored, layout, version: 0 };
            segment.marks = Vec::new();
        }
        for slots in plan.order.chunks(SLICE_ITEMS) {
            {
                let mut index = self.0.index.borrow_mut();
                for &slot in slots {
                    let (run, head) = (plan.segment.run(slot), plan.segment.head(slot));
                    index.note_sealed(head.key, &range, run.end());
                }
            }
            yield_now().await;
        }
        self.0.index.borrow_mut().drop_oldest_in_memory();
        plan.release().await;
    }
}

/// Builds the blocks of an index file one by one.
pub(super) struct BlockWriter<'a, L> {
    plan: &'a IndexPlan,
    layout: Layout,
    /// Links of a queue whose first message in the segment is this one.
    links: L,
    seed: u32,
    /// Of the next block.
    number: usize,
    next_run: usize,
    /// Slot of that run's first message.
    next_slot: usize,
    /// The next message: its run and its index in it.
    next_message: (usize, usize),
}

impl<'a, L: FnMut(QueueKey, u64) -> Links> BlockWriter<'a, L> {
    pub fn new(plan: &'a IndexPlan, seed: u32, links: L) -> Self {
        let layout = plan.layout();
        let next_slot = layout.messages_at() * MESSAGES_PER_BLOCK;
        Self { plan, layout, links, seed, number: 0, next_run: 0, next_slot, next_message: (0, 0) }
    }

    /// Fills the next block. Returns how many items it took.
    pub fn fill(&mut self, block: &mut [u8]) -> usize {
        let body = &mut block[size_of::<BlockHead>()..];
        body.fill(0);
        let count = if self.number == 0 {
            put(body, std::iter::once(self.plan.head()));
            1
        } else if self.number < self.layout.runs_at() {
            self.fill_fences(body)
        } else if self.number < self.layout.marks_at() {
            self.fill_runs(body)
        } else if self.number < self.layout.messages_at() {
            let skip = (self.number - self.layout.marks_at()) * MARKS_PER_BLOCK;
            let marks = self.plan.marks.iter().skip(skip).map(|&mark| U32::new(mark));
            put(body, marks);
            1
        } else {
            self.fill_messages(body)
        };
        seal_block(block, self.number as u32, self.plan.base(), self.seed);
        self.number += 1;
        count
    }

    fn fill_fences(&self, body: &mut [u8]) -> usize {
        let first = (self.number - 1) * FENCES_PER_BLOCK;
        let last = self.layout.run_blocks().min(first + FENCES_PER_BLOCK);
        let fence = |block: usize| {
            let first = block * RUNS_PER_BLOCK;
            IndexFence::new(self.plan.key(first), self.plan.run(first).first)
        };
        put(body, (first..last).map(fence));
        last - first
    }

    fn fill_runs(&mut self, body: &mut [u8]) -> usize {
        let (first, base) = (self.next_run, self.plan.base());
        self.next_run = self.plan.order.len().min(first + RUNS_PER_BLOCK);
        put(
            body,
            (first..self.next_run).map(|index| {
                let key = self.plan.key(index);
                let MemoryRun { first, messages } = self.plan.run(index);
                let start = u32::try_from(self.next_slot).expect("a segment has fewer messages");
                self.next_slot += messages.len();
                IndexRun {
                    topic: U32::new(key.topic),
                    queue: U32::new(key.queue.0),
                    first: U64::new(*first),
                    start: U32::new(start),
                    count: U32::new(messages.len() as u32),
                    links: encode(&(self.links)(key, *first), base, *first),
                }
            }),
        );
        self.next_run - first
    }

    fn fill_messages(&mut self, body: &mut [u8]) -> usize {
        let (plan, mut at) = (self.plan, self.next_message);
        let next = || {
            while at.0 < plan.order.len() {
                let is_last = at == (plan.order.len() - 1, plan.run(at.0).messages.len() - 1);
                if is_last && planted::is(Bug::LosesTheLastIndexEntry) {
                    return None;
                }
                let message = plan.run(at.0).messages.get(at.1);
                at = if message.is_some() { (at.0, at.1 + 1) } else { (at.0 + 1, 0) };
                if message.is_some() {
                    return message.copied();
                }
            }
            None
        };
        put(body, std::iter::from_fn(next).take(MESSAGES_PER_BLOCK));
        self.next_message = at;
        MESSAGES_PER_BLOCK
    }
}

/// The positions of all runs in order, and the number of their messages: sorts chunks, then merges
/// them.
async fn sorted(segment: &MemorySegment) -> (Vec<u32>, usize) {
    let mut sort = ChunkSort::default();
    let mut slices = Slices::default();
    loop {
        match sort.step(segment) {
            0 => return (sort.merged, sort.message_count),
            handled => slices.handled(handled).await,
        }
    }
}

/// A sort in steps of [`SLICE_ITEMS`] runs.
#[derive(Default)]
struct ChunkSort {
    /// Sorted chunks, each with the number of merged positions.
    chunks: Vec<(Vec<Place>, usize)>,
    chunked: usize,
    /// The next place of every chunk that has one.
    next: BinaryHeap<Reverse<(Place, usize)>>,
    merged: Vec<u32>,
    message_count: usize,
}

/// The sort key of a run, and the run's position.
type Place = (QueueKey, u64, u32);

impl ChunkSort {
    /// Returns the number of runs processed; 0 when all are in order.
    fn step(&mut self, segment: &MemorySegment) -> usize {
        if self.chunked < segment.run_count() { self.sort_chunk(segment) } else { self.merge() }
    }

    fn sort_chunk(&mut self, segment: &MemorySegment) -> usize {
        let first = self.chunked;
        let end = segment.run_count().min(first + SLICE_ITEMS);
        let place = |slot: u32| {
            let run = segment.run(slot);
            self.message_count += run.messages.len();
            (segment.head(slot).key, run.first, slot)
        };
        let mut chunk: Vec<Place> = (first as u32..end as u32).map(place).collect();
        chunk.sort_unstable();
        self.next.push(Reverse((chunk[0], self.chunks.len())));
        self.chunks.push((chunk, 1));
        self.chunked = end;
        if end == segment.run_count() {
            self.merged.reserve_exact(self.chunked);
        }
        end - first
    }

    fn merge(&mut self) -> usize {
        for count in 0..SLICE_ITEMS {
            let Some(Reverse((place, number))) = self.next.pop() else { return count };
            self.merged.push(place.2);
            let (chunk, merged) = &mut self.chunks[number];
            if let Some(&next) = chunk.get(*merged) {
                *merged += 1;
                self.next.push(Reverse((next, number)));
            } else {
                *chunk = Vec::new();
            }
        }
        SLICE_ITEMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    #[test]
    fn no_step_of_the_sort_handles_more_than_a_slice() {
        for count in [0, 1, SLICE_ITEMS, SLICE_ITEMS + 1, 10 * SLICE_ITEMS - 7] {
            let mut segment = MemorySegment::new(LogOffset(0)..LogOffset(1 << 30), 1);
            for number in 0..count as u32 {
                let queue = QueueId(number.wrapping_mul(2_654_435_761) >> 18);
                let key = QueueKey { topic: number % 7, queue };
                segment.begin_run(key, u64::from(number), Default::default());
            }
            let mut sort = ChunkSort::default();
            let mut steps = 0;
            loop {
                match sort.step(&segment) {
                    0 => break,
                    handled => assert!(handled <= SLICE_ITEMS, "{handled}"),
                }
                steps += 1;
            }
            assert_eq!(steps, 2 * count.div_ceil(SLICE_ITEMS));
            assert_eq!(sort.merged.len(), count);
            let run = |&slot: &u32| (segment.head(slot).key, segment.run(slot).first);
            assert!(sort.merged.is_sorted_by_key(run));
        }
    }
}
