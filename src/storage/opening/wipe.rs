//! Wipes leftovers after the end of the log, so that they can never continue the log: neither at
//! the next start nor after entries of the same epoch and ordinals are appended before them.

use std::ops::Range;
use std::rc::Rc;

use crate::model::LogOffset;
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskFile, Durability};
use crate::storage::segment::{block_ceil, block_floor};
use crate::storage::writer::WRITE_SIZE;

/// Writes zeros from `range.start`, where the log ends, to the end of the block of `range.end`.
/// Durable when it returns. The block in which the log ends is written first and alone: once it is
/// written, the log ends there, even if later blocks are not wiped yet.
pub async fn wipe<D: Disk>(
    disk: &D,
    segments: impl IntoIterator<Item = (Range<LogOffset>, D::File)>,
    range: Range<LogOffset>,
) -> Result<(), DiskError> {
    let (begin, end) = (block_floor(range.start.0), block_ceil(range.end.0));
    for (segment, file) in segments {
        let (start, stop) = (segment.start.0.max(begin), segment.end.0.min(end));
        let mut at = start;
        while at < stop {
            let is_first = at == begin;
            let size = if is_first { BLOCK_SIZE } else { WRITE_SIZE.min((stop - at) as usize) };
            let mut zeros = disk.buffer(size);
            zeros.as_mut().fill(0);
            if is_first {
                let kept = (range.start.0 - begin) as usize;
                let block = file.read(at - segment.start.0, BLOCK_SIZE).await?;
                zeros.as_mut()[..kept].copy_from_slice(&(*block).as_ref()[..kept]);
            }
            file.write(at - segment.start.0, Rc::new(zeros), Durability::Durable).await?;
            at += size as u64;
        }
    }
    Ok(())
}
