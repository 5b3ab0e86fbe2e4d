//! Send, pull, look-up, and requests about one queue (remoting reference, 3.1, 3.2, 3.3, 3.8). One
//! function per command and direction.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::record::{PROPERTY_REGION, REGION, push_offset_id};
use crate::model::reply::{Produced, Pulled};
use crate::model::request::{Boundary, Expression, Produce, Pull, QueueOf, SendBack};
use crate::model::{GroupName, LogOffset, QueueId, Refusal, Request, Timestamp, TopicName};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::{Fields, Header, missing, number};

/// Commit `commitOffset` as well.
const PULL_COMMIT: i32 = 1;
/// Hold the request if there is no message.
const PULL_HOLD: i32 = 2;
/// The request contains the filter.
const PULL_SUBSCRIPTION: i32 = 4;

/// The filter of a request without one.
pub const FILTER_KIND_DEFAULT: &str = "TAG";
/// The expression that matches everything.
pub const FILTER_ALL: &str = "*";

/// Fields of a send request: long name in SEND_MESSAGE, letter in the other two.
const SEND_FIELDS: [(&str, &str); 13] = [
    ("producerGroup", "a"),
    ("topic", "b"),
    ("defaultTopic", "c"),
    ("defaultTopicQueueNums", "d"),
    ("queueId", "e"),
    ("sysFlag", "f"),
    ("bornTimestamp", "g"),
    ("flag", "h"),
    ("properties", "i"),
    ("reconsumeTimes", "j"),
    ("unitMode", "k"),
    ("maxReconsumeTimes", "l"),
    ("batch", "m"),
];

/// Index of a field in [`SEND_FIELDS`].
#[derive(Clone, Copy)]
enum SendField {
    Group,
    Topic,
    DefaultTopic,
    DefaultQueueCount,
    Queue,
    SystemFlag,
    BornAt,
    Flag,
    Properties,
    ReconsumeTimes,
    UnitMode,
    RetryCountMax,
    Batch,
}

const _: () = assert!(SendField::Batch as usize + 1 == SEND_FIELDS.len());

/// The fields of a send request, each found once. Index as in [`SEND_FIELDS`].
struct SendFields<'a> {
    header: Header<'a>,
    values: [Option<Cow<'a, str>>; SEND_FIELDS.len()],
    /// The name that this request uses for a field, for error messages.
    name: fn(usize) -> &'static str,
}

impl<'a> SendFields<'a> {
    /// `index_of` maps a name to its index among the known fields.
    fn collect(
        fields: &mut Fields<'a>,
        index_of: impl Fn(&str) -> Option<usize>,
        name: fn(usize) -> &'static str,
    ) -> Self {
        let mut send = Self { header: fields.header(), values: [const { None }; _], name };
        for (name, value) in fields.iter_mut() {
            if let Some(index) = index_of(name) {
                send.values[index] = Some(std::mem::take(value));
            }
        }
        send
    }

    fn take(&mut self, field: SendField) -> Option<Cow<'a, str>> {
        self.values[field as usize].take()
    }

    fn needed(&mut self, field: SendField) -> Result<Cow<'a, str>, Refusal> {
        self.take(field).ok_or_else(|| missing((self.name)(field as usize)))
    }

    fn needed_text(&mut self, field: SendField) -> Result<ByteString, Refusal> {
        self.needed(field).map(|value| self.header.keep(value))
    }

    fn needed_number<T: FromStr>(&mut self, field: SendField) -> Result<T, Refusal> {
        number((self.name)(field as usize), &self.needed(field)?)
    }

    fn optional_number<T: FromStr>(&mut self, field: SendField) -> Result<Option<T>, Refusal> {
        let value = self.take(field).filter(|value| !value.is_empty());
        value.map(|value| number((self.name)(field as usize), &value)).transpose()
    }

    fn properties(&mut self) -> Bytes {
        let value = self.take(SendField::Properties);
        value.map_or_else(Bytes::new, |value| self.header.keep_bytes(value))
    }
}

/// SEND_MESSAGE: long names.
pub fn decode_send(fields: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let index_of = |name: &str| SEND_FIELDS.iter().position(|(long, _)| name == *long);
    decode_produce(SendFields::collect(fields, index_of, |index| SEND_FIELDS[index].0), body)
}

/// SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: one letter per name.
pub fn decode_send_v2(fields: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let index_of = |name: &str| match name.as_bytes() {
        &[letter @ b'a'..=b'm'] => Some(usize::from(letter - b'a')),
        _ => None,
    };
    decode_produce(SendFields::collect(fields, index_of, |index| SEND_FIELDS[index].1), body)
}

/// SEND_REPLY_MESSAGE: like SEND_MESSAGE.
pub fn decode_reply(fields: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    decode_send(fields, body).map(as_reply)
}

/// SEND_REPLY_MESSAGE_V2: like SEND_MESSAGE_V2.
pub fn decode_reply_v2(fields: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    decode_send_v2(fields, body).map(as_reply)
}

fn as_reply(request: Request) -> Request {
    match request {
        Request::Produce(produce) => Request::SendReply(produce),
        request => request,
    }
}

/// Decodes a send request. A field, not the code, says whether the body is a batch.
fn decode_produce(mut send: SendFields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Produce(Produce {
        group: send.needed_text(SendField::Group)?,
        topic: TopicName::new(send.needed_text(SendField::Topic)?)?,
        default_topic: send.needed_text(SendField::DefaultTopic)?,
        default_queue_count: send.needed_number::<i32>(SendField::DefaultQueueCount)?.max(0) as u32,
        queue: u32::try_from(send.needed_number::<i32>(SendField::Queue)?).ok().map(QueueId),
        system_flag: send.needed_number(SendField::SystemFlag)?,
        born_at: Timestamp(send.needed_number::<i64>(SendField::BornAt)?.max(0) as u64),
        flag: send.needed_number(SendField::Flag)?,
        properties: send.properties(),
        reconsume_times: send.optional_number(SendField::ReconsumeTimes)?.unwrap_or(0),
        retry_count_max: send.optional_number(SendField::RetryCountMax)?,
        is_batch: send.take(SendField::Batch).is_some_and(|value| value == "true"),
        body: body.clone(),
    }))
}

pub fn encode_send(fields: &mut FieldWriter<'_>, produce: &Produce) {
    encode_send_as(fields, produce, |field| SEND_FIELDS[field as usize].1);
}

/// Encodes a send request with the long names.
pub fn encode_send_long(fields: &mut FieldWriter<'_>, produce: &Produce) {
    encode_send_as(fields, produce, |field| SEND_FIELDS[field as usize].0);
}

fn encode_send_as(
    fields: &mut FieldWriter<'_>,
    produce: &Produce,
    name: fn(SendField) -> &'static str,
) {
    fields.text(name(SendField::Group), &produce.group);
    fields.text(name(SendField::Topic), produce.topic.as_str());
    fields.text(name(SendField::DefaultTopic), &produce.default_topic);
    fields.number(name(SendField::DefaultQueueCount), produce.default_queue_count);
    fields.number(name(SendField::Queue), produce.queue.map_or(-1, |queue| i64::from(queue.0)));
    fields.number(name(SendField::SystemFlag), produce.system_flag);
    fields.number(name(SendField::BornAt), produce.born_at.0);
    fields.number(name(SendField::Flag), produce.flag);
    fields.text(name(SendField::Properties), &String::from_utf8_lossy(&produce.properties));
    fields.number(name(SendField::ReconsumeTimes), produce.reconsume_times);
    fields.boolean(name(SendField::UnitMode), false);
    if let Some(count_max) = produce.retry_count_max {
        fields.number(name(SendField::RetryCountMax), count_max);
    }
    fields.boolean(name(SendField::Batch), produce.is_batch);
}

/// The fields of a send reply that stock clients read, besides those of [`encode_traced`].
pub fn encode_produced(fields: &mut FieldWriter<'_>, produced: &Produced) {
    fields.plain("msgId", |out| {
        for (index, &position) in produced.positions.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_offset_id(out, produced.store_host, position);
        }
    });
    fields.number("queueId", produced.queue.0);
    fields.number("queueOffset", produced.queue_offset.0);
    if let Some(handle) = &produced.recall_handle {
        fields.text("recallHandle", handle);
    }
}

/// The same for a reply to another client's request; such a reply is not stored.
pub fn encode_pushed(fields: &mut FieldWriter<'_>, queue: QueueId) {
    fields.text("msgId", "0");
    fields.number("queueId", queue.0);
    fields.number("queueOffset", 0);
}

