//! Transfers the leadership to another replica without losing a request.
//!
//! ```text
//!   refuse requests ─▶ all that was appended is committed, and the target has it ─▶ it is elected
//!                   └─ not in time: accept requests again
//! ```
//!
//! Requests that were in flight are answered before the other replica leads; later ones are refused
//! like those of any follower, so that clients look for the leader. The last step cannot be undone
//! (the engine proposes nothing more once it has begun), so the target is checked first.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use super::host::Host;
use super::preference::{TransferReason, readiness, successor};
use super::replica::Replica;
use super::types::{Place, ReplicaId, Runtime, Types, log_id_of};
use crate::model::Refusal;
use crate::model::replicas::ReplicaOrder;

/// How long the leader may refuse requests while the target gets what it is missing.
const SETTLE_MAX: Duration = Duration::from_millis(1_000);
/// How long the target may take to be elected. If it takes longer, other replicas have become
/// candidates.
const TAKE_OVER_MAX: Duration = Duration::from_millis(3_000);
/// How soon the next leader is expected to have registered. Until then NameServers keep listing the
/// previous one: without a leader they would tell clients that there is no queue to send to.
pub const TAKE_OVER_EXPECTED: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl<H: Host, R: Runtime> Replica<H, R> {
    /// Carries out operators' orders while the engine runs.
    pub async fn carry_out_orders(&self) {
        loop {
            let broker = self.log().host().broker();
            let outcome = match broker.next_order().await {
                ReplicaOrder::Transfer { to } => {
                    self.transfer_leadership(to, TransferReason::Ordered).await
                }
                ReplicaOrder::StepDown => self.step_down().await,
                ReplicaOrder::Add { replica, address } => {
                    let shard = broker.config().shard;
                    let added = self.add(replica, Place(address)).await;
                    added.map_err(|error| error.refusal(shard))
                }
                ReplicaOrder::Remove { replica, is_forced } => {
                    let shard = broker.config().shard;
                    let removed = self.remove(replica, is_forced).await;
                    removed.map_err(|error| error.refusal(shard))
                }
            };
            broker.complete_order(outcome);
        }
    }

    /// Transfers the leadership to another replica. Only a leader can; does nothing if `to` already
    /// leads.
    pub async fn transfer_leadership(
        &self,
        to: ReplicaId,
        reason: TransferReason,
    ) -> Result<(), Refusal> {
        let broker = self.log().host().broker();
        let shard = broker.config().shard;
        let not_leader = Refusal::NotLeader { shard: shard.0 };
        let Some(term) = self.log().leads_in().filter(|_| broker.leads()) else {
            return Err(not_leader);
        };
        let set = self.survey();
        let target = set.replica(to).filter(|target| target.is_voter);
        let Some(target) = target else {
            return Err(Refusal::UnknownReplica { replica: to, voters: set.voters() });
        };
        if to == self.id() {
            return Ok(());
        }
        readiness(target).map_err(|why| Refusal::NotReady { replica: to, why })?;
        // Consume offsets that were committed a moment ago move to the next leader. If this is
        // refused, consumers get a few messages again.
        let _ = broker.flush_offsets(self.log().host().now().moment);
        self.log().begin_leader_transfer(reason);
        let leads = || self.log().leads_in() == Some(term);
        let settled = until::<R>(SETTLE_MAX, || self.is_settled(to) || !leads()).await;
        if !leads() {
            return Err(not_leader);
        }
        if !settled {
            self.log().cancel_leader_transfer();
            let why = format!("it did not catch up within {SETTLE_MAX:?}");
            return Err(Refusal::NotReady { replica: to, why });
        }
        tracing::info!(shard = shard.0, "transferring leadership to replica {to}");
        self.log().give_up_lease();
        let triggered = self.engine().trigger().transfer_leader(to).await;
        match triggered.is_ok() && until::<R>(TAKE_OVER_MAX, || !leads()).await {
            true => Ok(()),
            false => {
                let ms = TAKE_OVER_MAX.as_millis() as u64;
                Err(Refusal::NotTakenOver { replica: to, ms })
            }
        }
    }

    /// Transfers the leadership before this process ends, so that another replica leads immediately
    /// instead of after an election timeout. Returns once NameServers no longer need to list this
    /// one.
    pub async fn step_down(&self) -> Result<(), Refusal> {
        let shard = self.log().host().broker().config().shard;
        let Some(to) = successor(shard, &self.survey()) else { return Ok(()) };
        self.transfer_leadership(to, TransferReason::Stopping).await?;
        Types::<R>::sleep(TAKE_OVER_EXPECTED).await;
        Ok(())
    }

    /// Whether this leader has committed everything, and the replica `id` has it.
    fn is_settled(&self, id: ReplicaId) -> bool {
        let broker = self.log().host().broker();
        let (store, last) = (broker.store(), broker.last_raft_entry().map(log_id_of));
        let metrics = self.engine().metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).copied();
        broker.raft_end() == store.end()
            && store.committed() == store.end()
            && matched == Some(last)
    }
}

/// Waits for a limited time until `holds` returns true. Returns whether it did.
async fn until<R: Runtime>(time: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Types::<R>::now() + time;
    while !holds() {
        if Types::<R>::now() >= deadline {
            return false;
        }
        Types::<R>::sleep(LOOK_EVERY).await;
    }
    true
}
