//! What a request that was carried out is answered with.

use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::record::Host;
use crate::model::request::{DataVersion, QueueOf};
use crate::model::{ClientId, LogOffset, QueueId, QueueOffset, Timestamp};

/// An answer without the messages of a pull: those travel beside it, as chunks of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Carried out; nothing to tell.
    Done,
    Produced(Produced),
    Pulled(Pulled),
    /// One record travels beside this.
    Message,
    Offset(QueueOffset),
    StoreTime(Option<Timestamp>),
    HeartbeatTaken,
    Members(Vec<ClientId>),
    TopicStats(Vec<QueueStats>),
    /// Names and values, every value a text (remoting reference, 3.13).
    RuntimeInfo(Vec<(String, String)>),

    // From a NameServer.
    Registered,
    DataVersion {
        is_changed: bool,
        known: Option<DataVersion>,
    },
    Route(Route),
    ClusterInfo(ClusterInfo),
    TopicList(Vec<ByteString>),
}

/// Where messages were stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    pub queue: QueueId,
    /// Of the first message; the others follow without gaps.
    pub queue_offset: QueueOffset,
    /// Physical offset of each message, from which its offset id is made.
    pub positions: SmallVec<[LogOffset; 1]>,
    pub store_host: Host,
}

/// The header of a pull's answer (remoting reference, 3.2, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub status: PullStatus,
    pub next_offset: QueueOffset,
    pub min_offset: QueueOffset,
    pub max_offset: QueueOffset,
    /// Messages that travel beside this.
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    /// Nothing at this offset yet.
    NothingNew,
    /// There were messages, the filter took none of them.
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
    /// Broker name, which is part of how a queue is named outside.
    pub broker_name: ByteString,
}

/// Who serves a topic (remoting reference, 2.4). Sorted by broker name, then id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub queues: Vec<RouteQueues>,
    pub brokers: Vec<RouteBroker>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQueues {
    pub broker_name: String,
    pub read_queue_count: u32,
    pub write_queue_count: u32,
    pub perm: u32,
    pub system_flag: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBroker {
    pub cluster: String,
    pub name: String,
    /// Broker id (0 is the master) and `ip:port`, sorted by id.
    pub addresses: Vec<(u64, String)>,
}

/// All brokers (remoting reference, 2.5). Sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    pub brokers: Vec<RouteBroker>,
}