/// Fields of every send reply, even a refusal: Java clients read them unconditionally.
pub fn encode_traced(fields: &mut FieldWriter<'_>) {
    fields.plain(PROPERTY_REGION, |out| out.extend_from_slice(REGION.as_bytes()));
    fields.plain("TRACE_ON", |out| out.extend_from_slice(b"true"));
}

/// RECALL_MESSAGE.
pub fn decode_recall(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let topic = TopicName::new(fields.needed("topic")?)?;
    Ok(Request::Recall { topic, handle: fields.needed("recallHandle")? })
}

pub fn encode_recall(fields: &mut FieldWriter<'_>, topic: &TopicName, handle: &str) {
    fields.text("topic", topic.as_str());
    fields.text("recallHandle", handle);
}

/// PULL_MESSAGE and LITE_PULL_MESSAGE.
pub fn decode_pull(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let flag: i32 = fields.needed_number("sysFlag")?;
    let commit = (flag & PULL_COMMIT != 0).then(|| fields.needed_number("commitOffset"));
    let hold_ms =
        (flag & PULL_HOLD != 0).then(|| fields.needed_number::<i64>("suspendTimeoutMillis"));
    let bytes_max: Option<i32> = fields.optional_number("maxMsgBytes")?;
    Ok(Request::Pull(Pull {
        group: Some(GroupName::new(fields.needed("consumerGroup")?)?),
        queue: decode_queue(fields)?,
        offset: fields.needed_number("queueOffset")?,
        count_max: fields.needed_number::<i32>("maxMsgNums")?.max(0) as u32,
        bytes_max: bytes_max.and_then(|bytes| u32::try_from(bytes).ok()).filter(|&bytes| bytes > 0),
        commit: commit.transpose()?,
        hold_ms: hold_ms.transpose()?.map(|ms| ms.max(0) as u64),
        subscription: (flag & PULL_SUBSCRIPTION != 0).then(|| decode_expression(fields)),
        subscription_version: fields.optional_number("subVersion")?.unwrap_or(0),
    }))
}

fn decode_expression(fields: &Fields<'_>) -> Expression {
    let or = |name, otherwise: &str| {
        let value = fields.find(name).filter(|value| !value.is_empty());
        value.map_or(otherwise, |value| value).to_owned()
    };
    Expression {
        kind: or("expressionType", FILTER_KIND_DEFAULT),
        text: or("subscription", FILTER_ALL),
    }
}

pub fn encode_pull(fields: &mut FieldWriter<'_>, pull: &Pull, group: &GroupName) {
    let bit = |is_set: bool, bit: i32| if is_set { bit } else { 0 };
    let flag = bit(pull.commit.is_some(), PULL_COMMIT)
        | bit(pull.hold_ms.is_some(), PULL_HOLD)
        | bit(pull.subscription.is_some(), PULL_SUBSCRIPTION);
    fields.text("consumerGroup", group.as_str());
    encode_queue(fields, &pull.queue);
    fields.number("queueOffset", pull.offset);
    fields.number("maxMsgNums", pull.count_max);
    fields.number("sysFlag", flag);
    fields.number("commitOffset", pull.commit.unwrap_or(0));
    fields.number("suspendTimeoutMillis", pull.hold_ms.unwrap_or(0));
    fields.number("subVersion", pull.subscription_version);
    if let Some(bytes_max) = pull.bytes_max {
        fields.number("maxMsgBytes", bytes_max);
    }
    if let Some(expression) = &pull.subscription {
        fields.text("subscription", &expression.text);
        fields.text("expressionType", &expression.kind);
    }
}

/// Clients read these four for every status.
pub fn encode_pulled(fields: &mut FieldWriter<'_>, pulled: &Pulled) {
    fields.number("maxOffset", pulled.max_offset.0);
    fields.number("minOffset", pulled.min_offset.0);
    fields.number("nextBeginOffset", pulled.next_offset.0);
    fields.number("suggestWhichBrokerId", pulled.read_from);
}

/// Topic and number of a queue, common to all requests about one queue.
fn decode_queue(fields: &Fields<'_>) -> Result<QueueOf, Refusal> {
    Ok(QueueOf {
        topic: TopicName::new(fields.needed("topic")?)?,
        queue: QueueId(fields.needed_number("queueId")?),
    })
}

pub fn encode_queue(fields: &mut FieldWriter<'_>, queue: &QueueOf) {
    fields.text("topic", queue.topic.as_str());
    fields.number("queueId", queue.queue.0);
}

/// GET_MAX_OFFSET.
pub fn decode_max_offset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::MaxOffset(decode_queue(fields)?))
}

