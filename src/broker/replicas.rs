//! What a broker knows of its shard's replicas, and the order that they are to carry out. Nothing
//! here carries it out, and nothing checks whether there are replicas: see
//! [`replica_requests`](super::replica_requests).
//!
//! Invariant: an order is taken once, and its outcome is read at most once.

use std::cell::RefCell;

use crate::model::Refusal;
use crate::model::replicas::{ReplicaOrder, ReplicaSet};
use crate::storage::signal::Signal;

#[derive(Default)]
pub struct Replicas {
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

impl Replicas {
    pub fn set(&self, set: ReplicaSet) {
        self.known.replace(Some(set));
    }

    pub fn known(&self) -> Option<ReplicaSet> {
        self.known.borrow().clone()
    }

    /// Whether an order is given and not complete.
    pub fn are_changing(&self) -> bool {
        matches!(&*self.order.borrow(), Order::Given(_) | Order::InProgress)
    }

    /// Gives an order, and waits until it is complete.
    pub async fn give_order(&self, order: ReplicaOrder) -> Result<(), Refusal> {
        self.order.replace(Order::Given(order));
        self.order_changes.notify();
        let take = || {
            let order = &mut *self.order.borrow_mut();
            match std::mem::take(order) {
                Order::Done(outcome) => Some(outcome),
                other => {
                    *order = other;
                    None
                }
            }
        };
        self.order_changes.wait(take).await
    }

    /// Waits for the next order, and takes it.
    pub async fn next_order(&self) -> ReplicaOrder {
        let take = || {
            let order = &mut *self.order.borrow_mut();
            match std::mem::replace(order, Order::InProgress) {
                Order::Given(given) => Some(given),
                other => {
                    *order = other;
                    None
                }
            }
        };
        self.order_changes.wait(take).await
    }

    pub fn complete_order(&self, outcome: Result<(), Refusal>) {
        self.order.replace(Order::Done(outcome));
        self.order_changes.notify();
    }
}
