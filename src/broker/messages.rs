//! Messages as facts. Their state is the storage engine's index.
//!
//! ```text
//!   MESSAGES     message records of one topic, one after the other    subject: the topic's number
//!   QUEUES       rows of the index, which describe queues             in snapshots only
//!   LAST_STORED  rows of the same queues: their newest messages       in snapshots only
//! ```

use zerocopy::{FromBytes, IntoBytes};

use super::delays;
use super::facts::{
    DELAYED, Fact, Facts, ITEMS_PER_SLICE, LAST_STORED, MESSAGES, QUEUES, SLICE_SIZE,
};
use crate::model::record::{RecordView, tag_hash_of};
use crate::model::{QueueId, QueueOffset};
use crate::storage::{Index, LastStoredRow, Located, QueueKey, QueueRow, Replayed};

/// A stored message: its queue, its offset there, and where it is.
pub type Placed = (QueueKey, QueueOffset, Located);

/// The messages of an entry, to rebuild an index file from the log. Records that cannot be decoded
/// had not been indexed before either.
pub fn messages_of(entry: &Replayed<'_>, take: &mut dyn FnMut(QueueKey, QueueOffset, Located)) {
    for fact in Fact::of_entry(entry).each().flatten() {
        match fact.kind {
            MESSAGES => stored(&fact)
                .map_while(Result::ok)
                .for_each(|(queue, offset, located)| take(queue, offset, located)),
            // Those before one that cannot be decoded have been taken.
            DELAYED => _ = delays::messages(&fact, take),
            _ => {}
        };
    }
}

/// The messages of a [`MESSAGES`] fact. Do not continue after an error.
pub fn stored<'a>(fact: &Fact<'a>) -> impl Iterator<Item = Result<Placed, String>> + use<'a> {
    let fact = *fact;
    let mut position = 0;
    std::iter::from_fn(move || {
        let rest = fact.payload.get(position..).filter(|rest| !rest.is_empty())?;
        let record = match RecordView::parse(rest) {
            Ok(record) => record,
            Err(error) => return Some(Err(error.to_string())),
        };
        let located = Located {
            offset: fact.payload_offset.plus(position as u64),
            size: record.size as u32,
            tag_hash: tag_hash_of(record.properties),
            stored_at: record.stored_at,
            entry_offset: fact.entry_offset,
        };
        position += record.size;
        let queue = QueueKey { topic: fact.subject, queue: QueueId(record.queue.0) };
        Some(Ok((queue, record.queue_offset, located)))
    })
}

pub fn apply_queues(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let rows = <[QueueRow]>::ref_from_bytes(fact.payload)
        .map_err(|_| format!("{} bytes are no whole rows", fact.payload.len()))?;
    rows.iter().for_each(|row| index.restore_row(row));
    Ok(())
}

/// Each follows the row of its queue.
pub fn apply_last_stored(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let rows = <[LastStoredRow]>::ref_from_bytes(fact.payload)
        .map_err(|_| format!("{} bytes are no whole rows", fact.payload.len()))?;
    rows.iter().for_each(|row| index.restore_last_stored(row));
    Ok(())
}

/// Maximum number of queues in one slice of a snapshot.
const ROWS_PER_SLICE: usize = SLICE_SIZE / (size_of::<QueueRow>() + size_of::<LastStoredRow>());
const _: () = assert!(ROWS_PER_SLICE <= ITEMS_PER_SLICE);

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
        let (mut count, mut last_stored) = (0, Vec::new());
        facts.push(QUEUES, 0, |out| {
            for row in index.rows_from(self.next, ROWS_PER_SLICE) {
                let key = row.key();
                self.next = key.successor();
                out.extend_from_slice(row.as_bytes());
                count += 1;
                // Nobody asks that of the queues of delayed messages.
                let known = index.last_stored(key).filter(|_| !delays::is_group(key.topic));
                last_stored.extend(known.map(|(_, at)| LastStoredRow::new(key, at)));
            }
        });
        if !last_stored.is_empty() {
            facts.push(LAST_STORED, 0, |out| out.extend_from_slice(last_stored.as_bytes()));
        }
        count == ROWS_PER_SLICE
    }
}
