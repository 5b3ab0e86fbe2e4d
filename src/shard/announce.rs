//! Tells the NameServers what topics the shards of this process have.
//!
//! A NameServer learns of all shards in one go, so nothing is said before every shard has told its
//! table once: clients never see half a broker. Control path only; the lock is held for a copy.

use std::sync::{Arc, Mutex, PoisonError};

use crate::client::registrar::{Publisher, Receipt};
use crate::model::nameserver::{BrokerId, Registration};
use crate::model::{DataVersion, ShardId, TopicConfig};

/// A handle; clones speak for the same process.
#[derive(Clone)]
pub struct Announcer {
    tables: Arc<Mutex<Vec<Table>>>,
    publisher: Publisher,
}

struct Table {
    broker: BrokerId,
    /// `None` until the shard has told it.
    topics: Option<(DataVersion, Vec<TopicConfig>)>,
}

impl Announcer {
    /// For shards called `brokers`, in the order of their numbers.
    pub fn new(brokers: Vec<BrokerId>, publisher: Publisher) -> Self {
        let table = |broker| Table { broker, topics: None };
        let tables = brokers.into_iter().map(table).collect();
        Self { tables: Arc::new(Mutex::new(tables)), publisher }
    }

    /// Takes the table of one shard and publishes those of all. `None` while some are missing.
    pub fn announce(
        &self,
        shard: ShardId,
        version: DataVersion,
        topics: Vec<TopicConfig>,
    ) -> Option<Receipt> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables[usize::from(shard.0)].topics = Some((version, topics));
        let registrations: Option<Vec<Registration>> =
            tables.iter().map(Table::registration).collect();
        // Published under the lock, so that the newest table is also the last one published.
        Some(self.publisher.publish(registrations?))
    }
}

impl Table {
    fn registration(&self) -> Option<Registration> {
        let (version, topics) = self.topics.clone()?;
        let broker = self.broker.clone();
        let ha_address = broker.address.clone();
        Some(Registration { broker, ha_address, lease_ms: None, version, topics })
    }
}
