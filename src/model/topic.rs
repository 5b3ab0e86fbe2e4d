//! What is configured about a topic.

use serde::{Deserialize, Serialize};

use crate::model::TopicName;

/// Consumers may read (remoting reference, 2.4).
pub const PERM_READ: u32 = 4;
/// Producers may write.
pub const PERM_WRITE: u32 = 2;
/// Other topics may be created after this one.
pub const PERM_INHERIT: u32 = 1;

/// The topic that automatic creation copies (remoting reference, 2.6).
pub const AUTO_CREATE_TEMPLATE: &str = "TBW102";

/// Most queues one topic may have on one shard. 1024 is what the reference's own largest has.
pub const QUEUES_PER_TOPIC_MAX: u32 = 16_384;

/// A topic as one shard knows it (remoting reference, 3.12, `TopicConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    pub name: TopicName,
    pub read_queue_count: u32,
    pub write_queue_count: u32,
    /// Bits of [`PERM_READ`], [`PERM_WRITE`], [`PERM_INHERIT`].
    pub perm: u32,
    pub system_flag: u32,
    pub order: bool,
}

impl TopicConfig {
    pub fn new(name: TopicName, queue_count: u32) -> Self {
        Self {
            name,
            read_queue_count: queue_count,
            write_queue_count: queue_count,
            perm: PERM_READ | PERM_WRITE,
            system_flag: 0,
            order: false,
        }
    }

    pub fn queue_count(&self) -> u32 {
        self.read_queue_count.max(self.write_queue_count)
    }
}
