//! What a replay hands to the broker.

use crate::model::{LogOffset, QueueOffset};
use crate::storage::entry::EntryKind;
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

/// Hands over the messages that an entry holds, so that the index can be made again without the broker's
/// state. Given at opening; the broker indexes what it replays through the same function.
pub type MessagesOf = fn(&Replayed<'_>, &mut dyn FnMut(QueueKey, QueueOffset, Located));
