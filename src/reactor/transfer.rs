//! Transfers between memory and files: write, read and sync, each as a future.
//!
//! A future may be dropped at any time; the transfer continues.

use std::io;
use std::rc::Rc;

use glommio::io::DmaBuffer;

use super::completion::Completion;
use super::core::current;
use super::ring::OpenFile;

/// Writes `buffer` to `file` at `offset`. Returns the number of bytes written.
pub async fn write(file: OpenFile, buffer: Rc<DmaBuffer>, offset: u64) -> io::Result<usize> {
    let completion = Rc::new(Completion::default());
    current().ring().write(file, buffer, offset, completion.clone());
    Ok(completion.outcome().await?.0)
}

/// Reads from `file` at `offset` into `buffer`. Returns it and the number of bytes read, which is less
/// than its size only at the end of the file.
pub async fn read(
    file: OpenFile,
    buffer: DmaBuffer,
    offset: u64,
) -> io::Result<(DmaBuffer, usize)> {
    let completion = Rc::new(Completion::default());
    current().ring().read(file, buffer, offset, completion.clone());
    let (size, buffer) = completion.outcome().await?;
    Ok((buffer.expect("a read returns its memory"), size))
}

/// Flushes what was written to `file`.
pub async fn sync(file: OpenFile) -> io::Result<()> {
    let completion = Rc::new(Completion::default());
    current().ring().sync(file, completion.clone());
    completion.outcome().await.map(|_| ())
}
