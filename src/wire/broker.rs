//! The requests that a broker supports: how each is decoded, and how requests and replies are
//! encoded. One line per command in each of the three tables.

use bytes::Bytes;

use crate::model::replicas::ReplicaOrder;
use crate::model::request::Pull;
use crate::model::{Refusal, Reply, Request};
use crate::wire::admin::{TableBody, TopicStatsBody};
use crate::wire::client::{ConsumerStatuses, OffsetTable};
use crate::wire::codes::pull_code;
use crate::wire::codes::request::*;
use crate::wire::codes::response::SUCCESS;
use crate::wire::frame::{Frame, HeaderEncoding};
use crate::wire::group::{CheckBody, HeartbeatBody, MembersBody};
use crate::wire::group_config::{GroupBody, GroupConfigsBody, GroupsBody};
use crate::wire::group_stats::{ConsumersBody, GroupListBody, ProducersBody, ProgressBody};
use crate::wire::header::fixed;
use crate::wire::header::head::{Fields, ReplyTo};
use crate::wire::json::ser;
use crate::wire::lock::{LockBody, LockedBody};
use crate::wire::registration::TopicBody;
use crate::wire::reply::{EncodeReply, NewReply};
use crate::wire::request::{DecodeRequest, EncodeRequest, NewRequest, served};
use crate::wire::{
    admin, controller, group, group_config, group_stats, lock, message, relay, replicas,
};

impl DecodeRequest for Request {
    served! {
        SEND_MESSAGE => message::decode_send;
        PULL_MESSAGE => message::decode_pull;
        QUERY_MESSAGE => message::decode_query;
        QUERY_CONSUMER_OFFSET => message::decode_committed_offset;
        UPDATE_CONSUMER_OFFSET => message::decode_commit_offset;
        UPDATE_AND_CREATE_TOPIC => admin::decode_update_topic;
        GET_BROKER_RUNTIME_INFO => admin::decode_runtime_info;
        SEARCH_OFFSET_BY_TIMESTAMP => message::decode_offset_by_time;
        GET_MAX_OFFSET => message::decode_max_offset;
        GET_MIN_OFFSET => message::decode_min_offset;
        GET_EARLIEST_MSG_STORETIME => message::decode_earliest_store_time;
        VIEW_MESSAGE_BY_ID => message::decode_message_by_offset;
        HEART_BEAT => group::decode_heartbeat;
        UNREGISTER_CLIENT => group::decode_unregister;
        CONSUMER_SEND_MSG_BACK => message::decode_send_back;
        GET_CONSUMER_LIST_BY_GROUP => group::decode_members;
        LOCK_BATCH_MQ => lock::decode_lock;
        UNLOCK_BATCH_MQ => lock::decode_unlock;
        CHECK_CLIENT_CONFIG => group::decode_check_filter;
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => group_config::decode_update_group;
        GET_ALL_SUBSCRIPTIONGROUP_CONFIG => group_config::decode_groups;
        GET_TOPIC_STATS_INFO => admin::decode_topic_stats;
        GET_CONSUMER_CONNECTION_LIST => group_stats::decode_consumers;
        GET_PRODUCER_CONNECTION_LIST => group_stats::decode_producers;
        DELETE_SUBSCRIPTIONGROUP => group_config::decode_delete_group;
        GET_CONSUME_STATS => group_stats::decode_progress;
        DELETE_TOPIC_IN_BROKER => admin::decode_delete_topic;
        INVOKE_BROKER_TO_RESET_OFFSET => group_stats::decode_reset;
        INVOKE_BROKER_TO_GET_CONSUMER_STATUS => relay::decode_consumer_status;
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => group_config::decode_update_groups;
        QUERY_TOPIC_CONSUME_BY_WHO => group_stats::decode_groups_of;
        GET_CONSUMER_RUNNING_INFO => relay::decode_running_info;
        CONSUME_MESSAGE_DIRECTLY => relay::decode_consume_directly;
        SEND_MESSAGE_V2 => message::decode_send_v2;
        SEND_BATCH_MESSAGE => message::decode_send_v2;
        SEND_REPLY_MESSAGE => message::decode_reply;
        SEND_REPLY_MESSAGE_V2 => message::decode_reply_v2;
        GET_TOPIC_CONFIG => admin::decode_topic_config;
        GET_SUBSCRIPTIONGROUP_CONFIG => group_config::decode_group;
        LITE_PULL_MESSAGE => message::decode_pull;
        RECALL_MESSAGE => message::decode_recall;
        GET_BROKER_HA_STATUS => controller::decode_ha_status;
        CONTROLLER_ELECT_MASTER => controller::decode_elect;
        CONTROLLER_GET_METADATA_INFO => controller::decode_metadata;
        CONTROLLER_GET_SYNC_STATE_DATA => controller::decode_sync_state;
        GET_BROKER_EPOCH_CACHE => controller::decode_epochs;
        REPLICAS => replicas::decode;
    }

