//! Our own header for the hot requests: structs that are read in place, big-endian like the rest of
//! the protocol.
//!
//! ```text
//!   0 version u8 | 1 kind u8 | 2 code or flags u16 | 4 opaque u32 | what the kind needs
//! ```
//!
//! The first eight bytes are the same in every kind and version, so a request that is not
//! understood can still be answered. Spare bytes are zero and checked, so a later version can use
//! them. `docs/wire.md` documents the structs; a test compares.

use std::mem::{offset_of, size_of};

use bytes::Bytes;
use bytestring::ByteString;
use zerocopy::byteorder::big_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::reply::{Produced, Pulled};
use crate::model::request::{ProduceRecords, Pull, QueueOf};
use crate::model::{QueueId, QueueOffset, Refusal, Reply, Request, TopicName};
use crate::wire::codes::{pull_code, pull_status, refusal_code, remark, response};
use crate::wire::frame::{Frame, FrameError, HeaderEncoding, write_frame};
use crate::wire::header::head::{self, FLAG_REPLY, Head};

/// Version of these layouts.
pub const LAYOUT_VERSION: u8 = 1;

/// Stores a batch of records.
pub const KIND_PRODUCE: u8 = 1;
/// Reads messages of one queue.
pub const KIND_FETCH: u8 = 2;
/// Set in the kind of a reply, whose other bits are those of the request.
pub const KIND_REPLY: u8 = 0x80;

/// One-way: no reply is expected.
pub const FLAG_ONE_WAY: u16 = 1;

/// The start of every header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HeaderStart {
    /// [`LAYOUT_VERSION`].
    pub version: u8,
    pub kind: u8,
    /// Request: bits of [`FLAG_ONE_WAY`]. Reply: its code.
    pub code_or_flags: U16,
    pub opaque: I32,
}

/// Header of a produce request. The body is `count` records; topic and queue are in each.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Produce {
    pub start: HeaderStart,
    pub queue: U32,
    pub count: U32,
    /// CRC32C over the body.
    pub checksum: U32,
    pub spare: [u8; 4],
}

/// Header of a fetch request. The topic's name follows, up to the end of the header. No body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fetch {
    pub start: HeaderStart,
    pub queue: U32,
    pub count_max: U32,
    pub offset: I64,
    /// 0: the server's default.
    pub bytes_max: U32,
    /// 0: reply immediately.
    pub hold_ms: U32,
}

/// Header of the reply to a produce request. The body is empty if the code is 0, otherwise the
/// remark.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ProduceReply {
    pub start: HeaderStart,
    pub queue: U32,
    pub count: U32,
    /// Of the first message; the others follow without gaps.
    pub queue_offset: U64,
    /// Log offset of the first record.
    pub position: U64,
}

/// Header of the reply to a fetch request. If the code is 0, the body is `count` records; for codes
/// that only say where to continue, it is empty; otherwise it is the remark.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FetchReply {
    pub start: HeaderStart,
    pub count: U32,
    pub spare: [u8; 4],
    pub next_offset: U64,
    pub min_offset: U64,
    pub max_offset: U64,
}

const _: () = {
    assert!(size_of::<HeaderStart>() == 8 && align_of::<HeaderStart>() == 1);
    assert!(size_of::<Produce>() == 24 && offset_of!(Produce, checksum) == 16);
    assert!(size_of::<Fetch>() == 32 && offset_of!(Fetch, offset) == 16);
    assert!(size_of::<ProduceReply>() == 32 && offset_of!(ProduceReply, queue_offset) == 16);
    assert!(size_of::<FetchReply>() == 40 && offset_of!(FetchReply, next_offset) == 16);
};

/// Decodes the start of a header; [`decode_request`] or [`decode_reply`] decodes the rest. Only a
/// header too short to be answered is an error.
pub fn read(header: &Bytes, head: &mut Head<'_>) -> Result<(), FrameError> {
    let start = read_start(header)?;
    head.version = i32::from(start.version);
    head.opaque = start.opaque.get();
    let code_or_flags = start.code_or_flags.get();
    if start.kind & KIND_REPLY != 0 {
        (head.code, head.flag) = (i32::from(code_or_flags), FLAG_REPLY);
    } else {
        let is_one_way = code_or_flags & FLAG_ONE_WAY != 0;
        head.code = i32::from(start.kind);
        head.flag = i32::from(is_one_way) * head::FLAG_ONE_WAY;
    }
    Ok(())
}

