//! Messages of segments that have no index file yet.

use std::ops::Range;

use smallvec::SmallVec;

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

/// A run's messages that need no allocation of their own. With very many queues, few runs have more.
const MESSAGES_INLINE: usize = 2;

/// Minimum number of runs by which a segment's memory grows.
const RUNS_MIN: usize = 16;

/// Messages of one queue with consecutive queue offsets.
#[derive(Debug)]
pub struct MemoryRun {
    pub key: QueueKey,
    pub first: u64,
    /// The queue's previous run, whose segment may have left memory.
    pub older: RunId,
    pub messages: SmallVec<[IndexMessage; MESSAGES_INLINE]>,
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

    /// Adds a run without messages.
    pub fn begin_run(&mut self, key: QueueKey, first: u64, older: RunId) -> RunId {
        let slot = u32::try_from(self.runs.len()).expect("a segment has fewer messages");
        if self.runs.len() == self.runs.capacity() {
            // Not doubled: with very many queues this is most of their memory.
            self.runs.reserve_exact((self.runs.len() / 4).max(RUNS_MIN));
        }
        self.runs.push(MemoryRun { key, first, older, messages: SmallVec::new() });
        RunId { segment: self.number, slot }
    }

    pub fn run(&self, slot: u32) -> &MemoryRun {
        &self.runs[slot as usize]
    }

    /// Memory by capacity, bytes.
    pub fn memory_size(&self) -> usize {
        let spilled = self.runs.iter().filter(|run| run.messages.spilled());
        let messages: usize = spilled.map(|run| run.messages.capacity()).sum();
        self.runs.capacity() * size_of::<MemoryRun>() + messages * size_of::<IndexMessage>()
    }
}

impl MemoryRun {
    /// Queue offset after the last message.
    pub fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub fn push(&mut self, message: IndexMessage) {
        self.messages.push(message);
    }
}
