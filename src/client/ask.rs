//! The requests that the client can send, and their descriptions in error messages.

use crate::model::{NameServerRequest, Request};
use crate::wire::EncodeRequest;

/// A request that the client can send.
pub trait Ask: EncodeRequest {
    /// The action, as in "could not store messages".
    fn what(&self) -> &'static str;
}

impl Ask for Request {
    fn what(&self) -> &'static str {
        match self {
            Self::Produce(_) | Self::ProduceRecords(_) => "store messages",
            Self::Pull(_) => "read messages",
            Self::MaxOffset(_) | Self::MinOffset(_) | Self::OffsetByTime { .. } => {
                "look up an offset"
            }
            Self::EarliestStoreTime(_) => "look up the first message's time",
            Self::CommittedOffset { .. } => "look up a committed offset",
            Self::CommitOffset { .. } => "commit an offset",
            Self::Heartbeat(_) => "take a heartbeat",
            Self::Unregister { .. } => "sign a client off",
            Self::SendReply(_) => "hand on a reply",
            Self::CheckFilter(_) => "check a filter",
            Self::LockQueues(_) | Self::UnlockQueues(_) => "lock queues",
            Self::GroupMembers { .. } => "list a group's members",
            Self::MessageByOffset { .. } | Self::QueryMessages { .. } => "find a message",
            Self::UpdateTopic(_) => "change a topic",
            Self::CreateTopic(_) => "create a topic",
            Self::DeleteTopic { .. } => "delete a topic",
            Self::TopicStats { .. } | Self::TopicConfig { .. } => "describe a topic",
            Self::RuntimeInfo => "tell its state",
            Self::UpdateGroup(_) | Self::UpdateGroups(_) | Self::CreateGroups { .. } => {
                "configure a group"
            }
            Self::DeleteGroup { .. } => "delete a group",
            Self::GroupConfig { .. } | Self::GroupConfigs { .. } | Self::GroupsOf { .. } => {
                "list groups"
            }
            Self::Consumers { .. } | Self::Producers { .. } | Self::Presence(_) => {
                "list the clients of a group"
            }
            Self::Recall { .. } => "recall a message",
            Self::SendBack(_) => "take a message back",
            Self::GroupProgress { .. } => "tell the progress of a group",
            Self::ResetGroup(_) => "reset offsets",
            Self::ConsumerStatus { .. } | Self::RunningInfo(_) => "ask a consumer for its state",
            Self::ConsumeDirectly(_) => "have a message consumed",
            Self::Replicas | Self::Controller(_) => "tell how its replicas are",
            Self::ChangeReplicas(_) => "change its replicas",
        }
    }
}

impl Ask for NameServerRequest {
    fn what(&self) -> &'static str {
        match self {
            Self::RegisterBroker(_) => "register a broker",
            Self::UnregisterBroker(_) => "sign a broker off",
            Self::QueryDataVersion { .. } | Self::BrokerHeartbeat { .. } => "renew a lease",
            Self::Route { .. } => "route a topic",
            Self::ClusterInfo => "list brokers",
            Self::TopicList => "list topics",
            Self::DeleteTopicRoute { .. } => "delete a topic's route",
        }
    }
}
