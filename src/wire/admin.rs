//! Topics, and a broker's information about itself (remoting reference, 3.12, 3.13).

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::reply::{DelayedCounts, QueueStats, TopicStats};
use crate::model::{NameError, QueueOffset, Refusal, Request, Timestamp, TopicConfig, TopicName};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::types::{Entries, ObjectKey};
use crate::wire::queue::MessageQueue;

/// Named field of ours: an existing topic must not differ. Stock brokers ignore it.
const CREATE_ONLY: &str = "createOnly";

/// UPDATE_AND_CREATE_TOPIC.
pub fn decode_update_topic(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let request = match fields.boolean(CREATE_ONLY) {
        Some(true) => Request::CreateTopic,
        _ => Request::UpdateTopic,
    };
    Ok(request(TopicConfig {
        name: TopicName::new(fields.needed("topic")?)?,
        read_queue_count: fields.needed_number("readQueueNums")?,
        write_queue_count: fields.needed_number("writeQueueNums")?,
        perm: fields.needed_number("perm")?,
        system_flag: fields.optional_number("topicSysFlag")?.unwrap_or(0),
        order: fields.boolean("order").unwrap_or(false),
    }))
}

pub fn encode_update_topic(fields: &mut FieldWriter<'_>, topic: &TopicConfig) {
    fields.text("topic", topic.name.as_str());
    fields.text("defaultTopic", crate::model::topic::AUTO_CREATE_TEMPLATE);
    fields.number("readQueueNums", topic.read_queue_count);
    fields.number("writeQueueNums", topic.write_queue_count);
    fields.number("perm", topic.perm);
    fields.text("topicFilterType", "SINGLE_TAG");
    fields.number("topicSysFlag", topic.system_flag);
    fields.boolean("order", topic.order);
}

pub fn encode_create_topic(fields: &mut FieldWriter<'_>, topic: &TopicConfig) {
    encode_update_topic(fields, topic);
    fields.boolean(CREATE_ONLY, true);
}

/// DELETE_TOPIC_IN_BROKER.
pub fn decode_delete_topic(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::DeleteTopic { topic: TopicName::new(fields.needed("topic")?)? })
}

/// GET_TOPIC_STATS_INFO.
pub fn decode_topic_stats(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::TopicStats { topic: TopicName::new(fields.needed("topic")?)? })
}

/// GET_TOPIC_CONFIG.
pub fn decode_topic_config(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::TopicConfig { topic: TopicName::new(fields.needed("topic")?)? })
}

/// `TopicStatsTable` of the reference. The map is keyed by queues as objects: stock tools accept
/// nothing else.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicStatsBody<'a> {
    offset_table: Entries<ObjectKey<MessageQueue<'a>>, TopicOffset>,
    #[serde(skip_deserializing)]
    topic_put_tps: f64,
    /// Ours. Stock tools ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed_count: Option<u64>,
    /// Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_count: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TopicOffset {
    last_update_timestamp: u64,
    max_offset: u64,
    min_offset: u64,
}

impl<'a> TopicStatsBody<'a> {
    pub fn of(stats: &'a TopicStats) -> Self {
        let entry = |stats: &'a QueueStats| {
            let offset = TopicOffset {
                last_update_timestamp: stats.last_stored_at.map_or(0, |at| at.0),
                max_offset: stats.max_offset.0,
                min_offset: stats.min_offset.0,
            };
            (ObjectKey(MessageQueue::of(&stats.broker_name, &stats.queue)), offset)
        };
        let offset_table = stats.queues.iter().map(entry).collect();
        Self {
            offset_table,
            topic_put_tps: 0.0,
            delayed_count: stats.delayed.map(|counts| counts.delayed),
            retry_count: stats.delayed.map(|counts| counts.retries),
        }
    }

    pub fn read(self) -> Result<TopicStats, NameError> {
        let read = |(ObjectKey(queue), offset): (ObjectKey<MessageQueue<'_>>, TopicOffset)| {
            let (broker_name, queue) = queue.read()?;
            let last_stored_at = offset.last_update_timestamp;
            Ok(QueueStats {
                queue,
                min_offset: QueueOffset(offset.min_offset),
                max_offset: QueueOffset(offset.max_offset),
                last_stored_at: (last_stored_at > 0).then_some(Timestamp(last_stored_at)),
                broker_name,
            })
        };
        let queues = self.offset_table.0.into_iter().map(read).collect::<Result<_, _>>()?;
        let retries = self.retry_count.unwrap_or_default();
        let delayed = self.delayed_count.map(|delayed| DelayedCounts { delayed, retries });
        Ok(TopicStats { queues, delayed })
    }
}

/// GET_BROKER_RUNTIME_INFO.
pub fn decode_runtime_info(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::RuntimeInfo)
}

/// `KVTable` of the reference: names and values; every value is a string.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableBody<'a> {
    table: Entries<Cow<'a, str>, Cow<'a, str>>,
}

impl<'a> TableBody<'a> {
    pub fn of(table: &'a [(String, String)]) -> Self {
        Self { table: table.iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }

    pub fn read(self) -> Vec<(String, String)> {
        let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into());
        self.table.0.into_iter().map(owned).collect()
    }
}
