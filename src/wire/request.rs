//! Requests: reading them as a server, writing them as a client.

use crate::model::request::Pull;
use crate::model::{Refusal, Request};
use crate::wire::codes;
use crate::wire::codes::Server;
use crate::wire::codes::request::*;
use crate::wire::frame::{FRAME_SIZE_MAX, Frame, FrameError, HeaderEncoding};
use crate::wire::header::{
    self, FLAG_ONE_WAY, FLAG_REPLY, FieldWriter, Head, Language, NewHead, fixed,
};
use crate::wire::{admin, group, message, registration, route};

/// What a frame turned out to be.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub reply_to: ReplyTo,
    /// Nobody waits for an answer, and none may be sent.
    pub one_way: bool,
    /// This is the answer to something we asked; `request` means nothing.
    pub is_reply: bool,
    /// Version of the sender (remoting reference, 1.6).
    pub version: i32,
    pub request: Result<Request, Refusal>,
}

/// What an answer needs to know of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub encoding: HeaderEncoding,
    /// Request code; the kind of a fixed header.
    pub code: i32,
    pub opaque: i32,
    pub version: i32,
}

/// Reads a request to a server of any kind. An error means that not even its header can be read,
/// and the connection must be closed; everything else can be answered.
pub fn decode_request(frame: &Frame) -> Result<Incoming, FrameError> {
    decode(frame, |_| true)
}

/// Reads a request to a server of kind `server`. What such a server does not serve is refused by
/// its code: its fields and its body, which may be long and compressed, are not looked at.
pub fn decode_request_to(server: Server, frame: &Frame) -> Result<Incoming, FrameError> {
    decode(frame, |kind| kind == server)
}

fn decode(frame: &Frame, is_served: impl Fn(Server) -> bool) -> Result<Incoming, FrameError> {
    if frame.encoding == HeaderEncoding::Fixed {
        let mut incoming = decode_fixed(frame)?;
        if !is_served(Server::Broker) {
            let code = incoming.reply_to.code;
            incoming.request = Err(Refusal::UnknownRequest { code });
        }
        return Ok(incoming);
    }
    let mut head = Head::of(frame);
    head.read(frame)?;
    let Head { code, version, opaque, flag, .. } = head;
    let request = match codes::command(code).and_then(|command| command.served) {
        Some((server, decode)) if flag & FLAG_REPLY == 0 && is_served(server) => {
            decode(&mut head.fields, &frame.body)
        }
        _ => Err(Refusal::UnknownRequest { code }),
    };
    Ok(Incoming {
        reply_to: ReplyTo { encoding: frame.encoding, code, opaque, version },
        one_way: flag & FLAG_ONE_WAY != 0,
        is_reply: flag & FLAG_REPLY != 0,
        version,
        request,
    })
}

fn decode_fixed(frame: &Frame) -> Result<Incoming, FrameError> {
    let fixed::Decoded { start, request } = fixed::decode_request(frame)?;
    let version = i32::from(start.version);
    Ok(Incoming {
        reply_to: ReplyTo {
            encoding: HeaderEncoding::Fixed,
            code: i32::from(start.kind),
            opaque: start.opaque.get(),
            version,
        },
        one_way: start.code_or_flags.get() & fixed::FLAG_ONE_WAY != 0,
        is_reply: start.kind & fixed::KIND_REPLY != 0,
        version,
        request,
    })
}

/// Why a request cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("this request has no form in the {encoding:?} header")]
    NoForm { encoding: HeaderEncoding },
    #[error("the request takes {size} bytes, at most {FRAME_SIZE_MAX} are allowed")]
    TooLarge { size: usize },
}

/// Appends a request. `out` is as before when there is an error.
pub fn encode_request(
    out: &mut Vec<u8>,
    encoding: HeaderEncoding,
    opaque: i32,
    one_way: bool,
    request: &Request,
) -> Result<(), EncodeError> {
    let start = out.len();
    let is_written = match encoding {
        HeaderEncoding::Fixed => encode_fixed(out, opaque, one_way, request),
        HeaderEncoding::Json | HeaderEncoding::Binary => {
            encode_named(Outgoing { out, encoding, opaque, one_way }, request)
        }
    };
    let size = out.len() - start;
    if !is_written {
        return Err(EncodeError::NoForm { encoding });
    }
    if size > FRAME_SIZE_MAX {
        out.truncate(start);
        return Err(EncodeError::TooLarge { size });
    }
    Ok(())
}

