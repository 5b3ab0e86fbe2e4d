//! A broker's reply to a request that was executed.

use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::group::GroupConfig;
use crate::model::ids::{ClientId, LogOffset, QueueId, QueueOffset, Timestamp};
use crate::model::record::Host;
use crate::model::request::{BrokerQueue, QueueOf};
use crate::model::topic::TopicConfig;

/// A reply without the messages of a pull, which travel separately, as chunks of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Success without data.
    Done,
    Produced(Produced),
    Pulled(Pulled),
    /// The record travels separately.
    Message,
    Offset(QueueOffset),
    StoreTime(Option<Timestamp>),
    HeartbeatTaken,
    Members(Vec<ClientId>),
    /// The queues that the client owns.
    Locked(Vec<BrokerQueue>),
    TopicStats(Vec<QueueStats>),
    TopicConfig(TopicConfig),
    /// Names and values, all strings (remoting reference, 3.13).
    RuntimeInfo(Vec<(String, String)>),
    GroupConfig(GroupConfig),
    /// Some of the groups, and the number of all.
    GroupConfigs {
        configs: Vec<GroupConfig>,
        count: usize,
    },
}

/// The positions of stored messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    pub queue: QueueId,
    /// Of the first message; the others follow without gaps.
    pub queue_offset: QueueOffset,
    /// Physical offset of each message, for its message id.
    pub positions: SmallVec<[LogOffset; 1]>,
    pub store_host: Host,
}

/// The header of a pull reply (remoting reference, 3.2, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub status: PullStatus,
    pub next_offset: QueueOffset,
    pub min_offset: QueueOffset,
    pub max_offset: QueueOffset,
    /// Number of messages, which travel separately.
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    /// Nothing at this offset yet.
    NothingNew,
    /// There were messages, but none matched the filter.
    NothingMatched,
    /// The offset was outside the queue.
    OffsetMoved,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueueStats {
    pub queue: QueueOf,
    pub min_offset: QueueOffset,
    pub max_offset: QueueOffset,
    pub last_stored_at: Option<Timestamp>,
    /// Broker name, part of a queue's external name.
    pub broker_name: ByteString,
}
