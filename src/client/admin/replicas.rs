//! Administration of the replicas of shards.

use super::{Admin, Outcomes};
use crate::client::ask::Ask;
use crate::client::error::ClientError;
use crate::model::Request;
use crate::model::nameserver::machine_of_shard;
use crate::model::replicas::{ReplicaOrder, ReplicaSet};
use crate::wire::Response;

impl Admin {
    /// The state of a shard's replicas, as the broker at `address` sees it.
    pub fn replicas(&mut self, address: &str) -> Result<ReplicaSet, ClientError> {
        self.remote.ask(address, &Request::Replicas, Response::replicas)
    }

    /// Gives an order to the leader of the shard `name`, or of all shards of the broker `name`.
    /// Returns the names of the shards.
    pub fn change_replicas(
        &mut self,
        name: &str,
        order: &ReplicaOrder,
    ) -> Result<Vec<String>, ClientError> {
        let leaders = self.leaders_of(name)?;
        let request = Request::ChangeReplicas(order.clone());
        let mut outcomes = Outcomes::default();
        for (shard, address) in leaders {
            let outcome = self.ask_leader(&shard, &address, &request, Response::done);
            outcomes.note(&shard, &address, outcome);
        }
        outcomes.conclude(request.what())
    }

    /// The leaders of the shard `name`, or of all shards of the broker `name`: shard and address.
    pub fn leaders_of(&mut self, name: &str) -> Result<Vec<(String, String)>, ClientError> {
        let leaders = self.masters_of(|broker| {
            broker.name == name || machine_of_shard(&broker.name) == Some(name)
        })?;
        match leaders.is_empty() {
            true => Err(ClientError::UnknownBrokerName(name.to_owned())),
            false => Ok(leaders),
        }
    }

    /// Gives an order to the leader of one shard.
    pub fn order_replicas(
        &mut self,
        address: &str,
        order: &ReplicaOrder,
    ) -> Result<(), ClientError> {
        self.remote.ask(address, &Request::ChangeReplicas(order.clone()), Response::done)
    }
}
