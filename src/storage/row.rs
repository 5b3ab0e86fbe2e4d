//! What a snapshot remembers of each queue, so that a start reads no directories of index files, and
//! what only the queue's newest message says, which may have expired.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::{LogOffset, QueueId, Timestamp};
use crate::storage::links::{LINK_COUNT, Link, Links};
use crate::storage::located::QueueKey;

/// A queue as the index knows it. Rows may be from different moments: they may already include
/// entries after the snapshot's point, which the replay applies again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct QueueRow {
    pub topic: U32,
    pub queue: U32,
    /// Queue offset of the next message.
    pub next: U64,
    /// The log had no messages of the queue below.
    pub oldest: U64,
    /// Log offset below which all messages are in index files that `links` lead to.
    pub sealed_to: U64,
    pub links: [RowLink; LINK_COUNT],
}

/// A link to a sealed segment with messages of the queue; zeros without one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RowLink {
    pub segment: U64,
    /// Queue offset after the last message there.
    pub end: U64,
}

/// When the newest message of a queue was stored.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LastStoredRow {
    pub topic: U32,
    pub queue: U32,
    pub stored_ms: U64,
}

const _: () = {
    assert!(size_of::<RowLink>() == 16);
    assert!(size_of::<QueueRow>() == 80);
    assert!(size_of::<LastStoredRow>() == 16);
};

impl LastStoredRow {
    pub fn new(key: QueueKey, stored_at: Timestamp) -> Self {
        let (topic, queue) = (U32::new(key.topic), U32::new(key.queue.0));
        Self { topic, queue, stored_ms: U64::new(stored_at.0) }
    }

    pub fn key(&self) -> QueueKey {
        QueueKey { topic: self.topic.get(), queue: QueueId(self.queue.get()) }
    }
}

impl QueueRow {
    pub fn key(&self) -> QueueKey {
        QueueKey { topic: self.topic.get(), queue: QueueId(self.queue.get()) }
    }

    pub fn links(&self) -> Links {
        Links(
            self.links
                .map(|link| Link { segment: LogOffset(link.segment.get()), end: link.end.get() }),
        )
    }

    pub fn links_of(links: &Links) -> [RowLink; LINK_COUNT] {
        links.0.map(|link| RowLink { segment: U64::new(link.segment.0), end: U64::new(link.end) })
    }
}
