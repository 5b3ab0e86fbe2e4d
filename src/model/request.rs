//! Requests to a broker, each operation once. Request codes in brackets are those of the remoting
//! reference, which also defines each field.

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::model::controller::ControllerRequest;
use crate::model::group::GroupConfig;
use crate::model::ids::{
    ClientId, GroupName, LogOffset, QueueId, QueueOffset, ShardId, Timestamp, TopicName,
};
use crate::model::peer::Peer;
use crate::model::replicas::ReplicaOrder;
use crate::model::topic::TopicConfig;

/// A request to a broker, independent of its encoding. Strings and bodies may point into the
/// receive buffer; code that keeps one for long must copy it.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Produce(Produce),
    ProduceRecords(ProduceRecords),
    Pull(Pull),
    /// Offset of the next message [30].
    MaxOffset(QueueOf),
    /// First retained offset [31].
    MinOffset(QueueOf),
    /// Offset of the first message stored at or after a time [29].
    OffsetByTime {
        queue: QueueOf,
        at: Timestamp,
        boundary: Boundary,
    },
    /// When the first retained message was stored [32].
    EarliestStoreTime(QueueOf),
    /// [14]
    CommittedOffset {
        group: GroupName,
        queue: QueueOf,
        zero_if_missing: bool,
    },
    /// [15]
    CommitOffset {
        group: GroupName,
        queue: QueueOf,
        offset: i64,
    },
    /// [34]
    Heartbeat(Heartbeat),
    /// [35]
    Unregister {
        client: ClientId,
        producer: Option<GroupName>,
        consumer: Option<GroupName>,
    },
    /// [38]
    GroupMembers {
        group: GroupName,
    },
    /// Forwards a consumer's reply, in the form of a message, to the client that sent the request
    /// [324, 325].
    SendReply(Produce),
    /// Whether the broker can filter by this expression [46].
    CheckFilter(Expression),
    /// [41]
    LockQueues(LockQueues),
    /// [42]
    UnlockQueues(LockQueues),
    /// [33]
    MessageByOffset {
        offset: LogOffset,
    },
    /// [12]
    QueryMessages {
        topic: TopicName,
        key: ByteString,
        count_max: u32,
    },
    /// Creates a topic, or changes it [17].
    UpdateTopic(TopicConfig),
    /// Creates a topic; refused if it exists and differs [17 with a field of ours].
    CreateTopic(TopicConfig),
    /// [215]
    DeleteTopic {
        topic: TopicName,
    },
    /// Recalls a delayed message before it is delivered; `handle` identifies it [370].
    Recall {
        topic: TopicName,
        handle: ByteString,
    },
    /// [202]
    TopicStats {
        topic: TopicName,
    },
    /// [351]
    TopicConfig {
        topic: TopicName,
    },
    /// [28]
    RuntimeInfo,
    /// A consumer could not process a message; it will be delivered again [36].
    SendBack(SendBack),
    /// Creates a consumer group, or changes it [200].
    UpdateGroup(GroupConfig),
    /// The same for several groups, all or none [225].
    UpdateGroups(Vec<GroupConfig>),
    /// Creates the groups that do not exist, with the default configuration, and the retry topics
    /// that they are missing. Only between the shards of a process: heartbeats and returned
    /// messages imply it.
    CreateGroups {
        groups: Vec<GroupName>,
    },
    /// [207]
    DeleteGroup {
        group: GroupName,
        with_offsets: bool,
    },
    /// What another shard of the process knows of a client.
    Presence(Presence),
    /// The members of a consumer group [203].
    Consumers {
        group: GroupName,
    },
    /// The members of a producer group [204].
    Producers {
        group: GroupName,
    },
    /// Groups that consume a topic [300].
    GroupsOf {
        topic: TopicName,
    },
    /// How far a group has consumed [208].
    GroupProgress {
        group: GroupName,
        topic: Option<TopicName>,
    },
    /// Makes a group continue at other offsets [222].
    ResetGroup(ResetGroup),
    /// The positions of a group's members in a topic, as reported by one member or by all [223].
    ConsumerStatus {
        topic: TopicName,
        group: GroupName,
        client: Option<ClientId>,
    },
    /// What a consumer reports about itself [307].
    RunningInfo(RunningInfo),
    /// Makes a consumer process one message immediately [309].
    ConsumeDirectly(ConsumeDirectly),
    /// The configuration of a group [352].
    GroupConfig {
        group: GroupName,
    },
    /// The configurations of the groups, sorted by name, from the one at this index [201].
    GroupConfigs {
        first: usize,
        count_max: usize,
    },
    /// A request of stock tools about replicas.
    Controller(ControllerRequest),
    /// The state of the replicas of this shard [30001].
    Replicas,
    /// Changes which replica leads this shard, or which replicas it has [30001].
    ChangeReplicas(ReplicaOrder),
}