/// GET_MIN_OFFSET.
pub fn decode_min_offset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::MinOffset(decode_queue(fields)?))
}

/// GET_EARLIEST_MSG_STORETIME.
pub fn decode_earliest_store_time(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::EarliestStoreTime(decode_queue(fields)?))
}

/// SEARCH_OFFSET_BY_TIMESTAMP. Old clients name no boundary.
pub fn decode_offset_by_time(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let is_upper =
        fields.find("boundaryType").is_some_and(|value| value.eq_ignore_ascii_case("upper"));
    Ok(Request::OffsetByTime {
        queue: decode_queue(fields)?,
        at: Timestamp(fields.needed_number::<i64>("timestamp")?.max(0) as u64),
        boundary: if is_upper { Boundary::Upper } else { Boundary::Lower },
    })
}

pub fn encode_offset_by_time(
    fields: &mut FieldWriter<'_>,
    queue: &QueueOf,
    at: Timestamp,
    boundary: Boundary,
) {
    encode_queue(fields, queue);
    fields.number("timestamp", at.0);
    fields.text(
        "boundaryType",
        match boundary {
            Boundary::Lower => "LOWER",
            Boundary::Upper => "UPPER",
        },
    );
}

/// QUERY_CONSUMER_OFFSET. Only an explicit `false` forbids answering 0 for a young queue
/// (remoting reference, 5.6).
pub fn decode_committed_offset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::CommittedOffset {
        group: GroupName::new(fields.needed("consumerGroup")?)?,
        queue: decode_queue(fields)?,
        zero_if_missing: fields.boolean("setZeroIfNotFound").unwrap_or(true),
    })
}

pub fn encode_committed_offset(
    fields: &mut FieldWriter<'_>,
    group: &GroupName,
    queue: &QueueOf,
    zero_if_missing: bool,
) {
    fields.text("consumerGroup", group.as_str());
    encode_queue(fields, queue);
    fields.boolean("setZeroIfNotFound", zero_if_missing);
}

/// UPDATE_CONSUMER_OFFSET.
pub fn decode_commit_offset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::CommitOffset {
        group: GroupName::new(fields.needed("consumerGroup")?)?,
        queue: decode_queue(fields)?,
        offset: fields.needed_number("commitOffset")?,
    })
}

pub fn encode_commit_offset(
    fields: &mut FieldWriter<'_>,
    group: &GroupName,
    queue: &QueueOf,
    offset: i64,
) {
    fields.text("consumerGroup", group.as_str());
    encode_queue(fields, queue);
    fields.number("commitOffset", offset);
}

/// CONSUMER_SEND_MSG_BACK.
pub fn decode_send_back(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::SendBack(SendBack {
        offset: LogOffset(fields.needed_number("offset")?),
        group: GroupName::new(fields.needed("group")?)?,
        delay_level: fields.needed_number("delayLevel")?,
        retry_count_max: fields.optional_number("maxReconsumeTimes")?,
    }))
}

pub fn encode_send_back(fields: &mut FieldWriter<'_>, back: &SendBack) {
    fields.number("offset", back.offset.0);
    fields.text("group", back.group.as_str());
    fields.number("delayLevel", back.delay_level);
    if let Some(count_max) = back.retry_count_max {
        fields.number("maxReconsumeTimes", count_max);
    }
}

/// VIEW_MESSAGE_BY_ID.
pub fn decode_message_by_offset(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::MessageByOffset { offset: LogOffset(fields.needed_number("offset")?) })
}

/// QUERY_MESSAGE.
pub fn decode_query(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::QueryMessages {
        topic: TopicName::new(fields.needed("topic")?)?,
        key: fields.needed("key")?,
        count_max: fields.needed_number::<i32>("maxNum")?.max(0) as u32,
    })
}

pub fn encode_query(fields: &mut FieldWriter<'_>, topic: &TopicName, key: &str, count_max: u32) {
    fields.text("topic", topic.as_str());
    fields.text("key", key);
    fields.number("maxNum", count_max);
    fields.number("beginTimestamp", 0);
    fields.number("endTimestamp", i64::MAX);
}

/// Clients read both numbers unconditionally. There is no index whose age they could report.
pub fn encode_queried(fields: &mut FieldWriter<'_>) {
    fields.number("indexLastUpdatePhyoffset", 0);
    fields.number("indexLastUpdateTimestamp", 0);
}
