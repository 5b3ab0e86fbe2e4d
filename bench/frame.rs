//! The cost of framing, decoding and replying per request, in nanoseconds. One table.
//!
//! ```text
//! cargo bench --bench frame            # a few seconds
//! cargo bench --bench frame -- --test  # a smoke test of milliseconds
//! ```
//!
//! Frames are back to back in one receive buffer, as under load. The times include framing, decoding
//! and dropping the decoded request, but not filling the buffer.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringmq::model::record::{Host, NewRecord};
use ringmq::model::reply::{Produced, PullStatus, Pulled};
use ringmq::model::request::Produce;
use ringmq::model::{
    LogOffset, QueueId, QueueOffset, Refusal, Reply, Request, Timestamp, TopicName,
};
use ringmq::wire::{
    FRAME_SIZE_MAX, HeaderEncoding, RecordBatch, ReplyTo, decode_request, encode_reply,
    encode_request, next_frame,
};
use smallvec::smallvec;

const BODY_SIZE: usize = 1024;
const BATCH_COUNT: usize = 100;
/// Size of the receive buffer, bytes.
const BUFFER_SIZE: usize = 256 << 10;

const PROPERTIES: &str = "UNIQ_KEY\u{1}7F0000010000A1B2C3D4E5F600000001\u{2}WAIT\u{1}true\u{2}\
    TAGS\u{1}TagA\u{2}KEYS\u{1}order-4711\u{2}";

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let samples = if is_test { 2 } else { 2_000 };
    println!("{:<44} {:>10} {:>12}", "operation, 1 KiB messages", "ns per op", "ns per msg");

    let json = named_frame(&json_send(310));
    let frames = [
        ("decode 310 JSON", json.clone(), 1),
        ("decode 10 JSON", named_frame(&json_send(10)), 1),
        ("decode 310 binary", encoded(HeaderEncoding::Binary, &send()), 1),
        ("decode fixed, batch of 100", encoded(HeaderEncoding::Fixed, &batch()), BATCH_COUNT),
    ];
    for (name, frame, messages) in &frames {
        report(name, decode(frame, samples), *messages);
    }
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
        report(
            &format!("encode answer to a send, {encoding:?}"),
            encode(encoding, &stored(), samples),
            1,
        );
    }
    report("encode answer to a pull, Json", encode(HeaderEncoding::Json, &found(), samples), 1);
    report("decode 310 JSON and encode its answer", decode_and_encode(&json, samples), 1);
}

fn report(name: &str, ns: f64, messages: usize) {
    println!("{name:<44} {ns:>10.0} {:>12.1}", ns / messages as f64);
}

/// Time per operation in the best sample. A sample is far shorter than a time slice of the scheduler, so
/// some samples run without interruption.
fn best(samples: impl Iterator<Item = (Duration, usize)>) -> f64 {
    let ns = |(elapsed, count): (Duration, usize)| elapsed.as_nanos() as f64 / count as f64;
    samples.map(ns).fold(f64::INFINITY, f64::min)
}

fn decode(frame: &[u8], samples: usize) -> f64 {
    drain(frame, samples, |request| drop(black_box(request)))
}

fn decode_and_encode(frame: &[u8], samples: usize) -> f64 {
    let reply = stored();
    let mut out = Vec::with_capacity(1 << 20);
    drain(frame, samples, move |(to, request)| {
        black_box(request).expect("a valid request");
        if out.len() > 1 << 19 {
            out.clear();
        }
        encode_reply(&mut out, to, &reply, 0);
    })
}

type Decoded = (ReplyTo, Result<Request, Refusal>);

/// Time per frame of a buffer full of copies of `frame`.
fn drain(frame: &[u8], samples: usize, mut each: impl FnMut(Decoded)) -> f64 {
    let copies = (BUFFER_SIZE / frame.len()).max(1);
    let full = frame.repeat(copies);
    best((0..samples).map(|_| {
        let mut input = BytesMut::from(&full[..]);
        let start = Instant::now();
        while let Some(frame) = next_frame(&mut input, FRAME_SIZE_MAX).expect("a valid frame") {
            let incoming = decode_request::<Request>(&frame).expect("a valid header");
            each((incoming.reply_to, incoming.request));
        }
        (start.elapsed(), copies)
    }))
}

