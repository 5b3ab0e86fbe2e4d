//! Reads entries in the form in which another copy of this log appends them ([`raw`](super::raw)):
//! from the buffers that are about to be written, from the tail cache, or else from disk.
//!
//! Unlike consumers, other copies also get what is not committed yet: that is how it becomes
//! committed.

use zerocopy::{FromBytes, IntoBytes};

use crate::model::LogOffset;
use crate::storage::disk::Disk;
use crate::storage::entry::{EntryHeader, EntryKind, Parsed};
use crate::storage::error::ReadError;
use crate::storage::log::Log;
use crate::storage::scan::LogReader;
use crate::storage::slice::Slices;
use crate::storage::store::Store;

impl<D: Disk> Store<D> {
    /// The entries from `from` to `to` in raw form, appended to `out`. Both are places between
    /// entries of the log.
    pub async fn read_raw(
        &self,
        from: LogOffset,
        to: LogOffset,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let mut at = self.0.log.borrow().copy_raw(from, to, out);
        if at == to {
            return Ok(());
        }
        let mut reader = self.reader_from(at)?;
        let (mut slices, mut is_fresh) = (Slices::default(), true);
        while at < to {
            // It may be on its way to the disk, and in no cache any more.
            if !self.is_written_past(at).await {
                return Err(ReadError::Gone(at));
            }
            match reader.parse_at(at).await? {
                Parsed::Entry(entry) => {
                    push_raw(&entry.header, entry.payload, out);
                    (at, is_fresh) = (entry.header.end(), false);
                }
                _ if is_fresh => return Err(ReadError::Damaged(at)),
                _ => {
                    // What it has read in advance may have been written since.
                    (reader, is_fresh) = (self.reader_from(at)?, true);
                    continue;
                }
            }
            slices.handled(1).await;
            // The rest may have reached memory's part of the log.
            at = self.0.log.borrow().copy_raw(at, to, out);
        }
        Ok(())
    }

    /// Passes the entries from `from` to `to` to `take`, until it returns false. Both are places
    /// between written entries.
    pub async fn walk_entries(
        &self,
        from: LogOffset,
        to: LogOffset,
        mut take: impl FnMut(&EntryHeader, EntryKind, &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        let mut reader = self.reader_from(from)?;
        let mut slices = Slices::default();
        let mut at = from;
        while at < to {
            let Parsed::Entry(entry) = reader.parse_at(at).await? else {
                return Err(ReadError::Damaged(at));
            };
            at = entry.header.end();
            if !take(&entry.header, entry.kind, entry.payload) {
                break;
            }
            slices.handled(1).await;
        }
        Ok(())
    }

    /// Waits until the entry at `at` is written; false if that will never happen.
    async fn is_written_past(&self, at: LogOffset) -> bool {
        let look = || {
            let log = self.0.log.borrow();
            (log.written() > at || log.fault.is_some()).then(|| log.written() > at)
        };
        self.0.marks_changed.wait(look).await
    }

    fn reader_from(&self, from: LogOffset) -> Result<LogReader<D::File>, ReadError> {
        let log = self.0.log.borrow();
        if from < log.begin() { Err(ReadError::Gone(from)) } else { Ok(log.reader()) }
    }
}

impl<D: Disk> Log<D> {
    /// Appends the entries from `from` on that are in memory to `out`, up to `to`. Returns where
    /// they end.
    fn copy_raw(&self, from: LogOffset, to: LogOffset, out: &mut Vec<u8>) -> LogOffset {
        let mut at = from;
        while at < to {
            let Some(bytes) = self.writer.peek(at).or_else(|| self.tail.peek(at)) else { break };
            let Ok((header, _)) = EntryHeader::ref_from_prefix(bytes) else { break };
            if header.own_offset.get() != at.0 {
                break;
            }
            let Some(entry) = bytes.get(..header.raw_size()) else { break };
            out.extend_from_slice(entry);
            at = header.end();
        }
        at
    }
}

/// The payload of a filler is empty.
fn push_raw(header: &EntryHeader, payload: &[u8], out: &mut Vec<u8>) {
    let end = out.len() + header.raw_size();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
    out.resize(end, 0);
}

/// Splits raw entries where the segment ends: one append goes to one segment only. The bytes are
/// checked later; here they are only measured.
pub fn split_at_segment(bytes: &[u8], segment_end: LogOffset) -> (&[u8], &[u8]) {
    let mut size = 0;
    while let Ok((header, _)) = EntryHeader::ref_from_prefix(&bytes[size..]) {
        if header.own_offset.get() >= segment_end.0 {
            break;
        }
        size += header.raw_size();
        if size >= bytes.len() {
            break;
        }
    }
    bytes.split_at(size.min(bytes.len()))
}
