//! The replicas of a shard: their state, and what operators request of them.

use serde::{Deserialize, Serialize};

/// The replicas of a shard, as one of them sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSet {
    /// Number of the replica whose view this is.
    pub id: u64,
    /// `None` while none is known.
    pub leader: Option<u64>,
    /// The epoch: the number of the last election that this replica knows of.
    pub term: u64,
    /// Sorted by number.
    pub replicas: Vec<ReplicaState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaState {
    pub id: u64,
    /// `host:port` at which clients reach it, if that is known.
    pub address: Option<String>,
    /// It counts towards the majority.
    pub is_voter: bool,
    /// Its disk is full, as far as this replica knows.
    #[serde(default)]
    pub is_full: bool,
    /// `None` if this is not the leader's view.
    pub lag: Option<ReplicaLag>,
}

/// What a replica is missing of the leader's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaLag {
    pub bytes: u64,
    /// Age of the oldest part that it is missing, ms.
    pub ms: u64,
    /// Time since its last reply, ms. `None` if it has not replied to this leader yet.
    pub silent_ms: Option<u64>,
}

/// A replica that has not replied for this long counts as unreachable, ms.
pub const SILENT_MAX_MS: u64 = 1_000;

impl ReplicaLag {
    pub fn is_reachable(self) -> bool {
        self.silent_ms.is_some_and(|ms| ms < SILENT_MAX_MS)
    }
}

impl ReplicaSet {
    pub fn replica(&self, id: u64) -> Option<&ReplicaState> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    pub fn leads(&self) -> bool {
        self.leader == Some(self.id)
    }

    /// Numbers of the replicas that count towards the majority.
    pub fn voters(&self) -> Vec<u64> {
        self.replicas.iter().filter(|replica| replica.is_voter).map(|replica| replica.id).collect()
    }
}

/// An operator's order about the replicas of a shard, for the shard's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaOrder {
    /// Transfers the leadership to this replica, which keeps it.
    Transfer { to: u64 },
    /// Makes a replica a member; the others reach it at this address. Repeated until it has caught
    /// up and counts towards the majority.
    Add { replica: u64, address: String },
    /// Removes a replica from the members; if forced, even when too few others reply.
    Remove { replica: u64, is_forced: bool },
    /// Transfers the leadership to any other replica, because this process is stopping. Only within
    /// a process.
    StepDown,
}