    fn decode_fixed(_kind: i32, frame: &Frame) -> Result<Self, Refusal> {
        fixed::decode_request(frame)
    }
}

impl EncodeRequest for Request {
    fn encode(&self, to: NewRequest<'_>) -> bool {
        match to.encoding {
            HeaderEncoding::Fixed => encode_fixed(to.out, to.opaque, to.one_way, self),
            HeaderEncoding::Json | HeaderEncoding::Binary => encode_named(to, self),
        }
    }
}

/// The fixed header has no fields for a group, a commit or a filter, and a fetch is never one-way.
fn encode_fixed(out: &mut Vec<u8>, opaque: i32, one_way: bool, request: &Request) -> bool {
    match request {
        Request::ProduceRecords(batch) => fixed::encode_produce(out, opaque, one_way, batch),
        Request::Pull(Pull { group: None, commit: None, subscription: None, .. }) if one_way => {
            return false;
        }
        Request::Pull(pull @ Pull { group: None, commit: None, subscription: None, .. }) => {
            fixed::encode_fetch(out, opaque, pull);
        }
        _ => return false,
    }
    true
}

/// Encodes `request` with named fields; false if that is not possible.
#[rustfmt::skip] // A table: request, code, fields, body.
fn encode_named(to: NewRequest<'_>, request: &Request) -> bool {
    match request {
        Request::Produce(produce) => {
            let code = if produce.is_batch { SEND_BATCH_MESSAGE } else { SEND_MESSAGE_V2 };
            to.whole(code, |f| message::encode_send(f, produce), |out| out.extend_from_slice(&produce.body));
        }
        Request::ProduceRecords(_) | Request::Pull(Pull { group: None, .. }) | Request::CreateGroups { .. } | Request::Presence(_) | Request::Controller(_) | Request::ChangeReplicas(ReplicaOrder::StepDown) => return false,
        Request::Pull(pull @ Pull { group: Some(group), .. }) => to.fields(PULL_MESSAGE, |f| message::encode_pull(f, pull, group)),
        Request::MaxOffset(queue) => to.fields(GET_MAX_OFFSET, |f| message::encode_queue(f, queue)),
        Request::MinOffset(queue) => to.fields(GET_MIN_OFFSET, |f| message::encode_queue(f, queue)),
        Request::OffsetByTime { queue, at, boundary } => {
            to.fields(SEARCH_OFFSET_BY_TIMESTAMP, |f| message::encode_offset_by_time(f, queue, *at, *boundary));
        }
        Request::EarliestStoreTime(queue) => to.fields(GET_EARLIEST_MSG_STORETIME, |f| message::encode_queue(f, queue)),
        Request::CommittedOffset { group, queue, zero_if_missing } => {
            to.fields(QUERY_CONSUMER_OFFSET, |f| message::encode_committed_offset(f, group, queue, *zero_if_missing));
        }
        Request::CommitOffset { group, queue, offset } => {
            to.fields(UPDATE_CONSUMER_OFFSET, |f| message::encode_commit_offset(f, group, queue, *offset));
        }
        Request::Heartbeat(heartbeat) => to.whole(HEART_BEAT, |_| {}, |out| ser::push(out, &HeartbeatBody::of(heartbeat))),
        Request::Unregister { client, producer, consumer } => {
            to.fields(UNREGISTER_CLIENT, |f| group::encode_unregister(f, client, producer.as_ref(), consumer.as_ref()));
        }
        Request::GroupMembers { group } => to.fields(GET_CONSUMER_LIST_BY_GROUP, |f| f.text("consumerGroup", group.as_str())),
        Request::SendReply(reply) => to.whole(
            SEND_REPLY_MESSAGE_V2,
            |f| message::encode_send(f, reply),
            |out| out.extend_from_slice(&reply.body),
        ),
        Request::CheckFilter(expression) => {
            to.whole(CHECK_CLIENT_CONFIG, |_| {}, |out| ser::push(out, &CheckBody::of(expression)));
        }
        Request::LockQueues(lock) => to.whole(LOCK_BATCH_MQ, |_| {}, |out| ser::push(out, &LockBody::of(lock))),
        Request::UnlockQueues(lock) => to.whole(UNLOCK_BATCH_MQ, |_| {}, |out| ser::push(out, &LockBody::of(lock))),
        Request::MessageByOffset { offset } => to.fields(VIEW_MESSAGE_BY_ID, |f| f.number("offset", offset.0)),
        Request::QueryMessages { topic, key, count_max } => {
            to.fields(QUERY_MESSAGE, |f| message::encode_query(f, topic, key, *count_max));
        }
        Request::Recall { topic, handle } => to.fields(RECALL_MESSAGE, |f| message::encode_recall(f, topic, handle)),
        Request::UpdateTopic(topic) => to.fields(UPDATE_AND_CREATE_TOPIC, |f| admin::encode_update_topic(f, topic)),
        Request::CreateTopic(topic) => to.fields(UPDATE_AND_CREATE_TOPIC, |f| admin::encode_create_topic(f, topic)),
        Request::DeleteTopic { topic } => to.fields(DELETE_TOPIC_IN_BROKER, |f| f.text("topic", topic.as_str())),
        Request::TopicStats { topic } => to.fields(GET_TOPIC_STATS_INFO, |f| f.text("topic", topic.as_str())),
        Request::TopicConfig { topic } => to.fields(GET_TOPIC_CONFIG, |f| f.text("topic", topic.as_str())),
        Request::RuntimeInfo => to.fields(GET_BROKER_RUNTIME_INFO, |_| {}),
        Request::UpdateGroup(config) => to.whole(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, |_| {}, |out| ser::push(out, &GroupBody::of(config))),
        Request::UpdateGroups(configs) => {
            to.whole(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, |_| {}, |out| ser::push(out, &GroupConfigsBody::of(configs)));
        }
        Request::DeleteGroup { group, with_offsets } => {
            to.fields(DELETE_SUBSCRIPTIONGROUP, |f| group_config::encode_delete_group(f, group, *with_offsets));
        }
        Request::SendBack(back) => to.fields(CONSUMER_SEND_MSG_BACK, |f| message::encode_send_back(f, back)),
        Request::Consumers { group } => to.fields(GET_CONSUMER_CONNECTION_LIST, |f| f.text("consumerGroup", group.as_str())),
        Request::Producers { group } => to.fields(GET_PRODUCER_CONNECTION_LIST, |f| f.text("producerGroup", group.as_str())),
        Request::GroupsOf { topic } => to.fields(QUERY_TOPIC_CONSUME_BY_WHO, |f| f.text("topic", topic.as_str())),
        Request::GroupProgress { group, topic } => {
            to.fields(GET_CONSUME_STATS, |f| group_stats::encode_progress(f, group, topic.as_ref()));
        }
        Request::ResetGroup(reset) => to.fields(INVOKE_BROKER_TO_RESET_OFFSET, |f| group_stats::encode_reset(f, reset)),
        Request::ConsumerStatus { topic, group, client } => {
            to.fields(INVOKE_BROKER_TO_GET_CONSUMER_STATUS, |f| relay::encode_consumer_status(f, topic, group, client.as_ref()));
        }
        Request::RunningInfo(info) => to.fields(GET_CONSUMER_RUNNING_INFO, |f| relay::encode_running_info(f, info)),
        Request::ConsumeDirectly(what) => to.fields(CONSUME_MESSAGE_DIRECTLY, |f| relay::encode_consume_directly(f, what)),
        Request::GroupConfig { group } => to.fields(GET_SUBSCRIPTIONGROUP_CONFIG, |f| f.text("group", group.as_str())),
        Request::GroupConfigs { first, count_max } => {
            to.fields(GET_ALL_SUBSCRIPTIONGROUP_CONFIG, |f| group_config::encode_groups(f, *first, *count_max));
        }
        Request::Replicas => to.fields(REPLICAS, replicas::encode_show),
        Request::ChangeReplicas(order) => to.fields(REPLICAS, |f| replicas::encode_order(f, order)),
    }
    true
}

