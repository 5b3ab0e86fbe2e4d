//! A broker's reply to a request that was executed.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::controller::{ControllerAnswer, ControllerView};
use crate::model::group::GroupConfig;
use crate::model::ids::{ClientId, GroupName, LogOffset, QueueId, QueueOffset, Timestamp};
use crate::model::peer::Peer;
use crate::model::record::Host;
use crate::model::replicas::ReplicaSet;
use crate::model::request::{BrokerQueue, ConsumeType, MessageModel, QueueOf, SubscriptionData};
use crate::model::topic::TopicConfig;

/// The members of a consumer group. All replies share the list, and it is encoded once: when the
/// members change, each member requests it, so a thousand members cause a million names.
#[derive(Debug, Default)]
pub struct MemberList {
    members: Vec<ClientId>,
    encoded: OnceLock<Vec<u8>>,
}

impl MemberList {
    pub fn new(members: Vec<ClientId>) -> Self {
        Self { members, encoded: OnceLock::new() }
    }

    /// The encoded list: the result of `encode`, which must always be the same.
    pub fn encoded(&self, encode: impl FnOnce(&[ClientId]) -> Vec<u8>) -> &[u8] {
        self.encoded.get_or_init(|| encode(&self.members))
    }
}

impl std::ops::Deref for MemberList {
    type Target = [ClientId];

    fn deref(&self) -> &[ClientId] {
        &self.members
    }
}

impl PartialEq for MemberList {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}

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
    /// The client has left, whichever connections it had; the other shards must forget it too.
    Unregistered,
    Members(Arc<MemberList>),
    /// The client that waits for a reply has received it.
    ReplyPushed(QueueId),
    /// The queues that the client owns.
    Locked(Vec<BrokerQueue>),
    TopicStats(TopicStats),
    TopicConfig(TopicConfig),
    /// Names and values, all strings (remoting reference, 3.13).
    RuntimeInfo(Vec<(String, String)>),
    GroupConfig(GroupConfig),
    Consumers(GroupConnections),
    Producers(Vec<MemberConnections>),
    Groups(Vec<GroupName>),
    Progress(GroupProgress),
    /// The id of the message, which will not be delivered.
    Recalled(ByteString),
    OffsetsReset(Vec<(BrokerQueue, i64)>),
    /// Next offset to consume, for each queue that a client reads.
    ConsumerStatus(Vec<(ClientId, Vec<(BrokerQueue, i64)>)>),
    /// The body of a client's reply, not decoded.
    Relayed(Bytes),
    /// Some of the groups, and the number of all groups.
    GroupConfigs {
        configs: Vec<GroupConfig>,
        count: usize,
    },
    Replicas(ReplicaSet),
    Controller(ControllerAnswer, Box<ControllerView>),
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
    /// By which the message can be recalled before it is due.
    pub recall_handle: Option<Box<str>>,
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
    /// Broker id from which to read next; 0 is the leader. Always 0 in the fixed header.
    pub read_from: u64,
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
pub struct TopicStats {
    pub queues: Vec<QueueStats>,
    /// `None` if the broker does not know it.
    pub delayed: Option<DelayedCounts>,
}

/// How many messages of a topic are not due yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelayedCounts {
    /// Those that will be delivered to the topic.
    pub delayed: u64,
    /// Those of the topic that consumer groups have returned. They will be delivered to the groups'
    /// retry topics.
    pub retries: u64,
}

impl DelayedCounts {
    pub fn plus(self, other: Self) -> Self {
        Self { delayed: self.delayed + other.delayed, retries: self.retries + other.retries }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            delayed: self.delayed.saturating_sub(other.delayed),
            retries: self.retries.saturating_sub(other.retries),
        }
    }
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

/// The members of a consumer group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConnections {
    pub members: Vec<MemberConnections>,
    pub consume_type: ConsumeType,
    pub model: MessageModel,
    pub subscriptions: Vec<SubscriptionData>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemberConnections {
    pub client: ClientId,
    /// Several only if two processes have the client id.
    pub peers: Vec<Peer>,
    pub is_shared: bool,
}

impl MemberConnections {
    /// Adds what another broker knows of the same client.
    pub fn add(&mut self, other: Self) {
        self.is_shared |= other.is_shared;
        let new = other.peers.into_iter().filter(|peer| !self.peers.contains(peer));
        let new: Vec<Peer> = new.collect();
        self.peers.extend(new);
    }
}

/// How far a group has consumed.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupProgress {
    pub queues: Vec<QueueProgress>,
    /// When it last committed an offset.
    pub committed_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueueProgress {
    pub queue: BrokerQueue,
    pub committed: Option<QueueOffset>,
    /// Offset of the queue's first message; retention has deleted the earlier ones.
    pub min: QueueOffset,
    /// Offset of the queue's next message.
    pub end: QueueOffset,
    /// When the last consumed message was stored.
    pub last_at: Option<Timestamp>,
    /// When the first message that is not yet consumed was stored.
    pub waiting_since: Option<Timestamp>,
}

impl QueueProgress {
    /// Number of messages that the group has yet to consume.
    pub fn lag(&self) -> u64 {
        let next = self.committed.unwrap_or(QueueOffset(0)).max(self.min);
        self.end.0.saturating_sub(next.0)
    }
}
