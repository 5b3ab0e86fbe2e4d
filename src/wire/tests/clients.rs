//! Requests that servers send to clients, byte by byte as in the remoting reference (3.10).

use super::*;
use crate::model::client::{PushedReply, ResetOffsets};
use crate::model::record::Host;
use crate::model::request::QueueOf;
use crate::model::request::{BrokerQueue, ConsumeDirectly, Produce, RunningInfo};
use crate::model::{
    ClientReply, ClientRequest, GroupName, LogOffset, QueueId, Timestamp, TopicName,
};
use crate::wire::{Dialect, Language, encode_client_request};

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

fn offsets() -> Vec<(BrokerQueue, i64)> {
    let queue = |broker: &'static str, queue| BrokerQueue {
        broker_name: broker.into(),
        queue: QueueOf { topic: topic(), queue: QueueId(queue) },
    };
    vec![(queue("b", 0), 123), (queue("a\"{}", 3), -1)]
}

fn reset() -> ClientRequest {
    ClientRequest::ResetOffsets(ResetOffsets {
        topic: topic(),
        group: group(),
        at: Some(Timestamp(1_700_000_000_000)),
        is_forced: true,
        offsets: offsets(),
    })
}

fn encoded(language: Language, encoding: HeaderEncoding, request: &ClientRequest) -> Frame {
    let mut out = Vec::new();
    encode_client_request(&mut out, Dialect { encoding, language }, 7, request).unwrap();
    frame(&out)
}

/// Header and body of a request as a JSON client gets it.
fn json(language: Language, request: &ClientRequest) -> (String, String) {
    let frame = encoded(language, HeaderEncoding::Json, request);
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
    (text(frame.header), text(frame.body))
}

fn header(code: i32, fields: &str, flag: i32) -> String {
    format!(
        r#"{{"code":{code},"extFields":{{{fields}}},"flag":{flag},"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":453}}"#
    )
}

#[test]
fn members_changed() {
    let request = ClientRequest::MembersChanged { group: group() };
    let expected = header(40, r#""consumerGroup":"g""#, 2);
    assert_eq!(json(Language::Java, &request), (expected, String::new()));
    let binary = encoded(Language::Java, HeaderEncoding::Binary, &request);
    let expected = "0028 00 01c5 00000007 00000002 00000000 00000014
        000d 636f6e73756d657247726f7570 00000001 67";
    assert_eq!(binary.header, unhex(expected));
}

/// Java and Go read queues as keys; C++ and Python, whose client is written in C++, read a list.
#[test]
fn reset_offsets_in_both_forms() {
    let fields = r#""topic":"t","group":"g","timestamp":"1700000000000","isForce":"true""#;
    let keys = concat!(
        r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:123,"#,
        r#"{"brokerName":"a\"{}","queueId":3,"topic":"t"}:-1}}"#,
    );
    let list = concat!(
        r#"{"offsetTable":[{"brokerName":"b","offset":123,"queueId":0,"topic":"t"},"#,
        r#"{"brokerName":"a\"{}","offset":-1,"queueId":3,"topic":"t"}]}"#,
    );
    for (language, body) in [(Language::Java, keys), (Language::Other, keys), (Language::Cpp, list)]
    {
        assert_eq!(json(language, &reset()), (header(220, fields, 2), body.to_owned()));
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
            assert_eq!(asked(&encoded(language, encoding, &reset())), Ok(reset()));
        }
    }
}

