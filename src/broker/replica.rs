//! A shard with replicas on several machines. One replica leads: it alone accepts requests that
//! change state. The others append its entries byte for byte, and apply the same facts.
//!
//! Which replica leads, what is committed, and which replica gets which entries is decided in
//! [`replication`](crate::replication). This is the broker's part.
//!
//! ```text
//!   leader:    requests ─▶ entries ─▶ end_raft_entry ─▶ written, and shipped to the others
//!   follower:  append_raw ─▶ written, and applied to the state; visible once committed
//! ```

use super::open::Unseen;
use super::raft_entries::{self, RaftContent, RaftPlace};
use super::{Broker, Fact, FactError};
use crate::model::{LogOffset, Now};
use crate::storage::disk::Disk;
use crate::storage::{
    AppendError, EpochError, RawError as StoreRawError, SpaceClass, split_at_segment,
};

/// Why entries of the leader were not appended.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error(transparent)]
    Store(#[from] StoreRawError),
    #[error(transparent)]
    Fact(#[from] FactError),
    #[error("there is no room in the log: {0}")]
    NoRoom(AppendError),
}

impl RawError {
    fn is_disk_full(&self) -> bool {
        let full = AppendError::DiskFull;
        matches!(self, Self::Store(StoreRawError::Append(error)) | Self::NoRoom(error) if *error == full)
    }
}

impl<D: Disk> Broker<D> {
    /// Makes this replica the leader; its entries have this epoch. Every queue lock counts as just
    /// renewed, because its owner may have renewed it with the previous leader. The clock of delayed
    /// messages continues from the reading that the previous leader has stored.
    pub fn lead(&self, epoch: u32, now: Now) -> Result<(), EpochError> {
        self.store.begin_epoch(epoch)?;
        if self.store.is_following() {
            self.store.set_following(false);
            let state = &mut *self.state.borrow_mut();
            state.durable.locks.start(now.moment);
            state.delivery.take_over(now, &state.durable.delays);
        }
        self.deliveries.notify();
        Ok(())
    }

    /// Makes this replica a follower: another replica leads, or none does.
    pub fn follow(&self) {
        self.store.set_following(true);
    }

    /// Makes this replica accept requests again after an interruption in which no other replica
    /// led.
    pub fn lead_again(&self) {
        self.store.set_following(false);
        // Messages may have become due meanwhile.
        self.deliveries.notify();
    }

    pub fn leads(&self) -> bool {
        !self.store.is_following()
    }

    /// Ends an entry of the consensus engine: everything appended since the previous one belongs to
    /// it. Returns its place. Also called on a replica that does not lead: every replica appends
    /// the first entry, which lists the members, and a leader that accepts no requests continues
    /// with its own entries.
    pub fn end_raft_entry(
        &self,
        index: u64,
        term: u64,
        content: &RaftContent,
    ) -> Result<RaftPlace, AppendError> {
        let facts = raft_entries::ended(index, term, content);
        let end = self.record_in(&facts, SpaceClass::Engine)?;
        self.store.end_group();
        Ok(RaftPlace { index, term, end })
    }

    /// Appends entries of the leader, the last of which ends an entry of the consensus engine.
    /// Waits for room, for a segment and, if the disk is full, for space. Their messages become
    /// visible once they are committed.
    pub async fn append_raw(&self, bytes: &[u8]) -> Result<(), RawError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (here, behind) = split_at_segment(rest, self.store.segment_end());
            match self.append_raw_here(here).await {
                Err(error) if error.is_disk_full() => {
                    let shard = self.config.shard.0;
                    tracing::error!(shard, "this replica falls behind until its disk has space");
                    self.store.can_grow().await;
                }
                outcome => {
                    outcome?;
                    rest = behind;
                }
            }
        }
        self.store.end_group();
        Ok(())
    }

    async fn append_raw_here(&self, bytes: &[u8]) -> Result<(), RawError> {
        let (mut unseen, mut broken) = (Unseen::default(), None);
        let mut append = || {
            let state = &mut *self.state.borrow_mut();
            self.store.append_raw(bytes, |index, entry| {
                if let Err(error) = state.durable.apply(index, Fact::of_entry(&entry)) {
                    broken.get_or_insert(error);
                }
                unseen.note(&entry);
            })
        };
        let mut outcome = append();
        if let Err(StoreRawError::Append(AppendError::NoRoom)) = outcome {
            let attempt = || match append() {
                Err(StoreRawError::Append(error)) => Err(error),
                outcome => Ok(outcome),
            };
            outcome = self.store.with_room(bytes.len(), attempt).await.map_err(RawError::NoRoom)?;
        }
        outcome?;
        match broken {
            Some(error) => Err(error.into()),
            None => {
                self.state.borrow_mut().pending.extend(unseen.into_pending());
                Ok(())
            }
        }
    }

    /// The newest entry of the consensus engine in the log.
    pub fn last_raft_entry(&self) -> Option<RaftPlace> {
        self.state.borrow().durable.raft.last()
    }

    /// Reads the places of the engine's entries.
    pub fn with_raft_entries<T>(&self, read: impl FnOnce(&raft_entries::RaftEntries) -> T) -> T {
        read(&self.state.borrow().durable.raft)
    }

    /// The end of the part of the log that the engine knows.
    pub fn raft_end(&self) -> LogOffset {
        self.last_raft_entry().map_or(LogOffset(0), |place| place.end)
    }
}
