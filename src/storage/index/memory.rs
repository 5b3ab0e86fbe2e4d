//! Messages of segments that have no index file yet.

use std::ops::Range;

use crate::model::LogOffset;
use crate::storage::located::{IndexMessage, QueueKey};

/// A segment whose messages are in memory.
#[derive(Debug)]
pub struct MemorySegment {
    pub range: Range<LogOffset>,
    /// 1, 2, 3, … in order of creation.
    pub number: u32,
    /// In order of creation.
    pub runs: Vec<MemoryRun>,
    /// Earliest and latest store time.
    pub stored_ms: Option<(u64, u64)>,
}

/// Messages of one queue with consecutive queue offsets.
#[derive(Debug)]
pub struct MemoryRun {
    pub key: QueueKey,
    pub first: u64,
    /// The queue's previous run, whose segment may have left memory.
    pub older: RunId,
    pub messages: Vec<IndexMessage>,
}

/// A run in memory: number of its segment, index in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunId {
    pub segment: u32,
    pub slot: u32,
}

impl RunId {
    /// No segment has the number 0.
    pub const NONE: Self = Self { segment: 0, slot: 0 };
}

impl MemorySegment {
    pub fn new(range: Range<LogOffset>, number: u32) -> Self {
        Self { range, number, runs: Vec::new(), stored_ms: None }
    }

    pub fn note_stored(&mut self, stored_ms: u64) {
        let (first, last) = self.stored_ms.unwrap_or((stored_ms, stored_ms));
        self.stored_ms = Some((first.min(stored_ms), last.max(stored_ms)));
    }

    pub fn run(&self, slot: u32) -> &MemoryRun {
        &self.runs[slot as usize]
    }

    /// Memory by capacity, bytes.
    pub fn memory_size(&self) -> usize {
        let messages: usize = self.runs.iter().map(|run| run.messages.capacity()).sum();
        self.runs.capacity() * size_of::<MemoryRun>() + messages * size_of::<IndexMessage>()
    }
}

impl MemoryRun {
    /// Queue offset after the last message.
    pub fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// Grows from capacity 1 by doubling: with very many queues, most runs hold one message.
    pub fn push(&mut self, message: IndexMessage) {
        if self.messages.len() == self.messages.capacity() {
            self.messages.reserve_exact(self.messages.len().max(1));
        }
        self.messages.push(message);
    }
}
