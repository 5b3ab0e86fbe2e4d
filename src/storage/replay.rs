//! What a replay passes to the broker.

use crate::model::{LogOffset, QueueOffset};
use crate::storage::entry::{Entry, EntryKind, HEADER_SIZE};
use crate::storage::located::{Located, QueueKey};

/// Any entry but a filler. The broker decides what it means and whether to index it.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    pub kind: EntryKind,
    pub subject: u32,
    pub entry_offset: LogOffset,
    pub payload_offset: LogOffset,
    pub ordinal: u64,
    /// Where the next entry begins.
    pub end: LogOffset,
    pub payload: &'a [u8],
    /// Its effects are already in the snapshot; it only has to be indexed, because the index file
    /// of its segment is missing or damaged.
    pub in_snapshot: bool,
}

impl<'a> Replayed<'a> {
    pub fn new(entry: &Entry<'a>, in_snapshot: bool) -> Self {
        let entry_offset = LogOffset(entry.header.own_offset.get());
        Self {
            kind: entry.kind,
            subject: entry.header.subject.get(),
            entry_offset,
            payload_offset: entry_offset.plus(HEADER_SIZE as u64),
            ordinal: entry.header.ordinal.get(),
            end: entry.header.end(),
            payload: entry.payload,
            in_snapshot,
        }
    }
}

/// Enumerates the messages in an entry, so that the index can be rebuilt without the broker's
/// state. Given at opening; the broker indexes replayed entries with the same function.
pub type MessagesOf = fn(&Replayed<'_>, &mut dyn FnMut(QueueKey, QueueOffset, Located));
