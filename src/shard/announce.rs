//! Registers the topics of this process's shards with the NameServers.
//!
//! All shards are registered together, so nothing is published until every shard has introduced its
//! topic table: clients never see part of a broker. After that, a shard publishes only its changes.
//! Control path only; the lock is held for the duration of one change.

use std::sync::{Arc, Mutex, PoisonError};

use crate::client::registrar::{Publisher, Receipt, Role};
use crate::model::nameserver::{BrokerId, Registration};
use crate::model::topic::TopicChange;
use crate::model::{DataVersion, ShardId, TopicConfig};

/// A handle; clones refer to the same process.
#[derive(Clone)]
pub struct Announcer {
    starting: Arc<Mutex<Vec<Starting>>>,
    publisher: Publisher,
}

/// A shard that is not published yet.
struct Starting {
    broker: BrokerId,
    /// `None` until the shard has introduced its table.
    topics: Option<(DataVersion, Vec<TopicConfig>)>,
    role: Option<Role>,
}

impl Announcer {
    /// Creates an announcer for shards named `brokers`, in the order of their numbers.
    pub fn new(brokers: Vec<BrokerId>, publisher: Publisher) -> Self {
        let starting = brokers
            .into_iter()
            .map(|broker| Starting { broker, topics: None, role: None })
            .collect();
        Self { starting: Arc::new(Mutex::new(starting)), publisher }
    }

    /// Registers a shard in its new role. Until all shards have introduced their tables, the role
    /// is kept and registered with them.
    pub fn set_role(&self, shard: ShardId, role: Role) {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        match starting.get_mut(usize::from(shard.0)) {
            None => drop(self.publisher.set_role(usize::from(shard.0), role)),
            Some(starting) => starting.role = Some(role),
        }
    }

    /// Introduces the whole table of a starting shard, once, and publishes all tables when it is
    /// the last one. `None` while some are missing.
    pub fn introduce(
        &self,
        shard: ShardId,
        version: DataVersion,
        topics: Vec<TopicConfig>,
    ) -> Option<Receipt> {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting[usize::from(shard.0)].topics = Some((version, topics));
        if starting.iter().any(|shard| shard.topics.is_none()) {
            return None;
        }
        let roles: Vec<Option<Role>> = starting.iter().map(|shard| shard.role).collect();
        let tables = starting.drain(..).map(Starting::registration).collect();
        // Published under the lock, so that a shard that finds the list empty also finds the tables
        // published.
        let mut receipt = self.publisher.publish(tables);
        for (shard, role) in roles.into_iter().enumerate() {
            if let Some(role) = role {
                receipt = self.publisher.set_role(shard, role);
            }
        }
        Some(receipt)
    }

    /// Publishes a change of a shard's topics. `None` while shards are still starting; the change
    /// is then published with their tables.
    pub fn announce(
        &self,
        shard: ShardId,
        version: DataVersion,
        changes: Vec<TopicChange>,
    ) -> Option<Receipt> {
        let shard = usize::from(shard.0);
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        match starting.get_mut(shard) {
            None => Some(self.publisher.change(shard, version, changes)),
            Some(starting) => {
                starting.apply(version, changes);
                None
            }
        }
    }
}

impl Starting {
    fn apply(&mut self, version: DataVersion, changes: Vec<TopicChange>) {
        let Some((known, topics)) = &mut self.topics else { return };
        *known = version;
        for change in changes {
            let (name, set) = match change {
                TopicChange::Set(topic) => (topic.name.clone(), Some(topic)),
                TopicChange::Removed(name) => (name, None),
            };
            topics.retain(|topic| topic.name != name);
            topics.extend(set);
        }
    }

    fn registration(self) -> Registration {
        let (version, topics) = self.topics.expect("all shards have announced theirs");
        let ha_address = self.broker.address.clone();
        Registration {
            broker: self.broker,
            ha_address,
            lease_ms: None,
            version,
            topics,
            skipped: Vec::new(),
            misnamed: Vec::new(),
        }
    }
}
