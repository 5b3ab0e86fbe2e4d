//! Tells the NameServers what topics the shards of this process have.
//!
//! A NameServer learns of all shards in one go, so nothing is said before every shard has told its
//! table once: clients never see half a broker. After that a shard tells only what it has changed.
//! Control path only; the lock is held for as long as the change takes.

use std::sync::{Arc, Mutex, PoisonError};

use crate::client::registrar::{Publisher, Receipt};
use crate::model::nameserver::{BrokerId, Registration};
use crate::model::topic::TopicChange;
use crate::model::{DataVersion, ShardId, TopicConfig};

/// A handle; clones speak for the same process.
#[derive(Clone)]
pub struct Announcer {
    starting: Arc<Mutex<Vec<Starting>>>,
    publisher: Publisher,
}

/// A shard that has not been published yet.
struct Starting {
    broker: BrokerId,
    /// `None` until the shard has told it.
    topics: Option<(DataVersion, Vec<TopicConfig>)>,
}

impl Announcer {
    /// For shards called `brokers`, in the order of their numbers.
    pub fn new(brokers: Vec<BrokerId>, publisher: Publisher) -> Self {
        let starting =
            brokers.into_iter().map(|broker| Starting { broker, topics: None }).collect();
        Self { starting: Arc::new(Mutex::new(starting)), publisher }
    }

    /// Takes the whole table of a shard that starts, once, and publishes those of all when it is the
    /// last. `None` while some are missing.
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
        let tables = starting.drain(..).map(Starting::registration).collect();
        // Published under the lock, so that whoever finds it empty finds the tables published.
        Some(self.publisher.publish(tables))
    }

    /// Publishes what a shard has changed since it was introduced. `None` while others start; then
    /// it is published with their tables.
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
        let (version, topics) = self.topics.expect("all have told theirs");
        let ha_address = self.broker.address.clone();
        let skipped = Vec::new();
        Registration { broker: self.broker, ha_address, lease_ms: None, version, topics, skipped }
    }
}
