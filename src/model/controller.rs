//! Requests of stock tools to replicas, and to the controller that elects their masters (remoting
//! reference, 8.4). Here every replica replies for its own shard: there is no controller.

use bytestring::ByteString;

use crate::model::replicas::ReplicaSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerRequest {
    /// How far the replicas are behind [907].
    HaStatus,
    /// The controller's leader [1005]: here the leader of the shard.
    Metadata,
    /// Which replicas are in sync [1006].
    SyncState,
    /// The epochs in the log [1007].
    Epochs,
    /// Makes a replica lead a broker; any but the current leader if none is named [1002].
    Elect { broker_name: ByteString, replica: Option<u64> },
}

/// A replica's reply to any of these requests.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerView {
    pub cluster: String,
    pub broker_name: ByteString,
    /// `None` for a shard without replicas.
    pub set: Option<ReplicaSet>,
    /// `host:port` of this replica.
    pub address: String,
    /// The end of its log, and the committed watermark.
    pub end: u64,
    pub committed: u64,
    /// The epochs with the log offset at which each begins, ascending; only if they were requested.
    pub epochs: Vec<(u64, u64)>,
}

/// Variants of the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerAnswer {
    HaStatus,
    Metadata,
    SyncState,
    Epochs,
    Elected,
}

/// A replica that is missing nothing older than this is in sync, ms (`haMaxTimeSlaveNotCatchup` of
/// the reference).
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
