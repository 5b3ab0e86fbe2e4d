//! What a broker answers to a request that it carried out.

use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::ids::{ClientId, LogOffset, QueueId, QueueOffset, Timestamp};
use crate::model::record::Host;
use crate::model::request::QueueOf;

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
