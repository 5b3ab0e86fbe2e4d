//! Segments, the fixed-size files of a log, and the names of all files of a shard.
//!
//! Log offset = base of the segment + position in its file, for every byte of the file. The base is
//! the file's name, so a directory listing shows the log.

use std::fmt::{self, Display};
use std::ops::Range;

use crate::model::LogOffset;
use crate::storage::disk::BLOCK_SIZE;

/// Minimum segment size, bytes. Used by tests; it has room for a few blocks of everything.
pub const SEGMENT_SIZE_MIN: u64 = 4 * BLOCK_SIZE as u64;
/// Maximum segment size, bytes: positions in a segment are 32 bits in index files.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 31;

/// The start of the block that contains `offset`.
pub const fn block_floor(offset: u64) -> u64 {
    offset - offset % BLOCK_SIZE as u64
}

/// The first block boundary at or after `offset`.
pub const fn block_ceil(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK_SIZE as u64)
}

/// The kind of a file in a shard's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A piece of the log that begins at this offset.
    Segment(LogOffset),
    /// The index of the segment that begins at this offset.
    Index(LogOffset),
    /// The broker's state as of this offset.
    Snapshot(LogOffset),
    /// A prewritten file that will become a segment.
    Ready(u64),
    /// Says that this part of the log is damaged.
    Damaged(Range<LogOffset>),
    /// A damaged segment that retention has removed from the log and kept.
    Kept(LogOffset),
    /// A copy of what was cut off at this offset although some of it was intact.
    Cut(LogOffset),
    /// Records how far the log was on stable media when it was last idle.
    EndProof,
    /// The vote of this replica in the election of a leader.
    Vote,
    /// Which directory this is, and which ones other replicas have.
    Identity,
    /// The files of a copy of another replica's log that is arriving.
    CopyList,
    /// The files of a copy that replaces this log.
    CopyTaken,
    /// A complete file of a copy that is arriving.
    Staged(Box<FileName>),
    /// Incomplete; removed at a restart.
    Unfinished(Box<FileName>),
}

impl FileName {
    /// `None` for files that are not ours.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(finished) = name.strip_suffix(".tmp") {
            return Some(Self::Unfinished(Box::new(Self::parse(finished)?)));
        }
        if let Some(staged) = name.strip_suffix(".staged") {
            return Some(Self::Staged(Box::new(Self::parse(staged)?)));
        }
        match name {
            END_PROOF => return Some(Self::EndProof),
            VOTE => return Some(Self::Vote),
            IDENTITY => return Some(Self::Identity),
            COPY_LIST => return Some(Self::CopyList),
            COPY_TAKEN => return Some(Self::CopyTaken),
            _ => {}
        }
        let Some((number, kind)) = name.split_once('.') else {
            return parse_number(name).map(LogOffset).map(Self::Segment);
        };
        if kind == "damaged" {
            let (start, end) = number.split_once('-')?;
            let range = LogOffset(parse_number(start)?)..LogOffset(parse_number(end)?);
            return Some(Self::Damaged(range));
        }
        let number = parse_number(number)?;
        match kind {
            "index" => Some(Self::Index(LogOffset(number))),
            "snapshot" => Some(Self::Snapshot(LogOffset(number))),
            "ready" => Some(Self::Ready(number)),
            "kept" => Some(Self::Kept(LogOffset(number))),
            "cut" => Some(Self::Cut(LogOffset(number))),
            _ => None,
        }
    }

    pub fn unfinished(self) -> Self {
        Self::Unfinished(Box::new(self))
    }

    pub fn staged(self) -> Self {
        Self::Staged(Box::new(self))
    }
}

const DIGITS: usize = 20;
const END_PROOF: &str = "end.proof";
const VOTE: &str = "election.vote";
const IDENTITY: &str = "replica.identity";
const COPY_LIST: &str = "copy.list";
const COPY_TAKEN: &str = "copy.taken";

fn parse_number(digits: &str) -> Option<u64> {
    let is_ours = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    is_ours.then(|| digits.parse().ok())?
}

impl Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(base) => write!(f, "{:0DIGITS$}", base.0),
            Self::Index(base) => write!(f, "{:0DIGITS$}.index", base.0),
            Self::Snapshot(offset) => write!(f, "{:0DIGITS$}.snapshot", offset.0),
            Self::Ready(number) => write!(f, "{number:0DIGITS$}.ready"),
            Self::Damaged(range) => {
                write!(f, "{:0DIGITS$}-{:0DIGITS$}.damaged", range.start.0, range.end.0)
            }
            Self::Kept(base) => write!(f, "{:0DIGITS$}.kept", base.0),
            Self::Cut(offset) => write!(f, "{:0DIGITS$}.cut", offset.0),
            Self::EndProof => f.write_str(END_PROOF),
            Self::Vote => f.write_str(VOTE),
            Self::Identity => f.write_str(IDENTITY),
            Self::CopyList => f.write_str(COPY_LIST),
            Self::CopyTaken => f.write_str(COPY_TAKEN),
            Self::Staged(name) => write!(f, "{name}.staged"),
            Self::Unfinished(name) => write!(f, "{name}.tmp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let at = LogOffset(268_435_456);
        let rows = [
            ("00000000000268435456", FileName::Segment(at)),
            ("00000000000268435456.index", FileName::Index(at)),
            ("00000000000268435456.snapshot", FileName::Snapshot(at)),
            ("00000000000000000003.ready", FileName::Ready(3)),
            ("00000000000000000003.ready.tmp", FileName::Ready(3).unfinished()),
            (
                "00000000000000000000-00000000000268435456.damaged",
                FileName::Damaged(LogOffset(0)..at),
            ),
            ("00000000000268435456.kept", FileName::Kept(at)),
            ("00000000000268435456.cut", FileName::Cut(at)),
            ("end.proof", FileName::EndProof),
            ("election.vote", FileName::Vote),
            ("replica.identity", FileName::Identity),
            ("copy.list", FileName::CopyList),
            ("copy.taken", FileName::CopyTaken),
            ("00000000000268435456.index.staged", FileName::Index(at).staged()),
            ("00000000000268435456.staged.tmp", FileName::Segment(at).staged().unfinished()),
        ];
        for (text, name) in rows {
            assert_eq!(FileName::parse(text), Some(name.clone()), "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let names = ["", "lock", "123", "0000000000026843545x", "00000000000268435456.old", ".tmp"];
        for name in names {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        assert_eq!(FileName::parse("99999999999999999999"), None, "beyond 64 bits");
    }

    #[test]
    fn blocks_round_both_ways() {
        for (offset, floor, ceil) in [(0, 0, 0), (1, 0, 4096), (4096, 4096, 4096)] {
            assert_eq!((block_floor(offset), block_ceil(offset)), (floor, ceil), "{offset}");
        }
    }
}
