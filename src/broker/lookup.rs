//! Reads a message by the log offset of its record (remoting reference, 3.8).

use super::facts::{DELAYED, MESSAGES, SEVERAL};
use super::operation::Context;
use super::{Answer, Broker};
use crate::model::record::{RECORD_SIZE_MAX, RecordView};
use crate::model::{Chunk, LogOffset, Refusal, Reply};
use crate::storage::disk::Disk;
use crate::storage::{EntryAt, EntryKind};

impl<D: Disk> Broker<D> {
    /// Returns the message whose record begins at `offset`, which comes from the client and may be
    /// arbitrary.
    pub(super) async fn message_at(
        &self,
        offset: LogOffset,
        context: &impl Context,
    ) -> Result<Answer, Refusal> {
        let _permit = context.cold_read(RECORD_SIZE_MAX).await;
        let chunks = vec![self.record_at(offset).await?];
        Ok(Answer { reply: Ok(Reply::Message), chunks })
    }

    /// Returns a copy of the record alone. The caller holds the permission to read the disk.
    pub(super) async fn record_at(&self, offset: LogOffset) -> Result<Chunk, Refusal> {
        let entry = self.store.read_entry_at(offset).await;
        let entry = entry.map_err(|error| self.refuse_read(error))?;
        record_of(&entry, offset, RECORD_SIZE_MAX).ok_or(Refusal::NoMessage(offset))
    }

    /// Returns a copy of the record alone, if it is in memory and not larger than `size_max`.
    pub(super) fn cached_record_at(&self, offset: LogOffset, size_max: usize) -> Option<Chunk> {
        let entry = self.store.cached_entry_at(offset)?;
        record_of(&entry, offset, size_max)
    }
}

/// A copy, because the rest of the entry may be much larger.
fn record_of(entry: &EntryAt, offset: LogOffset, size_max: usize) -> Option<Chunk> {
    let record = RecordView::parse(&entry.rest).ok()?;
    let is_record = holds_records(entry.kind) && record.physical_offset == offset;
    (is_record && record.size <= size_max)
        .then(|| Chunk::from_vec(entry.rest[..record.size].to_vec()))
}

/// Whether an entry may contain message records. Those of delivered messages are in entries with
/// several facts.
pub fn holds_records(kind: EntryKind) -> bool {
    matches!(kind, MESSAGES | DELAYED | SEVERAL)
}
