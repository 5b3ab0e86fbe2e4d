//! What opening reads of index files: the head, and the whole directory if the rows of the snapshot
//! do not cover it.

use crate::model::LogOffset;
use crate::storage::disk::{BLOCK_SIZE, DiskError, DiskErrorKind, DiskFile};
use crate::storage::sealed::{
    IndexHead, IndexRun, Layout, RUNS_PER_BLOCK, items, open_block, open_head,
};

/// The head of an index file, if it is intact.
pub async fn read_head<F: DiskFile>(file: &F, segment: LogOffset, seed: u32) -> Option<IndexHead> {
    let block = file.read(0, BLOCK_SIZE).await.ok()?;
    open_head((*block).as_ref(), segment, seed)
}

/// All runs of an index file; `None` if one of their blocks is damaged or unreadable.
pub async fn read_directory<F: DiskFile>(
    file: &F,
    head: &IndexHead,
    segment: LogOffset,
    seed: u32,
) -> Result<Option<Vec<IndexRun>>, DiskError> {
    let layout = Layout::of(head);
    let (first, size) = (layout.runs_at(), layout.run_blocks() * BLOCK_SIZE);
    let bytes = match file.read((first * BLOCK_SIZE) as u64, size).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == DiskErrorKind::PowerLost => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut runs = Vec::with_capacity(layout.run_count);
    for (index, block) in (*bytes).as_ref().chunks(BLOCK_SIZE).enumerate() {
        let Some(body) = open_block(block, first + index, segment, seed) else { return Ok(None) };
        let count = (layout.run_count - runs.len()).min(RUNS_PER_BLOCK);
        runs.extend_from_slice(&items(body)[..count]);
    }
    Ok((runs.len() == layout.run_count).then_some(runs))
}
