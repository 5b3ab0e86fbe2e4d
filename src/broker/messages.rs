//! Messages as facts. Their state is the storage engine's index.
//!
//! ```text
//!   MESSAGES   message records of one topic, one after the other      subject: the topic's number
//!   QUEUES     rows of the index, which describe queues               in snapshots only
//! ```

use zerocopy::{FromBytes, IntoBytes};

use super::delays;
use super::facts::{DELAYED, Fact, Facts, ITEMS_PER_SLICE, MESSAGES, QUEUES};
use crate::model::record::{RecordView, tag_hash_of};
use crate::model::{QueueId, QueueOffset};
use crate::storage::{Index, Located, QueueKey, QueueRow, Replayed};

/// Adds the message at queue offset `offset`, which has been stored at `located`, to the index.
pub fn stored(index: &mut Index, queue: QueueKey, offset: QueueOffset, located: Located) {
    index.push(queue, offset, located);
}

/// Adds the records of an entry to the index, as storing them did.
pub fn apply(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    records(fact, &mut |queue, offset, located| stored(index, queue, offset, located))
}

/// The messages of an entry, to rebuild an index file from the log. Records that cannot be decoded
/// had not been indexed before either.
pub fn messages_of(entry: &Replayed<'_>, take: &mut dyn FnMut(QueueKey, QueueOffset, Located)) {
    for fact in Fact::of_entry(entry).each().flatten() {
        match fact.kind {
            MESSAGES => records(&fact, take).ok(),
            DELAYED => delays::messages(&fact, take).ok(),
            _ => None,
        };
    }
}

fn records(
    fact: &Fact<'_>,
    take: &mut dyn FnMut(QueueKey, QueueOffset, Located),
) -> Result<(), String> {
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
        take(queue, record.queue_offset, located);
        position += record.size;
    }
    Ok(())
}

pub fn apply_queues(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let rows = <[QueueRow]>::ref_from_bytes(fact.payload)
        .map_err(|_| format!("{} bytes are no whole rows", fact.payload.len()))?;
    rows.iter().for_each(|row| index.restore_row(row));
    Ok(())
}

/// The queues of all topics in key order: the progress of adding them to a snapshot.
pub struct AllQueues {
    next: QueueKey,
}

impl Default for AllQueues {
    fn default() -> Self {
        Self { next: QueueKey::FIRST }
    }
}

impl AllQueues {
    pub fn add(&mut self, index: &Index, facts: &mut Facts) -> bool {
        let mut count = 0;
        facts.push(QUEUES, 0, |out| {
            for row in index.rows_from(self.next, ITEMS_PER_SLICE) {
                self.next = row.key().successor();
                out.extend_from_slice(row.as_bytes());
                count += 1;
            }
        });
        count == ITEMS_PER_SLICE
    }
}
