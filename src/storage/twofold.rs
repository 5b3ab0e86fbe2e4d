//! Small files that are overwritten in place, so that a full disk does not keep them from changing.
//!
//! Such a file has two halves with the same contents. Both are overwritten, the second one once the
//! first one is durable. So an interruption damages at most one half, and the first intact one
//! counts. Bad blocks in one half lose nothing either.

use std::rc::Rc;

use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskFile, Durability};
use crate::storage::publish::{open_if_any, publish_parts, read_all, read_range};
use crate::storage::segment::{FileName, block_floor};

/// What a file contains.
pub enum Found<T> {
    Missing,
    /// Neither half is intact.
    Damaged,
    Contents(T),
}

/// Makes `bytes` the contents of a file. Needs space only if there is no file yet, or one for fewer
/// blocks.
pub async fn write<D: Disk>(disk: &D, name: FileName, bytes: &[u8]) -> Result<(), DiskError> {
    let mut half = disk.buffer(bytes.len().next_multiple_of(BLOCK_SIZE));
    let (head, rest) = half.as_mut().split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    rest.fill(0);
    let is_large = |file: &D::File| file.size() >= 2 * half.as_ref().len() as u64;
    let Some(file) = open_if_any(disk, &name).await?.filter(is_large) else {
        return publish_parts(disk, name, &[half.as_ref(), half.as_ref()]).await;
    };
    let half = Rc::new(half);
    for place in [0, file.size() / 2] {
        file.write(place, half.clone(), Durability::Durable).await?;
    }
    Ok(())
}

/// Reads a file with `decode`, which returns `None` for what is not intact and ignores what follows
/// the contents: an older version may have written them once. What it finds is
/// durable when this returns: a killed process may have left it, and its name, in the device's
/// cache, and nothing may depend on what a power cut can still undo.
pub async fn read<D: Disk, T>(
    disk: &D,
    name: FileName,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Found<T>, DiskError> {
    let Some(file) = open_if_any(disk, &name).await? else { return Ok(Found::Missing) };
    file.sync().await?;
    disk.sync_directory().await?;
    let half = block_floor(file.size() / 2);
    let error = match read_all(&file).await {
        Ok(bytes) => {
            let found = decode(&bytes).or_else(|| decode(&bytes[half as usize..]));
            return Ok(found.map_or(Found::Damaged, Found::Contents));
        }
        Err(error) => error,
    };
    for range in [0..half, half..file.size()] {
        if let Ok(bytes) = read_range(&file, range).await
            && let Some(found) = decode(&bytes)
        {
            return Ok(Found::Contents(found));
        }
    }
    Err(error)
}
