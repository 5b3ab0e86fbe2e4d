//! One frame that cannot be decoded, among others: a proxy, a client in another language or a
//! scanner sends a header that is not JSON, is longer than its frame, or has an unknown encoding,
//! and everything else on the connection is lost with it.
//!
//! Kind of report: "connection reset, all in-flight messages fail" after one malformed request
//! (clients that escape a character wrongly in a property).
//!
//! Source: apache/rocketmq issue 10832.

use serde_json::json;

use crate::client::{Client, MIN_OFFSET, SEND, frame, header, send_fields};
use crate::server::{Scratch, Server, free_ports, local};

/// A frame with RocketMQ's binary header, truncated within a field.
fn cut_binary(opaque: i32) -> Vec<u8> {
    let mut head = vec![1, 54, 0, 1, 153];
    head.extend_from_slice(&opaque.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 9, b'x']);
    let mut bytes = frame(&head, b"");
    bytes[4] = 1;
    bytes
}

/// A frame whose prefix claims a different encoding or a longer header.
fn with_prefix(encoding: u8, header_size: u32, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(header, body);
    bytes[4..8].copy_from_slice(&(u32::from(encoding) << 24 | header_size).to_be_bytes());
    bytes
}

#[test]
fn frames_before_and_after_a_bad_one_are_handled() {
    let scratch = Scratch::new("bad-frame");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut client = Client::connect(local(port + 3));
    assert_eq!(client.set_topic("mixed", 1, 6).code, 0);
    // Frame, and the opaque of its refusal.
    let json = |opaque| header(SEND, opaque, &send_fields("mixed", 0));
    let one_way = br#"{"code":310,"flag":2,"opaque":912}"#;
    let bad: [(Vec<u8>, Option<i64>); 21] = [
        (frame(b"not json", b"body"), None),
        (frame(b"[1]", b""), None),
        (frame(b"", b""), None),
        (frame(br#"{"code":310,"flag":0,"opaque":901,"#, b"body"), Some(901)),
        (frame(br#"{"code":310,"extFields":{"b":nope},"flag":0,"opaque":902}"#, b""), Some(902)),
        (
            frame(b"{\"code\":310,\"extFields\":{\"b\":\"\xff\"},\"flag\":0,\"opaque\":903}", b""),
            Some(903),
        ),
        // A property with that name is not the opaque: it could be that of another request.
        (frame(br#"{"code":310,"extFields":{"opaque":1},"flag":0,"#, b""), None),
        (
            frame(br#"{"opaque":913,"code":310,"extFields":{"opaque":1,"x":"\"opaque\":1"},"#, b""),
            Some(913),
        ),
        // It ends within a string.
        (
            frame(br#"{"code":310,"flag":0,"opaque":914,"serializeTypeCurrentRPC":"JS"#, b""),
            Some(914),
        ),
        // No client waits for these.
        (frame(br#"{"code":310,"flag":2,"opaque":904,"#, b""), None),
        (frame(br#"{"code":0,"flag":1,"opaque":905,"#, b""), None),
        (cut_binary(906), Some(906)),
        // The header is longer than the frame.
        (with_prefix(0, 4_000, &json(907), b""), Some(907)),
        (with_prefix(0, 0x00FF_FFFF, &json(908), b"body \xff \"opaque\":1"), Some(908)),
        (with_prefix(0, 10, b"x", b""), None),
        (with_prefix(1, 4_000, &cut_binary(909)[8..], b""), Some(909)),
        // The encoding is unknown.
        (with_prefix(7, json(910).len() as u32, &json(910), b"body"), Some(910)),
        (with_prefix(255, 0, b"", b""), None),
        (with_prefix(9, 4_000, &json(911), b"body"), Some(911)),
        (with_prefix(9, one_way.len() as u32, one_way, b""), None),
        (with_prefix(5, 3, b"\x01\x02\x03", b"body"), None),
    ];
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for (nth, (bad, refused)) in (1..).zip(&bad) {
        bytes.extend(frame(&header(SEND, nth, &send_fields("mixed", 0)), b"good"));
        bytes.extend_from_slice(bad);
        expected.push((i64::from(nth), 0));
        expected.extend(refused.map(|opaque| (opaque, 1)));
    }
    bytes.extend(frame(&header(SEND, 100, &send_fields("mixed", 0)), b"last"));
    expected.push((100, 0));
    client.write(&bytes);
    let mut heard: Vec<(i64, i64)> = Vec::new();
    for _ in &expected {
        let said = client.hear();
        if said.code != 0 {
            assert!(said.remark.contains("RINGMQ-1002"), "{said:?}");
        }
        heard.push((said.opaque, said.code));
    }
    // Refusals need not wait for the disk.
    heard.sort_unstable();
    expected.sort_unstable();
    assert_eq!(heard, expected);
    let queue = json!({"topic": "mixed", "queueId": "0"});
    assert_eq!(client.ask(30, &queue, b"").number("offset"), 22, "all good ones are stored");
    assert_eq!(client.ask(MIN_OFFSET, &queue, b"").number("offset"), 0);
    assert_eq!(server.log().matches("a frame was refused").count(), 1, "it is logged once");
    assert!(server.stop().success());
}

/// Then the start of the next frame is unknown.
#[test]
fn a_frame_of_an_impossible_size_closes_the_connection() {
    let scratch = Scratch::new("bad-size");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    for size in [0_u32, 3, 0x0100_0000, 0x7FFF_FFFF, 0xFFFF_FFFF] {
        let mut client = Client::connect(local(port + 3));
        assert_eq!(client.set_topic("mixed", 1, 6).code, 0);
        let mut bytes = frame(&header(SEND, 1, &send_fields("mixed", 0)), b"before");
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(b"\0\0\0\x02{}");
        client.write(&bytes);
        let said = client.hear();
        assert_eq!((said.opaque, said.code), (1, 0), "what came before is stored");
        assert!(client.is_at_end(), "size {size}");
    }
    assert_eq!(server.log().matches("framing lost").count(), 5);
    assert!(server.stop().success());
}
