//! Requests from a server to a client (remoting reference, 3.10, 5.7): how each is decoded, and how
//! requests and replies are encoded. They travel in the opposite direction to all others, with
//! opaque numbers of their own.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddrV4;

use bytes::Bytes;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::client::{PushedReply, ResetOffsets};
use crate::model::record::Host;
use crate::model::request::BrokerQueue;
use crate::model::{
    ClientId, ClientReply, ClientRequest, GroupName, Refusal, Request, Timestamp, TopicName,
};
use crate::wire::body;
use crate::wire::codes::request::{
    CONSUME_MESSAGE_DIRECTLY, GET_CONSUMER_RUNNING_INFO, GET_CONSUMER_STATUS_FROM_CLIENT,
    NOTIFY_CONSUMER_IDS_CHANGED, PUSH_REPLY_MESSAGE_TO_CLIENT, RESET_CONSUMER_CLIENT_OFFSET,
};
use crate::wire::frame::{FRAME_SIZE_MAX, HeaderEncoding};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::{Dialect, Fields, Language};
use crate::wire::json::ser;
use crate::wire::json::types::{Entries, Limit, ObjectKey};
use crate::wire::message;
use crate::wire::queue::MessageQueue;
use crate::wire::relay;
use crate::wire::reply::{EncodeReply, NewReply};
use crate::wire::request::{DecodeRequest, EncodeError, NewRequest, served};
use crate::wire::route::Nothing;

impl DecodeRequest for ClientRequest {
    served! {
        NOTIFY_CONSUMER_IDS_CHANGED => decode_members_changed;
        RESET_CONSUMER_CLIENT_OFFSET => decode_reset_offsets;
        GET_CONSUMER_STATUS_FROM_CLIENT => decode_consumer_status;
        GET_CONSUMER_RUNNING_INFO => relay::decode_running_info_here;
        CONSUME_MESSAGE_DIRECTLY => relay::decode_consume_directly_here;
        PUSH_REPLY_MESSAGE_TO_CLIENT => decode_push_reply;
    }
}

/// Appends a request to a client, in the encoding of the client's last request. The reply, if any,
/// carries `opaque`, which is positive because one stock client treats 0 as none. On an error `out`
/// is unchanged.
pub fn encode_client_request(
    out: &mut Vec<u8>,
    dialect: Dialect,
    opaque: i32,
    request: &ClientRequest,
) -> Result<(), EncodeError> {
    let start = out.len();
    let Dialect { encoding, language } = dialect;
    // A client that uses the fixed header reads JSON as well, and these requests have no fixed
    // form.
    let encoding = match encoding {
        HeaderEncoding::Fixed => HeaderEncoding::Json,
        encoding => encoding,
    };
    let one_way = request.is_one_way();
    let to = NewRequest { out, encoding, language: Language::Java, opaque, one_way };
    match request {
        ClientRequest::MembersChanged { group } => {
            to.fields(NOTIFY_CONSUMER_IDS_CHANGED, |f| f.text("consumerGroup", group.as_str()));
        }
        ClientRequest::ResetOffsets(reset) => to.whole(
            RESET_CONSUMER_CLIENT_OFFSET,
            |fields| encode_reset_offsets(fields, reset),
            |out| write_reset_offsets(out, language, &reset.offsets),
        ),
        ClientRequest::PushReply(pushed) => to.whole(
            PUSH_REPLY_MESSAGE_TO_CLIENT,
            |fields| encode_push_reply(fields, pushed),
            |out| out.extend_from_slice(&pushed.message.body),
        ),
        ClientRequest::ConsumerStatus { topic, group } => {
            to.fields(GET_CONSUMER_STATUS_FROM_CLIENT, |fields| {
                fields.text("topic", topic.as_str());
                fields.text("group", group.as_str());
            });
        }
        ClientRequest::RunningInfo(info) => {
            to.fields(GET_CONSUMER_RUNNING_INFO, |f| relay::encode_running_info(f, info));
        }
        ClientRequest::ConsumeDirectly { what, broker_name, record } => to.whole(
            CONSUME_MESSAGE_DIRECTLY,
            |fields| {
                relay::encode_consume_directly(fields, what);
                fields.text("brokerName", broker_name);
            },
            |out| out.extend_from_slice(record),
        ),
    }
    let size = out.len() - start;
    if size > FRAME_SIZE_MAX {
        out.truncate(start);
        return Err(EncodeError::TooLarge { size });
    }
    Ok(())
}

