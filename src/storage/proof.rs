//! The proof of the end: a small file that says how far the log was on stable media. It protects
//! the last entries of an idle log, which no later entry proves durable.
//!
//! ```text
//!   block 0, block 1, each:  0 magic 8 | 8 checksum u32 | 12 version u32 | 16 number u64
//!                           24 log offset u64 | 32 next ordinal u64 | 40 epoch u32 | 44 zero u32
//! ```
//!
//! The two blocks are written alternately, so one of them is always intact. A missing or damaged
//! proof proves nothing and is not an error.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::storage::snapshot::SnapshotPoint;

pub const PROOF_MAGIC: [u8; 8] = *b"RINGMQEP";
pub const PROOF_VERSION: u32 = 1;
/// Blocks of the file.
pub const PROOF_BLOCKS: u64 = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EndProof {
    pub magic: [u8; 8],
    /// CRC32C of what follows this field; starts from the shard's seed.
    pub checksum: U32,
    pub version: U32,
    /// Counts the proofs. Its block is this number modulo the number of blocks.
    pub number: U64,
    /// Everything below was on stable media. An entry ends here.
    pub log_offset: U64,
    /// Ordinal of the entry at that offset; 0 if unknown.
    pub next_ordinal: U64,
    /// Epoch of the newest entry at that time.
    pub epoch: U32,
    pub reserved: U32,
}

const _: () = assert!(size_of::<EndProof>() == 48);
const CHECKED_FROM: usize = 12;

impl EndProof {
    pub fn new(number: u64, point: SnapshotPoint, seed: u32) -> Self {
        let mut proof = Self {
            magic: PROOF_MAGIC,
            checksum: U32::ZERO,
            version: U32::new(PROOF_VERSION),
            number: U64::new(number),
            log_offset: U64::new(point.offset.0),
            next_ordinal: U64::new(point.next_ordinal),
            epoch: U32::new(point.epoch),
            reserved: U32::ZERO,
        };
        proof.checksum.set(proof.compute_checksum(seed));
        proof
    }

    /// The proof in `block`, if it is intact.
    pub fn decode(block: &[u8], seed: u32) -> Option<Self> {
        let (proof, _) = Self::read_from_prefix(block).ok()?;
        let is_intact = proof.magic == PROOF_MAGIC
            && proof.version.get() == PROOF_VERSION
            && proof.checksum.get() == proof.compute_checksum(seed);
        is_intact.then_some(proof)
    }

    pub fn point(&self) -> SnapshotPoint {
        SnapshotPoint {
            offset: LogOffset(self.log_offset.get()),
            next_ordinal: self.next_ordinal.get(),
            epoch: self.epoch.get(),
        }
    }

    fn compute_checksum(&self, seed: u32) -> u32 {
        crc32c::crc32c_append(seed, &self.as_bytes()[CHECKED_FROM..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_proof_may_change() {
        let point = SnapshotPoint { offset: LogOffset(4096), next_ordinal: 7, epoch: 2 };
        let proof = EndProof::new(3, point, 9);
        assert_eq!(EndProof::decode(proof.as_bytes(), 9).map(|proof| proof.point()), Some(point));
        assert!(EndProof::decode(proof.as_bytes(), 8).is_none(), "of another shard");
        for bit in 0..size_of::<EndProof>() * 8 {
            let mut bad = proof.as_bytes().to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(EndProof::decode(&bad, 9).is_none(), "bit {bit}");
        }
    }
}