/// Which shards of a process a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// About a queue: clients connect to the shard that owns it.
    ThisShard,
    /// About the whole broker; any shard may receive it, all shards execute it.
    EveryShard,
}

impl Request {
    pub fn scope(&self) -> Scope {
        match self {
            Self::UpdateTopic(_)
            | Self::CreateTopic(_)
            | Self::DeleteTopic { .. }
            | Self::UpdateGroup(_)
            | Self::UpdateGroups(_)
            | Self::CreateGroups { .. }
            | Self::DeleteGroup { .. } => Scope::EveryShard,
            _ => Scope::ThisShard,
        }
    }

    /// Whether only the leader among the replicas of a shard may execute it, because it changes
    /// durable state. A heartbeat and a pull do more on the leader, but not only there.
    pub fn needs_leader(&self) -> bool {
        matches!(
            self,
            Self::Produce(_)
                | Self::ProduceRecords(_)
                | Self::CommitOffset { .. }
                | Self::LockQueues(_)
                | Self::UnlockQueues(_)
                | Self::UpdateTopic(_)
                | Self::CreateTopic(_)
                | Self::DeleteTopic { .. }
                | Self::SendBack(_)
                | Self::Recall { .. }
                | Self::UpdateGroup(_)
                | Self::UpdateGroups(_)
                | Self::CreateGroups { .. }
                | Self::DeleteGroup { .. }
                | Self::ResetGroup(_)
                | Self::ChangeReplicas(_)
        )
    }

    /// Whether the reply states what is newest, which only the leader knows. Locks are renewed
    /// without a log entry, so a former leader would renew a lock that another client owns by now.
    pub fn reads_newest(&self) -> bool {
        matches!(
            self,
            Self::MaxOffset(_)
                | Self::OffsetByTime { .. }
                | Self::CommittedOffset { .. }
                | Self::LockQueues(_)
        )
    }
}

/// A queue, as named by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOf {
    pub topic: TopicName,
    pub queue: QueueId,
}

/// A message queue, and the broker that has it (`MessageQueue` of the reference).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerQueue {
    pub broker_name: ByteString,
    pub queue: QueueOf,
}

/// Queues that a client of an ordered group wants to own, or to release.
#[derive(Clone, Debug, PartialEq)]
pub struct LockQueues {
    pub group: GroupName,
    pub client: ClientId,
    pub queues: Vec<BrokerQueue>,
    /// Invalid queues that were skipped, and why.
    pub skipped: Vec<String>,
}

/// Stores one message, or a batch in the reference's encoding [10, 310, 320].
#[derive(Clone, Debug, PartialEq)]
pub struct Produce {
    pub group: ByteString,
    pub topic: TopicName,
    /// Which topic to copy when `topic` does not exist.
    pub default_topic: ByteString,
    /// Number of queues to create the topic with.
    pub default_queue_count: u32,
    /// `None`: the broker picks a queue.
    pub queue: Option<QueueId>,
    pub system_flag: i32,
    pub born_at: Timestamp,
    pub flag: i32,
    pub properties: Bytes,
    pub reconsume_times: i32,
    /// For a message that returns to its group: how often it may return, if the client specifies
    /// that.
    pub retry_count_max: Option<i32>,
    /// The body holds several messages (remoting reference, 4.5).
    pub is_batch: bool,
    pub body: Bytes,
}

/// A message that a consumer could not process.
#[derive(Clone, Debug, PartialEq)]
pub struct SendBack {
    /// Log offset of the message's record.
    pub offset: LogOffset,
    pub group: GroupName,
    /// 0: chosen by the broker. Negative: it becomes a dead letter immediately.
    pub delay_level: i32,
    /// How often it may return; overrides the group's configuration.
    pub retry_count_max: Option<i32>,
}

