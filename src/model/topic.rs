//! Topic configuration.

use serde::{Deserialize, Serialize};

use crate::model::ids::TopicName;

/// Consumers may read (remoting reference, 2.4).
pub const PERM_READ: u32 = 4;
/// Producers may write.
pub const PERM_WRITE: u32 = 2;
/// Other topics may inherit from this one.
pub const PERM_INHERIT: u32 = 1;

/// First character of the names of groups' topics, for retries and dead letters, and of few others.
pub const GROUP_TOPIC_SIGN: char = '%';

/// The topic that automatic creation copies (remoting reference, 2.6).
pub const AUTO_CREATE_TEMPLATE: &str = "TBW102";

/// The topics of messages that are not due yet: those of a delay level, one queue per level, and
/// those of an arbitrary time (remoting reference, 5.9 and 5.10).
pub const DELAY_LEVEL_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";

/// Topics of the reference's own machinery (remoting reference, 5.11): clients may neither create,
/// write nor delete them.
const BUILT_IN: [&str; 5] = [
    AUTO_CREATE_TEMPLATE,
    DELAY_LEVEL_TOPIC,
    "TRANS_CHECK_MAX_TIME_TOPIC",
    WHOLE_TABLE_MARK,
    "OFFSET_MOVED_EVENT",
];
/// Prefixes of the names of further built-in topics.
const BUILT_IN_PREFIXES: [&str; 2] = ["RMQ_SYS_", "rmq_sys_"];
/// Where clients send their traces: created like any other topic (remoting reference, 5.22).
const TRACE_PREFIXES: [&str; 2] = ["RMQ_SYS_TRACE_TOPIC", "rmq_sys_TRACE_DATA_"];
/// Follows a cluster's name: the topic through which replies to requests return.
const REPLY_TOPIC_SUFFIX: &str = "_REPLY_TOPIC";

/// Whether every broker has a topic of its own with this name.
pub fn is_built_in(name: &str) -> bool {
    let begins = |prefixes: [&str; 2]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    BUILT_IN.contains(&name) || (begins(BUILT_IN_PREFIXES) && !is_for_traces(name))
}

/// Whether clients send traces to a topic with this name.
pub fn is_for_traces(name: &str) -> bool {
    TRACE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the brokers of a cluster have topics of their own with this name. One is named after the
/// cluster; clients use its route to find the brokers on which to create a topic (remoting
/// reference, 5.11).
pub fn is_of_cluster(name: &str, cluster: &str) -> bool {
    name.strip_prefix(cluster).is_some_and(|rest| rest.is_empty() || rest == REPLY_TOPIC_SUFFIX)
}

/// Whether the name is that of a topic for replies, of any cluster.
pub fn is_reply_topic(name: &str) -> bool {
    name.ends_with(REPLY_TOPIC_SUFFIX)
}

/// The topic whose route consumers use to find a broker that forwards their replies (remoting
/// reference, 3.9).
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}{REPLY_TOPIC_SUFFIX}")
}

/// Our brokers add this topic, without permissions, to every table that they register. It means
/// that the table is complete, so topics that it does not list are gone (a stock broker also sends
/// tables that hold only changes). It also keeps the table from having exactly one topic, which a
/// stock NameServer takes for a change and refuses from a broker that it does not know (remoting
/// reference, 2.3). A stock broker owns the same topic with permissions.
pub const WHOLE_TABLE_MARK: &str = "SELF_TEST_TOPIC";

/// Maximum number of topics per shard.
pub const TOPICS_MAX: usize = 100_000;

/// Maximum number of queues of all topics of a shard. Queues take memory before they hold a
/// message.
pub const QUEUES_MAX: usize = 1_000_000;

/// Maximum number of topics in a registration: all of a shard, and those that hold no messages (the
/// two templates and [`WHOLE_TABLE_MARK`]; a stock broker has about ten of its own).
pub const REGISTERED_TOPICS_MAX: usize = TOPICS_MAX + 100;

/// Maximum size of a list of topics, bytes: for each, its name, two quotes and a comma. Names of
/// ordinary topics always fit; retry topics of groups with long names may be too many.
pub const TOPIC_LIST_SIZE_MAX: usize = 15 << 20;

/// Maximum number of queues of a topic per shard. 1024 is the reference's own maximum.
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

/// A change of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// Created, or changed to this configuration.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_belong_to_brokers() {
        let rows = [
            ("TBW102", true),
            ("SELF_TEST_TOPIC", true),
            ("RMQ_SYS_TRANS_HALF_TOPIC", true),
            ("rmq_sys_wheel_timer", true),
            ("RMQ_SYS_TRACE_TOPIC", false),
            ("rmq_sys_TRACE_DATA_cn-hangzhou", false),
            ("BenchmarkTest", false),
            ("%RETRY%readers", false),
            ("orders", false),
        ];
        for (name, expected) in rows {
            assert_eq!(is_built_in(name), expected, "{name}");
            assert_eq!(is_for_traces(name), name.contains("_TRACE_"), "{name}");
        }
        for (name, expected) in [("c", true), ("c_REPLY_TOPIC", true), ("cc", false), ("d", false)]
        {
            assert_eq!(is_of_cluster(name, "c"), expected, "{name}");
        }
    }
}
