//! The files in a shard's directory.

use std::ops::Range;

use crate::model::LogOffset;
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError};
use crate::storage::segment::FileName;

/// The files of a shard, by kind.
#[derive(Default)]
pub struct Files {
    pub segments: Vec<(LogOffset, u64)>,
    pub indexes: Vec<LogOffset>,
    pub snapshots: Vec<LogOffset>,
    pub ready: Vec<(u64, u64)>,
    pub damaged: Vec<Range<LogOffset>>,
    pub has_proof: bool,
    pub unfinished: Vec<FileName>,
}

impl Files {
    pub async fn list<D: Disk>(disk: &D) -> Result<Self, DiskError> {
        let mut files = Self::default();
        for (name, size) in disk.list().await? {
            match FileName::parse(&name) {
                Some(FileName::Segment(base)) if size >= BLOCK_SIZE as u64 => {
                    files.segments.push((base, size));
                }
                // Its creation was interrupted before it had a block.
                Some(name @ FileName::Segment(_)) => files.unfinished.push(name),
                Some(FileName::Index(base)) => files.indexes.push(base),
                Some(FileName::Snapshot(offset)) => files.snapshots.push(offset),
                Some(FileName::Ready(number)) => files.ready.push((number, size)),
                Some(FileName::Damaged(range)) => files.damaged.push(range),
                Some(FileName::EndProof) => files.has_proof = true,
                Some(name @ FileName::Unfinished(_)) => files.unfinished.push(name),
                Some(
                    FileName::Kept(_)
                    | FileName::Cut(_)
                    | FileName::Vote
                    | FileName::Identity
                    | FileName::CopyList
                    | FileName::CopyTaken
                    | FileName::Staged(_),
                )
                | None => {}
            }
        }
        files.segments.sort_unstable();
        files.indexes.sort_unstable();
        files.snapshots.sort_unstable();
        files.ready.sort_unstable();
        files.damaged.sort_unstable_by_key(|range| range.start);
        files.unfinished.sort_unstable_by_key(FileName::to_string);
        Ok(files)
    }

    pub fn has_segment(&self, base: LogOffset) -> bool {
        self.segments.iter().any(|&(segment, _)| segment == base)
    }
}
