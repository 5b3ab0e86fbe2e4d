//! A reply as our client decodes it.
//!
//! The bytes do not say which command a reply answers, so the caller asks for what it expects:
//! `response.produced()`, `response.route()`. A refusal or an invalid reply becomes a
//! [`ReplyError`].

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::DeserializeOwned;

use crate::model::batch::Records;
use crate::model::nameserver::{ClusterInfo, Route};
use crate::model::record::position_in_id;
use crate::model::replicas::ReplicaSet;
use crate::model::reply::{GroupConnections, GroupProgress, MemberConnections, Pulled, TopicStats};
use crate::model::request::BrokerQueue;
use crate::model::{
    ClientId, DataVersion, GroupConfig, GroupName, LogOffset, QueueId, QueueOffset, Timestamp,
    excerpt,
};
use crate::wire::admin::{TableBody, TopicStatsBody};
use crate::wire::client::{self, OffsetTable};
use crate::wire::codes::pull_status;
use crate::wire::codes::response::{
    FLUSH_DISK_TIMEOUT, FLUSH_SLAVE_TIMEOUT, SLAVE_NOT_AVAILABLE, SUCCESS,
};
use crate::wire::frame::{Frame, FrameError, HeaderEncoding};
use crate::wire::group::{self, MembersBody};
use crate::wire::group_config::{GroupBody, GroupsBody};
use crate::wire::group_stats::{ConsumersBody, GroupListBody, ProducersBody, ProgressBody};
use crate::wire::header::head::Head;
use crate::wire::header::{decode_head, fields, fixed};
use crate::wire::json::de;
use crate::wire::route::{ClusterBody, RouteBody, TopicListBody};

/// Error code of a reply that reports success but cannot be decoded. No server sends it.
pub const CODE_UNREADABLE: i32 = -1;
/// Maximum number of characters shown of an invalid value.
const SHOWN_MAX: usize = 40;

/// Why there is no result: the server's code and remark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("code {code}: {remark}")]
pub struct ReplyError {
    pub code: i32,
    pub remark: String,
}

/// A frame that came from a server.
#[derive(Clone, Debug)]
pub struct Response {
    pub opaque: i32,
    /// Response code; the request code when [`is_reply`](Self::is_reply) is false.
    pub code: i32,
    pub version: i32,
    /// False for a request that the server sends.
    pub is_reply: bool,
    pub remark: Option<ByteString>,
    pub body: Bytes,
    detail: Detail,
}

#[derive(Clone, Debug)]
enum Detail {
    Fields(Vec<(ByteString, ByteString)>),
    Fixed(fixed::DecodedReply),
}

/// Where messages were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub queue: QueueId,
    /// Of the first message; the others follow without gaps.
    pub queue_offset: QueueOffset,
    pub count: u32,
    /// Log offset of the first message, if reported.
    pub position: Option<LogOffset>,
    /// Offset ids, joined by commas; empty after a fixed-header request.
    pub message_ids: ByteString,
    /// 0; or 10, 11, 12 from a stock server: stored, but less durably than configured.
    pub code: i32,
}

/// Decodes any frame from a server.
pub fn decode_reply(frame: &Frame) -> Result<Response, FrameError> {
    let mut head = Head::of(frame);
    decode_head(&mut head)?;
    Response::of(head)
}

impl Response {
    /// The reply in a frame whose head has been decoded.
    pub fn of(head: Head<'_>) -> Result<Self, FrameError> {
        if head.frame.encoding == HeaderEncoding::Fixed {
            return Self::of_fixed(&head);
        }
        let is_reply = head.is_reply();
        let Head { frame, code, version, opaque, remark, mut fields, .. } = head;
        let header = fields.header();
        let remark = remark.map(|remark| header.keep(remark));
        let take = |text: &mut _| header.keep(std::mem::take(text));
        let fields = fields.iter_mut().map(|(name, value)| (take(name), take(value))).collect();
        let (body, detail) = (frame.body.clone(), Detail::Fields(fields));
        Ok(Self { opaque, code, version, is_reply, remark, body, detail })
    }

    fn of_fixed(head: &Head<'_>) -> Result<Self, FrameError> {
        let body = &head.frame.body;
        let answer = fixed::decode_reply(&head.frame.header)?;
        let is_refused = answer == fixed::DecodedReply::Refused;
        let remark = is_refused.then(|| String::from_utf8_lossy(body).as_ref().into());
        Ok(Self {
            opaque: head.opaque,
            code: head.code,
            version: fields::VERSION,
            is_reply: head.is_reply(),
            remark,
            body: if is_refused { Bytes::new() } else { body.clone() },
            detail: Detail::Fixed(answer),
        })
    }

    /// The value of a named field.
    pub fn field(&self, name: &str) -> Option<&ByteString> {
        match &self.detail {
            Detail::Fields(fields) => {
                fields.iter().rev().find_map(|(key, value)| (key == name).then_some(value))
            }
            Detail::Fixed(_) => None,
        }
    }

    /// Checks for success.
    pub fn done(&self) -> Result<(), ReplyError> {
        if self.code == SUCCESS { Ok(()) } else { Err(self.refused()) }
    }

    /// Whether the server supports the fixed header; for a heartbeat reply.
    pub fn speaks_fixed(&self) -> bool {
        self.code == SUCCESS
            && self.field(group::CAPABILITY_FIXED).is_some_and(|version| version == "1")
    }

