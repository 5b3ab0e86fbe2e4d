//! Bytes from attackers, and from connections that lose some.

use proptest::prelude::*;

use super::*;
use crate::model::batch::{BatchItems, Records};
use crate::model::{ClientRequest, NameError};

const SEND: Named<'static> = &[
    ("a", "g"),
    ("b", "T"),
    ("c", "TBW102"),
    ("d", "4"),
    ("e", "3"),
    ("f", "8"),
    ("g", "1700000000000"),
    ("h", "0"),
    ("i", "TAGS\u{1}TagA\u{2}"),
];

/// Decodes bytes in every way there is. Whatever they are, this returns.
fn read_in_every_way(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(frame)) = next_frame(&mut input, FRAME_SIZE_MAX) {
        read_frame(&frame);
    }
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
        let all = Bytes::copy_from_slice(bytes);
        read_frame(&Frame::new(encoding, all.clone(), all));
    }
    Records::new(bytes).for_each(drop);
    BatchItems::new(bytes).for_each(drop);
}

fn read_frame(frame: &Frame) {
    serve::<Request>(frame);
    serve::<NameServerRequest>(frame);
    serve::<ClientRequest>(frame);
    let Ok(response) = decode_reply(frame) else { return };
    let _ = response.produced();
    let _ = response.pulled();
    let _ = response.offset();
    let _ = response.store_time();
    let _ = response.consumer_status();
    let _ = response.members();
    let _ = response.topic_stats();
    let _ = response.runtime_info();
    let _ = response.route();
    let _ = response.cluster();
    let _ = response.topic_list();
    let _ = response.data_version();
    response.records().for_each(drop);
}

fn serve<R: DecodeRequest>(frame: &Frame) {
    if let Ok(incoming) = crate::wire::decode_request::<R>(frame) {
        let reply = incoming.request.map(|_| Reply::Done);
        encode_reply(&mut Vec::new(), incoming.reply_to, &reply, 0);
    }
}

fn whole(frame: &Frame) -> Vec<u8> {
    let header_word = (frame.encoding as u32) << 24 | frame.header.len() as u32;
    let size = (4 + frame.header.len() + frame.body.len()) as u32;
    [&size.to_be_bytes()[..], &header_word.to_be_bytes(), &frame.header, &frame.body].concat()
}

/// Valid frames to start from: both encodings, fields and bodies of several kinds, and our own.
fn seeds() -> Vec<Vec<u8>> {
    let heartbeat = br#"{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":1,
        "subscriptionDataSet":[{"topic":"T","subString":"a||b"}]}]}"#;
    let register = br#"{"topicConfigSerializeWrapper":{"dataVersion":{"counter":1},
        "topicConfigTable":{"T":{"perm":6,"readQueueNums":8,"writeQueueNums":8}}}}"#;
    let reset = br#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:12,
        {"brokerName":"b","queueId":1,"topic":"T"}:-1}}"#;
    let broker: Named<'_> =
        &[("clusterName", "c"), ("brokerName", "b"), ("brokerAddr", "h:1"), ("brokerId", "0")];
    let frames = [
        both(310, SEND, b"hello"),
        both(34, &[], heartbeat),
        both(103, broker, register),
        both(105, &[("topic", "T")], b""),
        both(220, &[("topic", "T"), ("group", "g"), ("timestamp", "0")], reset),
    ];
    let mut seeds: Vec<Vec<u8>> = frames.iter().flatten().map(whole).collect();
    let fixed = "0000001e 02000018 0101000000000007 000000030000000200000000 00000000 7272";
    seeds.push(unhex(fixed));
    seeds
}

#[test]
fn every_cut_of_a_frame_waits_for_the_rest() {
    for seed in seeds() {
        for cut in 0..seed.len() {
            let mut input = BytesMut::from(&seed[..cut]);
            assert_eq!(next_frame(&mut input, FRAME_SIZE_MAX), Ok(None), "cut at {cut}");
            assert_eq!(input.len(), cut);
        }
        let frame = frame(&seed);
        let is_served = request(&frame).is_ok()
            || asked::<NameServerRequest>(&frame).is_ok()
            || asked::<ClientRequest>(&frame).is_ok();
        assert!(is_served);
    }
}

