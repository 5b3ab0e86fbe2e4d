//! The state of a shard's replicas, as shown to operators, and operators' orders to change them.
//! Replication reports the state, and carries out the orders, one at a time.

use std::cell::RefCell;

use super::{Broker, RETRY_AFTER_MS};
use crate::model::replicas::{ReplicaOrder, ReplicaSet};
use crate::model::{Refusal, Reply};
use crate::storage::disk::Disk;
use crate::storage::signal::Signal;

#[derive(Default)]
pub(super) struct Replicas {
    /// `None` without replication.
    known: RefCell<Option<ReplicaSet>>,
    order: RefCell<Order>,
    order_changes: Signal,
}

#[derive(Default)]
enum Order {
    #[default]
    None,
    Given(ReplicaOrder),
    InProgress,
    /// Kept until the operation that gave the order has read it, or the next order is given.
    Done(Result<(), Refusal>),
}

impl<D: Disk> Broker<D> {
    /// Sets the state of this shard's replicas; called by replication.
    pub fn set_replicas(&self, set: ReplicaSet) {
        self.replicas.known.replace(Some(set));
    }

    /// The state of this shard's replicas; `None` if it has none.
    pub fn replicas(&self) -> Option<ReplicaSet> {
        self.replicas.known.borrow().clone()
    }

    /// Waits for the next order. Replication carries it out, then calls
    /// [`complete_order`](Self::complete_order).
    pub async fn next_order(&self) -> ReplicaOrder {
        let take = || {
            let order = &mut *self.replicas.order.borrow_mut();
            match std::mem::replace(order, Order::InProgress) {
                Order::Given(given) => Some(given),
                other => {
                    *order = other;
                    None
                }
            }
        };
        self.replicas.order_changes.wait(take).await
    }

    pub fn complete_order(&self, outcome: Result<(), Refusal>) {
        self.replicas.order.replace(Order::Done(outcome));
        self.replicas.order_changes.notify();
    }

    pub(super) fn show_replicas(&self) -> Result<Reply, Refusal> {
        self.replicas().map(Reply::Replicas).ok_or_else(|| self.not_replicated())
    }

    /// Has an order carried out; it is carried out even if its connection closes meanwhile.
    pub(super) async fn change_replicas(&self, order: ReplicaOrder) -> Result<Reply, Refusal> {
        let replicas = &self.replicas;
        if replicas.known.borrow().is_none() {
            return Err(self.not_replicated());
        }
        if matches!(&*replicas.order.borrow(), Order::Given(_) | Order::InProgress) {
            let (reason, shard) = ("replica_change", self.config.shard.0);
            let retry_after_ms = RETRY_AFTER_MS;
            return Err(Refusal::Busy { reason, wait_ms: 0, retry_after_ms, shard });
        }
        replicas.order.replace(Order::Given(order));
        replicas.order_changes.notify();
        let take = || {
            let order = &mut *replicas.order.borrow_mut();
            match std::mem::take(order) {
                Order::Done(outcome) => Some(outcome),
                other => {
                    *order = other;
                    None
                }
            }
        };
        replicas.order_changes.wait(take).await.map(|()| Reply::Done)
    }

    fn not_replicated(&self) -> Refusal {
        Refusal::NotReplicated { shard: self.config.shard.0 }
    }
}
