//! Why a log could not be opened, or something in it could not be read.

use crate::model::LogOffset;
use crate::storage::disk::DiskError;
use crate::storage::segment::FileName;

/// Why a log could not be opened. No data worth keeping has been changed on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "a segment size of {0} bytes is not possible; it must be a multiple of 4096 between 16 KiB and 2 GiB"
    )]
    SegmentSize(u64),
    #[error(
        "the log begins at {begin} and no snapshot is intact, so the state before that is unknown; \
         restore a .snapshot file from a backup"
    )]
    NoSnapshot { begin: LogOffset },
    #[error(
        "there is a snapshot at {snapshot} but no log; restore the segment files (is the right disk \
         mounted?), or remove the .snapshot files to start with an empty log"
    )]
    LogMissing { snapshot: LogOffset },
    #[error("the entry at {at} has version {version}; it was written by a newer release")]
    Unsupported { at: LogOffset, version: u8 },
    #[error(
        "the log at {at} was written by another shard or data directory, or its beginning is damaged \
         and nothing after it is intact; it has not been changed"
    )]
    Foreign { at: LogOffset },
    #[error(
        "the end of the log at {at} cannot be read ({fault}), so it is unknown what was acknowledged \
         there; restore the segment file from a backup, or give up those 4096 bytes by overwriting \
         them with zeros (dd if=/dev/zero of={file} bs=4096 count=1 conv=notrunc \
         oflag=seek_bytes seek={position}), and start again"
    )]
    Unreadable { at: LogOffset, file: String, position: u64, fault: DiskError },
    #[error(
        "copy.taken is damaged, so it is unknown which files belong to the log. To repair it, replace \
         this replica: remove its data directory and add it to the set under a new number"
    )]
    TakeoverDamaged,
    #[error(
        "{0} is missing although a copy of the log has arrived completely. To repair it, replace this \
         replica: remove its data directory and add it to the set under a new number"
    )]
    TakeoverIncomplete(FileName),
    #[error(transparent)]
    Epoch(#[from] EpochError),
    #[error("opening the log: {0}")]
    Disk(#[from] DiskError),
}

/// Why nothing may be appended with an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot append with epoch {given}: the log is at epoch {found}, so it has had another \
     owner since"
)]
pub struct EpochError {
    pub given: u32,
    pub found: u32,
}

/// Why the end of a log was not cut off. Unless the log is fenced now, nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error("cannot cut the log after entry {ordinal}: entry {first} is already committed")]
    AlreadyCommitted { ordinal: u64, first: u64 },
    #[error("cannot cut the log after entry {ordinal}: it ends with entry {newest}")]
    Beyond { ordinal: u64, newest: u64 },
    #[error("a write has failed; the log is closed")]
    Fenced,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("finding the place of the cut: {0}")]
    Read(#[from] ReadError),
    #[error("preparing the cut: {0}")]
    Disk(#[from] DiskError),
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the log is damaged at {0}")]
    Damaged(LogOffset),
    #[error("the log has nothing at {0}: it was deleted or is not written yet")]
    Gone(LogOffset),
    #[error(transparent)]
    Fault(#[from] DiskError),
}
