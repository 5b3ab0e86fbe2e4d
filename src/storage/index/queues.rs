//! The in-memory state of every queue, whether it has messages or not.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::memory::RunId;
use crate::model::QueueId;
use crate::model::topic::QUEUES_PER_TOPIC_MAX;
use crate::storage::links::Links;
use crate::storage::located::QueueKey;

/// The header of a queue. Everything else is in the segments.
///
/// In this order, because an append needs only the first three: with very many queues, each cache
/// line is a miss.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Queue {
    /// Queue offset after the newest message; 0 for a queue that does not exist.
    pub next: u64,
    /// Its newest run in memory, whose segment may have left memory.
    pub newest: RunId,
    /// When the newest message was stored, also after it has left the log, ms; 0: only the message
    /// says.
    pub stored_ms: u64,
    /// The log has no message below.
    pub oldest: u64,
    /// Links to the sealed segments with messages of it.
    pub links: Links,
}

/// Maximum number of places in a topic's table, which has one for every queue up to the highest in
/// use.
const QUEUE_COUNT_MAX: u32 = QUEUES_PER_TOPIC_MAX;
const _: () = assert!(size_of::<Queue>() == 80);

/// All queues, topic by topic: the queues of a topic are numbered from 0 without large gaps.
#[derive(Debug, Default)]
pub struct Queues {
    topics: FxHashMap<u32, Vec<Queue>>,
    /// The topics in order, for iterating in steps.
    numbers: BTreeSet<u32>,
    count: usize,
}

impl Queues {
    pub fn get(&self, key: QueueKey) -> Option<&Queue> {
        let queue = self.topics.get(&key.topic)?.get(key.queue.0 as usize)?;
        (queue.next > 0).then_some(queue)
    }

    pub fn get_mut(&mut self, key: QueueKey) -> Option<&mut Queue> {
        let queue = self.topics.get_mut(&key.topic)?.get_mut(key.queue.0 as usize)?;
        (queue.next > 0).then_some(queue)
    }

    /// The queue, created if needed. The caller sets a next offset above 0.
    pub fn slot(&mut self, key: QueueKey) -> &mut Queue {
        let index = key.queue.0 as usize;
        let is_there = self.topics.get(&key.topic).is_some_and(|queues| index < queues.len());
        if !is_there {
            self.make(key);
        }
        let queues = self.topics.get_mut(&key.topic).expect("made above");
        let queue = &mut queues[index];
        self.count += usize::from(queue.next == 0);
        queue
    }

    #[cold]
    fn make(&mut self, key: QueueKey) {
        assert!(key.queue.0 < QUEUE_COUNT_MAX, "{key:?} is a queue that no topic can have");
        self.numbers.insert(key.topic);
        let queues = self.topics.entry(key.topic).or_default();
        let count = key.queue.0 as usize + 1;
        // Most topics get all of their queues soon after they are created, and no more.
        queues.reserve_exact((count - queues.len()).max(queues.len() / 4));
        queues.resize(count, Queue::default());
    }

    pub fn remove_topic(&mut self, topic: u32) {
        let queues = self.topics.remove(&topic).unwrap_or_default();
        self.count -= queues.iter().filter(|queue| queue.next > 0).count();
        self.numbers.remove(&topic);
    }

    pub fn topics(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers.iter().copied()
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// All queues from `from` on, in order.
    pub fn range(&self, from: QueueKey) -> impl Iterator<Item = (QueueKey, &Queue)> {
        self.numbers.range(from.topic..).flat_map(move |&topic| {
            let skip = if topic == from.topic { from.queue.0 as usize } else { 0 };
            let queues = self.topics.get(&topic).map_or(&[][..], Vec::as_slice).iter();
            let keyed = queues.enumerate().skip(skip).filter(|(_, queue)| queue.next > 0);
            keyed.map(move |(index, queue)| {
                (QueueKey { topic, queue: QueueId(index as u32) }, queue)
            })
        })
    }

    /// Memory by capacity, bytes; tree nodes count as full.
    pub fn memory_size(&self) -> usize {
        let queues: usize = self.topics.values().map(Vec::capacity).sum();
        let entry = size_of::<(u32, Vec<Queue>)>() + 1;
        let buckets = self.topics.capacity() * 8 / 7;
        queues * size_of::<Queue>() + buckets * entry + self.numbers.len() * 2 * size_of::<u32>()
    }
}
