//! Bugs that tests plant to check that the simulations find them.
//!
//! Each bug is a condition in the code that it breaks. A release build has none: [`is`] is constant
//! there. In other builds, a thread has at most one planted bug. `tests/sim/planted.rs` has a table
//! of what finds each bug.

/// A bug that can be planted, described by what the code then does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    // Replication.
    /// An acknowledgement waits for this replica only.
    AcknowledgesOnOneCopy,
    /// Entries of a leader whose term is over are accepted.
    AcceptsOldTerms,
    /// A vote is kept in memory only.
    ForgetsVotes,
    /// A vote is stored only once it is committed.
    StoresCommittedVotesOnly,
    /// A candidate leads before a majority has voted for it.
    LeadsWithoutMajority,
    /// Resolving a conflict keeps one entry too many.
    CutsOneEntryTooFew,
    /// Resolving a conflict cuts off one entry too many.
    CutsOneEntryTooMany,
    /// Entries that were cut off remain on the disk.
    LeavesCutsOnDisk,
    /// Requests that wait for an entry are not told that it was cut off.
    ForgetsCuts,
    /// A follower confirms an entry that it has only in memory.
    AnswersBeforeFlush,
    /// Messages are visible as soon as this replica has written them.
    ShowsUncommitted,
    /// A snapshot is published although entries that it reflects may still be cut off.
    PublishesSnapshotsEarly,
    /// A replaced leader keeps state that never became part of the log.
    KeepsStateOfLeading,
    /// A follower stores what clients send it.
    StoresAsFollower,
    /// A leader reports what is newest although another replica may lead.
    AnswersWithoutLease,
    /// A new leader reports what is newest before it has committed an entry of its own.
    AnswersBeforeItsFirstEntry,
    // Storage.
    /// Entries are accepted without checking their checksums.
    SkipsChecksums,
    /// Old contents of a recycled file pass for entries of the log.
    TakesStaleEntries,
    /// Missing entries go unnoticed.
    IgnoresOrdinals,
    /// The name of a new file is not made durable.
    ForgetsDirectories,
    /// A small file gets its name before its contents are durable.
    PublishesUnsynced,
    /// Writes are acknowledged when they are in the cache of the device.
    SkipsFlushes,
    /// The log continues after a failed write.
    GoesOnAfterFailedWrites,
    /// After a failed flush, the next one counts for both.
    RetriesFailedFlushes,
    /// A write counts although an earlier one is still in flight.
    CountsWritesOutOfOrder,
    /// Two writes to the same block are in flight.
    SharesBlocksBetweenWrites,
    /// Damage before acknowledged entries passes for a torn tail.
    TakesDamageForATornTail,
    /// What follows a torn tail stays on the disk.
    LeavesTornTails,
    /// The last message of a queue is missing from the index file.
    LosesTheLastIndexEntry,
    /// An index file is written before its segment is durable.
    IndexesUnsyncedSegments,
    /// A damaged snapshot is used.
    SkipsSnapshotChecksums,
    /// Retention deletes segments that the next start needs.
    DeletesWhatRecoveryNeeds,
}

/// Number of bugs.
pub const COUNT: usize = Bug::DeletesWhatRecoveryNeeds as usize + 1;

#[cfg(debug_assertions)]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this thread has this bug.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Calls `f` with the bug planted in this thread. It is removed when `f` returns or panics.
    pub fn with<T>(bug: Bug, f: impl FnOnce() -> T) -> T {
        struct Remove;
        impl Drop for Remove {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        let _remove = Remove;
        PLANTED.set(Some(bug));
        f()
    }
}

#[cfg(debug_assertions)]
pub use chosen::{is, with};

/// There are no planted bugs in a release build.
#[cfg(not(debug_assertions))]
pub const fn is(_bug: Bug) -> bool {
    false
}
