//! The tail cache: the most recent part of the log, in the write buffers themselves.
//!
//! The bound counts allocated memory, which exceeds the contents: buffers are truncated to what was
//! written, and aligned allocators round up to powers of two. Counted by content, the cache would
//! outgrow the memory set aside for I/O, and every further buffer would be mapped, faulted in page
//! by page, and unmapped. Evicted data is on disk; a reader of an evicted buffer keeps it alive.
//! Buffers are in log order, so a position is found by binary search.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use crate::model::{Chunk, LogOffset};

pub struct TailCache<B> {
    /// In log order.
    buffers: VecDeque<Cached<B>>,
    size: usize,
    size_max: usize,
}

struct Cached<B> {
    /// Log offset of the buffer's first byte.
    base: u64,
    /// The part of the log that this buffer was the first to contain.
    range: Range<u64>,
    buffer: Rc<B>,
    memory: usize,
}

impl<B: AsRef<[u8]> + 'static> TailCache<B> {
    pub fn new(size_max: usize) -> Self {
        Self { buffers: VecDeque::new(), size: 0, size_max }
    }

    /// Memory of all buffers in the cache, bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds a buffer whose first byte is at `base` and that is the first to contain `range`.
    /// `memory` bytes were allocated for it.
    pub fn insert(&mut self, base: u64, range: Range<u64>, buffer: Rc<B>, memory: usize) {
        let memory = memory.next_power_of_two();
        self.size += memory;
        let index = self.buffers.partition_point(|cached| cached.range.start < range.start);
        self.buffers.insert(index, Cached { base, range, buffer, memory });
        while self.size > self.size_max {
            let Some(oldest) = self.buffers.pop_front() else { break };
            self.size -= oldest.memory;
        }
    }

    /// Drops everything after `place`, including the rest of the same buffer.
    pub fn drop_after(&mut self, place: LogOffset) {
        self.buffers.retain(|cached| cached.range.end <= place.0);
        self.size = self.buffers.iter().map(|cached| cached.memory).sum();
    }

    /// What the buffer that was the first to contain `offset` has from there on.
    pub fn peek(&self, offset: LogOffset) -> Option<&[u8]> {
        let index = self.buffers.partition_point(|cached| cached.range.start <= offset.0);
        let cached = self.buffers.get(index.checked_sub(1)?)?;
        let (start, end) = (offset.0 - cached.base, cached.range.end - cached.base);
        let is_held = offset.0 < cached.range.end;
        is_held.then(|| (*cached.buffer).as_ref().get(start as usize..end as usize))?
    }

    /// The part of the log that the buffer with `offset` was the first to contain, and where it
    /// begins: with an entry.
    pub fn buffer_around(&self, offset: LogOffset) -> Option<(LogOffset, &[u8])> {
        let index = self.buffers.partition_point(|cached| cached.range.start <= offset.0);
        let cached = self.buffers.get(index.checked_sub(1)?)?;
        let Range { start, end } = cached.range;
        let range = (start - cached.base) as usize..(end - cached.base) as usize;
        let bytes = (*cached.buffer).as_ref().get(range)?;
        (offset.0 < end).then_some((LogOffset(start), bytes))
    }

    /// `size` bytes at `offset`, which lie within one entry.
    pub fn find(&self, offset: LogOffset, size: usize) -> Option<Chunk> {
        let index = self.buffers.partition_point(|cached| cached.range.start <= offset.0);
        let cached = self.buffers.get(index.checked_sub(1)?)?;
        if offset.0 + size as u64 > cached.range.end {
            return None;
        }
        let start = usize::try_from(offset.0 - cached.base).ok()?;
        let is_held = start + size <= (*cached.buffer).as_ref().len();
        is_held
            .then(|| Chunk::with_memory(cached.buffer.clone(), start..start + size, cached.memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(byte: u8) -> Rc<Vec<u8>> {
        Rc::new(vec![byte; 4096])
    }

    #[test]
    fn a_place_is_found_in_the_buffer_that_first_held_it() {
        let mut cache = TailCache::new(1 << 20);
        cache.insert(0, 0..1000, buffer(1), 4096);
        cache.insert(4096, 4096..8192, buffer(3), 4096);
        cache.insert(0, 1000..4096, buffer(2), 4096);
        let rows = [
            (0, 1000, Some(1)),
            (990, 11, None),
            (1000, 8, Some(2)),
            (4088, 8, Some(2)),
            (4096, 4096, Some(3)),
            (8192, 1, None),
        ];
        for (offset, size, expected) in rows {
            let found = cache.find(LogOffset(offset), size);
            assert_eq!(found.map(|chunk| chunk[0]), expected, "{size} bytes at {offset}");
        }
    }

    #[test]
    fn the_oldest_buffers_leave_first() {
        let mut cache = TailCache::new(2 * 4096);
        for index in 0..3 {
            let start = index * 4096;
            cache.insert(start, start..start + 4096, buffer(index as u8), 4096);
        }
        assert_eq!(cache.size(), 2 * 4096);
        assert!(cache.find(LogOffset(0), 1).is_none());
        assert!(cache.find(LogOffset(4096), 1).is_some());
    }

    #[test]
    fn the_cache_counts_allocated_memory() {
        let mut cache = TailCache::new(64 << 10);
        cache.insert(0, 0..4096, buffer(1), 33 << 10);
        assert_eq!(cache.size(), 64 << 10);
        cache.insert(4096, 4096..8192, buffer(2), 4096);
        assert!(cache.find(LogOffset(0), 1).is_none());
        assert_eq!(cache.size(), 4096);
    }
}
