//! Topics and what a broker tells about itself (remoting reference, 3.12, 3.13).

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::reply::QueueStats;
use crate::model::request::QueueOf;
use crate::model::{QueueId, QueueOffset, Refusal, Request, Timestamp, TopicConfig, TopicName};
use crate::wire::body::{self, BodyError};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::read::Reader;
use crate::wire::json::write as json;

/// UPDATE_AND_CREATE_TOPIC.
pub fn decode_update_topic(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::UpdateTopic(TopicConfig {
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

/// DELETE_TOPIC_IN_BROKER.
pub fn decode_delete_topic(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::DeleteTopic { topic: TopicName::new(fields.needed("topic")?)? })
}

/// GET_TOPIC_STATS_INFO.
pub fn decode_topic_stats(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::TopicStats { topic: TopicName::new(fields.needed("topic")?)? })
}

/// The map is keyed by queues as objects: stock tools take nothing else.
pub fn write_topic_stats(out: &mut Vec<u8>, queues: &[QueueStats]) {
    json::object(out, |o| {
        o.object("offsetTable", |table| {
            for stats in queues {
                let value = table.object_key(|key| {
                    key.text("brokerName", &stats.broker_name);
                    key.number("queueId", stats.queue.queue.0);
                    key.text("topic", stats.queue.topic.as_str());
                });
                json::object(value, |o| {
                    o.number("lastUpdateTimestamp", stats.last_stored_at.map_or(0, |at| at.0));
                    o.number("maxOffset", stats.max_offset.0);
                    o.number("minOffset", stats.min_offset.0);
                });
            }
        });
        o.raw("topicPutTps", "0.0");
    });
}

pub fn read_topic_stats(reader: &mut Reader<'_>) -> Result<Vec<QueueStats>, BodyError> {
    let mut queues = Vec::new();
    body::object(reader, |key, reader| {
        match key {
            "offsetTable" => body::object(reader, |key, reader| {
                queues.push(read_queue_stats(key, reader)?);
                Ok(())
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(queues)
}

/// One entry of the map; `key` is the text of the object that names the queue.
fn read_queue_stats(key: &str, reader: &mut Reader<'_>) -> Result<QueueStats, BodyError> {
    let (queue, broker_name) = read_queue(&mut Reader::new(key))?;
    let (mut last_stored_at, mut max_offset, mut min_offset) = (0, 0, 0);
    body::object(reader, |key, reader| {
        match key {
            "lastUpdateTimestamp" => last_stored_at = reader.integer()?.unwrap_or(0),
            "maxOffset" => max_offset = reader.integer()?.unwrap_or(0),
            "minOffset" => min_offset = reader.integer()?.unwrap_or(0),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(QueueStats {
        queue,
        min_offset: QueueOffset(min_offset),
        max_offset: QueueOffset(max_offset),
        last_stored_at: (last_stored_at > 0).then_some(Timestamp(last_stored_at)),
        broker_name,
    })
}

/// A queue as an object, and the name of its broker.
fn read_queue(reader: &mut Reader<'_>) -> Result<(QueueOf, ByteString), BodyError> {
    let (mut topic, mut broker_name, mut queue) = (String::new(), String::new(), 0);
    body::object(reader, |key, reader| {
        match key {
            "topic" => topic = body::text(reader)?,
            "brokerName" => broker_name = body::text(reader)?,
            "queueId" => queue = reader.integer()?.unwrap_or(0),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    let queue = QueueOf { topic: TopicName::new(topic)?, queue: QueueId(queue) };
    Ok((queue, broker_name.into()))
}

/// GET_BROKER_RUNTIME_INFO.
pub fn decode_runtime_info(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::RuntimeInfo)
}

/// Names and values, every value a text.
pub fn write_table(out: &mut Vec<u8>, table: &[(String, String)]) {
    json::object(out, |o| {
        o.object("table", |o| {
            for (name, value) in table {
                o.text(name, value);
            }
        });
    });
}

pub fn read_table(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, BodyError> {
    let mut table = Vec::new();
    body::object(reader, |key, reader| {
        match key {
            "table" => body::object(reader, |name, reader| {
                table.push((name.to_owned(), body::text(reader)?));
                Ok(())
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(table)
}