fn encode(encoding: HeaderEncoding, reply: &Result<Reply, Refusal>, samples: usize) -> f64 {
    let code = if encoding == HeaderEncoding::Fixed { 1 } else { 310 };
    let to = ReplyTo { encoding, code, opaque: 4711, version: 409 };
    let mut out = Vec::with_capacity(1 << 20);
    best((0..samples).map(|_| {
        out.clear();
        let start = Instant::now();
        for _ in 0..100 {
            encode_reply(&mut out, black_box(to), black_box(reply), 0);
        }
        (start.elapsed(), 100)
    }))
}

fn host() -> Host {
    Host::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_911))
}

fn stored() -> Result<Reply, Refusal> {
    Ok(Reply::Produced(Produced {
        queue: QueueId(3),
        queue_offset: QueueOffset(123_456),
        positions: smallvec![LogOffset(1 << 35)],
        store_host: host(),
        recall_handle: None,
    }))
}

fn found() -> Result<Reply, Refusal> {
    Ok(Reply::Pulled(Pulled {
        status: PullStatus::Found,
        next_offset: QueueOffset(123_456),
        min_offset: QueueOffset(0),
        max_offset: QueueOffset(234_567),
        count: 32,
        read_from: 0,
    }))
}

/// The header of a Java 4.9 client, with short or long field names.
fn json_send(code: i32) -> String {
    let properties = PROPERTIES.replace('\u{1}', "\\u0001").replace('\u{2}', "\\u0002");
    let fields = [
        ("producerGroup", "a", "bench_group"),
        ("topic", "b", "BenchmarkTest"),
        ("defaultTopic", "c", "TBW102"),
        ("defaultTopicQueueNums", "d", "4"),
        ("queueId", "e", "3"),
        ("sysFlag", "f", "0"),
        ("bornTimestamp", "g", "1700000000000"),
        ("flag", "h", "0"),
        ("properties", "i", &properties),
        ("reconsumeTimes", "j", "0"),
        ("unitMode", "k", "false"),
        ("batch", "m", "false"),
    ];
    let field = |&(long, letter, value): &(&str, &str, &str)| {
        format!("\"{}\":\"{value}\"", if code == 10 { long } else { letter })
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    format!(
        "{{\"code\":{code},\"extFields\":{{{}}},\"flag\":0,\"language\":\"JAVA\",\"opaque\":4711,\
         \"serializeTypeCurrentRPC\":\"JSON\",\"version\":409}}",
        fields.join(",")
    )
}

fn named_frame(header: &str) -> Vec<u8> {
    let size = (4 + header.len() + BODY_SIZE) as u32;
    let header_word = header.len() as u32;
    let prefix = [size.to_be_bytes(), header_word.to_be_bytes()].concat();
    [&prefix[..], header.as_bytes(), &[b'x'; BODY_SIZE]].concat()
}

fn send() -> Request {
    Request::Produce(Produce {
        group: "bench_group".into(),
        topic: TopicName::new("BenchmarkTest").expect("a legal name"),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(3)),
        system_flag: 0,
        born_at: Timestamp(1_700_000_000_000),
        flag: 0,
        properties: PROPERTIES.into(),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: vec![b'x'; BODY_SIZE].into(),
    })
}

fn batch() -> Request {
    let record = NewRecord {
        topic: "BenchmarkTest",
        queue: QueueId(3),
        flag: 0,
        system_flag: 0,
        born_at: Timestamp(1_700_000_000_000),
        born_host: host(),
        reconsume_times: 0,
        body: &[b'x'; BODY_SIZE],
        properties: [PROPERTIES.as_bytes(), b""],
    };
    let mut batch = RecordBatch::new(QueueId(3), 1 << 20);
    for _ in 0..BATCH_COUNT {
        batch.append(&record).expect("100 records are below a megabyte");
    }
    Request::ProduceRecords(batch.into_request())
}

fn encoded(encoding: HeaderEncoding, request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    encode_request(&mut out, encoding, 4711, false, request).expect("it has this form");
    out
}