/// Decodes the request in a frame whose head has been decoded.
pub fn decode_request(frame: &Frame) -> Result<Request, Refusal> {
    let start = read_start(&frame.header).map_err(|error| malformed(&error.to_string()))?;
    match (start.version, start.kind) {
        (LAYOUT_VERSION, KIND_PRODUCE) => decode_produce(frame),
        (LAYOUT_VERSION, KIND_FETCH) => decode_fetch(frame),
        (LAYOUT_VERSION, kind) => Err(Refusal::UnknownRequest { code: i32::from(kind) }),
        (version, _) => {
            Err(malformed(&format!("version {version}; this server speaks {LAYOUT_VERSION}")))
        }
    }
}

fn read_start(header: &[u8]) -> Result<HeaderStart, FrameError> {
    let (start, _) = HeaderStart::ref_from_prefix(header)
        .map_err(|_| FrameError::Header(format!("fixed header of {} bytes", header.len())))?;
    Ok(*start)
}

fn check_flags(start: &HeaderStart, known: u16) -> Result<(), Refusal> {
    match start.code_or_flags.get() & !known {
        0 => Ok(()),
        unknown => Err(malformed(&format!("flags {unknown:#06x} are unknown"))),
    }
}

fn decode_produce(frame: &Frame) -> Result<Request, Refusal> {
    let header = Produce::ref_from_bytes(&frame.header).map_err(|_| wrong_size(frame))?;
    check_flags(&header.start, FLAG_ONE_WAY)?;
    if header.spare != [0; 4] {
        return Err(malformed("spare bytes are not zero"));
    }
    Ok(Request::ProduceRecords(ProduceRecords {
        queue: QueueId(header.queue.get()),
        count: header.count.get(),
        checksum: header.checksum.get(),
        records: frame.body.clone(),
    }))
}

fn decode_fetch(frame: &Frame) -> Result<Request, Refusal> {
    let (header, topic) = Fetch::ref_from_prefix(&frame.header).map_err(|_| wrong_size(frame))?;
    check_flags(&header.start, 0)?;
    if !frame.body.is_empty() {
        return Err(malformed("a fetch has no body"));
    }
    let topic = ByteString::try_from(frame.header.slice_ref(topic))
        .map_err(|_| malformed("the topic is not UTF-8"))?;
    Ok(Request::Pull(Pull {
        group: None,
        queue: QueueOf { topic: TopicName::new(topic)?, queue: QueueId(header.queue.get()) },
        offset: header.offset.get(),
        count_max: header.count_max.get(),
        bytes_max: Some(header.bytes_max.get()).filter(|&bytes| bytes > 0),
        commit: None,
        hold_ms: Some(u64::from(header.hold_ms.get())).filter(|&ms| ms > 0),
        subscription: None,
        subscription_version: 0,
    }))
}

#[cold]
fn wrong_size(frame: &Frame) -> Refusal {
    malformed(&format!("{} bytes do not fit its kind", frame.header.len()))
}

#[cold]
fn malformed(what: &str) -> Refusal {
    Refusal::Malformed(format!("fixed header: {what}"))
}

/// Appends the reply to a request of kind `kind`.
pub fn encode_reply(out: &mut Vec<u8>, kind: u8, opaque: i32, reply: &Reply, chunk_bytes: usize) {
    match reply {
        Reply::Produced(produced) => {
            let start = reply_start(kind, opaque, response::SUCCESS);
            push(out, produce_reply(start, produced).as_bytes(), b"", 0);
        }
        Reply::Pulled(pulled) => {
            let (code, _) = pull_code(pulled.status);
            let start = reply_start(kind, opaque, code);
            push(out, fetch_reply(start, pulled).as_bytes(), b"", chunk_bytes);
        }
        // A fixed request has no other reply; if there were one, the sender would still get a
        // reply.
        _ => {
            let start = reply_start(kind, opaque, response::SUCCESS);
            push(out, start.as_bytes(), b"", chunk_bytes);
        }
    }
}

/// Appends the refusal of a request of kind `kind`.
pub fn encode_refusal(out: &mut Vec<u8>, kind: u8, opaque: i32, refusal: &Refusal) {
    let start = reply_start(kind, opaque, refusal_code(refusal));
    push(out, start.as_bytes(), remark(refusal).as_bytes(), 0);
}

fn reply_start(kind: u8, opaque: i32, code: i32) -> HeaderStart {
    HeaderStart {
        version: LAYOUT_VERSION,
        kind: kind | KIND_REPLY,
        code_or_flags: U16::new(code as u16),
        opaque: I32::new(opaque),
    }
}

