//! The leader's lease: while it is valid, no other replica can have been elected.
//!
//! ```text
//!   leader:    sends at s ────────── a majority has answered ──▶ leads until s + LEASE
//!   follower:         hears at h ≥ s ──────────────────────────▶ grants no vote until h + PROMISE
//! ```
//!
//! Each measures on its own monotonic clock. `LEASE` is shorter than `PROMISE` by a tenth, so this
//! holds if no clock runs more than five per cent faster or slower than true time. The clock must
//! not stand still: a machine that is suspended as a whole, with all its clocks, violates this
//! bound; a process that is stopped does not.
//!
//! The engine keeps the promise while a replica runs. In addition:
//! - A replica that has restarted may have made a promise, which the engine forgets: it neither
//!   grants votes nor asks for them for a whole `PROMISE` ([`RaftLog::promise_again`]).
//! - Votes for a replica to which the leader transfers its leadership are granted immediately: the
//!   leader gives up its lease for the rest of its term before it starts the transfer.
//! - A new leader knows that it has everything only when an entry of its own term is committed.

use std::rc::Weak;
use std::time::Duration;

use openraft::Instant;
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchReceiverOf;

use super::host::Host;
use super::log::{PROMISE_MS, RaftLog, Shared};
use super::types::{Runtime, Types};
use crate::broker::{Leadership, Standing};
use crate::planted::{self, Bug};

/// How long a leader is certainly the only one, counted from when it sent what a majority has
/// answered.
const LEASE: Duration = Duration::from_millis(PROMISE_MS / 10 * 9);

/// Knows whether this replica leads. Does not keep the replica alive.
pub struct Lease<H: Host, R: Runtime> {
    log: Weak<Shared<H, R>>,
    metrics: WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>,
}

impl<H: Host, R: Runtime> Lease<H, R> {
    pub fn new(
        log: &RaftLog<H, R>,
        metrics: WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>,
    ) -> Self {
        Self { log: log.downgrade(), metrics }
    }

    /// Whether a majority has answered something that this leader sent less than a lease ago.
    /// `None`: it has not answered anything yet.
    pub fn is_valid(&self) -> Option<bool> {
        let metrics = self.metrics.borrow_watched();
        let is_alone = metrics.membership_config.membership().voter_ids().count() == 1;
        if is_alone || planted::is(Bug::AnswersWithoutLease) {
            return Some(true);
        }
        let acknowledged_at = *metrics.last_quorum_acked?;
        Some(Types::<R>::now().saturating_duration_since(acknowledged_at) < LEASE)
    }
}

impl<H: Host, R: Runtime> Leadership for Lease<H, R> {
    fn standing(&self) -> Standing {
        let Some(log) = self.log.upgrade().map(RaftLog) else { return Standing::Follows };
        match log.leads_in() {
            None => Standing::Follows,
            Some(_) if log.has_given_up() || !log.knows_all() => Standing::Elected,
            Some(_) if self.is_valid() == Some(true) => Standing::Leads,
            Some(_) => Standing::Elected,
        }
    }

    fn read_from(&self) -> u64 {
        let Some(log) = self.log.upgrade().map(RaftLog) else { return 0 };
        let others = || {
            let metrics = self.metrics.borrow_watched();
            let ids: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
            ids
        };
        match log.leads_in() {
            // Clients take this replica for the leader, and another one may have been elected.
            Some(_) => {
                let ids = others();
                let next = ids.iter().find(|id| **id > log.id()).or_else(|| ids.first());
                next.copied().filter(|id| *id != log.id()).unwrap_or(0)
            }
            None if log.hears_leader() || log.is_removed() => 0,
            // There is no leader to go to.
            None => log.id(),
        }
    }
}
