//! What a shard with replicas knows of its leadership: which role this replica has at the moment, and
//! since when it has been elected without a lease. What requests make of it is in
//! [`leading`](super::leading); replication implements [`Leadership`].
//!
//! Invariant: the role is asked for each time and never stored, because it changes with the clock.

use std::cell::{Cell, OnceCell};

use crate::model::Moment;
use crate::storage::signal::Signal;

/// How long a leader without a lease holds pulls, ms. Their clients are then sent to another
/// replica, which may have what they wait for.
const HOLD_WITHOUT_LEASE_MS: u64 = 1_000;

/// The role of a replica at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It leads, no other replica can, and it knows every message that was ever acknowledged.
    Leads,
    /// It was elected, and either has no lease or has not committed an entry of its own yet.
    Elected,
    Follows,
}

/// Knows the role of this replica. A shard without replicas has none.
pub trait Leadership {
    /// Reads the clock.
    fn standing(&self) -> Standing;

    /// The broker id from which a client of this replica should read next: 0 is the leader.
    fn read_from(&self) -> u64;
}

/// The shard's leadership, if it has replicas.
#[derive(Default)]
pub struct Leading {
    of: OnceCell<Box<dyn Leadership>>,
    /// Since when it has been elected without a lease, or when its pulls were last ended for that
    /// reason.
    without_lease_since: Cell<Option<Moment>>,
    /// This replica may have got its lease.
    changed: Signal,
}

impl Leading {
    /// Called once.
    pub fn set(&self, leadership: Box<dyn Leadership>) {
        assert!(self.of.set(leadership).is_ok(), "a shard has one leadership");
    }

    /// `None` without replicas, and on a replica that has just started and follows.
    pub fn of(&self) -> Option<&dyn Leadership> {
        self.of.get().map(|of| &**of)
    }

    /// The lease may have been renewed, or an entry committed.
    pub fn moved(&self) {
        self.changed.notify();
    }

    /// Waits until `look` returns something; calls it again whenever the leadership has
    /// [moved](Self::moved).
    pub async fn wait<T>(&self, look: impl FnMut() -> Option<T> + Unpin) -> T {
        self.changed.wait(look).await
    }

    /// Whether held pulls are to be ended, because this replica has been elected without a lease for
    /// a while, and they have not been ended meanwhile.
    pub fn ends_holds(&self, now: Moment) -> bool {
        if self.of().map(|of| of.standing()) != Some(Standing::Elected) {
            self.without_lease_since.set(None);
            return false;
        }
        let since = self.without_lease_since.get().unwrap_or(now);
        let is_over = now.ms_since(since) >= HOLD_WITHOUT_LEASE_MS;
        self.without_lease_since.set(Some(if is_over { now } else { since }));
        is_over
    }
}