fn produce_reply(start: HeaderStart, produced: &Produced) -> ProduceReply {
    ProduceReply {
        start,
        queue: U32::new(produced.queue.0),
        count: U32::new(produced.positions.len() as u32),
        queue_offset: U64::new(produced.queue_offset.0),
        position: U64::new(produced.positions.first().map_or(0, |position| position.0)),
    }
}

fn fetch_reply(start: HeaderStart, pulled: &Pulled) -> FetchReply {
    FetchReply {
        start,
        count: U32::new(pulled.count),
        spare: [0; 4],
        next_offset: U64::new(pulled.next_offset.0),
        min_offset: U64::new(pulled.min_offset.0),
        max_offset: U64::new(pulled.max_offset.0),
    }
}

/// Appends a produce request.
pub fn encode_produce(out: &mut Vec<u8>, opaque: i32, one_way: bool, request: &ProduceRecords) {
    let header = Produce {
        start: request_start(KIND_PRODUCE, opaque, one_way),
        queue: U32::new(request.queue.0),
        count: U32::new(request.count),
        checksum: U32::new(request.checksum),
        spare: [0; 4],
    };
    push(out, header.as_bytes(), &request.records, 0);
}

/// Appends a fetch request. The header has no fields for group, commit and filter.
pub fn encode_fetch(out: &mut Vec<u8>, opaque: i32, request: &Pull) {
    let header = Fetch {
        start: request_start(KIND_FETCH, opaque, false),
        queue: U32::new(request.queue.queue.0),
        count_max: U32::new(request.count_max),
        offset: I64::new(request.offset),
        bytes_max: U32::new(request.bytes_max.unwrap_or(0)),
        hold_ms: U32::new(request.hold_ms.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX))),
    };
    let topic = request.queue.topic.as_str().as_bytes();
    let write = |out: &mut Vec<u8>| {
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(topic);
    };
    write_frame(out, HeaderEncoding::Fixed, write, |_| {}, 0);
}

fn request_start(kind: u8, opaque: i32, one_way: bool) -> HeaderStart {
    HeaderStart {
        version: LAYOUT_VERSION,
        kind,
        code_or_flags: U16::new(u16::from(one_way) * FLAG_ONE_WAY),
        opaque: I32::new(opaque),
    }
}

fn push(out: &mut Vec<u8>, header: &[u8], body: &[u8], chunk_bytes: usize) {
    write_frame(
        out,
        HeaderEncoding::Fixed,
        |out| out.extend_from_slice(header),
        |out| out.extend_from_slice(body),
        chunk_bytes,
    );
}

/// A decoded reply with the fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodedReply {
    Produced {
        queue: QueueId,
        count: u32,
        queue_offset: QueueOffset,
        position: u64,
    },
    Pulled(Pulled),
    /// A refusal, whose remark is the body.
    Refused,
}

/// Decodes a reply.
pub fn decode_reply(header: &Bytes) -> Result<DecodedReply, FrameError> {
    let start = read_start(header)?;
    let wrong = || FrameError::Header(format!("fixed answer of {} bytes", header.len()));
    let code = i32::from(start.code_or_flags.get());
    if start.version != LAYOUT_VERSION {
        return Err(wrong());
    }
    let answer = match start.kind {
        _ if header.len() == size_of::<HeaderStart>() => DecodedReply::Refused,
        kind if kind == KIND_PRODUCE | KIND_REPLY => {
            let reply = ProduceReply::ref_from_bytes(header).map_err(|_| wrong())?;
            DecodedReply::Produced {
                queue: QueueId(reply.queue.get()),
                count: reply.count.get(),
                queue_offset: QueueOffset(reply.queue_offset.get()),
                position: reply.position.get(),
            }
        }
        kind if kind == KIND_FETCH | KIND_REPLY => {
            let reply = FetchReply::ref_from_bytes(header).map_err(|_| wrong())?;
            DecodedReply::Pulled(Pulled {
                status: pull_status(code).ok_or_else(wrong)?,
                next_offset: QueueOffset(reply.next_offset.get()),
                min_offset: QueueOffset(reply.min_offset.get()),
                max_offset: QueueOffset(reply.max_offset.get()),
                count: reply.count.get(),
                read_from: 0,
            })
        }
        _ => return Err(wrong()),
    };
    Ok(answer)
}