impl EncodeReply for Reply {
    fn encode(&self, to: NewReply<'_>) {
        let ReplyTo { encoding, code, opaque, .. } = to.to;
        if encoding == HeaderEncoding::Fixed {
            return fixed::encode_reply(to.out, code as u8, opaque, self, to.chunk_bytes);
        }
        match self {
            Reply::Done | Reply::Unregistered => to.fields(|_| {}),
            Reply::Produced(produced) => to.fields(|fields| {
                message::encode_traced(fields);
                message::encode_produced(fields, produced);
            }),
            Reply::Pulled(pulled) => {
                let (code, word) = pull_code(pulled.status);
                to.whole(code, Some(word), |fields| message::encode_pulled(fields, pulled), |_| {});
            }
            Reply::Message if code == QUERY_MESSAGE => to.fields(message::encode_queried),
            Reply::Message => to.fields(|_| {}),
            Reply::Offset(offset) => to.fields(|fields| fields.number("offset", offset.0)),
            Reply::StoreTime(time) => {
                let time_ms = time.map_or(-1, |time| time.0 as i64);
                to.fields(|fields| fields.number("timestamp", time_ms));
            }
            Reply::HeartbeatTaken => to.fields(|fields| fields.text(group::CAPABILITY_FIXED, "1")),
            Reply::Members(members) => {
                to.body(members.encoded(|members| MembersBody::encode(members)))
            }
            Reply::ReplyPushed(queue) => to.fields(|fields| {
                message::encode_traced(fields);
                message::encode_pushed(fields, *queue);
            }),
            Reply::Recalled(id) => to.fields(|fields| fields.text("msgId", id)),
            Reply::Locked(queues) => to.json(&LockedBody::of(queues)),
            Reply::TopicStats(stats) => to.json(&TopicStatsBody::of(stats)),
            Reply::TopicConfig(topic) => to.json(&TopicBody::of(topic)),
            Reply::RuntimeInfo(table) => to.json(&TableBody::of(table)),
            Reply::Consumers(group) => to.json(&ConsumersBody::of(group)),
            Reply::Producers(members) => to.json(&ProducersBody::of(members)),
            Reply::Groups(groups) => to.json(&GroupListBody::of(groups)),
            Reply::Progress(progress) => to.json(&ProgressBody::of(progress)),
            Reply::OffsetsReset(offsets) => to.json(&OffsetTable::of(offsets)),
            Reply::ConsumerStatus(statuses) => to.json(&ConsumerStatuses::of(statuses)),
            Reply::Relayed(body) => to.body(body),
            Reply::Replicas(set) => to.json(set),
            Reply::Controller(answer, view) => controller::encode(to, *answer, view),
            Reply::GroupConfig(config) => to.json(&GroupBody::of(config)),
            Reply::GroupConfigs { configs, count } => to.whole(
                SUCCESS,
                None,
                |fields| fields.number("totalGroupNum", *count),
                |out| ser::push(out, &GroupsBody::of(configs)),
            ),
        }
    }
}
