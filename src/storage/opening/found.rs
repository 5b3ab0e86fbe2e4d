//! Segments as found at opening.

use crate::model::Timestamp;
use crate::storage::log::{Segment, SegmentIndex};
use crate::storage::sealed::{IndexHead, Layout};

/// A segment as found.
pub struct Found<F> {
    pub segment: Segment<F>,
    /// It is below the snapshot.
    pub is_covered: bool,
    /// Its index file, if the segment is below the snapshot and the file's head is intact.
    pub index: Option<(F, IndexHead)>,
    /// Its entries were replayed: their messages are in memory.
    pub is_walked: bool,
}

impl<F> Found<F> {
    /// Converts it to a segment of the log.
    pub fn settled(self) -> Segment<F> {
        let mut segment = self.segment;
        segment.index = match self.index {
            _ if self.is_walked => SegmentIndex::Memory,
            Some((file, head)) => {
                let last_stored = Some(Timestamp(head.last_stored_ms.get()));
                let last_stored = last_stored.filter(|_| head.message_count.get() > 0);
                let (file, layout) = (Some(file), Layout::of(&head));
                SegmentIndex::File { file, last_stored, layout, version: 0 }
            }
            None => SegmentIndex::Missing,
        };
        segment
    }
}
