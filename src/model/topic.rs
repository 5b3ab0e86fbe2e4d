//! What is configured about a topic.

use serde::{Deserialize, Serialize};

use crate::model::ids::TopicName;

/// Consumers may read (remoting reference, 2.4).
pub const PERM_READ: u32 = 4;
/// Producers may write.
pub const PERM_WRITE: u32 = 2;
/// Other topics may be created after this one.
pub const PERM_INHERIT: u32 = 1;

/// The topic that automatic creation copies (remoting reference, 2.6).
pub const AUTO_CREATE_TEMPLATE: &str = "TBW102";

/// A broker of ours puts this topic, with no permission at all, into every table it registers. It
/// says two things: this table is whole, so what it does not name is gone (a stock broker also sends
/// tables that hold only what changed); and a stock NameServer, which takes a table of exactly one
/// topic for a change and refuses it from a broker it does not know, never sees a table of one
/// (remoting reference, 2.3). A stock broker owns the same topic with permissions.
pub const WHOLE_TABLE_MARK: &str = "SELF_TEST_TOPIC";

/// Topics one shard may have.
pub const TOPICS_MAX: usize = 100_000;

/// Queues of all topics of one shard together. They take memory before they hold a message.
pub const QUEUES_MAX: usize = 1_000_000;

/// Most topics a broker may register: all of a shard, and those that hold no messages (the two
/// templates and [`WHOLE_TABLE_MARK`]; a stock broker has some ten of its own).
pub const REGISTERED_TOPICS_MAX: usize = TOPICS_MAX + 100;

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

/// What became of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// It is configured like this, and new if it was not there.
    Set(TopicConfig),
    Removed(TopicName),
}

/// State of a broker's topic table; equal versions mean equal tables (remoting reference, 2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataVersion {
    pub counter: i64,
    pub state_version: i64,
    pub timestamp: i64,
}