/// A header that ends early although the frame is whole.
#[test]
fn every_cut_of_a_header_is_refused() {
    for [json, binary] in [both(310, SEND, b"hello"), both(105, &[("topic", "T")], b"")] {
        for frame in [json, binary] {
            for cut in 0..frame.header.len() {
                let short = Frame { header: frame.header.slice(..cut), ..frame.clone() };
                assert!(decode_request(&short).is_err(), "{:?} cut at {cut}", frame.encoding);
            }
        }
    }
}

#[test]
fn headers_that_close_the_connection() {
    let long_list = format!("{{\"extFields\":{{{}}}}}", vec!["\"a\":1"; 200].join(","));
    #[rustfmt::skip]
    let json = [
        ("", "it is not an object"),
        ("null", "it is not an object"),
        ("[]", "it is not an object"),
        ("\"x\"", "it is not an object"),
        ("{}x", "unexpected data after the end at byte 2"),
        ("{\"code\":\"x\"}", "\"x\" is not such a number at byte 8"),
        ("{\"code\":99999999999}", "\"99999999999\" is not such a number at byte 8"),
        ("{\"extFields\":[]}", "expected '{' at byte 13"),
        ("{\"extFields\":{\"a\":{}}}", "expected a value at byte 18"),
        (&long_list, "more than 128 fields at byte 787"),
    ];
    for (header, expected) in json {
        let error = decode_request(&json_frame(header, b"")).unwrap_err().to_string();
        assert_eq!(error, format!("cannot decode the header: {expected}"), "{header}");
    }
    assert!(
        decode_request(&Frame {
            header: Bytes::from_static(b"{\"\xff\":1}"),
            ..json_frame("", b"")
        })
        .is_err()
    );

    let start = "0022 00 01df 00000007 00000000";
    #[rustfmt::skip]
    let binary = [
        ("", "truncated"),
        ("ffffffff", "a part has -1 bytes"),
        ("7fffffff", "truncated"),
        ("00000000 ffffffff", "a part has -1 bytes"),
        ("00000000 00000001", "truncated"),
        ("00000000 00000000 00", "1 bytes behind its end"),
        ("00000001 ff 00000000", "a text is not UTF-8"),
        ("00000000 00000001 00", "truncated"),
        ("00000000 00000002 ffff", "a part has -1 bytes"),
        ("00000000 00000007 0001 61 00000001", "truncated"),
    ];
    for (rest, expected) in binary {
        let header = unhex(&format!("{start} {rest}")).into();
        let frame = Frame::new(HeaderEncoding::Binary, header, Bytes::new());
        let error = decode_request(&frame).unwrap_err().to_string();
        assert_eq!(error, format!("cannot decode the header: {expected}"), "{rest}");
    }
}

/// Replies and the log show only the beginning of what is wrong with a request.
#[test]
fn a_wrong_value_of_any_size_is_shown_by_its_beginning() {
    let long = "\u{1}".repeat(1 << 20);
    let shown_max = 1024;
    let consumer = format!(
        r#"{{"clientID":"c","consumerDataSet":[{{"groupName":"g","subscriptionDataSet":[
            {{"topic":"T","subVersion":"{long}"}}]}}]}}"#
    );
    let consume_type =
        format!(r#"{{"clientID":"c","consumerDataSet":[{{"consumeType":"{long}"}}]}}"#);
    let queue: Named<'_> = &[("topic", "T"), ("queueId", &long)];
    let name: Named<'_> = &[("topic", &long), ("queueId", "0")];
    let no_number: Named<'_> = &[("bodyCrc32", &long)];
    let rows = [
        (34, &[][..], consumer.as_bytes()),
        (34, &[], consume_type.as_bytes()),
        (30, queue, b""),
        (30, name, b""),
    ];
    for frame in both(103, no_number, b"") {
        let refusal = asked::<NameServerRequest>(&frame).unwrap_err();
        assert!(refusal.to_string().len() < shown_max, "{:?}", frame.encoding);
    }
    for (code, fields, body) in rows {
        for frame in both(code, fields, body) {
            let told = match request(&frame) {
                Ok(Request::Heartbeat(heartbeat)) => heartbeat.skipped.concat(),
                told => told.unwrap_err().to_string(),
            };
            let is_short = (1..shown_max).contains(&told.len());
            assert!(is_short, "{code} {:?} {}", frame.encoding, told.len());
        }
    }
    let error = decode_request(&json_frame(&format!("{{\"code\":\"{long}\"}}"), b"")).unwrap_err();
    assert!(error.to_string().len() < shown_max);
}

