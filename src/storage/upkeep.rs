//! The state of maintenance between calls.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use crate::model::{LogOffset, Moment};
use crate::storage::copy_holds::CopyHolds;
use crate::storage::disk::Disk;
use crate::storage::proof::EndProof;
use crate::storage::segment::FileName;
use crate::storage::snapshot::{SnapshotPoint, SnapshotSum};

/// The state of maintenance between calls.
pub struct Upkeep<D: Disk> {
    /// Offsets of the snapshots on disk, oldest first.
    pub snapshots: Vec<LogOffset>,
    /// Bytes of the newest one's payload.
    pub snapshot_size: u64,
    /// A snapshot that waits until the log is guaranteed to keep what it includes.
    pub taken: Option<Rc<Taken>>,
    pub synced_at: Moment,
    /// The end of the log, and since when it has not changed.
    pub idle_from: (LogOffset, Moment),
    /// The newest proof of the end.
    pub proof: Option<EndProof>,
    pub space_checked_at: Option<Moment>,
    /// End of the log at the last call, to tell whether the device is idle.
    pub end_seen: Option<LogOffset>,
    pub zeroing: Option<Zeroing<D>>,
    pub retiring: Option<Retiring>,
    /// Retention deletes no segment that ends above this.
    pub free_to: LogOffset,
    /// Copies of the log that are being sent to other replicas: retention deletes none of what they
    /// still need.
    pub copies: CopyHolds,
    /// Segments that have left the log but whose index files still exist, each with the end of the
    /// log at that time. Until every snapshot that a start may fall back on is newer, a start needs
    /// them to know which messages its queues have lost.
    pub retired: Vec<(LogOffset, LogOffset)>,
    /// Damage found by reads that has no file yet.
    pub damage: Vec<Range<LogOffset>>,
    /// Damage found by reads that has not been reported.
    pub unreported: Vec<Range<LogOffset>>,
    /// Segments with a rebuilt index that has not been reported.
    pub rebuilt: Vec<LogOffset>,
}

/// A snapshot that has no file yet.
pub struct Taken {
    pub point: SnapshotPoint,
    /// End of the log when the last slice was taken.
    pub end: LogOffset,
    /// The place up to which everything was committed when the log was first known to be committed
    /// up to `end`. In a driven log, a group ends there.
    pub fixed_by: Cell<Option<LogOffset>>,
    pub slices: Vec<Vec<u8>>,
    pub sum: SnapshotSum,
}

/// A segment being removed: no later one may be removed before it.
#[derive(Clone)]
pub struct Retiring {
    pub base: LogOffset,
    /// The new name of its file; without one it is deleted.
    pub becomes: Option<FileName>,
}

/// A file being zeroed.
pub struct Zeroing<D: Disk> {
    pub number: u64,
    pub file: D::File,
    pub position: u64,
}

impl<D: Disk> Upkeep<D> {
    pub fn new(snapshots: Vec<LogOffset>, snapshot_size: u64, proof: Option<EndProof>) -> Self {
        Self {
            snapshots,
            snapshot_size,
            taken: None,
            synced_at: Moment(0),
            idle_from: (LogOffset(0), Moment(0)),
            proof,
            space_checked_at: None,
            end_seen: None,
            zeroing: None,
            retiring: None,
            free_to: LogOffset(u64::MAX),
            copies: CopyHolds::default(),
            retired: Vec::new(),
            damage: Vec::new(),
            unreported: Vec::new(),
            rebuilt: Vec::new(),
        }
    }

    /// Takes over from `old` what an opening does not find, of a log that ends at `place` now.
    pub fn continue_from(&mut self, old: &mut Self, place: LogOffset) {
        // A snapshot may show what was cut off, and the log may get as far again with other entries.
        self.taken = old.taken.take().filter(|taken| taken.end <= place);
        self.succeed(old);
        self.damage = std::mem::take(&mut old.damage);
        self.unreported = std::mem::take(&mut old.unreported);
        self.rebuilt = std::mem::take(&mut old.rebuilt);
    }

    /// Takes over from `old`, whose log was replaced, what does not depend on its entries.
    pub fn succeed(&mut self, old: &mut Self) {
        self.free_to = old.free_to;
        (self.synced_at, self.space_checked_at) = (old.synced_at, old.space_checked_at);
        self.copies = std::mem::take(&mut old.copies);
    }

    /// Records a hole that a read has found.
    pub fn note_damage(&mut self, hole: Range<LogOffset>) {
        self.damage.push(hole.clone());
        self.unreported.push(hole);
    }
}
