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
    /// In order of creation, in chunks of [`CHUNK_RUNS`]. So adding a run never copies many.
    runs: Vec<Vec<MemoryRun>>,
    /// What adding messages does not need, for each run.
    heads: Vec<RunHead>,
    /// Earliest and latest store time.
    pub stored_ms: Option<(u64, u64)>,
}

/// A run's messages that need no allocation of their own. With very many queues, few runs have more.
const MESSAGES_INLINE: usize = 2;

/// Runs of a chunk. The first chunk of a segment grows with its queues.
const CHUNK_RUNS: usize = 1_024;
/// Minimum number of runs by which a segment's memory grows.
const RUNS_MIN: usize = 16;

/// Messages of one queue with consecutive queue offsets.
///
/// One cache line, because with very many queues each message goes to another run, and each line is a
/// miss.
#[derive(Debug)]
#[repr(align(64))]
pub struct MemoryRun {
    pub first: u64,
    pub messages: SmallVec<[IndexMessage; MESSAGES_INLINE]>,
}

const _: () = assert!(size_of::<MemoryRun>() == 64);

/// The rest of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunHead {
    pub key: QueueKey,
    /// The queue's previous run, whose segment may have left memory.
    pub older: RunId,
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
        Self { range, number, runs: Vec::new(), heads: Vec::new(), stored_ms: None }
    }

    pub fn note_stored(&mut self, stored_ms: u64) {
        let (first, last) = self.stored_ms.unwrap_or((stored_ms, stored_ms));
        self.stored_ms = Some((first.min(stored_ms), last.max(stored_ms)));
    }

    /// Adds a run without messages.
    pub fn begin_run(&mut self, key: QueueKey, first: u64, older: RunId) -> RunId {
        let slot = u32::try_from(self.heads.len()).expect("a segment has fewer messages");
        if self.heads.len() == self.heads.capacity() {
            // Not doubled: with very many queues this is much of their memory.
            self.heads.reserve_exact((self.heads.len() / 4).max(RUNS_MIN));
        }
        self.heads.push(RunHead { key, older });
        if self.runs.last().is_none_or(|chunk| chunk.len() == CHUNK_RUNS) {
            let is_first = self.runs.is_empty();
            self.runs.push(Vec::with_capacity(if is_first { RUNS_MIN } else { CHUNK_RUNS }));
        }
        let chunk = self.runs.last_mut().expect("pushed above");
        chunk.push(MemoryRun { first, messages: SmallVec::new() });
        RunId { segment: self.number, slot }
    }

    pub fn run(&self, slot: u32) -> &MemoryRun {
        let slot = slot as usize;
        &self.runs[slot / CHUNK_RUNS][slot % CHUNK_RUNS]
    }

    pub fn run_mut(&mut self, slot: u32) -> &mut MemoryRun {
        let slot = slot as usize;
        &mut self.runs[slot / CHUNK_RUNS][slot % CHUNK_RUNS]
    }

    pub fn head(&self, slot: u32) -> RunHead {
        self.heads[slot as usize]
    }

    pub fn run_count(&self) -> usize {
        self.heads.len()
    }

    /// Frees the memory of some of the runs. Returns how many; 0 if none is left.
    pub fn free_some(&mut self) -> usize {
        self.runs.pop().map_or(0, |chunk| chunk.len())
    }

    /// Memory by capacity, bytes.
    pub fn memory_size(&self) -> usize {
        let spilled = self.runs.iter().flatten().filter(|run| run.messages.spilled());
        let messages: usize = spilled.map(|run| run.messages.capacity()).sum();
        let runs = self.runs.iter().map(Vec::capacity).sum::<usize>() * size_of::<MemoryRun>();
        let heads = self.heads.capacity() * size_of::<RunHead>();
        runs + heads + messages * size_of::<IndexMessage>()
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