#[test]
fn a_heartbeat_has_bounds_for_all_that_it_lists() {
    let list = |count, item: &str| vec![item; count].join(",");
    let producers = |count| list(count, r#"{"groupName":"g"}"#);
    let consumers = |count, subscriptions: &str| {
        let one = format!(r#"{{"groupName":"g","subscriptionDataSet":[{subscriptions}]}}"#);
        list(count, &one)
    };
    let too_many = |what, count_max| Err(Refusal::TooMany { what, count_max });
    let long = NameError::TooLong { size: 256, size_max: 255 };
    let id = |size| "c".repeat(size);
    let topic = r#"{"topic":"T"}"#;
    #[rustfmt::skip]
    let rows = [
        (id(255), producers(1024), consumers(1, &list(10_000, topic)), Ok(())),
        (id(256), producers(1), String::new(), Err(Refusal::IllegalName(long))),
        (id(1), producers(1025), String::new(), too_many("producer groups", 1024)),
        (id(1), String::new(), consumers(1025, ""), too_many("consumer groups", 1024)),
        (id(1), String::new(), consumers(1, &list(10_001, topic)), too_many("subscriptions", 10_000)),
        (id(1), String::new(), consumers(101, &list(100, topic)), too_many("subscriptions", 10_000)),
    ];
    for (id, producers, consumers, expected) in rows {
        let body = format!(
            r#"{{"clientID":"{id}","producerDataSet":[{producers}],"consumerDataSet":[{consumers}]}}"#
        );
        for frame in both(34, &[], body.as_bytes()) {
            assert_eq!(request(&frame).map(|_| ()), expected, "{:?}", frame.encoding);
        }
    }
    for frame in both(35, &[("clientID", &id(256))], b"") {
        assert!(matches!(request(&frame), Err(Refusal::IllegalName(NameError::TooLong { .. }))));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_in_every_way(&bytes);
    }

    /// Text that looks like JSON gets further into the decoder than noise.
    #[test]
    fn arbitrary_json_never_panics(text in r#"[{}\[\]:,"\\a-cu0-9 é😀-]{0,80}"#) {
        read_in_every_way(text.as_bytes());
        read_in_every_way(format!("{{\"code\":310,\"extFields\":{{{text}}}}}").as_bytes());
    }

    #[test]
    fn mutated_frames_never_panic(
        seed in prop::sample::select(seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = seed;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_in_every_way(&bytes);
        read_in_every_way(&bytes[cut.index(bytes.len())..]);
    }

    /// Whatever a name or value contains, escaping preserves it.
    #[test]
    fn any_text_survives_the_json_header(key in "\\PC{1,20}", control in "[\\x00-\\x1f\"\\\\]{0,8}") {
        let text = format!("{key}{control}");
        let frame = json_frame(&json_header(105, 0, &[("topic", &text)]), b"");
        prop_assert_eq!(asked(&frame), Ok(NameServerRequest::Route { topic: text.as_str().into() }));
        let mut out = Vec::new();
        let route = NameServerRequest::Route { topic: text.as_str().into() };
        crate::wire::encode_request(&mut out, HeaderEncoding::Json, 1, false, &route).unwrap();
        prop_assert_eq!(asked(&super::frame(&out)), Ok(route));
    }
}
