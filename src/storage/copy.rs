//! A copy of a whole log, for a replica that is missing entries which the leader's log no longer
//! has: which files it consists of. Pure.
//!
//! ```text
//!   a log      │ 0…0 │ 1…0 │ 2…0 │ 3…   ▏end        segments, the last one up to `end`
//!              │ index files │  snapshot            of sealed segments; the state at its offset
//!
//!   copy.list  the files of a copy that is arriving;  copy.taken  of one that replaces the log
//! ```
//!
//! Everything below `end` is committed, so a log of any replica has the same bytes there. Only the
//! bytes that fillers cover may differ; they are never read.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::storage::segment::FileName;

/// The only supported version of the layout.
pub const COPY_VERSION: u32 = 1;
/// Maximum number of files of a copy: more than a log of 100 TiB has.
pub const COPY_FILES_MAX: usize = 1 << 20;

/// The head of a list of files; the files follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CopyHead {
    /// CRC32C of the rest; starts from the shard's seed.
    pub checksum: U32,
    pub version: U32,
    /// Log offset at which the copy ends.
    pub end: U64,
    pub file_count: U64,
}

/// A file of a copy.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CopyRow {
    /// 1 for the snapshot, 2 for a segment, 3 for an index file.
    pub part: U64,
    /// The log offset in its name.
    pub place: U64,
    /// Bytes that are copied.
    pub size: U64,
}

const _: () = {
    assert!(size_of::<CopyHead>() == 24);
    assert!(size_of::<CopyRow>() == 24);
};

/// What a file of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyPart {
    Snapshot,
    Segment,
    /// May be missing: it is then rebuilt.
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFile {
    pub part: CopyPart,
    /// The log offset in its name.
    pub place: LogOffset,
    /// Bytes that are copied. The last segment's file is larger.
    pub size: u64,
}

/// The files of a copy, in the order in which they are sent: the snapshot, which the sender replaces
/// soonest, then the oldest parts of the log, which retention deletes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCopy {
    pub end: LogOffset,
    pub files: Vec<CopyFile>,
}

impl CopyFile {
    pub fn name(&self) -> FileName {
        match self.part {
            CopyPart::Snapshot => FileName::Snapshot(self.place),
            CopyPart::Segment => FileName::Segment(self.place),
            CopyPart::Index => FileName::Index(self.place),
        }
    }

    pub fn row(&self) -> CopyRow {
        let part = match self.part {
            CopyPart::Snapshot => 1,
            CopyPart::Segment => 2,
            CopyPart::Index => 3,
        };
        let (place, size) = (U64::new(self.place.0), U64::new(self.size));
        CopyRow { part: U64::new(part), place, size }
    }

    /// `None` for a file of unknown kind.
    pub fn of(row: &CopyRow) -> Option<Self> {
        let part = match row.part.get() {
            1 => CopyPart::Snapshot,
            2 => CopyPart::Segment,
            3 => CopyPart::Index,
            _ => return None,
        };
        Some(Self { part, place: LogOffset(row.place.get()), size: row.size.get() })
    }
}

impl LogCopy {
    /// Whether these files are a log: one snapshot, and segments without a gap, each but the last
    /// one full.
    pub fn is_whole(&self, segment_size: u64) -> bool {
        let of = |part| self.files.iter().filter(move |file| file.part == part);
        let (Some(snapshot), 1) = (of(CopyPart::Snapshot).next(), of(CopyPart::Snapshot).count())
        else {
            return false;
        };
        let Some(first) = of(CopyPart::Segment).next() else { return false };
        let mut next = first.place;
        let has_no_gap = of(CopyPart::Segment).all(|segment| {
            let (here, end) = (next, segment.place.0.saturating_add(segment.size));
            next = LogOffset(end);
            let is_full = segment.size == segment_size;
            let is_last = end == self.end.0 && (1..segment_size).contains(&segment.size);
            segment.place == here && (is_full || is_last)
        });
        let has_snapshot = (first.place..=self.end).contains(&snapshot.place);
        has_no_gap && next == self.end && has_snapshot && self.files.len() <= COPY_FILES_MAX
    }

    pub fn rows(&self) -> Vec<CopyRow> {
        self.files.iter().map(CopyFile::row).collect()
    }

    pub(super) fn encode(&self, seed: u32) -> Vec<u8> {
        let mut head = CopyHead {
            checksum: U32::ZERO,
            version: U32::new(COPY_VERSION),
            end: U64::new(self.end.0),
            file_count: U64::new(self.files.len() as u64),
        };
        let rows = self.rows();
        head.checksum.set(checksum(&head, &rows, seed));
        [head.as_bytes(), rows.as_bytes()].concat()
    }

    /// Returns `None` unless the list is intact.
    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let (head, rest) = CopyHead::ref_from_prefix(bytes).ok()?;
        let count = usize::try_from(head.file_count.get()).ok().filter(|n| *n <= COPY_FILES_MAX)?;
        let (rows, _) = <[CopyRow]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let is_intact =
            head.version.get() == COPY_VERSION && head.checksum.get() == checksum(head, rows, seed);
        let files = rows.iter().map(CopyFile::of).collect::<Option<_>>()?;
        is_intact.then(|| Self { end: LogOffset(head.end.get()), files })
    }
}

fn checksum(head: &CopyHead, rows: &[CopyRow], seed: u32) -> u32 {
    let sum = crc32c::crc32c_append(seed, &head.as_bytes()[size_of::<U32>()..]);
    crc32c::crc32c_append(sum, rows.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1000;

    fn file(part: CopyPart, place: u64, size: u64) -> CopyFile {
        CopyFile { part, place: LogOffset(place), size }
    }

    fn sample() -> LogCopy {
        let files = vec![
            file(CopyPart::Snapshot, 2500, 77),
            file(CopyPart::Index, 0, 50),
            file(CopyPart::Segment, 1000, SEGMENT),
            file(CopyPart::Index, 1000, 60),
            file(CopyPart::Segment, 2000, SEGMENT),
            file(CopyPart::Segment, 3000, 10),
        ];
        LogCopy { end: LogOffset(3010), files }
    }

    #[test]
    fn no_bit_of_a_list_may_change() {
        let bytes = sample().encode(7);
        assert_eq!(LogCopy::decode(&bytes, 7), Some(sample()));
        assert_eq!(LogCopy::decode(&[&bytes[..], &[0; 99]].concat(), 7), Some(sample()));
        assert_eq!(LogCopy::decode(&bytes, 8), None, "of another shard");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LogCopy::decode(&bad, 7), None, "bit {bit}");
        }
    }

    #[test]
    fn a_whole_copy_has_one_snapshot_and_segments_without_a_gap() {
        assert!(sample().is_whole(SEGMENT));
        for missing in [0, 2, 4, 5] {
            let mut copy = sample();
            copy.files.remove(missing);
            assert_eq!(copy.is_whole(SEGMENT), missing == 2, "without file {missing}");
        }
        let mut copy = sample();
        copy.files[4].size -= 8;
        assert!(!copy.is_whole(SEGMENT), "a segment in the middle is not full");
        copy = sample();
        copy.end = LogOffset(3018);
        assert!(!copy.is_whole(SEGMENT));
        copy = sample();
        copy.files[0].place = LogOffset(3011);
        assert!(!copy.is_whole(SEGMENT), "the snapshot is newer than the log");
    }
}
