//! Suites over whole frames. The bytes are written by hand or come from the reference, never from
//! our own encoder, so a mistake that both directions share shows.

mod clients;
mod fixed;
mod hostile;
mod replies;
mod requests;
mod round_trips;
mod vectors;

use bytes::{Bytes, BytesMut};

use crate::model::{NameServerRequest, Refusal, Reply, Request};
use crate::wire::{
    DecodeRequest, EncodeReply, FRAME_SIZE_MAX, Frame, FrameError, HeaderEncoding, Incoming,
    ReplyTo, Response, decode_reply, encode_reply, next_frame,
};

/// Header fields as a client names them.
pub type Named<'a> = &'a [(&'a str, &'a str)];

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The only frame in `bytes`.
pub fn frame(bytes: &[u8]) -> Frame {
    let mut input = BytesMut::from(bytes);
    let frame = next_frame(&mut input, FRAME_SIZE_MAX).unwrap().expect("a whole frame");
    assert!(input.is_empty(), "{} bytes behind the frame", input.len());
    frame
}

pub fn json_frame(header: &str, body: &[u8]) -> Frame {
    let header = Bytes::copy_from_slice(header.as_bytes());
    Frame::new(HeaderEncoding::Json, header, Bytes::copy_from_slice(body))
}

/// A header as a Java client writes it.
pub fn json_header(code: i32, flag: i32, fields: Named<'_>) -> String {
    let fields: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::json!({
        "code": code, "extFields": fields, "flag": flag, "language": "JAVA", "opaque": 7,
        "serializeTypeCurrentRPC": "JSON", "version": 409,
    })
    .to_string()
}

/// A header as RocketMQ's binary encoding writes it.
pub fn binary_frame(code: i16, flag: i32, fields: Named<'_>, body: &[u8]) -> Frame {
    let mut entries = Vec::new();
    for (name, value) in fields {
        entries.extend_from_slice(&(name.len() as i16).to_be_bytes());
        entries.extend_from_slice(name.as_bytes());
        entries.extend_from_slice(&(value.len() as i32).to_be_bytes());
        entries.extend_from_slice(value.as_bytes());
    }
    let mut header = Vec::new();
    header.extend_from_slice(&code.to_be_bytes());
    header.push(0);
    header.extend_from_slice(&409i16.to_be_bytes());
    header.extend_from_slice(&7i32.to_be_bytes());
    header.extend_from_slice(&flag.to_be_bytes());
    header.extend_from_slice(&0i32.to_be_bytes());
    header.extend_from_slice(&(entries.len() as i32).to_be_bytes());
    header.extend_from_slice(&entries);
    Frame::new(HeaderEncoding::Binary, header.into(), Bytes::copy_from_slice(body))
}

/// The same request in both of RocketMQ's encodings.
pub fn both(code: i32, fields: Named<'_>, body: &[u8]) -> [Frame; 2] {
    [json_frame(&json_header(code, 0, fields), body), binary_frame(code as i16, 0, fields, body)]
}

/// Decodes a frame as a broker does.
pub fn decode_request(frame: &Frame) -> Result<Incoming<Request>, FrameError> {
    crate::wire::decode_request(frame)
}

/// Decodes a frame as any kind of server does.
pub fn asked<R: DecodeRequest>(frame: &Frame) -> Result<R, Refusal> {
    crate::wire::decode_request(frame).unwrap().request
}

pub fn request(frame: &Frame) -> Result<Request, Refusal> {
    asked(frame)
}

pub fn reply_to(encoding: HeaderEncoding, code: i32) -> ReplyTo {
    ReplyTo { encoding, code, opaque: 7, version: 409 }
}

/// The reply as bytes.
pub fn answer<R: EncodeReply>(to: ReplyTo, reply: Result<R, Refusal>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_reply(&mut out, to, &reply, 0);
    out
}

/// The reply as our client decodes it.
pub fn response<R: EncodeReply>(to: ReplyTo, reply: Result<R, Refusal>) -> Response {
    let response = decode_reply(&frame(&answer(to, reply))).unwrap();
    assert!(response.is_reply);
    assert_eq!(response.opaque, 7);
    response
}