/// NOTIFY_CONSUMER_IDS_CHANGED.
fn decode_members_changed(fields: &mut Fields<'_>, _: &Bytes) -> Result<ClientRequest, Refusal> {
    let group = GroupName::new(fields.needed("consumerGroup")?)?;
    Ok(ClientRequest::MembersChanged { group })
}

/// RESET_CONSUMER_CLIENT_OFFSET.
fn decode_reset_offsets(fields: &mut Fields<'_>, body: &Bytes) -> Result<ClientRequest, Refusal> {
    let at_ms: i64 = fields.needed_number("timestamp")?;
    let table: OffsetTable = body::decode("RESET_CONSUMER_CLIENT_OFFSET", body)?;
    Ok(ClientRequest::ResetOffsets(ResetOffsets {
        topic: TopicName::new(fields.needed("topic")?)?,
        group: GroupName::new(fields.needed("group")?)?,
        at: u64::try_from(at_ms).ok().map(Timestamp),
        is_forced: fields.boolean("isForce").unwrap_or(false),
        offsets: table.read()?,
    }))
}

fn encode_reset_offsets(fields: &mut FieldWriter<'_>, reset: &ResetOffsets) {
    fields.text("topic", reset.topic.as_str());
    fields.text("group", reset.group.as_str());
    fields.number("timestamp", reset.at.map_or(-1, |at| at.0 as i64));
    fields.boolean("isForce", reset.is_forced);
}

fn write_reset_offsets(out: &mut Vec<u8>, language: Language, offsets: &[(BrokerQueue, i64)]) {
    if language == Language::Cpp {
        let items = offsets.iter().map(|(queue, offset)| QueueOffset::of(queue, *offset));
        let offset_table = items.collect();
        return ser::push(out, &OffsetList { offset_table });
    }
    ser::push(out, &OffsetTable::of(offsets));
}

/// GET_CONSUMER_STATUS_FROM_CLIENT.
fn decode_consumer_status(fields: &mut Fields<'_>, _: &Bytes) -> Result<ClientRequest, Refusal> {
    Ok(ClientRequest::ConsumerStatus {
        topic: TopicName::new(fields.needed("topic")?)?,
        group: GroupName::new(fields.needed("group")?)?,
    })
}

/// PUSH_REPLY_MESSAGE_TO_CLIENT.
fn decode_push_reply(fields: &mut Fields<'_>, body: &Bytes) -> Result<ClientRequest, Refusal> {
    let host = |name: &str| -> Result<Host, Refusal> {
        let address: Result<SocketAddrV4, _> = fields.needed(name)?.parse();
        let wrong = |_| Refusal::Malformed(format!("header field {name} is no IPv4 address"));
        let address = address.map_err(wrong)?;
        Ok(Host { address: address.ip().octets(), port: u32::from(address.port()).into() })
    };
    let (born_host, store_host) = (host("bornHost")?, host("storeHost")?);
    let stored_at = Timestamp(fields.needed_number("storeTimestamp")?);
    let Request::Produce(message) = message::decode_send(fields, body)? else {
        unreachable!("it decodes nothing else")
    };
    Ok(ClientRequest::PushReply(Box::new(PushedReply {
        message,
        born_host,
        store_host,
        stored_at,
    })))
}

fn encode_push_reply(fields: &mut FieldWriter<'_>, pushed: &PushedReply) {
    let PushedReply { message, born_host, store_host, stored_at } = pushed;
    message::encode_send_long(fields, message);
    let host = |host: &Host| {
        let port = host.port.get() as u16;
        SocketAddrV4::new(host.address.into(), port).to_string()
    };
    fields.text("bornHost", &host(born_host));
    fields.text("storeHost", &host(store_host));
    fields.number("storeTimestamp", stored_at.0);
}

impl EncodeReply for ClientReply {
    fn encode(&self, to: NewReply<'_>) {
        match self {
            Self::Done => to.fields(|_| {}),
            Self::Relayed(body) => to.body(body),
            Self::ConsumerStatus(offsets) => {
                let message_queue_table = Offsets(offsets.iter().map(entry).collect());
                to.json(&ConsumerStatus { consumer_table: Nothing {}, message_queue_table });
            }
        }
    }
}

