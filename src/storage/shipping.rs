//! Reads entries in the form in which another replica of this log appends them
//! ([`raw`](super::raw)): from the buffers that are about to be written, from the tail cache, or
//! else from disk.
//!
//! Unlike consumers, other replicas also get what is not committed yet: that is how it becomes
//! committed.

use zerocopy::{FromBytes, IntoBytes};

use crate::model::LogOffset;
use crate::storage::disk::Disk;
use crate::storage::entry::{Entry, EntryHeader, Parsed};
use crate::storage::error::ReadError;
use crate::storage::log::Log;
use crate::storage::scan::LogReader;
use crate::storage::slice::Slices;
use crate::storage::store::Store;

/// Reads entries in the order in which they are in the log, and keeps what it has read ahead from
/// disk.
pub struct RawReader<D: Disk> {
    store: Store<D>,
    ahead: Option<Ahead<D::File>>,
}

struct Ahead<F> {
    reader: LogReader<F>,
    /// The written watermark when the reader was created. What it has read beyond that may have
    /// been written since.
    written: LogOffset,
    /// Number of cuts at that time: a cut removes what was written.
    cut_count: u32,
}

impl<D: Disk> RawReader<D> {
    pub fn new(store: Store<D>) -> Self {
        Self { store, ahead: None }
    }

    /// The entries from `from` to `to` in raw form, appended to `out`. Both are places between
    /// entries of the log.
    pub async fn read(
        &mut self,
        from: LogOffset,
        to: LogOffset,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let mut at = self.store.0.log.borrow().copy_raw(from, to, out);
        if at == to {
            self.forget();
        }
        let mut slices = Slices::default();
        while at < to {
            // It may be on its way to the disk, and no longer in any cache.
            if !self.store.is_written_past(at).await {
                return Err(ReadError::Gone(at));
            }
            let entry = self.entry_at(at).await?;
            push_raw(&entry.header, entry.payload, out);
            at = entry.header.end();
            slices.handled(1).await;
            at = self.store.0.log.borrow().copy_raw(at, to, out);
        }
        Ok(())
    }

    /// Drops what was read ahead, which keeps files open that retention deletes. For use when
    /// nothing more is read from disk for now.
    pub fn forget(&mut self) {
        self.ahead = None;
    }

    /// Passes the entries from `from` to `to` to `take`, until it returns false. Both are places
    /// between written entries.
    pub async fn walk(
        &mut self,
        from: LogOffset,
        to: LogOffset,
        mut take: impl FnMut(&Entry<'_>) -> bool,
    ) -> Result<(), ReadError> {
        let (mut at, mut slices) = (from, Slices::default());
        while at < to {
            let entry = self.entry_at(at).await?;
            at = entry.header.end();
            if !take(&entry) {
                break;
            }
            slices.handled(1).await;
        }
        Ok(())
    }

    /// The entry at `at`, which is written.
    async fn entry_at(&mut self, at: LogOffset) -> Result<Entry<'_>, ReadError> {
        let Self { store, ahead } = self;
        let ahead = {
            let log = store.0.log.borrow();
            if at < log.begin() {
                *ahead = None;
                return Err(ReadError::Gone(at));
            }
            let (written, cut_count) = (log.written(), log.cuts.count());
            let is_good = |known: &Ahead<_>| {
                at < known.written && known.cut_count == cut_count && known.reader.has(at)
            };
            match ahead.take().filter(is_good) {
                Some(known) => ahead.insert(known),
                None => ahead.insert(Ahead { reader: log.reader(), written, cut_count }),
            }
        };
        ahead.reader.drop_before(at);
        match ahead.reader.parse_at(at).await? {
            Parsed::Entry(entry) => Ok(entry),
            _ if at < store.begin() => Err(ReadError::Gone(at)),
            _ => Err(ReadError::Damaged(at)),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Waits until the entry at `at` is written; false if that will never happen.
    async fn is_written_past(&self, at: LogOffset) -> bool {
        let look = || {
            let log = self.0.log.borrow();
            (log.written() > at || log.fault.is_some()).then(|| log.written() > at)
        };
        self.0.marks_changed.wait(look).await
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

/// Appends the raw form of an entry to `out`. The payload of a filler is empty.
pub fn push_raw(header: &EntryHeader, payload: &[u8], out: &mut Vec<u8>) {
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
