//! A message to send, and the encoding of a batch as a request.

use bytes::Bytes;

use super::outbox::Queued;
use crate::client::error::ClientError;
use crate::model::batch::BatchItem;
use crate::model::record::{
    self, BODY_SIZE_MAX, Host, NewRecord, PROPERTIES_SIZE_MAX, PROPERTY_END, PROPERTY_NAME_END,
    PROPERTY_TAGS, PROPERTY_UNIQUE_KEY, property,
};
use crate::model::request::Produce;
use crate::model::topic::AUTO_CREATE_TEMPLATE;
use crate::model::{GroupName, QueueId, Request, Timestamp, TopicName};
use crate::wire::records::RECORDS_SIZE_MAX;
use crate::wire::{HeaderEncoding, RecordBatch};

/// Name of the property with a message's keys.
const PROPERTY_KEYS: &str = "KEYS";
/// Bytes of a property with a unique key of 32 characters.
const UNIQUE_KEY_SIZE: usize = PROPERTY_UNIQUE_KEY.len() + 2 + 32;
/// Maximum size of a message's own properties: the unique key comes on top.
const OWN_PROPERTIES_SIZE_MAX: usize = PROPERTIES_SIZE_MAX - UNIQUE_KEY_SIZE;
/// Number of queues of a topic that is created by sending to it, as with stock clients.
pub const AUTO_CREATE_QUEUE_COUNT: u32 = 4;

/// A message to send.
#[derive(Clone, Debug)]
pub struct Message {
    pub topic: TopicName,
    pub body: Bytes,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    /// Further properties.
    pub properties: Vec<(String, String)>,
    pub target: Target,
}

/// The queue that a message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any queue; another one if the first does not accept it.
    Any,
    /// The queue that this key always maps to while the topic's queues stay the same.
    Key(Bytes),
    Queue {
        broker: String,
        queue: QueueId,
    },
}

impl Message {
    pub fn new(topic: TopicName, body: impl Into<Bytes>) -> Self {
        let (tag, keys, properties) = (None, Vec::new(), Vec::new());
        Self { topic, body: body.into(), tag, keys, properties, target: Target::Any }
    }

    /// The encoded properties of a valid message. An invalid message would fail all others of its
    /// batch.
    pub(super) fn checked_properties(&self) -> Result<Bytes, ClientError> {
        let bad = |what: String| Err(ClientError::BadMessage(what));
        if self.body.is_empty() {
            return bad("it has no body".to_owned());
        }
        if self.body.len() > BODY_SIZE_MAX {
            let size = self.body.len();
            return bad(format!("its body has {size} bytes, at most {BODY_SIZE_MAX} are allowed"));
        }
        let mut out = Vec::new();
        let keys = self.keys.join(" ");
        let named = [(PROPERTY_TAGS, self.tag.as_deref()), (PROPERTY_KEYS, Some(keys.as_str()))];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let others = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in named.filter(|(_, value)| !value.is_empty()).chain(others) {
            push_property(&mut out, name, value)?;
        }
        if out.len() > OWN_PROPERTIES_SIZE_MAX {
            let size = out.len();
            return bad(format!(
                "its properties have {size} bytes, at most {OWN_PROPERTIES_SIZE_MAX} are allowed"
            ));
        }
        Ok(out.into())
    }
}

fn push_property(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), ClientError> {
    let ends = |byte: u8| byte == PROPERTY_NAME_END || byte == PROPERTY_END;
    if name.is_empty() || value.is_empty() || name.bytes().chain(value.bytes()).any(ends) {
        return Err(ClientError::BadMessage(format!(
            "property {name:?} is empty, or holds one of the bytes 1 and 2 that end properties"
        )));
    }
    record::push_property(out, name, value.as_bytes());
    Ok(())
}

/// The properties of the first message of a batch, by whose unique key brokers recognize the batch
/// if it is resent. A message without one gets one. `producer` tells producers apart.
fn first_properties(first: &Queued, producer: u64) -> Bytes {
    if property(&first.properties, PROPERTY_UNIQUE_KEY).is_some() {
        return first.properties.clone();
    }
    let mut all = Vec::with_capacity(first.properties.len() + UNIQUE_KEY_SIZE);
    all.extend_from_slice(&first.properties);
    let key = format!("{producer:016X}{:016X}", first.ticket.0);
    record::push_property(&mut all, PROPERTY_UNIQUE_KEY, key.as_bytes());
    all.into()
}

/// Destination and sender of a batch.
pub(super) struct Envelope<'a> {
    pub group: &'a GroupName,
    /// Tells producers apart.
    pub producer: u64,
    pub topic: &'a TopicName,
    pub queue: QueueId,
}

/// Encodes `messages` as one request in `encoding`. All are for the same queue; there is at least
/// one.
pub(super) fn encode_batch(
    encoding: HeaderEncoding,
    envelope: &Envelope<'_>,
    messages: &[Queued],
    now: Timestamp,
) -> Request {
    let Envelope { group, producer, topic, queue } = *envelope;
    let first = messages.first().expect("a batch has a message");
    let first = first_properties(first, producer);
    if encoding == HeaderEncoding::Fixed {
        return encode_records(topic, queue, messages, &first);
    }
    let is_batch = messages.len() > 1;
    let (properties, body) = match messages {
        [only] => (first, only.body.clone()),
        several => (Bytes::new(), encode_items(several, &first)),
    };
    Request::Produce(Produce {
        group: group.as_str().into(),
        topic: topic.clone(),
        default_topic: AUTO_CREATE_TEMPLATE.into(),
        default_queue_count: AUTO_CREATE_QUEUE_COUNT,
        queue: Some(queue),
        system_flag: 0,
        born_at: messages.first().map_or(now, |message| message.born_at),
        flag: 0,
        properties,
        reconsume_times: 0,
        retry_count_max: None,
        is_batch,
        body,
    })
}

/// Messages, and their properties as they are sent.
fn with_properties<'a>(
    messages: &'a [Queued],
    first: &'a Bytes,
) -> impl Iterator<Item = (&'a Queued, &'a Bytes)> {
    let properties = messages.iter().skip(1).map(|message| &message.properties);
    messages.iter().zip(std::iter::once(first).chain(properties))
}

fn encode_items(messages: &[Queued], first: &Bytes) -> Bytes {
    let mut out = Vec::new();
    for (message, properties) in with_properties(messages, first) {
        BatchItem { flag: 0, body: &message.body, properties }.write(&mut out);
    }
    out.into()
}

fn encode_records(
    topic: &TopicName,
    queue: QueueId,
    messages: &[Queued],
    first: &Bytes,
) -> Request {
    let mut batch = RecordBatch::new(queue, RECORDS_SIZE_MAX);
    for (message, properties) in with_properties(messages, first) {
        let record = NewRecord {
            topic: topic.as_str(),
            queue,
            flag: 0,
            system_flag: 0,
            born_at: message.born_at,
            // The broker knows our address better than we do.
            born_host: Host { address: [0; 4], port: 0.into() },
            reconsume_times: 0,
            body: &message.body,
            properties: [properties, b""],
        };
        batch.append(&record).expect("a batch is closed long before it fills a frame");
    }
    Request::ProduceRecords(batch.into_request())
}
