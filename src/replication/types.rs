//! The types that the consensus engine is used with.

use std::cmp::Ordering;
use std::fmt::{self, Debug, Display};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder};
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, EntryPayload, Membership, RaftTypeConfig, StoredMembership, entry};

use crate::broker::raft_entries::RaftPlace;
use crate::model::LogOffset;
use crate::storage::LogCopy;

/// Number of a replica of a shard, from 1.
pub type ReplicaId = u64;
pub type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
pub type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub type LogId = openraft::LogId<CommittedLeaderId>;
pub type Vote = openraft::Vote<LeaderId>;
pub type Members = Membership<ReplicaId, Place>;
pub type StoredMembers = StoredMembership<CommittedLeaderId, ReplicaId, Place>;
pub type CopyMeta = SnapshotMeta<CommittedLeaderId, ReplicaId, Place>;
pub type WholeCopy = Snapshot<CommittedLeaderId, ReplicaId, Place, CopyData>;
pub type Payload = EntryPayload<Proposal, ReplicaId, Place>;

/// Where a replica that was added later can be reached, `host:port`. Empty for the first ones,
/// which every replica knows from its own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(pub String);

/// An asynchronous runtime for the engine.
pub trait Runtime: AsyncRuntime {}
impl<R: AsyncRuntime> Runtime for R {}

/// The configuration of the engine's types, on a runtime. All its values are equal.
pub struct Types<R>(PhantomData<fn() -> R>);

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _other: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<R: Runtime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = ();
    type NodeId = ReplicaId;
    type Node = Place;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Proposes what has been appended to the log since the last entry. Carries nothing: the entry ends
/// where the log ends when the engine appends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal;

impl Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a group")
    }
}

/// An entry of the engine: a group of entries of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub log_id: LogId,
    pub payload: Payload,
    pub body: Body,
}

/// The part of the log that an entry comprises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Everything in the log after the previous entry; the entry ends when the engine appends it.
    New,
    /// In the log.
    Stored(Range<LogOffset>),
    /// In raw form: from the leader, or read from the log for another replica.
    Raw(Bytes),
    /// Retention has deleted it. It cannot be sent: the other replica needs a copy of the log.
    Gone,
}

/// What the engine calls the data of a snapshot: a copy of the log, which contains the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyData {
    /// Of this log. It begins with the snapshot of the state at this offset, if there is one.
    Here { snapshot: Option<LogOffset> },
    /// Of another replica's log, which has arrived completely.
    Arrived(LogCopy),
}

impl Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log_id, self.payload)
    }
}

impl entry::RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeaderId;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        Self { log_id, payload, body: Body::New }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Members> {
        entry::RaftPayload::get_membership(&self.payload)
    }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 0).to_committed(), index)
}

pub fn log_id_of(place: RaftPlace) -> LogId {
    log_id(place.term, place.index)
}

pub fn term_of(log_id: &LogId) -> u64 {
    *log_id.leader_id
}

/// A vote made of these parts, which is how files and frames store it.
pub fn vote(term: u64, voted_for: ReplicaId, is_committed: bool) -> Vote {
    Vote { leader_id: LeaderId::new(term, voted_for), committed: is_committed }
}

/// Converts an error for the engine, which accepts only this type; errors of the shard cannot leave
/// its thread.
pub fn failed(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}
