//! Test vectors of the remoting reference, appendix D.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::*;
use crate::model::record::Host;
use crate::model::record::push_offset_id;
use crate::model::request::Heartbeat;
use crate::model::{LogOffset, QueueOffset};

#[test]
fn json_request() {
    let header = r#"{"code":105,"extFields":{"topic":"T"},"flag":0,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":409}"#;
    let bytes = [&unhex("0000007f 0000007b"), header.as_bytes()].concat();
    assert_eq!(bytes.len(), 131);
    let incoming = crate::wire::decode_request(&frame(&bytes)).unwrap();
    assert_eq!(incoming.request, Ok(NameServerRequest::Route { topic: "T".into() }));
    let to = ReplyTo { encoding: HeaderEncoding::Json, code: 105, opaque: 1, version: 409 };
    assert_eq!(incoming.reply_to, to);
    assert!(!incoming.one_way);
}

#[test]
fn binary_request() {
    let start = "01000015 0022 00 01df 00000007 00000000 00000000 00000000";
    let empty = decode_request(&frame(&unhex(&format!("0000001b {start} 7b7d")))).unwrap();
    let what = "body of HEART_BEAT: field clientID is missing".to_owned();
    assert_eq!(empty.request, Err(Refusal::Malformed(what)));
    assert_eq!((empty.reply_to.code, empty.reply_to.opaque, empty.reply_to.version), (34, 7, 479));

    let body = br#"{"clientID":"c"}"#;
    let bytes = [&unhex(&format!("00000029 {start}"))[..], body].concat();
    let heartbeat = Heartbeat { client: "c".into(), ..Heartbeat::default() };
    assert_eq!(request(&frame(&bytes)), Ok(Request::Heartbeat(heartbeat)));
}

/// Vector 3, but with our version.
#[test]
fn binary_response() {
    let expected = "00000027 01000023 0000 00 01c5 00000007 00000001 00000000 0000000e
        0006 6f6666736574 00000002 3132";
    let reply = Ok(Reply::Offset(QueueOffset(12)));
    assert_eq!(answer(reply_to(HeaderEncoding::Binary, 30), reply), unhex(expected));
}

#[test]
fn offset_id() {
    let mut id = Vec::new();
    let host = Host::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_911));
    push_offset_id(&mut id, host, LogOffset(1234));
    assert_eq!(id, b"7F00000100002A9F00000000000004D2");
}
