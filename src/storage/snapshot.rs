//! The snapshot file: the broker's state as of an offset in the log, so that a restart replays
//! seconds of it, not hours.
//!
//! ```text
//!   0 magic 8 | 8 checksum u32 | 12 version u32 | 16 log offset u64 | 24 next ordinal u64
//!  32 payload size u64 | 40 epoch u32 | 44 payload checksum u32 | 48 payload | zeros up to a whole block
//! ```
//!
//! A snapshot is written only once the log below its offset is on stable media. So it is evidence
//! too: whatever is missing below that offset was once there. Pure.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::planted::{self, Bug};

pub const SNAPSHOT_MAGIC: [u8; 8] = *b"RINGMQSN";
pub const SNAPSHOT_VERSION: u32 = 2;
/// Number of snapshots kept. If the newest is damaged, the one before it is used.
pub const SNAPSHOTS_KEPT: usize = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SnapshotHead {
    pub magic: [u8; 8],
    /// CRC32C of what follows this field in the head; starts from the shard's seed.
    pub checksum: U32,
    pub version: U32,
    /// The state reflects all entries below this offset.
    pub log_offset: U64,
    /// Ordinal of the entry at that offset.
    pub next_ordinal: U64,
    pub payload_size: U64,
    /// Epoch of the entry just below the offset.
    pub epoch: U32,
    /// CRC32C of the payload; starts from the same seed.
    pub payload_checksum: U32,
}

const _: () = assert!(size_of::<SnapshotHead>() == 48);
const CHECKED_FROM: usize = 12;

/// The place of a snapshot in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPoint {
    pub offset: LogOffset,
    pub next_ordinal: u64,
    pub epoch: u32,
}

/// Checksums a payload that comes in slices.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSum {
    seed: u32,
    checksum: u32,
    size: u64,
}

impl SnapshotSum {
    pub fn new(seed: u32) -> Self {
        Self { seed, checksum: seed, size: 0 }
    }

    pub fn add(&mut self, slice: &[u8]) {
        self.checksum = crc32c::crc32c_append(self.checksum, slice);
        self.size += slice.len() as u64;
    }

    /// The head for the payload that was added.
    pub fn head(&self, point: SnapshotPoint) -> SnapshotHead {
        let mut head = SnapshotHead {
            magic: SNAPSHOT_MAGIC,
            checksum: U32::ZERO,
            version: U32::new(SNAPSHOT_VERSION),
            log_offset: U64::new(point.offset.0),
            next_ordinal: U64::new(point.next_ordinal),
            payload_size: U64::new(self.size),
            epoch: U32::new(point.epoch),
            payload_checksum: U32::new(self.checksum),
        };
        head.checksum.set(head_checksum(&head, self.seed));
        head
    }
}

/// The contents of a snapshot file, if it is intact.
pub fn decode(bytes: &[u8], seed: u32) -> Option<(SnapshotPoint, &[u8])> {
    let (head, rest) = SnapshotHead::read_from_prefix(bytes).ok()?;
    let is_head = head.magic == SNAPSHOT_MAGIC
        && head.version.get() == SNAPSHOT_VERSION
        && head.checksum.get() == head_checksum(&head, seed);
    if !is_head {
        return None;
    }
    let payload = rest.get(..usize::try_from(head.payload_size.get()).ok()?)?;
    let point = SnapshotPoint {
        offset: LogOffset(head.log_offset.get()),
        next_ordinal: head.next_ordinal.get(),
        epoch: head.epoch.get(),
    };
    let is_intact = crc32c::crc32c_append(seed, payload) == head.payload_checksum.get();
    (is_intact || planted::is(Bug::SkipsSnapshotChecksums)).then_some((point, payload))
}

fn head_checksum(head: &SnapshotHead, seed: u32) -> u32 {
    crc32c::crc32c_append(seed, &head.as_bytes()[CHECKED_FROM..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: SnapshotPoint =
        SnapshotPoint { offset: LogOffset(4096), next_ordinal: 7, epoch: 2 };

    fn encode(payload: &[&[u8]], seed: u32) -> Vec<u8> {
        let mut sum = SnapshotSum::new(seed);
        payload.iter().for_each(|slice| sum.add(slice));
        [sum.head(POINT).as_bytes(), &payload.concat()].concat()
    }

    #[test]
    fn a_snapshot_reads_back() {
        let mut bytes = encode(&[b"sta", b"te"], 9);
        bytes.resize(4096, 0);
        assert_eq!(decode(&bytes, 9), Some((POINT, &b"state"[..])));
        assert_eq!(decode(&bytes, 8), None, "of another shard");
    }

    #[test]
    fn no_bit_of_a_snapshot_may_change() {
        let good = encode(&[b"sta", b"te"], 9);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, 9), None, "bit {bit}");
        }
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut], 9), None, "cut at {cut}");
        }
    }
}
