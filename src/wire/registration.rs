//! REGISTER_BROKER (remoting reference, 2.3): a broker, and all its topics as JSON or as a
//! compressed list of texts.
//!
//! Topics whose names clients could not use either are left out instead of refusing the whole
//! broker: a stock broker registers topics named after its host.

use std::io::Read;

use bytes::Bytes;
use flate2::read::ZlibDecoder;
use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::I32;

use crate::model::record::body_checksum;
use crate::model::request::{DataVersion, Registration};
use crate::model::topic::{PERM_READ, PERM_WRITE};
use crate::model::{Refusal, Request, TopicConfig, TopicName};
use crate::wire::body::{self, BodyError};
use crate::wire::header::{FieldWriter, Fields};
use crate::wire::json::{self, Object, Reader};
use crate::wire::route::{decode_broker, encode_broker, read_data_version, write_data_version};

/// Largest topic list after decompression, bytes: some half a million topics.
const TOPICS_SIZE_MAX: usize = 64 << 20;

/// REGISTER_BROKER.
pub fn decode_register_broker(fields: Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let lease_ms: Option<i64> = fields.optional_number("heartbeatTimeoutMillis")?;
    let checksum: u32 = fields.optional_number("bodyCrc32")?.unwrap_or(0);
    if checksum != 0 && checksum != body_checksum(body) {
        return Err(Refusal::Registration("the body does not have its checksum".to_owned()));
    }
    let (version, topics) = match fields.boolean("compressed") {
        Some(true) => read_compressed(body)?,
        _ if body.is_empty() => Default::default(),
        _ => body::read("REGISTER_BROKER", body, read_topics)?,
    };
    Ok(Request::RegisterBroker(Registration {
        broker: decode_broker(&fields)?,
        ha_address: fields.optional("haServerAddr").map(String::from).unwrap_or_default(),
        lease_ms: lease_ms.and_then(|ms| u64::try_from(ms).ok()),
        version,
        topics,
    }))
}

type Topics = (DataVersion, Vec<TopicConfig>);

fn read_topics(reader: &mut Reader<'_>) -> Result<Topics, BodyError> {
    let mut topics = Topics::default();
    body::object(reader, |key, reader| {
        match key {
            "topicConfigSerializeWrapper" => body::object(reader, |key, reader| {
                match key {
                    "dataVersion" => topics.0 = read_data_version(reader)?,
                    "topicConfigTable" => body::object(reader, |name, reader| {
                        topics.1.extend(read_topic(name, reader)?);
                        Ok(())
                    })?,
                    _ => drop(reader.skip()?),
                }
                Ok(())
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(topics)
}

/// One topic; `None` when clients could not use its name.
fn read_topic(name: &str, reader: &mut Reader<'_>) -> Result<Option<TopicConfig>, BodyError> {
    let (mut read_queue_count, mut write_queue_count) = (16, 16);
    let (mut perm, mut system_flag, mut order) = (PERM_READ | PERM_WRITE, 0, false);
    body::object(reader, |key, reader| {
        match key {
            "readQueueNums" => read_queue_count = reader.integer()?.unwrap_or(0),
            "writeQueueNums" => write_queue_count = reader.integer()?.unwrap_or(0),
            "perm" => perm = reader.integer()?.unwrap_or(0),
            "topicSysFlag" => system_flag = reader.integer()?.unwrap_or(0),
            "order" => order = reader.boolean()?.unwrap_or(false),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    let name = TopicName::new(name.to_owned()).ok();
    Ok(name.map(|name| TopicConfig {
        name,
        read_queue_count,
        write_queue_count,
        perm,
        system_flag,
        order,
    }))
}

/// The compressed form: texts with their sizes in front. What follows the topics concerns filter
/// servers and static topics and is not read.
fn read_compressed(body: &[u8]) -> Result<Topics, Refusal> {
    let bytes = decompress(body)?;
    let mut rest = bytes.as_slice();
    let version = body::read(
        "REGISTER_BROKER",
        &Bytes::copy_from_slice(take_text(&mut rest)?.as_bytes()),
        read_data_version,
    )?;
    let count = take_number(&mut rest)?;
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.extend(read_topic_line(take_text(&mut rest)?)?);
    }
    Ok((version, topics))
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut decoder = ZlibDecoder::new(body).take(TOPICS_SIZE_MAX as u64 + 1);
    decoder.read_to_end(&mut bytes).map_err(|error| malformed(&format!("no zlib: {error}")))?;
    if bytes.len() > TOPICS_SIZE_MAX {
        let (what, size) = ("decompressed topic list", bytes.len());
        return Err(Refusal::TooLarge { what, size, size_max: TOPICS_SIZE_MAX });
    }
    Ok(bytes)
}

fn take_number(rest: &mut &[u8]) -> Result<usize, Refusal> {
    let (number, after) = I32::ref_from_prefix(rest).map_err(|_| malformed("cut short"))?;
    *rest = after;
    usize::try_from(number.get()).map_err(|_| malformed("a size is negative"))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Refusal> {
    let size = take_number(rest)?;
    let (text, after) = rest.split_at_checked(size).ok_or_else(|| malformed("cut short"))?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| malformed("a text is not UTF-8"))
}

/// `name readQueueNums writeQueueNums perm SINGLE_TAG {attributes}`.
fn read_topic_line(line: &str) -> Result<Option<TopicConfig>, Refusal> {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut number = || {
        let word = words.next().unwrap_or_default();
        word.parse().map_err(|_| malformed(&format!("topic {line:?}")))
    };
    let (read_queue_count, write_queue_count, perm) = (number()?, number()?, number()?);
    let name = TopicName::new(name.to_owned()).ok();
    Ok(name.map(|name| TopicConfig {
        name,
        read_queue_count,
        write_queue_count,
        perm,
        system_flag: 0,
        order: false,
    }))
}

#[cold]
fn malformed(what: &str) -> Refusal {
    let shown: String = what.chars().take(200).collect();
    Refusal::Malformed(format!("compressed body of REGISTER_BROKER: {shown}"))
}

/// Named fields of a registration; [`write_registration`] writes the body that belongs to them.
pub fn encode_register_broker(fields: &mut FieldWriter<'_>, registration: &Registration) {
    encode_broker(fields, &registration.broker);
    fields.text("haServerAddr", &registration.ha_address);
    if let Some(lease_ms) = registration.lease_ms {
        fields.number("heartbeatTimeoutMillis", lease_ms);
    }
    fields.boolean("compressed", false);
    // Zero means unchecked; the transport's checksum covers a body this small well enough.
    fields.number("bodyCrc32", 0);
}

pub fn write_registration(out: &mut Vec<u8>, registration: &Registration) {
    json::object(out, |o| {
        o.list("filterServerList", [(); 0], |_, ()| {});
        o.object("topicConfigSerializeWrapper", |o| {
            write_data_version(o.field("dataVersion"), &registration.version);
            o.object("topicConfigTable", |o| {
                for topic in &registration.topics {
                    o.object(topic.name.as_str(), |o| write_topic(o, topic));
                }
            });
        });
    });
}

fn write_topic(o: &mut Object<'_>, topic: &TopicConfig) {
    o.object("attributes", |_| {});
    o.boolean("order", topic.order);
    o.number("perm", topic.perm);
    o.number("readQueueNums", topic.read_queue_count);
    o.text("topicFilterType", "SINGLE_TAG");
    o.text("topicName", topic.name.as_str());
    o.number("topicSysFlag", topic.system_flag);
    o.number("writeQueueNums", topic.write_queue_count);
}
