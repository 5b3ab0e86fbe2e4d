//! Reads a message by the log offset of its record (remoting reference, 3.8).

use super::facts::{DELAYED, MESSAGES, SEVERAL};
use super::operation::Context;
use super::{Answer, Broker};
use crate::model::record::{RECORD_SIZE_MAX, RecordView};
use crate::model::{Chunk, LogOffset, Refusal, Reply};
use crate::storage::EntryKind;
use crate::storage::disk::Disk;

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

    /// Returns the record alone. The caller holds the permission to read the disk.
    pub(super) async fn record_at(&self, offset: LogOffset) -> Result<Chunk, Refusal> {
        let entry = self.store.read_entry_at(offset).await;
        let entry = entry.map_err(|error| self.refuse_read(error))?;
        match RecordView::parse(&entry.rest) {
            Ok(record) if holds_records(entry.kind) && record.physical_offset == offset => {
                Ok(entry.rest.slice(0..record.size))
            }
            _ => Err(Refusal::NoMessage(offset)),
        }
    }
}

/// Whether an entry may contain message records. Those of delivered messages are in entries with
/// several facts.
fn holds_records(kind: EntryKind) -> bool {
    matches!(kind, MESSAGES | DELAYED | SEVERAL)
}