    pub fn produced(&self) -> Result<Stored, ReplyError> {
        if let Detail::Fixed(fixed::DecodedReply::Produced {
            queue,
            count,
            queue_offset,
            position,
        }) = self.detail
        {
            let (position, message_ids) = (Some(LogOffset(position)), ByteString::new());
            let code = self.code;
            return Ok(Stored { queue, queue_offset, count, position, message_ids, code });
        }
        if !matches!(
            self.code,
            SUCCESS | FLUSH_DISK_TIMEOUT | SLAVE_NOT_AVAILABLE | FLUSH_SLAVE_TIMEOUT
        ) {
            return Err(self.refused());
        }
        let message_ids = self.field("msgId").cloned().unwrap_or_default();
        let mut ids = message_ids.split(',');
        let position = ids.next().and_then(position_in_id);
        Ok(Stored {
            queue: QueueId(self.number("queueId")?),
            queue_offset: QueueOffset(self.number("queueOffset")?),
            count: 1 + ids.count() as u32,
            position,
            message_ids,
            code: self.code,
        })
    }

    /// The header of a pull reply; the records are the body.
    pub fn pulled(&self) -> Result<Pulled, ReplyError> {
        if let Detail::Fixed(fixed::DecodedReply::Pulled(pulled)) = self.detail {
            return Ok(pulled);
        }
        let status = pull_status(self.code).ok_or_else(|| self.refused())?;
        Ok(Pulled {
            status,
            next_offset: QueueOffset(self.number("nextBeginOffset")?),
            min_offset: QueueOffset(self.number("minOffset")?),
            max_offset: QueueOffset(self.number("maxOffset")?),
            count: self.records().count() as u32,
            read_from: self.number("suggestWhichBrokerId")?,
        })
    }

    /// The records in the body of a pull or look-up reply.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.body)
    }

    pub fn offset(&self) -> Result<QueueOffset, ReplyError> {
        self.done()?;
        self.number("offset").map(QueueOffset)
    }

    /// `None` if the queue is empty.
    pub fn store_time(&self) -> Result<Option<Timestamp>, ReplyError> {
        self.done()?;
        let time_ms: i64 = self.number("timestamp")?;
        Ok(u64::try_from(time_ms).ok().map(Timestamp))
    }

    pub fn members(&self) -> Result<Vec<ClientId>, ReplyError> {
        self.json().map(MembersBody::read)
    }

    pub fn topic_stats(&self) -> Result<TopicStats, ReplyError> {
        let body: TopicStatsBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn runtime_info(&self) -> Result<Vec<(String, String)>, ReplyError> {
        self.json().map(TableBody::read)
    }

    pub fn consumers(&self) -> Result<GroupConnections, ReplyError> {
        let body: ConsumersBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn producers(&self) -> Result<Vec<MemberConnections>, ReplyError> {
        self.json().map(ProducersBody::read)
    }

    pub fn groups(&self) -> Result<Vec<GroupName>, ReplyError> {
        let body: GroupListBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn progress(&self) -> Result<GroupProgress, ReplyError> {
        let body: ProgressBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn offsets_reset(&self) -> Result<Vec<(BrokerQueue, i64)>, ReplyError> {
        let body: OffsetTable<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn group_config(&self) -> Result<GroupConfig, ReplyError> {
        let body: GroupBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn group_configs(&self) -> Result<Vec<GroupConfig>, ReplyError> {
        let body: GroupsBody<'_> = self.json()?;
        body.read().map_err(|error| unreadable(&error.to_string()))
    }

    pub fn replicas(&self) -> Result<ReplicaSet, ReplyError> {
        self.json()
    }

    pub fn route(&self) -> Result<Route, ReplyError> {
        self.json().map(RouteBody::read)
    }

    pub fn cluster(&self) -> Result<ClusterInfo, ReplyError> {
        self.json().map(ClusterBody::read)
    }

    pub fn topic_list(&self) -> Result<Vec<ByteString>, ReplyError> {
        self.json().map(TopicListBody::read)
    }

    /// Whether the version in the request differs from the NameServer's, and the NameServer's
    /// version.
    pub fn data_version(&self) -> Result<(bool, Option<DataVersion>), ReplyError> {
        self.done()?;
        let is_changed = self.field("changed").is_none_or(|changed| changed == "true");
        if self.body.is_empty() {
            return Ok((is_changed, None));
        }
        self.json().map(|version| (is_changed, Some(version)))
    }

    /// A client's consume offsets; for its reply to a server.
    pub fn consumer_status(&self) -> Result<Vec<(BrokerQueue, i64)>, ReplyError> {
        self.json().map(client::status_offsets)
    }

    /// The body without decoding it, if the request succeeded.
    pub fn relayed(&self) -> Result<Bytes, ReplyError> {
        self.done()?;
        Ok(self.body.clone())
    }

    /// The decoded body, if the request succeeded.
    fn json<T: DeserializeOwned>(&self) -> Result<T, ReplyError> {
        self.done()?;
        de::parse(&self.body).map_err(|error| unreadable(&error.to_string()))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, ReplyError> {
        let value = self.field(name).map_or("", |value| value);
        let shown = || excerpt(value, SHOWN_MAX);
        value.parse().map_err(|_| unreadable(&format!("field {name} is {:?}", shown())))
    }

    #[cold]
    fn refused(&self) -> ReplyError {
        let remark = self.remark.as_deref().unwrap_or_default().to_owned();
        ReplyError { code: self.code, remark }
    }
}

#[cold]
fn unreadable(what: &str) -> ReplyError {
    ReplyError { code: CODE_UNREADABLE, remark: format!("cannot decode the reply: {what}") }
}
