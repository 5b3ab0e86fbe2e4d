//! Segments as they were found at opening.

use crate::model::Timestamp;
use crate::storage::log::{Segment, SegmentIndex};
use crate::storage::sealed::{IndexHead, IndexRun, Layout};

/// A segment as it was found.
pub struct Found<F> {
    pub segment: Segment<F>,
    /// From its index file, when that is intact and the snapshot covers the segment.
    pub directory: Option<Directory<F>>,
}

pub struct Directory<F> {
    pub file: F,
    pub head: IndexHead,
    pub runs: Vec<IndexRun>,
}

impl<F> Found<F> {
    /// The segment, as the log keeps it.
    pub fn settled(self) -> Segment<F> {
        let mut segment = self.segment;
        if let Some(Directory { file, head, .. }) = self.directory {
            let last_stored = Some(Timestamp(head.last_stored_ms.get()));
            let last_stored = last_stored.filter(|_| head.message_count.get() > 0);
            let layout = Layout::of(&head);
            segment.index = SegmentIndex::File { file: Some(file), last_stored, layout };
        }
        segment
    }
}
