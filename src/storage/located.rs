//! Which queue, and where its messages are: the types that the index and its files share.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::{LogOffset, QueueId, Timestamp};

/// A queue, by the number that the broker gave its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    pub topic: u32,
    pub queue: QueueId,
}

impl QueueKey {
    /// Below all others.
    pub const FIRST: Self = Self { topic: 0, queue: QueueId(0) };

    /// The next key in order. A queue number never comes near the end of its range.
    pub fn successor(self) -> Self {
        Self { queue: QueueId(self.queue.0.saturating_add(1)), ..self }
    }
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where the record begins.
    pub offset: LogOffset,
    /// Bytes of the record.
    pub size: u32,
    pub tag_hash: i32,
    pub stored_at: Timestamp,
    /// Where the entry begins that holds the record.
    pub entry_offset: LogOffset,
}

impl Located {
    pub fn end(&self) -> LogOffset {
        self.offset.plus(u64::from(self.size))
    }
}

/// One message, in an index file and in the memory of the index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexMessage {
    /// Where the record begins in the segment.
    pub position: U32,
    pub size: U32,
    pub tag_hash: I32,
    /// Where the record's entry begins in the segment.
    pub entry_position: U32,
    pub stored_ms: U64,
}

const _: () = assert!(size_of::<IndexMessage>() == 24);

impl IndexMessage {
    /// `segment` is the base of the segment that holds the message.
    pub fn new(located: &Located, segment: LogOffset) -> Self {
        let position = |offset: LogOffset| {
            let position = offset.0.checked_sub(segment.0).expect("the message is in the segment");
            U32::new(u32::try_from(position).expect("segments are below 4 GiB"))
        };
        Self {
            position: position(located.offset),
            size: U32::new(located.size),
            tag_hash: I32::new(located.tag_hash),
            entry_position: position(located.entry_offset),
            stored_ms: U64::new(located.stored_at.0),
        }
    }

    pub fn located(&self, segment: LogOffset) -> Located {
        Located {
            offset: segment.plus(u64::from(self.position.get())),
            size: self.size.get(),
            tag_hash: self.tag_hash.get(),
            stored_at: Timestamp(self.stored_ms.get()),
            entry_offset: segment.plus(u64::from(self.entry_position.get())),
        }
    }
}
