//! A batch for the fixed header, built by a client.

use bytes::Bytes;

use crate::model::record::{Host, NewRecord, Placement, RECORD_SIZE_MAX};
use crate::model::request::ProduceRecords;
use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp};
use crate::wire::frame::FRAME_SIZE_MAX;

/// Maximum bytes of records in a batch, so that a frame always has room for its headers.
pub const RECORDS_SIZE_MAX: usize = FRAME_SIZE_MAX - 1024;

const _: () = assert!(RECORD_SIZE_MAX < RECORDS_SIZE_MAX);

/// The batch is full; finish it and start another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch is full")]
pub struct BatchFull;

/// Records of one topic and queue, back to back, with zeros in the fields that the server sets.
#[derive(Debug)]
pub struct RecordBatch {
    queue: QueueId,
    size_max: usize,
    bytes: Vec<u8>,
    count: u32,
}

impl RecordBatch {
    /// A batch of at most `size_max` bytes of records, and never more than [`RECORDS_SIZE_MAX`].
    pub fn new(queue: QueueId, size_max: usize) -> Self {
        Self { queue, size_max: size_max.min(RECORDS_SIZE_MAX), bytes: Vec::new(), count: 0 }
    }

    /// Appends one message. The caller ensures that topic, sizes and queue are valid: all records
    /// of a batch have the same topic and the batch's queue.
    ///
    /// # Panics
    /// If the record is for another queue, or its topic or properties are too long.
    pub fn append(&mut self, record: &NewRecord<'_>) -> Result<(), BatchFull> {
        assert_eq!(record.queue, self.queue, "a batch is for one queue");
        let start = self.bytes.len();
        let end = start + record.size();
        if end > self.size_max {
            return Err(BatchFull);
        }
        self.bytes.resize(end, 0);
        record.write(&UNPLACED, &mut self.bytes[start..]);
        self.count += 1;
        Ok(())
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Size of the records so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The batch as a request.
    pub fn into_request(self) -> ProduceRecords {
        ProduceRecords {
            queue: self.queue,
            count: self.count,
            checksum: crc32c::crc32c(&self.bytes),
            records: Bytes::from(self.bytes),
        }
    }
}

/// Zeros for the fields that only the server can set.
const UNPLACED: Placement = Placement {
    queue_offset: QueueOffset(0),
    physical_offset: LogOffset(0),
    stored_at: Timestamp(0),
    store_host: Host { address: [0; 4], port: zerocopy::byteorder::big_endian::U32::ZERO },
};
