//! What one replica of a log sends to another, read from disk.

use super::disk::SimDisk;
use crate::model::LogOffset;
use crate::storage::disk::{Disk, DiskErrorKind, DiskFile};
use crate::storage::entry::{EntryKind, Parsed, parse};
use crate::storage::segment::FileName;

/// An entry as it is sent: its bytes, or only the header of a filler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sendable {
    pub at: LogOffset,
    pub end: LogOffset,
    pub ordinal: u64,
    pub kind: EntryKind,
    pub bytes: Vec<u8>,
}

impl Sendable {
    pub fn is_filler(&self) -> bool {
        self.kind == EntryKind::FILLER
    }
}

/// The entries of the log on `disk`, which begins at 0.
pub async fn entries_of<D: Disk>(disk: &D, seed: u32) -> Vec<Sendable> {
    let mut entries = Vec::new();
    loop {
        let base = entries.last().map_or(LogOffset(0), |entry: &Sendable| entry.end);
        let file = match disk.open(&FileName::Segment(base).to_string()).await {
            Ok(file) => file,
            Err(error) if error.kind == DiskErrorKind::NotFound => return entries,
            Err(error) => panic!("{error}"),
        };
        let bytes = file.read(0, file.size() as usize).await.expect("a segment that can be read");
        if !take_entries(base, (*bytes).as_ref(), seed, &mut entries) {
            return entries;
        }
    }
}

/// Like [`entries_of`], but works while the power is off and is not a step of the disk.
pub fn entries_on(disk: &SimDisk, seed: u32) -> Vec<Sendable> {
    entries_from(disk, LogOffset(0), seed)
}

/// Like [`entries_on`], for a log that begins at `begin`.
pub fn entries_from(disk: &SimDisk, begin: LogOffset, seed: u32) -> Vec<Sendable> {
    let mut entries = Vec::new();
    loop {
        let base = entries.last().map_or(begin, |entry: &Sendable| entry.end);
        let segment = disk.contents(&FileName::Segment(base).to_string());
        if !segment.is_some_and(|segment| take_entries(base, &segment, seed, &mut entries)) {
            return entries;
        }
    }
}

/// Reads the entries of a segment, and returns whether they reach its end.
fn take_entries(base: LogOffset, segment: &[u8], seed: u32, entries: &mut Vec<Sendable>) -> bool {
    let mut position = 0;
    while position < segment.len() {
        let (at, rest) = (base.plus(position as u64), &segment[position..]);
        let Parsed::Entry(entry) = parse(rest, at, rest.len() as u64, seed) else { return false };
        let size = entry.header.size() as usize;
        let bytes = rest[..entry.header.raw_size()].to_vec();
        let (end, ordinal) = (entry.header.end(), entry.header.ordinal.get());
        entries.push(Sendable { at, end, ordinal, kind: entry.kind, bytes });
        position += size;
    }
    true
}
