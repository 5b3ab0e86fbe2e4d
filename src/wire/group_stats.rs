//! Operators' requests about consumer groups, and resets of their offsets (remoting reference,
//! 3.12, 5.7).

use std::borrow::Cow;
use std::net::SocketAddrV4;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::Peer;
use crate::model::reply::{GroupConnections, GroupProgress, MemberConnections, QueueProgress};
use crate::model::request::BrokerQueue;
use crate::model::request::{
    ConsumeType, Expression, MessageModel, ResetGroup, ResetTo, SubscriptionData,
};
use crate::model::{
    ClientId, GroupName, NameError, QueueId, QueueOffset, Refusal, Request, Timestamp, TopicName,
};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::{Fields, Language};
use crate::wire::json::types::{Entries, List, ObjectKey};
use crate::wire::queue::MessageQueue;

/// GET_CONSUMER_CONNECTION_LIST.
pub fn decode_consumers(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Consumers { group: GroupName::new(fields.needed("consumerGroup")?)? })
}

/// GET_PRODUCER_CONNECTION_LIST.
pub fn decode_producers(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Producers { group: GroupName::new(fields.needed("producerGroup")?)? })
}

/// QUERY_TOPIC_CONSUME_BY_WHO.
pub fn decode_groups_of(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::GroupsOf { topic: TopicName::new(fields.needed("topic")?)? })
}

/// GET_CONSUME_STATS.
pub fn decode_progress(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::GroupProgress {
        group: GroupName::new(fields.needed("consumerGroup")?)?,
        topic: fields.optional("topic").map(TopicName::new).transpose()?,
    })
}

pub fn encode_progress(fields: &mut FieldWriter<'_>, group: &GroupName, topic: Option<&TopicName>) {
    fields.text("consumerGroup", group.as_str());
    fields.optional("topic", topic.map(TopicName::as_str));
}

/// INVOKE_BROKER_TO_RESET_OFFSET. An offset counts only together with a queue.
pub fn decode_reset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let queue: Option<i32> = fields.optional_number("queueId")?;
    let queue = queue.and_then(|queue| u32::try_from(queue).ok()).map(QueueId);
    let offset: Option<i64> = fields.optional_number("offset")?;
    let at: i64 = fields.optional_number("timestamp")?.unwrap_or(-1);
    let to = match (offset.and_then(|offset| u64::try_from(offset).ok()), u64::try_from(at)) {
        (Some(offset), _) if queue.is_some() => ResetTo::Offset(QueueOffset(offset)),
        (_, Ok(at)) => ResetTo::Time(Timestamp(at)),
        (_, Err(_)) => ResetTo::End,
    };
    Ok(Request::ResetGroup(ResetGroup {
        group: GroupName::new(fields.needed("group")?)?,
        topic: TopicName::new(fields.needed("topic")?)?,
        queue,
        to,
        is_forced: fields.boolean("isForce").unwrap_or(false),
    }))
}

pub fn encode_reset(fields: &mut FieldWriter<'_>, reset: &ResetGroup) {
    fields.text("topic", reset.topic.as_str());
    fields.text("group", reset.group.as_str());
    fields.number("queueId", reset.queue.map_or(-1, |queue| i64::from(queue.0)));
    let at_ms = match reset.to {
        ResetTo::Time(at) => at.0 as i64,
        ResetTo::Offset(offset) => {
            fields.number("offset", offset.0);
            -1
        }
        ResetTo::End => -1,
    };
    fields.number("timestamp", at_ms);
    fields.boolean("isForce", reset.is_forced);
}

/// `GroupList` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupListBody<'a> {
    group_list: List<Cow<'a, str>>,
}

impl<'a> GroupListBody<'a> {
    pub fn of(groups: &'a [GroupName]) -> Self {
        Self { group_list: groups.iter().map(|group| group.as_str().into()).collect() }
    }

    pub fn read(self) -> Result<Vec<GroupName>, NameError> {
        self.group_list.0.into_iter().map(|group| GroupName::new(group.into_owned())).collect()
    }
}

/// A connection of a member. The last field is ours: whether two processes have the client id.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConnectionBody<'a> {
    client_addr: String,
    client_id: Cow<'a, str>,
    language: Cow<'a, str>,
    version: i32,
    is_shared: bool,
}

type Connections<'a> = List<ConnectionBody<'a>>;

fn connections(members: &[MemberConnections]) -> Connections<'_> {
    let of = |member: &MemberConnections, peer: &Peer| ConnectionBody {
        client_addr: SocketAddrV4::from(peer.host).to_string(),
        client_id: Cow::Owned(member.client.to_string()),
        language: Language::of_number(peer.language).name().into(),
        version: peer.version,
        is_shared: member.is_shared,
    };
    members
        .iter()
        .flat_map(|member| member.peers.iter().map(move |peer| of(member, peer)))
        .collect()
}

