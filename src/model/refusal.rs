//! Why a request was not carried out.

use crate::model::ids::{GroupName, LogOffset, NameError, QueueId, TopicName};
use crate::model::topic::TopicConfig;

/// Why a request was not carried out, in words its sender can act on.
///
/// Part of the product: every variant has a number that never changes ([`Refusal::number`]), a code
/// in the protocol (`wire::codes`) and a line in `docs/errors.md`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request code is unknown, or known and not served here.
    #[error("request type {code} not supported")]
    UnknownRequest { code: i32 },
    /// A header field is missing or is not what its type says; a body cannot be read.
    #[error("{0}")]
    Malformed(String),
    #[error("illegal name: {0}")]
    IllegalName(#[from] NameError),
    #[error("topic {0} is reserved for the broker itself")]
    ReservedTopic(TopicName),
    #[error(
        "there is a topic {known} already, and {asked} was asked for; nothing was changed, \
         `ringmq topic update` changes a topic",
        known = described(.known), asked = described(.asked)
    )]
    TopicExists { known: Box<TopicConfig>, asked: Box<TopicConfig> },
    #[error("topic {0} does not exist on this shard; create it, or refresh the route")]
    UnknownTopic(TopicName),
    #[error("topic {topic} has {count} queues on this shard, not queue {queue}", queue = queue.0)]
    UnknownQueue { topic: TopicName, queue: QueueId, count: u32 },
    #[error("topic {0} may not be read")]
    NotReadable(TopicName),
    #[error("topic {0} may not be written")]
    NotWritable(TopicName),
    #[error("{what} of {size} bytes exceeds the limit of {size_max}")]
    TooLarge { what: &'static str, size: usize, size_max: usize },
    #[error("the message has no body")]
    EmptyBody,
    #[error("batch refused: {0}")]
    BadBatch(String),
    /// What a message asks for besides being stored; without it, it would reach consumers too early.
    #[error("{0} are not supported yet; nothing was stored")]
    NotOffered(&'static str),
    #[error("more than {count_max} {what} in one request")]
    TooMany { what: &'static str, count_max: usize },
    /// Nothing was stored; the same request may succeed later.
    #[error("reason={reason} wait_ms={wait_ms} retry_after_ms={retry_after_ms} shard={shard}")]
    Busy { reason: &'static str, wait_ms: u64, retry_after_ms: u64, shard: u16 },
    #[error("disk full: writes are refused, reads go on; free space or lower retention")]
    DiskFull,
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// A write failed earlier; this shard takes nothing more until it is restarted.
    #[error("this shard is fenced after a storage fault; see its log, then restart it")]
    Fenced,
    /// The request may or may not take effect after a restart.
    #[error("outcome unknown: storage failed while the request was under way")]
    OutcomeUnknown,
    #[error("the log is damaged at {0}: this part is quarantined and not served")]
    Damaged(LogOffset),
    /// The device or the file system did not give what was asked of it; the same request may succeed
    /// later. What was wrong stands in the shard's log.
    #[error("the disk could not be read; see the log of shard {shard}")]
    DiskFault { shard: u16 },
    #[error("this shard holds {count_max} {what}, which is all it may")]
    Full { what: &'static str, count_max: usize },
    #[error("no consumer for group {0} here")]
    NoConsumer(GroupName),
    #[error("group {0} has committed no offset for this queue")]
    NoOffset(GroupName),
    #[error("no message at offset {0}")]
    NoMessage(LogOffset),
    #[error("no message found")]
    NothingFound,
    #[error("group {group} has not subscribed to {topic} here yet; heartbeat first")]
    NotSubscribed { group: GroupName, topic: TopicName },
    #[error("group {0} has a newer subscription than this shard knows; heartbeat first")]
    SubscriptionOutdated(GroupName),
    #[error("subscription refused: {0}")]
    BadSubscription(String),
    #[error("this broker does not support consuming by {0}")]
    UnsupportedFilter(String),
    #[error("No topic route info in name server for the topic: {0}")]
    UnknownRoute(String),
    #[error("registration refused: {0}")]
    Registration(String),
}

/// A topic in the words of an error.
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
    /// Which of the cases that share a number this is; empty where there is one only.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Busy { reason, .. } => reason,
            Self::Full { what, .. } | Self::TooLarge { what, .. } => what,
            Self::NotOffered(what) | Self::TooMany { what, .. } => what,
            _ => "",
        }
    }

    /// The stable number of this kind of refusal, as users see it: `RINGMQ-2003`.
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
            Self::Busy { .. } => 2001,
            Self::ShuttingDown => 2002,
            Self::DiskFull => 2003,
            Self::Fenced => 2004,
            Self::OutcomeUnknown => 2005,
            Self::Damaged(_) => 2006,
            Self::Full { .. } => 2007,
            Self::DiskFault { .. } => 2008,
            Self::NoConsumer(_) => 3001,
            Self::NoOffset(_) => 3002,
            Self::NoMessage(_) => 3003,
            Self::NothingFound => 3004,
            Self::NotSubscribed { .. } => 3005,
            Self::SubscriptionOutdated(_) => 3006,
            Self::BadSubscription(_) => 3007,
            Self::UnsupportedFilter(_) => 3008,
            Self::UnknownRoute(_) => 4001,
            Self::Registration(_) => 4002,
        }
    }
}
