//! Messages as facts: what storing them does to the state, which is the storage engine's index.
//!
//! ```text
//!   MESSAGES   message records of one topic, one behind the other      subject: the topic's number
//!   QUEUES     QueueRow, QueueRow, …                                   in snapshots only
//! ```

use std::mem::size_of;
use std::ops::Bound;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{Fact, Facts, ITEMS_PER_SLICE, QUEUES};
use super::topics::Topics;
use crate::model::record::{RecordView, tag_hash_of};
use crate::model::{QueueId, QueueOffset};
use crate::storage::{Index, Located, QueueKey};

/// How far a message queue has got, which expired messages no longer tell.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct QueueRow {
    pub topic: U32,
    pub queue: U32,
    /// The number that the queue's next message gets.
    pub next: U64,
}

const _: () = assert!(size_of::<QueueRow>() == 16);

/// The message with number `offset` in its queue has been stored at `located`.
pub fn stored(index: &mut Index, queue: QueueKey, offset: QueueOffset, located: Located) {
    index.push(queue, offset, located);
}

/// Puts the records of an entry into the index as they were put there when they were stored.
pub fn apply(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let mut position = 0;
    while position < fact.payload.len() {
        let record =
            RecordView::parse(&fact.payload[position..]).map_err(|error| error.to_string())?;
        let located = Located {
            offset: fact.payload_offset.plus(position as u64),
            size: record.size as u32,
            tag_hash: tag_hash_of(record.properties),
            stored_at: record.stored_at,
            entry_offset: fact.entry_offset,
        };
        let queue = QueueKey { topic: fact.subject, queue: QueueId(record.queue.0) };
        stored(index, queue, record.queue_offset, located);
        position += record.size;
    }
    Ok(())
}

pub fn apply_queues(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let rows = <[QueueRow]>::ref_from_bytes(fact.payload)
        .map_err(|_| format!("{} bytes are no whole rows", fact.payload.len()))?;
    for row in rows {
        let queue = QueueKey { topic: row.topic.get(), queue: QueueId(row.queue.get()) };
        index.restore_next(queue, QueueOffset(row.next.get()));
    }
    Ok(())
}

/// The queues of all topics, in the order of their numbers: how far they were added to a snapshot.
pub struct AllQueues {
    /// The topic that is being looked at, or the last one that was.
    at: Bound<u32>,
    /// Its next queue.
    queue: u32,
}

impl Default for AllQueues {
    fn default() -> Self {
        Self { at: Bound::Unbounded, queue: 0 }
    }
}

impl AllQueues {
    pub fn add(&mut self, topics: &Topics, index: &Index, facts: &mut Facts) -> bool {
        let mut has_more = true;
        let mut items = 0;
        facts.push(QUEUES, 0, |out| {
            while items < ITEMS_PER_SLICE {
                let Some((number, topic)) = topics.first_from(self.at) else {
                    has_more = false;
                    return;
                };
                self.at = Bound::Included(number);
                let end = topic.queues.len() as u32;
                while self.queue < end && items < ITEMS_PER_SLICE {
                    let key = QueueKey { topic: number, queue: QueueId(self.queue) };
                    let next = index.next_offset(key);
                    if next > QueueOffset(0) {
                        let (topic, queue) = (U32::new(number), U32::new(self.queue));
                        let row = QueueRow { topic, queue, next: U64::new(next.0) };
                        out.extend_from_slice(row.as_bytes());
                    }
                    self.queue += 1;
                    items += 1;
                }
                if self.queue >= end {
                    (self.at, self.queue) = (Bound::Excluded(number), 0);
                    items += 1;
                }
            }
        });
        has_more
    }
}
