//! The state of a shard's replicas, as shown to operators, and operators' orders to change them.
//! Replication reports the state, and carries out the orders, one at a time.

use super::{Broker, RETRY_AFTER_MS};
use crate::model::replicas::{ReplicaOrder, ReplicaSet};
use crate::model::{Refusal, Reply};
use crate::storage::disk::Disk;

impl<D: Disk> Broker<D> {
    /// Sets the state of this shard's replicas; called by replication.
    pub fn set_replicas(&self, set: ReplicaSet) {
        self.replicas.set(set);
    }

    /// The state of this shard's replicas; `None` if it has none.
    pub fn replicas(&self) -> Option<ReplicaSet> {
        self.replicas.known()
    }

    /// Waits for the next order. Replication carries it out, then calls
    /// [`complete_order`](Self::complete_order).
    pub async fn next_order(&self) -> ReplicaOrder {
        self.replicas.next_order().await
    }

    pub fn complete_order(&self, outcome: Result<(), Refusal>) {
        self.replicas.complete_order(outcome);
    }

    pub(super) fn show_replicas(&self) -> Result<Reply, Refusal> {
        self.replicas().map(Reply::Replicas).ok_or_else(|| self.not_replicated())
    }

    /// Has an order carried out; it is carried out even if its connection closes meanwhile.
    pub(super) async fn change_replicas(&self, order: ReplicaOrder) -> Result<Reply, Refusal> {
        if self.replicas().is_none() {
            return Err(self.not_replicated());
        }
        if self.replicas.are_changing() {
            let (reason, shard) = ("replica_change", self.config.shard.0);
            let retry_after_ms = RETRY_AFTER_MS;
            return Err(Refusal::Busy { reason, wait_ms: 0, retry_after_ms, shard });
        }
        self.replicas.give_order(order).await.map(|()| Reply::Done)
    }

    fn not_replicated(&self) -> Refusal {
        Refusal::NotReplicated { shard: self.config.shard.0 }
    }
}
