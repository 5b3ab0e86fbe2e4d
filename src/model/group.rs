//! Configuration of consumer groups (remoting reference, 3.12, `SubscriptionGroupConfig`).

use crate::model::ids::GroupName;

/// Maximum number of groups per shard whose configuration is stored.
pub const GROUPS_MAX: usize = 100_000;
/// Maximum number of queues of a group's retry topic per shard.
pub const RETRY_QUEUES_MAX: u32 = 1_024;
/// Maximum number of groups in one reply that lists them.
pub const LISTED_GROUPS_MAX: usize = 20_000;

/// A consumer group as one shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    pub name: GroupName,
    /// Whether its members may pull.
    pub may_consume: bool,
    /// Whether they may consume by broadcasting.
    pub may_broadcast: bool,
    /// Not interpreted; the reference does not interpret it either.
    pub from_min: bool,
    /// Not interpreted: members specify how they consume.
    pub is_orderly: bool,
    /// Whether members are notified of changes of the group.
    pub notifies: bool,
    /// Number of queues for messages that will be consumed again. With 0 they are dropped.
    pub retry_queue_count: u32,
    /// Number of further attempts before a message becomes a dead letter.
    pub retry_count_max: i32,
    /// The last four are stored and not interpreted.
    pub system_flag: i32,
    pub broker_id: i64,
    pub slow_broker_id: i64,
    pub consume_timeout_minutes: i32,
}

impl GroupConfig {
    /// The configuration of a group that is created by its first member.
    pub fn new(name: GroupName) -> Self {
        Self {
            name,
            may_consume: true,
            may_broadcast: true,
            from_min: true,
            is_orderly: false,
            notifies: true,
            retry_queue_count: 1,
            retry_count_max: 16,
            system_flag: 0,
            broker_id: 0,
            slow_broker_id: 1,
            consume_timeout_minutes: 15,
        }
    }

    /// Whether pulls of its members need no check.
    pub fn is_unrestricted(&self) -> bool {
        self.may_consume && self.may_broadcast
    }
}