/// Bodies as other servers may write them.
#[test]
fn reset_offsets_are_read_tolerantly() {
    let fields: Named<'_> =
        &[("topic", "t"), ("group", "g"), ("timestamp", "-1"), ("queueId", "-1"), ("x", "y")];
    let rows = [
        (r#"{}"#, 0),
        (r#"{"offsetTable":null}"#, 0),
        (r#"{"offsetTable":{{queueId:"1","topic":"t","x":[{}]}:"5"}}"#, 1),
        (r#"{"offsetTable":{"{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"t\"}":5}}"#, 1),
        (r#"{"offsetTable":{{"queueId":1,"topic":"t"}:null}}"#, 0),
    ];
    for (body, count) in rows {
        for frame in both(220, fields, body.as_bytes()) {
            let Ok(ClientRequest::ResetOffsets(reset)) = asked(&frame) else { panic!("{body}") };
            assert_eq!((reset.offsets.len(), reset.at, reset.is_forced), (count, None, false));
        }
    }
}

#[test]
fn broken_reset_offsets_are_refused() {
    let fields: Named<'_> = &[("topic", "t"), ("group", "g"), ("timestamp", "0")];
    let deep = format!(r#"{{"offsetTable":{}"#, "[".repeat(100_000));
    let many = vec![r#"{"queueId":1,"topic":"t","offset":1}"#; 100_001].join(",");
    let many = format!(r#"{{"offsetTable":[{many}]}}"#);
    for body in [
        "",
        "[]",
        "{",
        r#"{"offsetTable":1}"#,
        r#"{"offsetTable":{"x":1}}"#,
        r#"{"offsetTable":{{"queueId":-1,"topic":"t"}:1}}"#,
        r#"{"offsetTable":{{"queueId":1,"topic":"a b"}:1}}"#,
        r#"{"offsetTable":{{"queueId":1,"topic":"t"}:"x"}}"#,
        r#"{"offsetTable":{{"queueId":1}:1}}"#,
        &deep,
        &many,
    ] {
        for frame in both(220, fields, body.as_bytes()) {
            let refusal = asked::<ClientRequest>(&frame).unwrap_err();
            assert!(refusal.to_string().len() < 400, "{refusal}");
        }
    }
}

/// The fields of a message by their long names, and where it came from.
#[test]
fn a_pushed_reply_and_its_confirmation() {
    let host = |last, port: u32| Host { address: [10, 0, 0, last], port: port.into() };
    let message = Produce {
        group: "g".into(),
        topic: topic(),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(0)),
        system_flag: 0,
        born_at: Timestamp(5),
        flag: 0,
        properties: "CORRELATION_ID\u{1}7\u{2}".into(),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: "answer".into(),
    };
    let (born_host, store_host) = (host(1, 40_000), host(2, 10_911));
    let pushed = PushedReply { message, born_host, store_host, stored_at: Timestamp(9) };
    let request = ClientRequest::PushReply(Box::new(pushed));
    let (header, body) = json(Language::Java, &request);
    for part in [
        r#""code":326"#,
        r#""properties":"CORRELATION_ID\u00017\u0002""#,
        r#""bornHost":"10.0.0.1:40000""#,
        r#""storeHost":"10.0.0.2:10911""#,
        r#""storeTimestamp":"9""#,
    ] {
        assert!(header.contains(part), "{part}: {header}");
    }
    assert_eq!(body, "answer");
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        assert_eq!(asked(&encoded(Language::Java, encoding, &request)), Ok(request.clone()));
        let confirmed = response(reply_to(encoding, 326), Ok::<_, Refusal>(ClientReply::Done));
        assert_eq!((confirmed.done(), confirmed.body.len()), (Ok(()), 0));
    }
}

/// Like the operator's requests, with the same codes; the reply's body is passed on unchanged.
#[test]
fn questions_of_an_operator() {
    let info = RunningInfo { group: group(), client: "c@1".into(), with_stacks: true };
    let what = ConsumeDirectly {
        group: group(),
        client: "c@1".into(),
        message_id: "7F00000100002A9F00000000000004D2".into(),
        offset: LogOffset(1234),
    };
    let (broker_name, record) = ("b".into(), Bytes::from_static(b"record"));
    let rows = [
        (
            ClientRequest::RunningInfo(info),
            header(307, r#""consumerGroup":"g","clientId":"c@1","jstackEnable":"true""#, 0),
            "",
        ),
        (
            ClientRequest::ConsumeDirectly { what, broker_name, record },
            header(
                309,
                concat!(
                    r#""consumerGroup":"g","clientId":"c@1","#,
                    r#""msgId":"7F00000100002A9F00000000000004D2","brokerName":"b""#,
                ),
                0,
            ),
            "record",
        ),
    ];
    for (request, header, body) in rows {
        assert_eq!(json(Language::Java, &request), (header, body.to_owned()));
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            assert_eq!(asked(&encoded(Language::Java, encoding, &request)), Ok(request.clone()));
        }
    }
    let said = Bytes::from_static(b"{not: read}");
    let reply = ClientReply::Relayed(said.clone());
    let relayed = response(reply_to(HeaderEncoding::Json, 307), Ok::<_, Refusal>(reply));
    assert_eq!(relayed.relayed(), Ok(said));
    let fields: Named<'_> = &[("consumerGroup", "g"), ("clientId", "c"), ("msgId", "x")];
    let refusal = asked::<Request>(&both(309, fields, b"")[0]).unwrap_err();
    assert_eq!(refusal.to_string(), "header field msgId is not a message id");
}

#[test]
fn consumer_status_and_its_reply() {
    let request = ClientRequest::ConsumerStatus { topic: topic(), group: group() };
    let expected = header(221, r#""topic":"t","group":"g""#, 0);
    assert_eq!(json(Language::Java, &request), (expected, String::new()));
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let frame = encoded(Language::Java, encoding, &request);
        assert_eq!(asked(&frame), Ok(request.clone()));
        let reply = Ok(ClientReply::ConsumerStatus(offsets()));
        let mut reply = response(reply_to(encoding, 221), reply);
        let expected = concat!(
            r#"{"consumerTable":{},"messageQueueTable":{{"brokerName":"b","queueId":0,"topic":"t"}:123,"#,
            r#"{"brokerName":"a\"{}","queueId":3,"topic":"t"}:-1}}"#,
        );
        assert_eq!(reply.body, expected);
        assert_eq!(reply.consumer_status(), Ok(offsets()));
        // A queue that cannot exist here does not hide the others.
        reply.body = expected.replacen(r#""topic":"t""#, r#""topic":"com.acme.order""#, 1).into();
        assert_eq!(reply.consumer_status(), Ok(offsets()[1..].to_vec()));
        let refused: Result<ClientReply, _> = Err(Refusal::UnknownRequest { code: 221 });
        assert_eq!(
            response(reply_to(encoding, 221), refused).consumer_status().unwrap_err().code,
            3
        );
    }
}
