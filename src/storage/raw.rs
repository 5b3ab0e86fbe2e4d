//! Entries of another replica of this log, to be appended byte for byte. Pure: checks them before
//! any of their bytes is appended.
//!
//! ```text
//!   a raw entry    header, payload, zeros up to a multiple of 8: the bytes the other replica has
//!   a raw filler   the header alone: what a filler covers is not part of it, and may be anything
//! ```
//!
//! All replicas of a log have the same entries at the same offsets, so a raw entry must begin where
//! this log ends. One call appends to one segment only, because all replicas have the same segments
//! and the next one may not exist yet.

use zerocopy::FromBytes;

use crate::model::LogOffset;
use crate::storage::append::AppendError;
use crate::storage::entry::{Entry, EntryHeader, EntryKind, HEADER_SIZE, Parsed, parse};
use crate::storage::segment::block_floor;

/// A checked entry.
#[derive(Clone, Copy, Debug)]
pub struct RawEntry<'a> {
    pub entry: Entry<'a>,
    /// All of its bytes; only the header of a filler.
    pub bytes: &'a [u8],
}

/// Where raw entries must continue.
#[derive(Clone, Copy, Debug)]
pub struct RawStart {
    pub end: LogOffset,
    /// End of the segment that they go to.
    pub segment_end: LogOffset,
    pub next_ordinal: u64,
    /// Epoch of the newest entry.
    pub epoch: u32,
    pub seed: u32,
}

/// Why raw entries were not appended: either all are, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("the bytes end within the entry at {at}")]
    Truncated { at: LogOffset },
    #[error("the log continues at {expected}, but the entry belongs at {found}")]
    Place { expected: LogOffset, found: LogOffset },
    #[error("the entry at {at} must have ordinal {expected}, but has {found}")]
    Ordinal { at: LogOffset, expected: u64, found: u64 },
    #[error("the entry at {at} has epoch {found}, but follows an entry of epoch {newest}")]
    Epoch { at: LogOffset, newest: u32, found: u32 },
    #[error("the bytes for {at} are not an intact entry of this log")]
    Damaged { at: LogOffset },
    #[error("the entry at {at} has version {version}; a later release wrote it")]
    Unsupported { at: LogOffset, version: u8 },
    #[error("the entry at {at} does not fit into its segment")]
    Misfit { at: LogOffset },
}

/// The entries in `bytes`, if they continue `start` and all of them are valid.
pub fn check(bytes: &[u8], start: RawStart) -> Result<Vec<RawEntry<'_>>, RawError> {
    let mut entries = Vec::new();
    let (mut next, mut rest) = (start, bytes);
    while !rest.is_empty() {
        let (raw, behind) = check_one(rest, next)?;
        next.end = raw.entry.header.end();
        next.next_ordinal += 1;
        next.epoch = raw.entry.header.epoch.get();
        entries.push(raw);
        rest = behind;
    }
    Ok(entries)
}

fn check_one(bytes: &[u8], start: RawStart) -> Result<(RawEntry<'_>, &[u8]), RawError> {
    let RawStart { end: at, segment_end, next_ordinal, epoch, seed } = start;
    let (header, _) =
        EntryHeader::ref_from_prefix(bytes).map_err(|_| RawError::Truncated { at })?;
    let own_offset = LogOffset(header.own_offset.get());
    if own_offset != at {
        return Err(RawError::Place { expected: at, found: own_offset });
    }
    let entry = match parse(bytes, at, u64::MAX, seed) {
        Parsed::Entry(entry) => entry,
        Parsed::Truncated { .. } => return Err(RawError::Truncated { at }),
        Parsed::Unsupported { version } => return Err(RawError::Unsupported { at, version }),
        Parsed::Nothing { .. } => return Err(RawError::Damaged { at }),
    };
    let (ordinal, found_epoch) = (header.ordinal.get(), header.epoch.get());
    if ordinal != next_ordinal {
        return Err(RawError::Ordinal { at, expected: next_ordinal, found: ordinal });
    }
    if found_epoch < epoch {
        return Err(RawError::Epoch { at, newest: epoch, found: found_epoch });
    }
    if !fits(&entry, segment_end) {
        return Err(RawError::Misfit { at });
    }
    let (bytes, rest) =
        bytes.split_at_checked(entry.header.raw_size()).ok_or(RawError::Truncated { at })?;
    let padding = &bytes[HEADER_SIZE + entry.payload.len()..];
    if padding.iter().any(|&byte| byte != 0) {
        return Err(RawError::Damaged { at });
    }
    Ok((RawEntry { entry, bytes }, rest))
}

