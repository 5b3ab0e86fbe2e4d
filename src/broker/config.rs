//! Configuration of a broker, and the topic names that it reserves. Nothing here changes while the
//! broker is open. The options of the process, from which it is made, are in the crate's `config`.

use bytestring::ByteString;

use crate::model::nameserver::machine_of_shard;
use crate::model::record::Host;
use crate::model::topic::{is_built_in, is_of_cluster};
use crate::model::{Now, Refusal, ShardId, TopicName};

/// Configuration that is fixed for the life of a broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub cluster: String,
    pub broker_name: ByteString,
    pub shard: ShardId,
    /// The advertised address, stored in every record and in message ids.
    pub store_host: Host,
    /// Whether sending to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// When the process started, on both clocks.
    pub started: Now,
    /// Offsets of groups that have been unused for longer than this are deleted, milliseconds.
    pub offset_retention_ms: u64,
    /// The delay of each level, from level 1 on, milliseconds; at least one.
    pub delay_levels_ms: Vec<u64>,
    /// A message that is sent again within this time is stored once; 0: it is stored again.
    pub dedup_window_ms: u64,
    /// Maximum rate at which replicas get the old log that they are missing, bytes per second; 0:
    /// no limit.
    pub catch_up_bytes_per_s: u64,
}

impl BrokerConfig {
    /// Refuses reserved topic names: built-in ones, and names of a cluster or a shard.
    pub(super) fn check_topic_name(&self, topic: &TopicName) -> Result<(), Refusal> {
        let name = topic.as_str();
        let is_reserved = is_built_in(name)
            || is_of_cluster(name, &self.cluster)
            || is_shard_name(name, &self.broker_name);
        if is_reserved { Err(Refusal::ReservedTopic(topic.detached())) } else { Ok(()) }
    }
}

/// Whether a name is that of a shard of this machine, such as `s00-broker-a` and `s01-broker-a`.
fn is_shard_name(name: &str, shard: &str) -> bool {
    let machine = machine_of_shard(name);
    name == shard || (machine.is_some() && machine == machine_of_shard(shard))
}