/// The fixed header has no place for a group, a commit or a filter, and nobody fetches without
/// waiting for an answer.
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

/// A request about to be written with RocketMQ's header.
struct Outgoing<'a> {
    out: &'a mut Vec<u8>,
    encoding: HeaderEncoding,
    opaque: i32,
    one_way: bool,
}

impl Outgoing<'_> {
    /// Writes a request whose named fields are all there is.
    fn fields(self, code: i32, fields: impl FnOnce(&mut FieldWriter<'_>)) {
        self.whole(code, fields, |_| {});
    }

    /// Writes a request with a body.
    fn whole(
        self,
        code: i32,
        fields: impl FnOnce(&mut FieldWriter<'_>),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = NewHead {
            code,
            language: Language::Other,
            opaque: self.opaque,
            flag: i32::from(self.one_way) * FLAG_ONE_WAY,
            remark: None,
        };
        header::write(self.out, self.encoding, head, fields, body, 0);
    }
}

/// Writes `request` with named fields; false when it has no such form.
#[rustfmt::skip] // A table: request, code, fields, body.
fn encode_named(to: Outgoing<'_>, request: &Request) -> bool {
    match request {
        Request::Produce(produce) => {
            let code = if produce.is_batch { SEND_BATCH_MESSAGE } else { SEND_MESSAGE_V2 };
            to.whole(code, |f| message::encode_send(f, produce), |out| out.extend_from_slice(&produce.body));
        }
        Request::ProduceRecords(_) | Request::Pull(Pull { group: None, .. }) => return false,
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
        Request::Heartbeat(heartbeat) => to.whole(HEART_BEAT, |_| {}, |out| group::write_heartbeat(out, heartbeat)),
        Request::Unregister { client, producer, consumer } => {
            to.fields(UNREGISTER_CLIENT, |f| group::encode_unregister(f, client, producer.as_ref(), consumer.as_ref()));
        }
        Request::GroupMembers { group } => to.fields(GET_CONSUMER_LIST_BY_GROUP, |f| f.text("consumerGroup", group.as_str())),
        Request::MessageByOffset { offset } => to.fields(VIEW_MESSAGE_BY_ID, |f| f.number("offset", offset.0)),
        Request::QueryMessages { topic, key, count_max } => {
            to.fields(QUERY_MESSAGE, |f| message::encode_query(f, topic, key, *count_max));
        }
        Request::UpdateTopic(topic) => to.fields(UPDATE_AND_CREATE_TOPIC, |f| admin::encode_update_topic(f, topic)),
        Request::DeleteTopic { topic } => to.fields(DELETE_TOPIC_IN_BROKER, |f| f.text("topic", topic.as_str())),
        Request::TopicStats { topic } => to.fields(GET_TOPIC_STATS_INFO, |f| f.text("topic", topic.as_str())),
        Request::RuntimeInfo => to.fields(GET_BROKER_RUNTIME_INFO, |_| {}),

        Request::RegisterBroker(registration) => {
            to.whole(REGISTER_BROKER, |f| registration::encode_register_broker(f, registration),
                |out| registration::write_registration(out, registration));
        }
        Request::UnregisterBroker(broker) => to.fields(UNREGISTER_BROKER, |f| route::encode_broker(f, broker)),
        Request::QueryDataVersion { broker, version } => {
            to.whole(QUERY_DATA_VERSION, |f| route::encode_broker(f, broker), |out| route::write_data_version(out, version));
        }
        Request::BrokerHeartbeat { broker } => to.fields(BROKER_HEARTBEAT, |f| route::encode_broker(f, broker)),
        Request::Route { topic } => to.fields(GET_ROUTEINFO_BY_TOPIC, |f| {
            f.text("topic", topic);
            // Old servers answer with unquoted keys unless they are asked not to.
            f.boolean("acceptStandardJsonOnly", true);
        }),
        Request::ClusterInfo => to.fields(GET_BROKER_CLUSTER_INFO, |_| {}),
        Request::TopicList => to.fields(GET_ALL_TOPIC_LIST_FROM_NAMESERVER, |_| {}),
        Request::DeleteTopicRoute { topic, cluster } => to.fields(DELETE_TOPIC_IN_NAMESRV, |f| {
            f.text("topic", topic);
            f.optional("clusterName", cluster.as_deref());
        }),
    }
    true
}
