//! Requests from a server to a client, and the client's replies (remoting reference, 3.10). Request
//! codes in brackets are those of the remoting reference.

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::ids::{GroupName, Timestamp, TopicName};
use crate::model::record::Host;
use crate::model::request::{BrokerQueue, ConsumeDirectly, Produce, RunningInfo};

/// A request that a server sends to a client over the client's own connection.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientRequest {
    /// The members of a group, or their topics, have changed: rebalance the queues. One-way [40].
    MembersChanged { group: GroupName },
    /// Continue at other offsets. One-way [220].
    ResetOffsets(ResetOffsets),
    /// A consumer's reply to a request of this client [326].
    PushReply(Box<PushedReply>),
    /// The queues of a topic that the client reads, and its offsets [221].
    ConsumerStatus { topic: TopicName, group: GroupName },
    /// [307]
    RunningInfo(RunningInfo),
    /// [309]
    ConsumeDirectly { what: ConsumeDirectly, broker_name: ByteString, record: Bytes },
}

impl ClientRequest {
    /// Whether it is one-way.
    pub fn is_one_way(&self) -> bool {
        matches!(self, Self::MembersChanged { .. } | Self::ResetOffsets(_))
    }
}

/// A reply on its way from a consumer to the client that sent the request.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedReply {
    pub message: Produce,
    /// The consumer's address.
    pub born_host: Host,
    pub store_host: Host,
    pub stored_at: Timestamp,
}

/// The offsets from which a group continues to consume a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct ResetOffsets {
    pub topic: TopicName,
    pub group: GroupName,
    /// The time that the offsets correspond to; `None` if they were not derived from a time.
    pub at: Option<Timestamp>,
    /// Whether to apply offsets later than the consumed ones as well.
    pub is_forced: bool,
    pub offsets: Vec<(BrokerQueue, i64)>,
}

/// A client's reply.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientReply {
    /// Next offset to consume, for each queue that the client reads.
    ConsumerStatus(Vec<(BrokerQueue, i64)>),
    /// Success without data.
    Done,
    /// The body of the reply, not decoded.
    Relayed(Bytes),
}
