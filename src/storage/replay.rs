//! What a replay hands to the broker.

use crate::model::LogOffset;
use crate::storage::entry::EntryKind;

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
