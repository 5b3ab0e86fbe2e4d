//! The shard's state as the state machine of the consensus engine.
//!
//! The broker applies an entry when it appends it, so that a leader can answer the next request.
//! What the engine calls "apply" moves the committed mark, up to which replies are sent and
//! consumers see messages.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EmptyNode, RaftSnapshotBuilder, StoredMembership};

use super::host::Host;
use super::log::RaftLog;
use super::members;
use super::types::{Body, CommittedLeaderId, LogId, ReplicaId, Runtime, Types, log_id_of};

type StoredMembers = StoredMembership<CommittedLeaderId, ReplicaId, EmptyNode>;
type NoSnapshot = Snapshot<CommittedLeaderId, ReplicaId, EmptyNode, ()>;
type Meta = SnapshotMeta<CommittedLeaderId, ReplicaId, EmptyNode>;

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

    fn meta(&self) -> io::Result<Meta> {
        Ok(Meta { last_log_id: self.applied, last_membership: self.members()? })
    }
}

impl<H: Host, R: Runtime> RaftStateMachine<Types<R>> for Machine<H, R> {
    type SnapshotData = ();
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
        Builder(self.meta().map_err(|error| error.to_string()))
    }

    async fn install_snapshot(&mut self, _meta: &Meta, _snapshot: ()) -> io::Result<()> {
        Err(io::Error::other("a copy cannot be made from the state of another one"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<NoSnapshot>> {
        match self.applied {
            None => Ok(None),
            Some(_) => Ok(Some(Snapshot { meta: self.meta()?, snapshot: () })),
        }
    }
}

/// Says up to where the state is that a copy could be made of.
pub struct Builder(Result<Meta, String>);

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<NoSnapshot> {
        let meta = self.0.clone().map_err(io::Error::other)?;
        Ok(Snapshot { meta, snapshot: () })
    }
}
