//! Cuts off the end of a running log: uncommitted entries that another replica, which was elected,
//! does not have.
//!
//! ```text
//!   hold ─▶ drain ─▶ find the place ─▶ walk from the snapshot to it ─▶ proof away ─▶ wipe ─▶ a new log
//!   └──────────── nothing has changed: give up ───────────────────┘└─ fenced if not all of it happens ─┘
//! ```
//!
//! A cut is an opening ([`Opening`]) whose walk ends at the cut, and which wipes what follows like
//! a torn tail. The first write covers the block of the cut: before it the log is unchanged, after
//! it the log ends there. So a crash at any moment leaves a log that ends at the cut or where it
//! ended before. Handles on the store stay valid.
//!
//! Meanwhile there are no appends and no background work. Reads continue: they see only committed
//! entries, which a cut never touches.

use crate::model::LogOffset;
use crate::storage::config::CommitRule;
use crate::storage::disk::{Disk, DiskError, DiskErrorKind};
use crate::storage::entry::Parsed;
use crate::storage::error::{CutError, ReadError};
use crate::storage::index::Index;
use crate::storage::log::{Log, Preparing};
use crate::storage::segment::FileName;
use crate::storage::slice::Slices;
use crate::storage::snapshot::SnapshotPoint;
use crate::storage::store::Store;
use crate::storage::upkeep::Upkeep;

/// Keeps the log from changing until it is dropped.
pub(super) struct Hold<D: Disk> {
    store: Store<D>,
    stage: Stage,
    holds_syncs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The log is unchanged.
    Unchanged,
    /// The log in memory and on disk may differ.
    Changing,
    Done,
}

/// What a cut keeps: everything up to an entry, or everything below a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutAfter {
    Ordinal(u64),
    Offset(LogOffset),
}

/// Where a log is cut.
pub(super) struct Cut<D: Disk> {
    pub hold: Hold<D>,
    /// The place, and the ordinal of the entry there, the first to go.
    pub point: SnapshotPoint,
    /// Where the log ends before the cut.
    pub end: LogOffset,
}

impl<D: Disk> Hold<D> {
    /// Waits until everything appended is written and background work has stopped.
    pub async fn begin(store: &Store<D>) -> Result<Self, CutError> {
        store.0.background.take().await;
        let mut hold = Self { store: store.clone(), stage: Stage::Unchanged, holds_syncs: false };
        store.0.log.borrow_mut().is_held = true;
        // Entries of a group that has not ended may be written now.
        store.0.work.notify();
        let is_still = || {
            let log = store.0.log.borrow();
            if log.fault.is_some() {
                return Some(Err(CutError::Fenced));
            }
            let is_written = log.written() == log.end() && log.preparing != Preparing::Running;
            is_written.then_some(Ok(()))
        };
        store.0.marks_changed.wait(is_still).await?;
        store.0.syncs.take().await;
        hold.holds_syncs = true;
        Ok(hold)
    }

    /// Finds the place of the cut that keeps what `after` specifies.
    pub async fn find(self, after: CutAfter) -> Result<Cut<D>, CutError> {
        let (mut at, end, next_ordinal, mut epoch, mut reader) = {
            let log = self.store.0.log.borrow();
            (log.commit.driven_to, log.end(), log.writer.next_ordinal(), 0, log.reader())
        };
        match after {
            CutAfter::Ordinal(ordinal) if ordinal >= next_ordinal => {
                return Err(CutError::Beyond { ordinal, newest: next_ordinal - 1 });
            }
            CutAfter::Offset(offset) if offset < at || offset > end => {
                return Err(ReadError::Gone(offset).into());
            }
            _ => {}
        }
        let mut slices = Slices::default();
        loop {
            let (next, behind, its_epoch) = match at == end {
                true => (next_ordinal, end, epoch),
                false => match reader.parse_at(at).await.map_err(ReadError::from)? {
                    Parsed::Entry(entry) => {
                        let header = entry.header;
                        (header.ordinal.get(), header.end(), header.epoch.get())
                    }
                    _ => return Err(ReadError::Damaged(at).into()),
                },
            };
            let is_place = match after {
                CutAfter::Ordinal(ordinal) if next > ordinal + 1 => {
                    return Err(CutError::AlreadyCommitted { ordinal, first: next });
                }
                CutAfter::Ordinal(ordinal) => next == ordinal + 1,
                CutAfter::Offset(offset) if at > offset => {
                    return Err(ReadError::Gone(offset).into());
                }
                CutAfter::Offset(offset) => at == offset,
            };
            if is_place {
                let point = SnapshotPoint { offset: at, next_ordinal: next, epoch };
                return Ok(Cut { hold: self, point, end });
            }
            (at, epoch) = (behind, its_epoch);
            slices.handled(1).await;
        }
    }

    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// Called before the first change: from here on, the log can no longer be left unchanged.
    pub fn begin_changing(&mut self) {
        self.stage = Stage::Changing;
    }

    /// Ends the hold: the new log is in place.
    pub fn end(mut self) -> Store<D> {
        self.stage = Stage::Done;
        self.store.clone()
    }
}

impl<D: Disk> Cut<D> {
    /// Replaces the old log by the new one. There is no await between this and the caller's own
    /// changes, so no task sees one without the other.
    pub fn replace(self, mut log: Log<D>, mut index: Index, mut upkeep: Upkeep<D>) -> Store<D> {
        let shared = &self.hold.store.0;
        let active = log.segments.back().expect("a log has a segment").range.start;
        index.continue_from(&mut shared.index.borrow_mut(), active);
        log.continue_from(&mut shared.log.borrow_mut(), self.point.offset);
        upkeep.continue_from(&mut shared.upkeep.borrow_mut(), self.point.offset);
        *shared.log.borrow_mut() = log;
        *shared.index.borrow_mut() = index;
        *shared.upkeep.borrow_mut() = upkeep;
        self.hold.end()
    }
}

impl<D: Disk> Drop for Hold<D> {
    fn drop(&mut self) {
        let shared = &self.store.0;
        {
            let log = &mut *shared.log.borrow_mut();
            log.end_hold();
            if self.stage == Stage::Changing {
                let (end, kind) = (log.end(), DiskErrorKind::Io("it was given up half-way".into()));
                let active = log.segments.back().map_or(end, |segment| segment.range.start);
                let file = FileName::Segment(active).to_string();
                log.fence(DiskError { operation: "cut", file, offset: end.0 - active.0, kind });
            }
        }
        if self.holds_syncs {
            shared.syncs.give_back();
        }
        shared.background.give_back();
        shared.work.notify();
        // What some wait for may be gone.
        shared.commits.notify_all();
        shared.wake_waiters();
    }
}

impl<D: Disk> Store<D> {
    /// Holds the log and finds the place of the cut.
    pub(super) async fn hold_at(&self, after: CutAfter) -> Result<Cut<D>, CutError> {
        assert!(
            self.0.log.borrow().config.commit == CommitRule::Driven,
            "a log that commits alone is never cut"
        );
        let cut = Hold::begin(self).await?.find(after).await?;
        // An opening reads the notes from disk.
        self.write_damage_notes().await?;
        self.finish_retiring().await?;
        // An opening removes its file.
        self.0.upkeep.borrow_mut().zeroing = None;
        Ok(cut)
    }
}