/// Connections as members. Addresses that are not IPv4 are left out.
fn members(connections: Connections<'_>) -> Vec<MemberConnections> {
    let mut members: Vec<MemberConnections> = Vec::new();
    for connection in connections.0 {
        let client: ClientId = connection.client_id.into_owned().into();
        let address: Option<SocketAddrV4> = connection.client_addr.parse().ok();
        let peer = address.map(|address| Peer {
            host: address.into(),
            language: Language::of_name(&connection.language) as u8,
            version: connection.version,
        });
        match members.iter_mut().find(|member| member.client == client) {
            Some(member) => member.peers.extend(peer),
            None => members.push(MemberConnections {
                client,
                peers: peer.into_iter().collect(),
                is_shared: connection.is_shared,
            }),
        }
    }
    members
}

/// `ConsumerConnection` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumersBody<'a> {
    connection_set: Connections<'a>,
    #[serde(skip_deserializing)]
    consume_from_where: &'static str,
    consume_type: ConsumeType,
    message_model: MessageModel,
    subscription_table: Entries<Cow<'a, str>, SubscriptionBody<'a>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubscriptionBody<'a> {
    class_filter_mode: bool,
    expression_type: Cow<'a, str>,
    sub_string: Cow<'a, str>,
    sub_version: i64,
    topic: Cow<'a, str>,
}

impl<'a> ConsumersBody<'a> {
    pub fn of(group: &'a GroupConnections) -> Self {
        let subscription = |of: &'a SubscriptionData| {
            let body = SubscriptionBody {
                class_filter_mode: false,
                expression_type: (&of.expression.kind).into(),
                sub_string: (&of.expression.text).into(),
                sub_version: of.version,
                topic: of.topic.as_str().into(),
            };
            (of.topic.as_str().into(), body)
        };
        Self {
            connection_set: connections(&group.members),
            consume_from_where: "CONSUME_FROM_LAST_OFFSET",
            consume_type: group.consume_type,
            message_model: group.model,
            subscription_table: group.subscriptions.iter().map(subscription).collect(),
        }
    }

    pub fn read(self) -> Result<GroupConnections, NameError> {
        let subscription = |(_, body): (_, SubscriptionBody<'_>)| {
            let (kind, text) = (body.expression_type.into(), body.sub_string.into());
            let topic = TopicName::new(body.topic.into_owned())?;
            let expression = Expression { kind, text };
            Ok(SubscriptionData { topic, expression, version: body.sub_version })
        };
        let subscriptions: Result<_, NameError> =
            self.subscription_table.0.into_iter().map(subscription).collect();
        Ok(GroupConnections {
            members: members(self.connection_set),
            consume_type: self.consume_type,
            model: self.message_model,
            subscriptions: subscriptions?,
        })
    }
}

/// `ProducerConnection` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducersBody<'a> {
    connection_set: Connections<'a>,
}

impl<'a> ProducersBody<'a> {
    pub fn of(members: &'a [MemberConnections]) -> Self {
        Self { connection_set: connections(members) }
    }

    pub fn read(self) -> Vec<MemberConnections> {
        members(self.connection_set)
    }
}

/// `ConsumeStats` of the reference. The last field is ours.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProgressBody<'a> {
    #[serde(skip_deserializing)]
    consume_tps: f64,
    offset_table: Entries<ObjectKey<MessageQueue<'a>>, ProgressOffset>,
    last_commit_timestamp: u64,
}

/// The last three fields are ours: whether there is a committed offset, the offset of the first
/// message that retention has not deleted, and when the first message that has not been consumed was
/// stored.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ProgressOffset {
    broker_offset: u64,
    consumer_offset: u64,
    last_timestamp: u64,
    pull_offset: u64,
    is_committed: bool,
    min_offset: u64,
    waiting_since: u64,
}

impl<'a> ProgressBody<'a> {
    pub fn of(progress: &'a GroupProgress) -> Self {
        let at = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
        let entry = |queue: &'a QueueProgress| {
            let committed = queue.committed.map_or(0, |offset| offset.0);
            let offset = ProgressOffset {
                broker_offset: queue.end.0,
                consumer_offset: committed,
                last_timestamp: at(queue.last_at),
                pull_offset: committed,
                is_committed: queue.committed.is_some(),
                min_offset: queue.min.0,
                waiting_since: at(queue.waiting_since),
            };
            (ObjectKey(MessageQueue::of(&queue.queue.broker_name, &queue.queue.queue)), offset)
        };
        Self {
            consume_tps: 0.0,
            offset_table: progress.queues.iter().map(entry).collect(),
            last_commit_timestamp: at(progress.committed_at),
        }
    }

    pub fn read(self) -> Result<GroupProgress, NameError> {
        let at = |ms: u64| (ms > 0).then_some(Timestamp(ms));
        let queue = |(ObjectKey(queue), offset): (ObjectKey<MessageQueue<'_>>, ProgressOffset)| {
            let (broker_name, queue) = queue.read()?;
            let committed = offset.is_committed.then_some(QueueOffset(offset.consumer_offset));
            Ok(QueueProgress {
                queue: BrokerQueue { broker_name, queue },
                committed,
                min: QueueOffset(offset.min_offset),
                end: QueueOffset(offset.broker_offset),
                last_at: at(offset.last_timestamp),
                waiting_since: at(offset.waiting_since),
            })
        };
        let queues: Result<_, NameError> = self.offset_table.0.into_iter().map(queue).collect();
        Ok(GroupProgress { queues: queues?, committed_at: at(self.last_commit_timestamp) })
    }
}
