//! What stock tools ask of replicas, and of the controller that elects their masters (remoting
//! reference, 8.4). Here every replica answers for its own shard: there is no controller.

use bytestring::ByteString;

use crate::model::replicas::ReplicaSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerRequest {
    /// How far the replicas are behind [907].
    HaStatus,
    /// Where the controller's leader is [1005]: the leader of the shard.
    Metadata,
    /// Which replicas are in sync [1006].
    SyncState,
    /// The epochs in the log [1007].
    Epochs,
    /// Has a replica lead a broker; any other than the leader if none is named [1002].
    Elect { broker_name: ByteString, replica: Option<u64> },
}

/// What a replica answers to all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerView {
    pub cluster: String,
    pub broker_name: ByteString,
    /// `None` of a shard without replicas.
    pub set: Option<ReplicaSet>,
    /// `host:port` of this replica.
    pub address: String,
    /// Where its log ends, and what is committed.
    pub end: u64,
    pub committed: u64,
    /// Epochs, and where each begins in the log, ascending; only if they were asked for.
    pub epochs: Vec<(u64, u64)>,
}

/// Variants of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerAnswer {
    HaStatus,
    Metadata,
    SyncState,
    Epochs,
    Elected,
}

/// A replica that lacks nothing older is in sync, ms (`haMaxTimeSlaveNotCatchup` of the reference).
pub const IN_SYNC_MAX_MS: u64 = 15_000;

impl ControllerView {
    /// Number of the leader as this replica knows it.
    pub fn leader(&self) -> Option<u64> {
        self.set.as_ref().and_then(|set| set.leader)
    }

    pub fn leads(&self) -> bool {
        self.set.as_ref().is_none_or(ReplicaSet::leads)
    }

    /// `host:port` of the leader; empty if that is not known.
    pub fn leader_address(&self) -> String {
        match &self.set {
            None => self.address.clone(),
            Some(set) if set.leads() => self.address.clone(),
            Some(set) => {
                let leader = set.leader.and_then(|id| set.replica(id));
                leader.and_then(|leader| leader.address.clone()).unwrap_or_default()
            }
        }
    }
}
