//! Bugs that tests plant, to see that the simulations find them.
//!
//! Each is a condition in the code that it breaks. In a release build there is none: [`is`] is
//! constant there. In others one bug is planted per thread, or none. `tests/sim/planted.rs` has the
//! table of who finds which.

/// A bug that can be planted, as what the code then does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    // Replication.
    /// An acknowledgement waits for this copy only.
    AcknowledgesOnOneCopy,
    /// Entries of a leader whose term is over are taken.
    AcceptsOldTerms,
    /// A vote is kept in memory only.
    ForgetsVotes,
    /// A vote is stored once it is for a leader.
    StoresCommittedVotesOnly,
    /// A candidate leads before most have voted for it.
    LeadsWithoutMajority,
    /// A conflict keeps one entry too many.
    CutsOneEntryTooFew,
    /// A conflict cuts off one entry more than it must.
    CutsOneEntryTooMany,
    /// What was cut off is still on the disk.
    LeavesCutsOnDisk,
    /// Those that wait for an entry are not told that it was cut off.
    ForgetsCuts,
    /// A follower answers when it has an entry in memory.
    AnswersBeforeFlush,
    /// Messages are visible as soon as they are written here.
    ShowsUncommitted,
    /// A snapshot gets its name although what it shows may still be cut off.
    PublishesSnapshotsEarly,
    /// A leader that is replaced keeps the state that never became part of the log.
    KeepsStateOfLeading,
    /// A follower stores what clients send it.
    StoresAsFollower,
    /// A leader says what is newest although another one may lead.
    AnswersWithoutLease,
    /// A new leader says what is newest before it has committed an entry of its own.
    AnswersBeforeItsFirstEntry,
    // Storage.
    /// Entries are taken without looking at their checksum.
    SkipsChecksums,
    /// What a recycled file had before passes for entries of the log.
    TakesStaleEntries,
    /// Missing entries go unnoticed.
    IgnoresOrdinals,
    /// A new name is not made durable.
    ForgetsDirectories,
    /// A small file gets its name before its contents are durable.
    PublishesUnsynced,
    /// Writes are acknowledged when the device has them in its cache.
    SkipsFlushes,
    /// After a failed write, the log goes on.
    GoesOnAfterFailedWrites,
    /// After a failed flush, the next one counts for both.
    RetriesFailedFlushes,
    /// A write counts although an earlier one has not ended.
    CountsWritesOutOfOrder,
    /// Two writes to the same block are in flight.
    SharesBlocksBetweenWrites,
    /// Damage before acknowledged entries passes for a torn tail.
    TakesDamageForATornTail,
    /// What follows a torn tail stays on the disk.
    LeavesTornTails,
    /// The last message of a queue is missing in the index file.
    LosesTheLastIndexEntry,
    /// An index file is written before its segment is durable.
    IndexesUnsyncedSegments,
    /// A damaged snapshot is used.
    SkipsSnapshotChecksums,
    /// Retention deletes what the next start needs.
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

    /// Whether the code of this thread has this bug.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Calls `f` with the bug in the code of this thread. It is removed when `f` returns or panics.
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
