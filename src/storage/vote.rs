//! The vote of this replica in the election of a leader: a file beside the log. It must be durable
//! before the replica replies, because one that forgets its vote could help to elect two leaders.
//!
//! ```text
//!   0 checksum u32 | 4 version u32 | 8 term u64 | 16 voted for u64 | 24 committed u64
//! ```
//!
//! The file is a [`twofold`] one: a full disk does not keep a replica from voting.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::storage::disk::{Disk, DiskError};
use crate::storage::segment::FileName;
use crate::storage::store::Store;
use crate::storage::twofold::{self, Found};

/// The only supported version of the layout.
pub const VOTE_VERSION: u32 = 1;

/// The layout of the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VoteRecord {
    /// CRC32C of the rest; starts from the shard's seed.
    pub checksum: U32,
    pub version: U32,
    pub term: U64,
    pub voted_for: U64,
    /// 1 if the replica voted for leads.
    pub is_committed: U64,
}

const _: () = assert!(size_of::<VoteRecord>() == 32);

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVote {
    pub term: u64,
    /// Number of a replica.
    pub voted_for: u64,
    /// Whether that replica is known to lead.
    pub is_committed: bool,
}

/// Why a vote could not be read.
#[derive(Debug, thiserror::Error)]
pub enum VoteError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{0} is damaged: without it, this replica could vote twice. To repair it, replace this replica: \
         remove its data directory and add it to the set under a new number"
    )]
    Damaged(FileName),
}

impl StoredVote {
    fn encode(self, seed: u32) -> VoteRecord {
        let mut record = VoteRecord {
            checksum: U32::ZERO,
            version: U32::new(VOTE_VERSION),
            term: U64::new(self.term),
            voted_for: U64::new(self.voted_for),
            is_committed: U64::new(u64::from(self.is_committed)),
        };
        record.checksum.set(record.compute_checksum(seed));
        record
    }

    fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let (record, _) = VoteRecord::ref_from_prefix(bytes).ok()?;
        let is_intact = record.checksum.get() == record.compute_checksum(seed)
            && record.version.get() == VOTE_VERSION;
        is_intact.then(|| Self {
            term: record.term.get(),
            voted_for: record.voted_for.get(),
            is_committed: record.is_committed.get() != 0,
        })
    }
}

impl VoteRecord {
    fn compute_checksum(&self, seed: u32) -> u32 {
        crc32c::crc32c_append(seed, &self.as_bytes()[size_of::<U32>()..])
    }
}

impl<D: Disk> Store<D> {
    /// The last vote; `None` if there never was one. Makes room for votes, so that later ones need no
    /// space. Call it before the first vote.
    pub async fn open_votes(&self) -> Result<Option<StoredVote>, VoteError> {
        let (name, seed) = (FileName::Vote, self.0.log.borrow().config.checksum_seed);
        let decode = |bytes: &[u8]| StoredVote::decode(bytes, seed);
        match twofold::read(&self.0.disk, name.clone(), decode).await? {
            Found::Missing => {
                let none = StoredVote { term: 0, voted_for: 0, is_committed: false };
                twofold::write(&self.0.disk, name, none.encode(seed).as_bytes()).await?;
                Ok(None)
            }
            Found::Damaged => Err(VoteError::Damaged(name)),
            Found::Contents(vote) => Ok(Some(vote).filter(|vote| vote.term > 0)),
        }
    }

    /// Makes a vote durable. A failure fences the log.
    pub async fn write_vote(&self, vote: StoredVote) -> Result<(), DiskError> {
        let record = vote.encode(self.0.log.borrow().config.checksum_seed);
        let written = twofold::write(&self.0.disk, FileName::Vote, record.as_bytes()).await;
        self.0.apply(written, |_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_vote_may_change() {
        let vote = StoredVote { term: 7, voted_for: 3, is_committed: true };
        let record = vote.encode(5);
        assert_eq!(StoredVote::decode(record.as_bytes(), 5), Some(vote));
        assert_eq!(StoredVote::decode(record.as_bytes(), 6), None);
        for bit in 0..size_of::<VoteRecord>() * 8 {
            let mut bytes = record.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(StoredVote::decode(&bytes, 5), None, "bit {bit}");
        }
    }
}
