//! The replicas of a shard: how they are, and what operators want of them.

use serde::{Deserialize, Serialize};

/// The replicas of a shard, as one of them sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSet {
    /// Number of the replica that says this.
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
    /// It counts for the majority.
    pub is_voter: bool,
    /// Its disk is full, as far as this replica knows.
    #[serde(default)]
    pub is_full: bool,
    /// `None` if this is not the leader's view.
    pub lag: Option<ReplicaLag>,
}

/// What a replica lacks of the leader's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaLag {
    pub bytes: u64,
    /// How old the oldest part is that it lacks, ms.
    pub ms: u64,
    /// Time since its last answer, ms. `None` if this leader has had none.
    pub silent_ms: Option<u64>,
}

/// A replica that has not answered for so long counts as unreachable, ms.
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

    /// Numbers of those that count for the majority.
    pub fn voters(&self) -> Vec<u64> {
        self.replicas.iter().filter(|replica| replica.is_voter).map(|replica| replica.id).collect()
    }
}

/// What an operator wants of the replicas of a shard; for its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaOrder {
    /// Hands the leadership over to this replica, which keeps it.
    Transfer { to: u64 },
    /// Makes a replica, which is reached at this address by the others, a member. Repeated until it has
    /// caught up and counts for the majority.
    Add { replica: u64, address: String },
    /// Removes a replica from the members, even if too few others answer if that is forced.
    Remove { replica: u64, is_forced: bool },
    /// Hands it over to any other one, because this process stops. Inside of a process only.
    StepDown,
}
