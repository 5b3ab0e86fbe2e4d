//! Refusals: why a request was not carried out.

use crate::model::ids::{GroupName, LogOffset, NameError, QueueId, TopicName};
use crate::model::topic::TopicConfig;

/// Why a request was not carried out, in words that the sender can act on.
///
/// A public interface: every variant has a number that never changes ([`Refusal::number`]), a
/// protocol code (`wire::codes`) and a row in `docs/errors.md`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request code is unknown, or known but not supported here.
    #[error("request type {code} not supported")]
    UnknownRequest { code: i32 },
    /// A header field is missing or has the wrong type, or a body cannot be decoded.
    #[error("{0}")]
    Malformed(String),
    #[error("illegal name: {0}")]
    IllegalName(#[from] NameError),
    #[error("topic {0} is reserved for internal use")]
    ReservedTopic(TopicName),
    #[error(
        "topic {known} exists, but {asked} was requested; nothing was changed, use `ringmq topic \
         update` to change it",
        known = described(.known), asked = described(.asked)
    )]
    TopicExists { known: Box<TopicConfig>, asked: Box<TopicConfig> },
    #[error("topic {0} does not exist on this shard; create it, or refresh the route")]
    UnknownTopic(TopicName),
    #[error("topic {topic} has {count} queues on this shard, not queue {queue}", queue = queue.0)]
    UnknownQueue { topic: TopicName, queue: QueueId, count: u32 },
    #[error("topic {0} is not readable")]
    NotReadable(TopicName),
    #[error("topic {0} is not writable")]
    NotWritable(TopicName),
    #[error("{what} of {size} bytes exceeds the limit of {size_max}")]
    TooLarge { what: &'static str, size: usize, size_max: usize },
    #[error("the message has no body")]
    EmptyBody,
    #[error("batch refused: {0}")]
    BadBatch(String),
    /// A property that delays the message cannot be decoded or asks for too much.
    #[error("delay refused: {0}")]
    BadDelay(String),
    /// The message needs more than storing; if it were only stored, it would reach consumers too
    /// early.
    #[error("{0} are not supported yet; nothing was stored")]
    NotOffered(&'static str),
    #[error("the delayed message cannot be recalled: {0}")]
    NoRecall(&'static str),
    #[error("more than {count_max} {what} in one request")]
    TooMany { what: &'static str, count_max: usize },
    /// Nothing was stored; the same request may succeed later.
    #[error("reason={reason} wait_ms={wait_ms} retry_after_ms={retry_after_ms} shard={shard}")]
    Busy { reason: &'static str, wait_ms: u64, retry_after_ms: u64, shard: u16 },
    #[error("disk full: writes are refused, reads continue; free up space or lower retention")]
    DiskFull,
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// A write failed earlier; the shard accepts nothing until it is restarted.
    #[error("this shard is fenced after a storage fault; see its log, then restart it")]
    Fenced,
    /// The request may or may not take effect after a restart.
    #[error("outcome unknown: storage failed while the request was in flight")]
    OutcomeUnknown,
    #[error("the log is damaged at {0}: this part is quarantined and not served")]
    Damaged(LogOffset),
    /// The device or the file system failed a read; the same request may succeed later. The cause is
    /// in the shard's log.
    #[error("a disk read failed; see the log of shard {shard}")]
    DiskFault { shard: u16 },
    #[error("this shard has reached its limit of {count_max} {what}")]
    Full { what: &'static str, count_max: usize },
    /// This replica of the shard is a follower. Clients find the leader by refreshing their routes.
    #[error("shard {shard} is a follower here; refresh the route and send to the leader")]
    NotLeader { shard: u16 },
    #[error("shard {shard} has no replicas; start the brokers with --replicas")]
    NotReplicated { shard: u16 },
    #[error("there is no replica {replica}; the voters are {voters:?}")]
    UnknownReplica { replica: u64, voters: Vec<u64> },
    /// Nothing has changed.
    #[error("replica {replica} cannot lead: {why}")]
    NotReady { replica: u64, why: String },
    /// The leader has stepped down anyway.
    #[error("replica {replica} has not taken over within {ms} ms; the replicas elect a leader")]
    NotTakenOver { replica: u64, ms: u64 },
    /// It is a member that does not count towards the majority yet; the same request succeeds
    /// later.
    #[error("replica {replica} is being added and does not vote yet: {why}")]
    CatchingUp { replica: u64, why: String },
    /// Nothing has changed.
    #[error("without replica {replica} the others would not have a majority: {why}")]
    LosesMajority { replica: u64, why: String },
    /// Nothing has changed.
    #[error(
        "replica {replica} leads this shard, so it cannot be removed; let another one lead first"
    )]
    LeaderStays { replica: u64 },
    /// A state that the broker rules out, which concerns this request only. Nothing has changed.
    #[error("the broker has a bug, and has done nothing: {0}")]
    Bug(&'static str),
    #[error("no consumer for group {0} on this shard")]
    NoConsumer(GroupName),
    #[error("group {0} has no committed offset for this queue")]
    NoOffset(GroupName),
    #[error("the reply could not be delivered to client {client}: {why}")]
    NoRequester { client: String, why: String },
    #[error("client {client} did not reply: {why}")]
    Unanswered { client: String, why: String },
    #[error("client {client} did not reply within {ms} ms")]
    AnswerTimedOut { client: String, ms: u64 },
    #[error("no message at offset {0}")]
    NoMessage(LogOffset),
    #[error("no message found")]
    NothingFound,
    #[error(
        "group {group} has not subscribed to {topic} on this shard yet; send a heartbeat first"
    )]
    NotSubscribed { group: GroupName, topic: TopicName },
    #[error("group {0} has a newer subscription than this shard knows; send a heartbeat first")]
    SubscriptionOutdated(GroupName),
    #[error("subscription refused: {0}")]
    BadSubscription(String),
    #[error("the broker does not support consumer to filter message by {0}; filter by tags")]
    UnsupportedFilter(String),
    #[error("group {0} may not consume: its configuration does not allow it")]
    NotConsumable(GroupName),
    #[error("group {0} may not consume by broadcasting: its configuration does not allow it")]
    NotBroadcast(GroupName),
    #[error("group {0} does not exist on this shard")]
    UnknownGroup(GroupName),
    #[error("group {0} has no consumer online")]
    NotOnline(GroupName),
    #[error("group {0} has no producer online on this shard")]
    NoProducer(GroupName),
    #[error("No topic route info in name server for the topic: {0}")]
    UnknownRoute(String),
    #[error("registration refused: {0}")]
    Registration(String),
}

/// Describes a topic for an error message.
fn described(topic: &TopicConfig) -> String {
    let TopicConfig { name, read_queue_count, write_queue_count, perm, .. } = topic;
    match read_queue_count == write_queue_count {
        true => format!("{name} with {write_queue_count} queues and perm {perm}"),
        false => format!(
            "{name} with {write_queue_count} queues to write, {read_queue_count} to read and perm {perm}"
        ),
    }
}

impl Refusal {
    /// Distinguishes the cases that share a number; empty if there is only one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Busy { reason, .. } => reason,
            Self::Full { what, .. } | Self::TooLarge { what, .. } => what,
            Self::NotOffered(what) | Self::TooMany { what, .. } => what,
            _ => "",
        }
    }

    /// The stable number of this kind of refusal, shown to users as `RINGMQ-2003`.
    pub fn number(&self) -> u16 {
        match self {
            Self::UnknownRequest { .. } => 1001,
            Self::Malformed(_) => 1002,
            Self::IllegalName(_) => 1003,
            Self::ReservedTopic(_) => 1004,
            Self::UnknownTopic(_) => 1005,
            Self::UnknownQueue { .. } => 1006,
            Self::NotReadable(_) => 1007,
            Self::NotWritable(_) => 1008,
            Self::TooLarge { .. } => 1009,
            Self::EmptyBody => 1010,
            Self::BadBatch(_) => 1011,
            Self::NotOffered(_) => 1012,
            Self::TooMany { .. } => 1013,
            Self::TopicExists { .. } => 1014,
            Self::BadDelay(_) => 1015,
            Self::NoRecall(_) => 1016,
            Self::Busy { .. } => 2001,
            Self::ShuttingDown => 2002,
            Self::DiskFull => 2003,
            Self::Fenced => 2004,
            Self::OutcomeUnknown => 2005,
            Self::Damaged(_) => 2006,
            Self::Full { .. } => 2007,
            Self::DiskFault { .. } => 2008,
            Self::NotLeader { .. } => 2009,
            Self::NotReplicated { .. } => 2010,
            Self::UnknownReplica { .. } => 2011,
            Self::NotReady { .. } => 2012,
            Self::NotTakenOver { .. } => 2013,
            Self::CatchingUp { .. } => 2014,
            Self::LosesMajority { .. } => 2015,
            Self::LeaderStays { .. } => 2016,
            Self::Bug(_) => 2017,
            Self::NoConsumer(_) => 3001,
            Self::NoOffset(_) => 3002,
            Self::NoMessage(_) => 3003,
            Self::NothingFound => 3004,
            Self::NotSubscribed { .. } => 3005,
            Self::SubscriptionOutdated(_) => 3006,
            Self::BadSubscription(_) => 3007,
            Self::UnsupportedFilter(_) => 3008,
            Self::NotConsumable(_) => 3009,
            Self::NotBroadcast(_) => 3010,
            Self::UnknownGroup(_) => 3011,
            Self::NotOnline(_) => 3012,
            Self::NoProducer(_) => 3013,
            Self::NoRequester { .. } => 3014,
            Self::Unanswered { .. } => 3015,
            Self::AnswerTimedOut { .. } => 3016,
            Self::UnknownRoute(_) => 4001,
            Self::Registration(_) => 4002,
        }
    }
}