/// Stores a batch encoded as message records, with the server's fields zero (fixed header only).
/// Topic and queue are in each record and must be the same in all.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceRecords {
    pub queue: QueueId,
    pub count: u32,
    /// CRC32C over `records`.
    pub checksum: u32,
    pub records: Bytes,
}

/// Reads messages of one queue [11, 361, and fetch with the fixed header].
#[derive(Clone, Debug, PartialEq)]
pub struct Pull {
    /// `None` for a fetch with the fixed header: no group, no commit, no filter.
    pub group: Option<GroupName>,
    pub queue: QueueOf,
    /// Offset of the first message. Clients may send negative values, which are answered like
    /// values that are too small.
    pub offset: i64,
    pub count_max: u32,
    /// Maximum bytes; at least one message is returned. `None`: the server's default.
    pub bytes_max: Option<u32>,
    /// Offset to commit with this request.
    pub commit: Option<i64>,
    /// How long to hold the request if there is no message, ms. `None`: reply immediately.
    pub hold_ms: Option<u64>,
    /// The filter in the request; `None`: use the one from the group's heartbeat.
    pub subscription: Option<Expression>,
    /// Version of the client's subscription, checked if the heartbeat's filter is used.
    pub subscription_version: i64,
}

/// A filter expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expression {
    /// `TAG` or `SQL92`.
    pub kind: String,
    pub text: String,
}

/// Which message to choose (remoting reference, 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// First message stored at or after the time.
    Lower,
    /// Last message stored at or before the time.
    Upper,
}

/// A client's identity and subscriptions [34].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    pub client: ClientId,
    pub producers: Vec<GroupName>,
    pub consumers: Vec<ConsumerData>,
    /// Invalid groups and subscriptions that were skipped, and why.
    pub skipped: Vec<String>,
}

impl Heartbeat {
    /// The groups in which the client consumes.
    pub fn joined_groups(&self) -> impl Iterator<Item = &GroupName> {
        self.consumers.iter().map(|consumer| &consumer.group)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerData {
    pub group: GroupName,
    pub consume_type: ConsumeType,
    pub model: MessageModel,
    pub subscriptions: Vec<SubscriptionData>,
}

/// A shard's report on a client that is connected to it, for the other shards of its process.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    pub shard: ShardId,
    /// Grows with each report of the shard.
    pub sequence: u64,
    pub client: ClientId,
    /// All groups that it consumes for, sorted.
    pub groups: Vec<GroupName>,
    pub peers: Vec<Peer>,
    /// Two processes have this client id.
    pub is_shared: bool,
    /// What its heartbeat said, if that is new.
    pub consumers: Vec<ConsumerData>,
}

/// Where a group continues in the queues of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct ResetGroup {
    pub group: GroupName,
    pub topic: TopicName,
    /// `None`: all queues.
    pub queue: Option<QueueId>,
    pub to: ResetTo,
    /// Whether the group may also move to offsets later than the committed ones.
    pub is_forced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    Offset(QueueOffset),
    /// The first message stored at or after this time.
    Time(Timestamp),
    End,
}

/// Asks a consumer for its state.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningInfo {
    pub group: GroupName,
    pub client: ClientId,
    /// Including the stacks of its threads.
    pub with_stacks: bool,
}

/// A message for a consumer to process immediately, outside its queues.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumeDirectly {
    pub group: GroupName,
    pub client: ClientId,
    /// Host and log offset of the message's record (remoting reference, 4.6).
    pub message_id: ByteString,
    /// The log offset in it.
    pub offset: LogOffset,
}

/// Variants are named as in the protocol, which also accepts their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumeType {
    #[serde(rename = "CONSUME_ACTIVELY")]
    Actively,
    #[default]
    #[serde(rename = "CONSUME_PASSIVELY")]
    Passively,
    #[serde(rename = "CONSUME_POP")]
    Pop,
}

/// Variants are named as in the protocol, which also accepts their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MessageModel {
    Broadcasting,
    #[default]
    Clustering,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionData {
    pub topic: TopicName,
    pub expression: Expression,
    pub version: i64,
}
