//! The parameters and results of an append.

use crate::model::LogOffset;
use crate::storage::entry::EntryKind;

/// An entry to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    pub kind: EntryKind,
    /// What the entry concerns, in the broker's numbering.
    pub subject: u32,
    pub payload_size: usize,
    pub space: SpaceClass,
}

/// How much of a nearly full disk an append may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceClass {
    /// Not the reserve: refused with [`AppendError::DiskFull`] when free space is below it.
    Ordinary,
    /// The reserve as well. For small facts that keep the broker working, and free space again.
    Reserved,
    /// The same, and also while another replica leads: the consensus engine has entries of its own
    /// then.
    Engine,
}

/// Where an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub entry_offset: LogOffset,
    pub payload_offset: LogOffset,
    /// The append may be acknowledged when the log is committed up to here.
    pub end: LogOffset,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("too many bytes are waiting for the disk")]
    NoRoom,
    #[error("the disk is full")]
    DiskFull,
    #[error("a write has failed; the log is closed")]
    Fenced,
    /// Only the leader among the replicas of a log appends entries of its own.
    #[error("another replica leads")]
    NotLeader,
    #[error("the entry exceeds the size limit")]
    TooLarge,
}
