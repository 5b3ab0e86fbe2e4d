//! What a replay hands to the broker.

use crate::model::{LogOffset, QueueOffset};
use crate::storage::entry::{Entry, EntryKind, HEADER_SIZE};
use crate::storage::located::{Located, QueueKey};

/// An entry that the broker has to take into account: every one but fillers. What it means, and whether
/// it is to be indexed, the broker decides.
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
    /// Its effects are in the snapshot already; it only has to be indexed. Handed over where the index
    /// file of its segment is missing or damaged.
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

/// Hands over the messages that an entry holds, so that the index can be made again without the broker's
/// state. Given at opening; the broker indexes what it replays through the same function.
pub type MessagesOf = fn(&Replayed<'_>, &mut dyn FnMut(QueueKey, QueueOffset, Located));
