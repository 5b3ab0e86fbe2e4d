//! Presents the shard's state as the state machine of the consensus engine.
//!
//! The broker applies an entry when it appends it, so that a leader can answer the next request.
//! What the engine calls "apply" moves the committed watermark, up to which replies are sent and
//! consumers see messages. What it calls a snapshot is a copy of the log: the log is the data.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{Raft, RaftSnapshotBuilder};

use super::host::Host;
use super::log::RaftLog;
use super::members;
use super::types::{
    Body, CopyData, CopyMeta, LogId, Runtime, StoredMembers, Types, WholeCopy, failed, log_id_of,
};

/// The engine of a replica.
pub type Engine<H, R> = Raft<Types<R>, Machine<H, R>>;

/// A handle; clones share it.
pub struct Machine<H: Host, R: Runtime> {
    log: RaftLog<H, R>,
    applied: Option<LogId>,
}

impl<H: Host, R: Runtime> Machine<H, R> {
    /// After a start, everything up to the newest snapshot is committed.
    pub fn new(log: RaftLog<H, R>) -> Self {
        let broker = log.host().broker();
        let committed = broker.store().committed();
        let applied = broker.with_raft_entries(|entries| entries.ending_by(committed));
        Self { applied: applied.map(log_id_of), log }
    }

    fn members(&self) -> io::Result<StoredMembers> {
        let Some(applied) = self.applied else { return Ok(StoredMembers::default()) };
        self.log.host().broker().with_raft_entries(|entries| {
            let Some((place, bytes)) = entries.members_by(applied.index) else {
                return Ok(StoredMembers::default());
            };
            Ok(StoredMembers::new(Some(log_id_of(place)), members::read(bytes)?))
        })
    }

    /// A copy of what is committed now.
    fn copy(&self) -> io::Result<WholeCopy> {
        let meta = CopyMeta { last_log_id: self.applied, last_membership: self.members()? };
        let snapshot = self.log.host().broker().store().newest_snapshot();
        Ok(WholeCopy { meta, snapshot: CopyData::Here { snapshot } })
    }
}

impl<H: Host, R: Runtime> RaftStateMachine<Types<R>> for Machine<H, R> {
    type SnapshotData = CopyData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembers)> {
        Ok((self.applied, self.members()?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<R>>>> + Unpin,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let Body::Stored(range) = entry.body else { unreachable!("it was read from the log") };
            self.log.host().broker().store().commit_to(range.end);
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.log.host().handle_commit();
        self.log.host().broker().leadership_moved();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.copy().map_err(|error| error.to_string()))
    }

    /// The engine appends nothing meanwhile. A log that has the last entry of the copy has all of
    /// it.
    async fn install_snapshot(&mut self, meta: &CopyMeta, snapshot: CopyData) -> io::Result<()> {
        let (CopyData::Arrived(copy), Some(last)) = (snapshot, meta.last_log_id) else {
            return Err(failed("a copy of this log cannot replace it"));
        };
        let host = self.log.host();
        match self.log.end_of(last).await? {
            Some(end) => host.broker().store().commit_to(end),
            None => {
                tracing::info!("a copy of the log up to {last} has arrived and replaces this log");
                host.broker().take_over(&copy, host.now()).await.map_err(failed)?;
                host.handle_commit();
                let found = host.broker().last_raft_entry().map(log_id_of);
                if found != Some(last) {
                    return Err(failed(format!("a copy up to {last} ends with {found:?}")));
                }
                self.log.handle_replaced();
            }
        }
        self.applied = Some(last);
        self.log.host().handle_commit();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<WholeCopy>> {
        self.applied.map(|_| self.copy()).transpose()
    }
}

/// Returns how far a copy of the log, made now, would reach.
pub struct Builder(Result<WholeCopy, String>);

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder {
    type SnapshotData = CopyData;

    async fn build_snapshot(&mut self) -> io::Result<WholeCopy> {
        self.0.clone().map_err(io::Error::other)
    }
}