/// Decodes the body of a reply to GET_CONSUMER_STATUS_FROM_CLIENT. Skips queues that cannot exist
/// here: a client may have some of other brokers.
pub fn status_offsets(status: ConsumerStatus) -> Vec<(BrokerQueue, i64)> {
    status.message_queue_table.0.into_iter().filter_map(|entry| read_entry(entry).ok()).collect()
}

fn read_entry((ObjectKey(queue), offset): Entry<'_>) -> Result<(BrokerQueue, i64), Refusal> {
    let (broker_name, queue) = queue.read()?;
    Ok((BrokerQueue { broker_name, queue }, offset))
}

fn entry((queue, offset): &(BrokerQueue, i64)) -> Entry<'_> {
    (ObjectKey(MessageQueue::of(&queue.broker_name, &queue.queue)), *offset)
}

/// Maximum number of queues in one table of offsets: more than a client reads, few enough to be
/// harmless.
#[derive(Debug)]
struct Queues;

impl Limit for Queues {
    const WHAT: &'static str = "queues";
    const COUNT_MAX: usize = 100_000;
}

/// Body of request 220, and of the reply to request 222.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetTable<'a> {
    offset_table: Offsets<'a>,
}

impl<'a> OffsetTable<'a> {
    pub fn of(table: &'a [(BrokerQueue, i64)]) -> Self {
        Self { offset_table: Offsets(table.iter().map(entry).collect()) }
    }

    /// A reset is done for all of its queues or for none.
    pub fn read(self) -> Result<Vec<(BrokerQueue, i64)>, Refusal> {
        self.offset_table.0.into_iter().map(read_entry).collect()
    }
}

/// The same, for clients that cannot parse objects as keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OffsetList<'a> {
    offset_table: Vec<QueueOffset<'a>>,
}

/// Body of the reply to request 221.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerStatus<'a> {
    #[serde(skip_deserializing)]
    consumer_table: Nothing,
    message_queue_table: Offsets<'a>,
}

/// Body of the reply to request 223: the same, of several clients.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatuses<'a> {
    consumer_table: Entries<&'a str, Offsets<'a>>,
    message_queue_table: Nothing,
}

impl<'a> ConsumerStatuses<'a> {
    pub fn of(statuses: &'a [(ClientId, Vec<(BrokerQueue, i64)>)]) -> Self {
        let status = |(client, offsets): &'a (ClientId, Vec<_>)| {
            (&**client, Offsets(offsets.iter().map(entry).collect()))
        };
        Self {
            consumer_table: statuses.iter().map(status).collect(),
            message_queue_table: Nothing {},
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueOffset<'a> {
    #[serde(default)]
    broker_name: Cow<'a, str>,
    offset: i64,
    queue_id: u32,
    topic: Cow<'a, str>,
}

impl<'a> QueueOffset<'a> {
    fn of(queue: &'a BrokerQueue, offset: i64) -> Self {
        let MessageQueue { broker_name, queue_id, topic } =
            MessageQueue::of(&queue.broker_name, &queue.queue);
        Self { broker_name, offset, queue_id, topic }
    }
}

type Entry<'a> = (ObjectKey<MessageQueue<'a>>, i64);

/// Offsets by queue: a map keyed by objects or, for C++ clients, a list.
#[derive(Debug, Default)]
struct Offsets<'a>(Vec<Entry<'a>>);

impl Serialize for Offsets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(queue, offset)| (queue, offset)))
    }
}

impl<'de> Deserialize<'de> for Offsets<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (what, count_max) = (Queues::WHAT, Queues::COUNT_MAX);
        deserializer.deserialize_tuple_struct(what, count_max, OffsetsVisitor).map(Self)
    }
}

struct OffsetsVisitor;

impl<'de> Visitor<'de> for OffsetsVisitor {
    type Value = Vec<Entry<'static>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("offsets by queue")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = members.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(QueueOffset { broker_name, offset, queue_id, topic }) =
            elements.next_element()?
        {
            entries.push((ObjectKey(MessageQueue { broker_name, queue_id, topic }), offset));
        }
        Ok(entries)
    }
}
