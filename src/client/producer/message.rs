//! A message to send, and the encoding of a batch as a request.

use bytes::Bytes;

use super::outbox::Queued;
use crate::client::error::ClientError;
use crate::model::batch::BatchItem;
use crate::model::record::{
    self, BODY_SIZE_MAX, Host, NewRecord, PROPERTIES_SIZE_MAX, PROPERTY_END, PROPERTY_NAME_END,
    PROPERTY_TAGS,
};
use crate::model::request::Produce;
use crate::model::topic::AUTO_CREATE_TEMPLATE;
use crate::model::{GroupName, QueueId, Request, Timestamp, TopicName};
use crate::wire::records::RECORDS_SIZE_MAX;
use crate::wire::{HeaderEncoding, RecordBatch};

/// Name of the property with a message's keys.
const PROPERTY_KEYS: &str = "KEYS";
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
        if out.len() > PROPERTIES_SIZE_MAX {
            let size = out.len();
            return bad(format!(
                "its properties have {size} bytes, at most {PROPERTIES_SIZE_MAX} are allowed"
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

/// `messages` as one request in `encoding`. All are for the same queue, and there is at least one.
pub(super) fn encode_batch(
    encoding: HeaderEncoding,
    group: &GroupName,
    topic: &TopicName,
    queue: QueueId,
    messages: &[Queued],
    now: Timestamp,
) -> Request {
    if encoding == HeaderEncoding::Fixed {
        return encode_records(topic, queue, messages);
    }
    let is_batch = messages.len() > 1;
    let (properties, body) = match messages {
        [only] => (only.properties.clone(), only.body.clone()),
        several => (Bytes::new(), encode_items(several)),
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

fn encode_items(messages: &[Queued]) -> Bytes {
    let mut out = Vec::new();
    for message in messages {
        BatchItem { flag: 0, body: &message.body, properties: &message.properties }.write(&mut out);
    }
    out.into()
}

fn encode_records(topic: &TopicName, queue: QueueId, messages: &[Queued]) -> Request {
    let mut batch = RecordBatch::new(queue, RECORDS_SIZE_MAX);
    for message in messages {
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
            properties: [&message.properties, b""],
        };
        batch.append(&record).expect("a batch is closed long before it fills a frame");
    }
    Request::ProduceRecords(batch.finish())
}
