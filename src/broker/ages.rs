//! The ages of segments, in snapshots.
//!
//! ```text
//!   AGES       AgesHead, then rows of storage, which describe segments       in snapshots only
//! ```

use zerocopy::{FromBytes, IntoBytes};

use super::facts::{AGES, Fact, Facts, ITEMS_PER_SLICE};
use crate::model::LogOffset;
use crate::storage::Index;
use crate::storage::ages::{AgesHead, SegmentAge};

pub fn apply(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    let unreadable = || format!("{} bytes are no head and whole rows", fact.payload.len());
    let (head, rest) = AgesHead::read_from_prefix(fact.payload).map_err(|_| unreadable())?;
    let rows = <[SegmentAge]>::ref_from_bytes(rest).map_err(|_| unreadable())?;
    index.ages_mut().restore(head, rows);
    Ok(())
}

/// The ages of all segments in log order: the progress of adding them to a snapshot.
#[derive(Default)]
pub struct AllAges {
    next: LogOffset,
}

impl AllAges {
    pub fn add(&mut self, index: &Index, facts: &mut Facts) -> bool {
        let Some(head) = index.ages().head() else { return false };
        let mut count = 0;
        facts.push(AGES, 0, |out| {
            out.extend_from_slice(head.as_bytes());
            for row in index.ages().rows_from(self.next, ITEMS_PER_SLICE) {
                self.next = LogOffset(row.segment.get() + 1);
                out.extend_from_slice(row.as_bytes());
                count += 1;
            }
        });
        count == ITEMS_PER_SLICE
    }
}