/// Whether an entry leaves either nothing of its segment, or room for a filler. A filler must end
/// at a block boundary.
fn fits(entry: &Entry<'_>, segment_end: LogOffset) -> bool {
    let end = entry.header.end();
    let leaves_room = end == segment_end || end.plus(HEADER_SIZE as u64) <= segment_end;
    let is_filler = entry.kind == EntryKind::FILLER;
    leaves_room && (!is_filler || block_floor(end.0) == end.0)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::storage::entry::{NewEntry, entry_size};

    const SEED: u32 = 7;
    const START: RawStart = RawStart {
        end: LogOffset(8192),
        segment_end: LogOffset(4 * 4096),
        next_ordinal: 5,
        epoch: 3,
        seed: SEED,
    };

    fn new(kind: u8, at: u64, ordinal: u64, epoch: u32) -> NewEntry {
        let (kind, durable) = (EntryKind(kind), LogOffset(0));
        NewEntry { kind, subject: 0, at: LogOffset(at), ordinal, epoch, durable }
    }

    fn entry(at: u64, ordinal: u64, epoch: u32, payload_size: usize) -> Vec<u8> {
        let mut bytes = vec![9; entry_size(payload_size)];
        new(3, at, ordinal, epoch).seal(&mut bytes, payload_size, SEED);
        bytes
    }

    fn filler(at: u64, ordinal: u64, size: u64) -> Vec<u8> {
        new(EntryKind::FILLER.0, at, ordinal, 3).filler(size, SEED).as_bytes().to_vec()
    }

    /// Two entries, a filler up to a block boundary, and one more of a later epoch.
    fn sample() -> Vec<u8> {
        let parts = [
            entry(8192, 5, 3, 11),
            entry(8248, 6, 3, 0),
            filler(8288, 7, 4000),
            entry(12_288, 8, 4, 4000),
        ];
        parts.concat()
    }

    #[test]
    fn entries_that_continue_the_log_are_parsed() {
        let bytes = sample();
        let entries = check(&bytes, START).unwrap();
        let sizes: Vec<usize> = entries.iter().map(|raw| raw.bytes.len()).collect();
        assert_eq!(sizes, [56, 40, 40, 4040]);
        assert_eq!(entries[0].entry.payload, [9; 11]);
        assert_eq!(entries.iter().flat_map(|raw| raw.bytes).copied().collect::<Vec<_>>(), bytes);
        assert!(check(&[], START).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_continue_the_log_is_refused_with_a_reason() {
        let at = LogOffset(8192);
        let (epoch, ordinal) = (RawError::Epoch { at, newest: 3, found: 2 }, |found| {
            RawError::Ordinal { at, expected: 5, found }
        });
        let mut later = entry(8192, 5, 3, 0);
        later[37] = 200;
        let rows = [
            (entry(8200, 5, 3, 0), RawError::Place { expected: at, found: LogOffset(8200) }),
            (entry(8192, 4, 3, 0), ordinal(4)),
            (entry(8192, 6, 3, 0), ordinal(6)),
            (entry(8192, 5, 2, 0), epoch),
            (later, RawError::Damaged { at }),
            (entry(8192, 5, 3, 8192), RawError::Misfit { at }),
            (entry(8192, 5, 3, 8192 - 72), RawError::Misfit { at }),
            (filler(8192, 5, 16_384), RawError::Misfit { at }),
            (filler(8192, 5, 4000), RawError::Misfit { at }),
        ];
        for (bytes, expected) in rows {
            let behind = [&bytes[..], &entry(8192, 5, 3, 0)].concat();
            for bytes in [&bytes, &behind] {
                assert_eq!(check(bytes, START).err(), Some(expected));
            }
        }
        assert!(check(&entry(8192, 5, 3, 8192 - 40), START).is_ok(), "it fills the segment");
        assert!(
            check(&entry(8192, 5, 3, 8192 - 80), START).is_ok(),
            "there is room for a filler after it"
        );
    }

    #[test]
    fn no_bit_may_change_and_nothing_may_be_missing() {
        let good = sample();
        let counts: Vec<usize> = (0..good.len())
            .filter_map(|cut| check(&good[..cut], START).ok())
            .map(|entries| entries.len())
            .collect();
        assert_eq!(counts, [0, 1, 2, 3], "only whole entries are taken");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad, START).is_err(), "bit {bit}");
        }
    }
}
