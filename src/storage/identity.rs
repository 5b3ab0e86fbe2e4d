//! Which directory this is, and which directories the other replicas of the shard had when this one
//! last met them: a file beside the log. It reveals a directory that was emptied, that belongs to
//! another replica, or that is an older copy.
//!
//! ```text
//!   head: 0 checksum u32 | 4 version u32 | 8 replica | 16 directory | 24 starts | 32 joined | 40 peers
//!   peer: 0 replica | 8 directory | 16 starts | 24 term | 32 index       (64 bits each)
//! ```

use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::storage::disk::{Disk, DiskError};
use crate::storage::segment::FileName;
use crate::storage::store::Store;
use crate::storage::twofold::{self, Found};

/// The only supported version of the layout.
pub const IDENTITY_VERSION: u32 = 1;
/// Maximum number of other replicas.
pub const PEERS_MAX: usize = 1 << 10;

/// The layout of the file's head; the other replicas follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentityHead {
    /// CRC32C of the rest; starts from the shard's seed.
    pub checksum: U32,
    pub version: U32,
    /// Number of the replica that the directory belongs to.
    pub replica: U64,
    /// Random, drawn when the directory is first used.
    pub directory: U64,
    /// How often a process has started on it.
    pub starts: U64,
    /// 0: not all other replicas have confirmed yet that they know no other directory of this
    /// replica. 1: they have, and none had votes or entries. 2: they have, and some had.
    pub joined: U64,
    pub peer_count: U64,
}

/// Another replica, as it was when this one last met it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PeerRow {
    pub replica: U64,
    pub directory: U64,
    pub starts: U64,
    /// Term of its last vote.
    pub term: U64,
    /// A committed entry that it had.
    pub index: U64,
}

const _: () = {
    assert!(size_of::<IdentityHead>() == 48);
    assert!(size_of::<PeerRow>() == 40);
};

/// How far a directory has progressed. None of it ever decreases in the same directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// 0 for none.
    pub directory: u64,
    pub starts: u64,
    pub term: u64,
    pub index: u64,
}

/// Whether a directory takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Joined {
    #[default]
    Not = 0,
    /// In a set of replicas that was new then.
    New = 1,
    /// In a set that had votes or entries.
    Old = 2,
}

impl Joined {
    fn of(number: u64) -> Option<Self> {
        [Self::Not, Self::New, Self::Old].into_iter().find(|joined| *joined as u64 == number)
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredIdentity {
    pub replica: u64,
    pub directory: u64,
    pub starts: u64,
    pub joined: Joined,
    /// The other replicas, by number.
    pub peers: Vec<(u64, Mark)>,
}

/// Why the file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{0} is damaged: without it, an emptied or older directory could not be told from the right \
         one. To repair it, replace this replica: remove its data directory and add it to the set \
         under a new number"
    )]
    Damaged(FileName),
}

impl StoredIdentity {
    fn encode(&self, seed: u32) -> Vec<u8> {
        let mut head = IdentityHead {
            checksum: U32::ZERO,
            version: U32::new(IDENTITY_VERSION),
            replica: U64::new(self.replica),
            directory: U64::new(self.directory),
            starts: U64::new(self.starts),
            joined: U64::new(self.joined as u64),
            peer_count: U64::new(self.peers.len() as u64),
        };
        let row = |(replica, mark): &(u64, Mark)| PeerRow {
            replica: U64::new(*replica),
            directory: U64::new(mark.directory),
            starts: U64::new(mark.starts),
            term: U64::new(mark.term),
            index: U64::new(mark.index),
        };
        let rows: Vec<PeerRow> = self.peers.iter().map(row).collect();
        head.checksum.set(checksum(&head, &rows, seed));
        [head.as_bytes(), rows.as_bytes()].concat()
    }

    fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let (head, rest) = IdentityHead::ref_from_prefix(bytes).ok()?;
        let count = usize::try_from(head.peer_count.get()).ok().filter(|n| *n <= PEERS_MAX)?;
        let (rows, _) = <[PeerRow]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let is_intact = head.version.get() == IDENTITY_VERSION
            && head.checksum.get() == checksum(head, rows, seed);
        let peer = |row: &PeerRow| {
            let mark = Mark {
                directory: row.directory.get(),
                starts: row.starts.get(),
                term: row.term.get(),
                index: row.index.get(),
            };
            (row.replica.get(), mark)
        };
        let joined = Joined::of(head.joined.get())?;
        is_intact.then(|| Self {
            replica: head.replica.get(),
            directory: head.directory.get(),
            starts: head.starts.get(),
            joined,
            peers: rows.iter().map(peer).collect(),
        })
    }
}

fn checksum(head: &IdentityHead, rows: &[PeerRow], seed: u32) -> u32 {
    let sum = crc32c::crc32c_append(seed, &head.as_bytes()[size_of::<U32>()..]);
    crc32c::crc32c_append(sum, rows.as_bytes())
}

impl<D: Disk> Store<D> {
    /// Makes the identity durable.
    pub async fn write_identity(&self, identity: &StoredIdentity) -> Result<(), DiskError> {
        let bytes = identity.encode(self.0.log.borrow().config.checksum_seed);
        twofold::write(&self.0.disk, FileName::Identity, &bytes).await
    }

    /// `None` if the directory has none yet.
    pub async fn read_identity(&self) -> Result<Option<StoredIdentity>, IdentityError> {
        let (name, seed) = (FileName::Identity, self.0.log.borrow().config.checksum_seed);
        let decode = |bytes: &[u8]| StoredIdentity::decode(bytes, seed);
        match twofold::read(&self.0.disk, name.clone(), decode).await? {
            Found::Missing => Ok(None),
            Found::Damaged => Err(IdentityError::Damaged(name)),
            Found::Contents(identity) => Ok(Some(identity)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_an_identity_may_change() {
        let mark = |directory| Mark { directory, starts: 4, term: 5, index: 6 };
        let peers = vec![(1, mark(77)), (3, mark(1 << 60))];
        let identity =
            StoredIdentity { replica: 2, directory: 9, starts: 3, joined: Joined::Old, peers };
        let bytes = identity.encode(5);
        assert_eq!(StoredIdentity::decode(&bytes, 5), Some(identity));
        assert_eq!(StoredIdentity::decode(&bytes, 6), None, "of another shard");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(StoredIdentity::decode(&bad, 5), None, "bit {bit}");
        }
    }
}
