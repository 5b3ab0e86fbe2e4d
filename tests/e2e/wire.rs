//! Malformed and unsolicited frames.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use ringmq::sim::Rng;

use crate::server::{PATIENCE, Ports, Scratch, Server, run};

/// A frame with a JSON header and a body, as drawn in the remoting reference.
pub fn frame(header: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn header(code: i32, opaque: i32, flag: i32, ext: &str) -> String {
    format!(
        r#"{{"code":{code},"extFields":{{{ext}}},"flag":{flag},"language":"JAVA","opaque":{opaque},"serializeTypeCurrentRPC":"JSON","version":409}}"#
    )
}

pub fn connect(ports: Ports) -> TcpStream {
    connect_to(ports.broker_address())
}

pub fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The header of the next reply.
pub fn answer(stream: &mut TcpStream) -> String {
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    let mut rest = vec![0; u32::from_be_bytes(word) as usize];
    stream.read_exact(&mut rest).unwrap();
    let header_size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize & 0x00FF_FFFF;
    String::from_utf8(rest[4..4 + header_size].to_vec()).unwrap()
}

/// Whether the other side has closed the connection, or does within the test's patience.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(size) => size == 0,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[test]
fn bad_requests_are_refused_and_lost_framing_closes_only_its_connection() {
    let scratch = Scratch::new("hostile");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let mut witness = connect(ports);
    let mut requests = Vec::new();
    requests.extend(frame(&header(9999, 1, 0, ""), b""));
    requests.extend(frame(&header(11, 2, 0, r#""topic":"t""#), b""));
    requests.extend(frame(&header(106, 7, 0, ""), b""));
    // One-way requests never get a reply, not even bad ones.
    requests.extend(frame(&header(9999, 3, 2, ""), b""));
    requests.extend(frame(&header(30, 4, 0, r#""topic":"no such","queueId":"0""#), b""));
    requests.extend(frame(&header(30, 5, 0, r#""topic":"unknown","queueId":"0""#), b""));
    witness.write_all(&requests).unwrap();
    let expected = [
        (1, r#""code":3"#, "9999 not supported"),
        (2, r#""code":1"#, "is missing"),
        (7, r#""code":3"#, "106"),
        (4, r#""code":29"#, "RINGMQ-1003"),
        (5, r#""code":17"#, "RINGMQ-1005"),
    ];
    for (opaque, code, remark) in expected {
        let header = answer(&mut witness);
        for part in [code, remark, &format!(r#""opaque":{opaque}"#)] {
            assert!(header.contains(part), "{header} does not say {part}");
        }
    }

    let lost: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 8],
        &[0, 0, 0, 3, 0, 0, 0, 0],
    ];
    for bytes in lost {
        let mut stream = connect(ports);
        stream.write_all(bytes).unwrap();
        assert!(is_closed(&mut stream), "{bytes:?} leaves the connection open");
    }

    let mut rng = Rng::from_seed(7);
    for _ in 0..200 {
        let mut stream = connect(ports);
        let mut bytes = frame(&header(310, 1, 0, r#""b":"t","e":"0""#), b"body");
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.below(256) as u8;
        }
        // The broker may close the connection before it has read everything.
        let _ = stream.write_all(&bytes);
    }
    witness.write_all(&frame(&header(9998, 6, 0, ""), b"")).unwrap();
    assert!(answer(&mut witness).contains(r#""opaque":6"#), "the witness is still served");
    let namesrv = ports.nameserver_address().to_string();
    assert!(run(&["msg", "send", "fine", "x", "--namesrv", &namesrv]).status.success());
    assert!(server.terminate().success());
}

/// Three million copies of a character that takes six times its size in a reply, as a number and as
/// a name.
#[test]
fn refusing_megabytes_gives_a_short_reply_and_no_crash() {
    let scratch = Scratch::new("remark");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let long = "\u{1}".repeat(3 << 20);
    let queue = format!(r#""topic":"T","queueId":"{long}""#);
    let topic = format!(r#""topic":"{long}""#);
    let requests = [
        (ports.broker_address(), frame(&header(30, 1, 0, &queue), b""), "RINGMQ-1002"),
        (ports.nameserver_address(), frame(&header(105, 1, 0, &topic), b""), "RINGMQ-4001"),
    ];
    for (address, request, number) in requests {
        let mut stream = connect_to(address);
        stream.write_all(&request).unwrap();
        let header = answer(&mut stream);
        assert!(header.contains(number) && header.len() < 8192, "{} bytes", header.len());
    }
    assert!(server.terminate().success());
}

/// Whether the next frame on `stream` is a request, and its header.
fn next_head(stream: &mut TcpStream) -> (bool, String) {
    let header = answer(stream);
    (header.contains(r#""flag":1"#), header)
}

/// Remoting reference, 5.23. Consumers learn of a change of their group without waiting for their
/// own timer.
#[test]
fn members_of_a_group_learn_of_changes_at_once() {
    let scratch = Scratch::new("members");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let beat = |stream: &mut TcpStream, client: &str| {
        let body = format!(
            r#"{{"clientID":"{client}","consumerDataSet":[{{"groupName":"readers","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionDataSet":[{{"topic":"t","subString":"*","subVersion":1}}]}}],"producerDataSet":[]}}"#
        );
        stream.write_all(&frame(&header(34, 7, 0, ""), body.as_bytes())).unwrap();
    };
    let is_news = |(is_reply, header): &(bool, String)| {
        let says_group = header.contains(r#""consumerGroup":"readers""#);
        !is_reply && says_group && header.contains(r#""code":40,"#)
    };
    let mut first = connect(ports);
    beat(&mut first, "first");
    let news = next_head(&mut first);
    assert!(is_news(&news), "the newcomer hears it before its answer: {news:?}");
    assert!(next_head(&mut first).0, "then the answer");
    let news = next_head(&mut first);
    assert!(is_news(&news), "with the other members, of whom there are none: {news:?}");

    let mut second = connect(ports);
    beat(&mut second, "second");
    for stream in [&mut first, &mut second] {
        let news = next_head(stream);
        assert!(is_news(&news), "{news:?}");
    }
    drop(second);
    let news = next_head(&mut first);
    assert!(is_news(&news), "the second has gone: {news:?}");
    assert!(server.terminate().success());
}
