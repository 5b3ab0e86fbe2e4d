//! Requests of orderly consumers to lock and unlock queues (remoting reference, 5.14).

use super::Broker;
use super::locks::{Asker, Claim, LOCKS_MAX};
use super::operation::Context;
use super::state::Durable;
use crate::model::request::{BrokerQueue, LockQueues};
use crate::model::{ClientId, GroupName, Refusal, Reply};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// Maximum number of locks released in one entry.
const RELEASED_AT_A_TIME: usize = 10_000;

impl<D: Disk> Broker<D> {
    /// Makes a client the owner of the queues that no other client owns, and renews the locks that
    /// it has. The reply lists both, once they are committed. Queues that do not exist are not
    /// granted.
    pub(super) async fn lock_queues(
        &self,
        request: &LockQueues,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let LockQueues { group, client, skipped, .. } = request;
        self.log_skipped("a lock request", client, skipped);
        let connection = context.origin().connection;
        let asker = Asker { group, client, connection };
        let (known, keys) = self.queues_here(&request.queues);
        self.state.borrow_mut().durable.locks.renew(asker, &keys, context.now().moment);
        let grant =
            |durable: &Durable| Ok(durable.locks.granted(asker, &keys, context.now().moment));
        self.transact(grant, context).await?;
        let locks = &mut self.state.borrow_mut().durable.locks;
        locks.renew(asker, &keys, context.now().moment);
        let owned =
            known.into_iter().zip(&keys).filter(|(_, key)| locks.is_owner(group, client, **key));
        let owned: Vec<BrokerQueue> = owned.map(|(queue, _)| queue).collect();
        if owned.is_empty() && !keys.is_empty() && locks.is_full() {
            return Err(Refusal::Full { what: "locked queues", count_max: LOCKS_MAX });
        }
        let (shard, asked, owned_count) = (self.config.shard.0, keys.len(), owned.len());
        tracing::debug!(shard, %group, %client, connection, asked, owned = owned_count, "locked");
        Ok(Reply::Locked(owned))
    }

    pub(super) async fn unlock_queues(
        &self,
        request: &LockQueues,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let LockQueues { group, client, skipped, .. } = request;
        self.log_skipped("an unlock request", client, skipped);
        let connection = context.origin().connection;
        let (_, keys) = self.queues_here(&request.queues);
        let asker = Asker { group, client, connection };
        let claims = self.state.borrow().durable.locks.claims(asker, Some(&keys));
        let (shard, asked, released) = (self.config.shard.0, keys.len(), claims.len());
        tracing::debug!(shard, %group, %client, connection, asked, released, "unlocks");
        self.release(group, client, &claims, context).await?;
        Ok(Reply::Done)
    }

    /// Releases all queues of a client that leaves its group.
    pub(super) async fn release_locks(
        &self,
        client: &ClientId,
        group: &GroupName,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let asker = Asker { group, client, connection: context.origin().connection };
        let claims = self.state.borrow().durable.locks.claims(asker, None);
        let (shard, connection, released) = (self.config.shard.0, asker.connection, claims.len());
        tracing::debug!(shard, %group, %client, connection, released, "leaves and unlocks");
        self.release(group, client, &claims, context).await
    }

    async fn release(
        &self,
        group: &GroupName,
        client: &ClientId,
        claims: &[Claim],
        context: &impl Context,
    ) -> Result<(), Refusal> {
        for claims in claims.chunks(RELEASED_AT_A_TIME) {
            let release = |durable: &Durable| Ok(durable.locks.released(group, client, claims));
            self.transact(release, context).await?;
        }
        Ok(())
    }

    /// The queues in `queues` that exist on this shard.
    fn queues_here(&self, queues: &[BrokerQueue]) -> (Vec<BrokerQueue>, Vec<QueueKey>) {
        let is_here = |name: &str| name.is_empty() || *name == *self.config.broker_name;
        let queues = queues.iter().filter(|queue| is_here(&queue.broker_name));
        queues.filter_map(|queue| Some((queue.clone(), self.queue(&queue.queue).ok()?))).unzip()
    }
}
