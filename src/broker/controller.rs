//! Requests of stock tools about replicas: each replica answers for its own shard.

use std::net::SocketAddrV4;

use super::Broker;
use crate::model::controller::{ControllerAnswer, ControllerRequest, ControllerView};
use crate::model::replicas::{ReplicaOrder, ReplicaSet};
use crate::model::{Refusal, Reply};
use crate::storage::disk::Disk;

impl<D: Disk> Broker<D> {
    pub(super) async fn answer_controller(
        &self,
        request: &ControllerRequest,
    ) -> Result<Reply, Refusal> {
        let answer = match request {
            ControllerRequest::HaStatus => ControllerAnswer::HaStatus,
            ControllerRequest::Metadata => ControllerAnswer::Metadata,
            ControllerRequest::SyncState => ControllerAnswer::SyncState,
            ControllerRequest::Epochs => ControllerAnswer::Epochs,
            ControllerRequest::Elect { broker_name, replica } => {
                let name = &self.config.broker_name;
                if broker_name != name {
                    let why = format!("field brokerName is {broker_name:?}, this is {name}");
                    return Err(Refusal::Malformed(why));
                }
                return self.elect(*replica).await;
            }
        };
        Ok(Reply::Controller(answer, Box::new(self.view(answer)?)))
    }

    async fn elect(&self, replica: Option<u64>) -> Result<Reply, Refusal> {
        let mut view = self.view(ControllerAnswer::Elected)?;
        let set: &mut ReplicaSet = view.set.as_mut().expect("it has replicas");
        // If none is named, as in an election: any voter except the leader.
        let other = || set.voters().into_iter().find(|id| *id != set.id);
        let to = replica.or_else(other).unwrap_or(set.id);
        let is_moved = to != set.id;
        self.change_replicas(ReplicaOrder::Transfer { to }).await?;
        set.leader = Some(to);
        set.term += u64::from(is_moved);
        Ok(Reply::Controller(ControllerAnswer::Elected, Box::new(view)))
    }

    /// The reply's content. A shard without replicas is shown as a master without slaves, and has
    /// no controller.
    fn view(&self, answer: ControllerAnswer) -> Result<ControllerView, Refusal> {
        let set = self.replicas();
        if set.is_none() && answer != ControllerAnswer::HaStatus {
            return Err(Refusal::NotReplicated { shard: self.config.shard.0 });
        }
        let epochs = match answer {
            ControllerAnswer::Epochs => self.with_raft_entries(|entries| entries.terms()),
            _ => Vec::new(),
        };
        Ok(ControllerView {
            cluster: self.config.cluster.clone(),
            broker_name: self.config.broker_name.clone(),
            set,
            address: SocketAddrV4::from(self.config.store_host).to_string(),
            end: self.store.end().0,
            committed: self.store.committed().0,
            epochs,
        })
    }
}
