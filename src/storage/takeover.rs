//! A complete copy of another replica's log replaces this one, in the running store.
//!
//! ```text
//!   hold ─▶ copy.taken, durable ─▶ NAME.staged becomes NAME ─▶ the rest goes ─▶ copy.taken goes ─▶ opening
//!   └── the old log ──────────┘└─ the new log: a start does the same steps, whichever are left ───────┘
//! ```
//!
//! Like a cut, a takeover ends as an opening (`Opening`) whose result replaces the running log.
//! Reads continue meanwhile: what they see is committed, so both logs have it.

use crate::storage::copy::LogCopy;
use crate::storage::cutting::Hold;
use crate::storage::disk::Disk;
use crate::storage::error::{CutError, OpenError};
use crate::storage::index::Index;
use crate::storage::log::Log;
use crate::storage::publish::remove_if_any;
use crate::storage::segment::FileName;
use crate::storage::store::Store;
use crate::storage::twofold::{self, Found};
use crate::storage::upkeep::Upkeep;

impl<D: Disk> Store<D> {
    /// The first steps of [`take_over`](Self::take_over): the log is held, and a start finds the copy.
    pub(super) async fn begin_takeover(&self, copy: &LogCopy) -> Result<Hold<D>, CutError> {
        let mut hold = Hold::begin(self).await?;
        self.finish_retiring().await?;
        // An opening removes its file.
        self.0.upkeep.borrow_mut().zeroing = None;
        let (disk, seed) = (&self.0.disk, self.0.log.borrow().config.checksum_seed);
        hold.begin_changing();
        twofold::write(disk, FileName::CopyTaken, &copy.encode(seed)).await?;
        Ok(hold)
    }
}

/// Completes a takeover that has begun.
pub(super) async fn finish_takeover<D: Disk>(disk: &D, seed: u32) -> Result<(), OpenError> {
    let taken = FileName::CopyTaken;
    let decode = |bytes: &[u8]| LogCopy::decode(bytes, seed);
    let copy = match twofold::read(disk, taken.clone(), decode).await? {
        Found::Contents(copy) => copy,
        Found::Missing => return Ok(()),
        Found::Damaged => return Err(OpenError::TakeoverDamaged),
    };
    let names: Vec<String> = disk.list().await?.into_iter().map(|(name, _)| name).collect();
    for file in &copy.files {
        let staged = file.name().staged().to_string();
        if names.contains(&staged) {
            disk.rename(&staged, &file.name().to_string()).await?;
        } else if !names.contains(&file.name().to_string()) {
            return Err(OpenError::TakeoverIncomplete(file.name()));
        }
    }
    for text in &names {
        let Some(name) = FileName::parse(text) else { continue };
        let is_of_copy = copy.files.iter().any(|file| file.name() == name);
        let is_of_log = match name {
            FileName::Segment(_) | FileName::Index(_) | FileName::Snapshot(_) => !is_of_copy,
            FileName::EndProof | FileName::Damaged(_) => true,
            _ => false,
        };
        if is_of_log {
            disk.remove(text).await?;
        }
    }
    remove_if_any(disk, &FileName::CopyList).await?;
    disk.sync_directory().await?;
    disk.remove(&taken.to_string()).await?;
    Ok(disk.sync_directory().await?)
}

impl<D: Disk> Hold<D> {
    /// Replaces the old log by the new one. There is no await between this and the caller's own
    /// changes, so no task sees one without the other.
    pub fn replace(self, mut log: Log<D>, index: Index, mut upkeep: Upkeep<D>) -> Store<D> {
        let shared = &self.store().0;
        log.succeed(&mut shared.log.borrow_mut());
        upkeep.succeed(&mut shared.upkeep.borrow_mut());
        *shared.log.borrow_mut() = log;
        *shared.index.borrow_mut() = index;
        *shared.upkeep.borrow_mut() = upkeep;
        self.end()
    }
}

impl<D: Disk> Log<D> {
    /// Takes over from `old`, which this copy replaces, what an opening does not find on disk. A
    /// task that waits for an uncommitted entry of `old` learns that it is gone.
    fn succeed(&mut self, old: &mut Self) {
        let committed = old.commit.driven_to;
        self.take_from(old);
        self.cuts.note(committed);
        self.group_end = old.group_end.map(|_| self.end());
    }
}
