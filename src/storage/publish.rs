//! Atomic creation of small files: index files, snapshots, notes about damage.

use std::ops::Range;
use std::rc::Rc;

use crate::planted::{self, Bug};
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile, Durability};
use crate::storage::proof::{EndProof, PROOF_BLOCKS};
use crate::storage::segment::FileName;
use crate::storage::writer::WRITE_SIZE;

use zerocopy::IntoBytes;

/// Writes a file of `block_count` blocks under a temporary name, makes it durable, and then renames
/// it. `fill` gets every block in turn and fills it completely; it yields after much work.
pub async fn publish<D: Disk>(
    disk: &D,
    name: FileName,
    block_count: usize,
    mut fill: impl AsyncFnMut(&mut [u8]),
) -> Result<(), DiskError> {
    let unfinished = name.clone().unfinished().to_string();
    let file = make(disk, &unfinished, (block_count * BLOCK_SIZE) as u64).await?;
    let size = block_count * BLOCK_SIZE;
    let mut offset = 0;
    while offset < size {
        let mut buffer = disk.buffer(WRITE_SIZE.min(size - offset));
        for block in buffer.as_mut().chunks_exact_mut(BLOCK_SIZE) {
            fill(block).await;
        }
        let written = buffer.as_ref().len();
        file.write(offset as u64, Rc::new(buffer), Durability::Written).await?;
        offset += written;
    }
    if !planted::is(Bug::PublishesUnsynced) {
        file.sync().await?;
    }
    disk.rename(&unfinished, &name.to_string()).await?;
    match planted::is(Bug::ForgetsDirectories) {
        true => Ok(()),
        false => disk.sync_directory().await,
    }
}

/// Publishes `parts` back to back, zero-padded to a whole block.
pub async fn publish_parts<D: Disk>(
    disk: &D,
    name: FileName,
    parts: &[&[u8]],
) -> Result<(), DiskError> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let mut parts = parts.iter();
    let mut part: &[u8] = &[];
    publish(disk, name, size.div_ceil(BLOCK_SIZE).max(1), async |mut block: &mut [u8]| {
        while !block.is_empty() {
            if part.is_empty() {
                match parts.next() {
                    Some(next) => part = next,
                    None => return block.fill(0),
                }
            }
            let count = part.len().min(block.len());
            let (here, rest) = block.split_at_mut(count);
            here.copy_from_slice(&part[..count]);
            (part, block) = (&part[count..], rest);
        }
    })
    .await
}

/// Publishes `bytes`, zero-padded to a whole block.
pub async fn publish_bytes<D: Disk>(
    disk: &D,
    name: FileName,
    bytes: &[u8],
) -> Result<(), DiskError> {
    publish_parts(disk, name, &[bytes]).await
}

/// Durably writes a proof of the end into its block of the file. False if there is no file and no
/// space for one.
pub async fn write_proof<D: Disk>(disk: &D, proof: &EndProof) -> Result<bool, DiskError> {
    let Some(file) = proof_file(disk).await? else { return Ok(false) };
    let mut block = disk.buffer(BLOCK_SIZE);
    let (head, rest) = block.as_mut().split_at_mut(size_of::<EndProof>());
    head.copy_from_slice(proof.as_bytes());
    rest.fill(0);
    let place = proof.number.get() % PROOF_BLOCKS * BLOCK_SIZE as u64;
    file.write(place, Rc::new(block), Durability::Durable).await?;
    Ok(true)
}

async fn proof_file<D: Disk>(disk: &D) -> Result<Option<D::File>, DiskError> {
    let (name, size) = (FileName::EndProof, PROOF_BLOCKS * BLOCK_SIZE as u64);
    let found = open_if_any(disk, &name).await?.filter(|file| file.size() == size);
    if found.is_some() {
        return Ok(found);
    }
    match make(disk, &name.to_string(), size).await {
        Ok(file) => {
            disk.sync_directory().await?;
            Ok(Some(file))
        }
        Err(error) if error.kind == DiskErrorKind::NoSpace => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file, replacing the leftovers of an earlier attempt.
pub async fn make<D: Disk>(disk: &D, name: &str, size: u64) -> Result<D::File, DiskError> {
    match disk.create(name, size).await {
        Ok(file) => Ok(file),
        Err(error) => {
            if disk.remove(name).await.is_err() {
                return Err(error);
            }
            disk.create(name, size).await
        }
    }
}

/// All bytes of a file.
pub async fn read_all<F: DiskFile>(file: &F) -> Result<Vec<u8>, DiskError> {
    read_range(file, 0..file.size()).await
}

/// Reads part of a file, which begins with a block. It is shorter if the file ends earlier.
pub async fn read_range<F: DiskFile>(file: &F, range: Range<u64>) -> Result<Vec<u8>, DiskError> {
    let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let at = range.start + bytes.len() as u64;
        let left = (size - bytes.len()).next_multiple_of(BLOCK_SIZE);
        let part = file.read(at, WRITE_SIZE.min(left)).await?;
        let part = (*part).as_ref();
        if part.is_empty() {
            break;
        }
        bytes.extend_from_slice(part);
        if !part.len().is_multiple_of(BLOCK_SIZE) {
            break;
        }
    }
    bytes.truncate(size);
    Ok(bytes)
}

/// Opens a file, if there is one with this name.
pub async fn open_if_any<D: Disk>(disk: &D, name: &FileName) -> Result<Option<D::File>, DiskError> {
    match disk.open(&name.to_string()).await {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// Removes a file, if there is one with this name.
pub async fn remove_if_any<D: Disk>(disk: &D, name: &FileName) -> Result<(), DiskError> {
    unless_missing(disk.remove(&name.to_string()).await)
}

/// A missing file is not an error.
pub fn unless_missing(outcome: Result<(), DiskError>) -> Result<(), DiskError> {
    match outcome {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
