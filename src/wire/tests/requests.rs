//! Every served command, decoded from the fields that clients send, in both encodings.

use std::fmt::Debug;

use super::*;
use crate::model::controller::ControllerRequest;
use crate::model::nameserver::*;
use crate::model::request::*;
use crate::model::{
    ClientRequest, GroupConfig, GroupName, LogOffset, QueueId, Timestamp, TopicConfig, TopicName,
};
use crate::wire::header::head::{Dialect, Language};
use crate::wire::{Head, codes, decode_head};

fn topic(name: &'static str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn group(name: &'static str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn queue() -> QueueOf {
    QueueOf { topic: topic("T"), queue: QueueId(3) }
}

fn produce() -> Produce {
    Produce {
        group: "g".into(),
        topic: topic("T"),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(3)),
        system_flag: 8,
        born_at: Timestamp(1_700_000_000_000),
        flag: -5,
        properties: "TAGS\u{1}TagA\u{2}".into(),
        reconsume_times: 2,
        retry_count_max: Some(16),
        is_batch: false,
        body: "hello".into(),
    }
}

fn pull() -> Pull {
    Pull {
        group: Some(group("g")),
        queue: queue(),
        offset: 5,
        count_max: 32,
        bytes_max: None,
        commit: None,
        hold_ms: None,
        subscription: None,
        subscription_version: 9,
    }
}

fn tags(text: &str) -> Option<Expression> {
    Some(Expression { kind: "TAG".into(), text: text.into() })
}

fn broker() -> BrokerId {
    BrokerId { cluster: "c".into(), name: "b".into(), address: "127.0.0.1:10911".into(), id: 0 }
}

const QUEUE: Named<'static> = &[("topic", "T"), ("queueId", "3")];
const LONG: Named<'static> = &[
    ("producerGroup", "g"),
    ("topic", "T"),
    ("defaultTopic", "TBW102"),
    ("defaultTopicQueueNums", "4"),
    ("queueId", "3"),
    ("sysFlag", "8"),
    ("bornTimestamp", "1700000000000"),
    ("flag", "-5"),
    ("properties", "TAGS\u{1}TagA\u{2}"),
    ("reconsumeTimes", "2"),
    ("unitMode", "false"),
    ("maxReconsumeTimes", "16"),
    ("batch", "false"),
    ("bname", "broker-a"),
];
const SHORT: Named<'static> = &[
    ("a", "g"),
    ("b", "T"),
    ("c", "TBW102"),
    ("d", "4"),
    ("e", "3"),
    ("f", "8"),
    ("g", "1700000000000"),
    ("h", "-5"),
    ("i", "TAGS\u{1}TagA\u{2}"),
    ("j", "2"),
    ("k", "false"),
    ("l", "16"),
    ("m", "false"),
    ("n", "broker-a"),
];
const PULL: Named<'static> = &[
    ("consumerGroup", "g"),
    ("topic", "T"),
    ("queueId", "3"),
    ("queueOffset", "5"),
    ("maxMsgNums", "32"),
    ("sysFlag", "0"),
    ("commitOffset", "4"),
    ("suspendTimeoutMillis", "15000"),
    ("subscription", "TagA"),
    ("subVersion", "9"),
];
const BROKER: Named<'static> = &[
    ("clusterName", "c"),
    ("brokerName", "b"),
    ("brokerAddr", "127.0.0.1:10911"),
    ("brokerId", "0"),
];

/// `fields` with some replaced or added.
fn with<'a>(fields: &[(&'a str, &'a str)], changes: Named<'a>) -> Vec<(&'a str, &'a str)> {
    let is_kept = |name: &str| changes.iter().all(|change| change.0 != name);
    fields.iter().filter(|field| is_kept(field.0)).chain(changes).copied().collect()
}

fn without<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
    fields.iter().filter(|field| field.0 != name).copied().collect()
}

type Row<'a, R = Request> = (&'static str, i32, Vec<(&'a str, &'a str)>, Result<R, Refusal>);

fn check<R: DecodeRequest + PartialEq + Debug>(rows: Vec<Row<'_, R>>, body: &[u8]) {
    for (case, code, fields, expected) in rows {
        for frame in both(code, &fields, body) {
            assert_eq!(asked::<R>(&frame), expected, "{case}, {:?}", frame.encoding);
        }
    }
}

#[test]
fn sends() {
    let batch = || Ok(Request::Produce(Produce { is_batch: true, ..produce() }));
    let plain = || Ok(Request::Produce(produce()));
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("long names", 10, LONG.to_vec(), plain()),
        ("letters", 310, SHORT.to_vec(), plain()),
        ("batch code without batch field", 320, without(SHORT, "m"), plain()),
        ("batch code with batch field", 320, with(SHORT, &[("m", "true")]), batch()),
        ("batch field alone", 310, with(SHORT, &[("m", "true")]), batch()),
        ("batch field, long", 10, with(LONG, &[("batch", "true")]), batch()),
        ("any queue", 310, with(SHORT, &[("e", "-1")]), Ok(Request::Produce(Produce { queue: None, ..produce() }))),
        ("no optional fields", 310, SHORT[..8].to_vec(),
            Ok(Request::Produce(Produce { properties: "".into(), reconsume_times: 0, retry_count_max: None, ..produce() }))),
        ("last one counts", 310, [SHORT, &[("h", "6")]].concat(), Ok(Request::Produce(Produce { flag: 6, ..produce() }))),
    ];
    check(rows, b"hello");
}

#[test]
fn pulls() {
    let committing = || Pull { commit: Some(4), ..pull() };
    let holding = || Pull { hold_ms: Some(15_000), ..pull() };
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = [
        ("plain", 11, PULL.to_vec(), pull()),
        ("lite", 361, with(PULL, &[("sysFlag", "20")]), Pull { subscription: tags("TagA"), ..pull() }),
        ("commits", 11, with(PULL, &[("sysFlag", "1")]), committing()),
        ("holds", 11, with(PULL, &[("sysFlag", "2")]), holding()),
        ("filters", 11, with(PULL, &[("sysFlag", "4")]), Pull { subscription: tags("TagA"), ..pull() }),
        ("filters all", 11, without(&with(PULL, &[("sysFlag", "4")]), "subscription"), Pull { subscription: tags("*"), ..pull() }),
        ("filters by SQL", 11, with(PULL, &[("sysFlag", "4"), ("expressionType", "SQL92"), ("subscription", "a > 1")]),
            Pull { subscription: Some(Expression { kind: "SQL92".into(), text: "a > 1".into() }), ..pull() }),
        ("limits bytes", 11, with(PULL, &[("maxMsgBytes", "262144")]), Pull { bytes_max: Some(262_144), ..pull() }),
        ("negative offset", 11, with(PULL, &[("queueOffset", "-1")]), Pull { offset: -1, ..pull() }),
        ("negative commit", 11, with(PULL, &[("sysFlag", "1"), ("commitOffset", "-1")]), Pull { commit: Some(-1), ..pull() }),
        ("negative hold", 11, with(PULL, &[("sysFlag", "2"), ("suspendTimeoutMillis", "-1")]), Pull { hold_ms: Some(0), ..pull() }),
        ("negative count", 11, with(PULL, &[("maxMsgNums", "-1")]), Pull { count_max: 0, ..pull() }),
    ]
    .map(|(case, code, fields, pull)| (case, code, fields, Ok(Request::Pull(pull))))
    .into();
    check(rows, b"");
}

#[test]
fn offsets_and_look_ups() {
    let by_time = |boundary| {
        Ok(Request::OffsetByTime { queue: queue(), at: Timestamp(1_700_000_000_000), boundary })
    };
    let time =
        |boundary| [QUEUE, &[("timestamp", "1700000000000"), ("boundaryType", boundary)]].concat();
    let committed = |zero_if_missing| {
        Ok(Request::CommittedOffset { group: group("g"), queue: queue(), zero_if_missing })
    };
    let grouped = |more: Named<'static>| [QUEUE, &[("consumerGroup", "g")], more].concat();
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("end", 30, QUEUE.to_vec(), Ok(Request::MaxOffset(queue()))),
        ("end, committed", 30, [QUEUE, &[("committed", "true")]].concat(), Ok(Request::MaxOffset(queue()))),
        ("begin", 31, QUEUE.to_vec(), Ok(Request::MinOffset(queue()))),
        ("store time", 32, QUEUE.to_vec(), Ok(Request::EarliestStoreTime(queue()))),
        ("by time", 29, without(&time(""), "boundaryType"), by_time(Boundary::Lower)),
        ("by time, lower", 29, time("LOWER"), by_time(Boundary::Lower)),
        ("by time, upper", 29, time("UPPER"), by_time(Boundary::Upper)),
        ("by time, upper, small", 29, time("upper"), by_time(Boundary::Upper)),
        ("by time before 1970", 29, [QUEUE, &[("timestamp", "-1")]].concat(),
            Ok(Request::OffsetByTime { queue: queue(), at: Timestamp(0), boundary: Boundary::Lower })),
        ("committed", 14, grouped(&[]), committed(true)),
        ("committed, zero", 14, grouped(&[("setZeroIfNotFound", "true")]), committed(true)),
        ("committed, no zero", 14, grouped(&[("setZeroIfNotFound", "false")]), committed(false)),
        ("commit", 15, grouped(&[("commitOffset", "-1")]), Ok(Request::CommitOffset { group: group("g"), queue: queue(), offset: -1 })),
        ("view", 33, vec![("offset", "1234")], Ok(Request::MessageByOffset { offset: LogOffset(1234) })),
        ("query", 12, vec![("topic", "T"), ("key", "k"), ("maxNum", "32"), ("beginTimestamp", "0"), ("endTimestamp", "9223372036854775807"), ("_UNIQUE_KEY_QUERY", "true")],
            Ok(Request::QueryMessages { topic: topic("T"), key: "k".into(), count_max: 32 })),
    ];
    check(rows, b"");
}

#[test]
fn groups_and_topics() {
    let config = TopicConfig {
        system_flag: 2,
        order: true,
        perm: 7,
        write_queue_count: 4,
        ..TopicConfig::new(topic("T"), 8)
    };
    let create: Named<'_> = &[
        ("topic", "T"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "8"),
        ("writeQueueNums", "4"),
        ("perm", "7"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "2"),
        ("order", "true"),
    ];
    let elect = |replica| {
        Request::Controller(ControllerRequest::Elect { broker_name: "b".into(), replica })
    };
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("goodbye", 35, vec![("clientID", "c@1"), ("producerGroup", "p"), ("consumerGroup", "g")],
            Ok(Request::Unregister { client: "c@1".into(), producer: Some(group("p")), consumer: Some(group("g")) })),
        ("goodbye of nobody", 35, vec![("clientID", "c@1"), ("producerGroup", "")],
            Ok(Request::Unregister { client: "c@1".into(), producer: None, consumer: None })),
        ("members", 38, vec![("consumerGroup", "g")], Ok(Request::GroupMembers { group: group("g") })),
        ("create topic", 17, create.to_vec(), Ok(Request::UpdateTopic(config))),
        ("delete topic", 215, vec![("topic", "T")], Ok(Request::DeleteTopic { topic: topic("T") })),
        ("topic stats", 202, vec![("topic", "T")], Ok(Request::TopicStats { topic: topic("T") })),
        ("topic config", 351, vec![("topic", "T"), ("lo", "true")], Ok(Request::TopicConfig { topic: topic("T") })),
        ("runtime info", 28, vec![], Ok(Request::RuntimeInfo)),
        ("ha status", 907, vec![], Ok(Request::Controller(ControllerRequest::HaStatus))),
        ("election", 1002, vec![("clusterName", "c"), ("brokerName", "b"), ("brokerId", "3")], Ok(elect(Some(3)))),
        ("any election", 1002, vec![("brokerName", "b"), ("brokerId", "-1")], Ok(elect(None))),
        ("delete group", 207, vec![("groupName", "g"), ("cleanOffset", "true")],
            Ok(Request::DeleteGroup { group: group("g"), with_offsets: true })),
        ("delete group as 4.9 does", 207, vec![("groupName", "g"), ("removeOffset", "true")],
            Ok(Request::DeleteGroup { group: group("g"), with_offsets: true })),
        ("consumers", 203, vec![("consumerGroup", "g")], Ok(Request::Consumers { group: group("g") })),
        ("progress", 208, vec![("consumerGroup", "g"), ("topic", "")], Ok(Request::GroupProgress { group: group("g"), topic: None })),
        ("reset to a time, as stock tools do", 222,
            vec![("topic", "T"), ("group", "g"), ("queueId", "-1"), ("offset", "-1"), ("timestamp", "5"), ("isForce", "true")],
            Ok(Request::ResetGroup(ResetGroup { group: group("g"), topic: topic("T"), queue: None, to: ResetTo::Time(Timestamp(5)), is_forced: true }))),
        ("skip all, as 4.9 does", 222, vec![("topic", "T"), ("group", "g"), ("timestamp", "-1"), ("isForce", "false")],
            Ok(Request::ResetGroup(ResetGroup { group: group("g"), topic: topic("T"), queue: None, to: ResetTo::End, is_forced: false }))),
        ("group", 352, vec![("group", "g")], Ok(Request::GroupConfig { group: group("g") })),
        ("all groups", 201, vec![], Ok(Request::GroupConfigs { first: 0, count_max: usize::MAX })),
    ];
    check(rows, b"");
}

/// What a stock tool leaves out has the reference's default (remoting reference, 3.12).
#[test]
fn a_group_is_configured_as_stock_tools_do() {
    let defaults = GroupConfig::new(group("g"));
    let full = br#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":false,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":3,"retryQueueNums":2,"whichBrokerWhenConsumeSlowly":1}"#;
    let changed = GroupConfig {
        may_broadcast: false,
        retry_count_max: 3,
        retry_queue_count: 2,
        ..defaults.clone()
    };
    for (body, expected) in [(&br#"{"groupName":"g"}"#[..], defaults), (full, changed)] {
        check(vec![("update group", 200, vec![], Ok(Request::UpdateGroup(expected)))], body);
    }
}

#[test]
fn routes() {
    #[rustfmt::skip]
    let rows: Vec<Row<'_, NameServerRequest>> = vec![
        ("goodbye of a broker", 104, BROKER.to_vec(), Ok(NameServerRequest::UnregisterBroker(broker()))),
        ("broker heartbeat", 904, without(BROKER, "brokerId"), Ok(NameServerRequest::BrokerHeartbeat { broker: broker() })),
        ("route", 105, vec![("topic", "T"), ("acceptStandardJsonOnly", "true")], Ok(NameServerRequest::Route { topic: "T".into() })),
        ("route of an odd name", 105, vec![("topic", "a b")], Ok(NameServerRequest::Route { topic: "a b".into() })),
        ("cluster", 106, vec![], Ok(NameServerRequest::ClusterInfo)),
        ("topics", 206, vec![], Ok(NameServerRequest::TopicList)),
        ("delete route", 216, vec![("topic", "T")], Ok(NameServerRequest::DeleteTopicRoute { topic: "T".into(), cluster: None })),
        ("delete route in a cluster", 216, vec![("topic", "T"), ("clusterName", "c")],
            Ok(NameServerRequest::DeleteTopicRoute { topic: "T".into(), cluster: Some("c".into()) })),
    ];
    check(rows, b"");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let malformed = |what: &str| Err(Refusal::Malformed(format!("header field {what}")));
    let bad = |what: &str| malformed(&format!("{what}, which is not a number in its range"));
    let name = |name: &str| Err(Refusal::IllegalName(TopicName::new(name.to_owned()).unwrap_err()));
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("send", 10, without(LONG, "producerGroup"), malformed("producerGroup is missing")),
        ("send by letters", 310, without(SHORT, "h"), malformed("h is missing")),
        ("send to x", 310, with(SHORT, &[("e", "x")]), bad("e is \"x\"")),
        ("send at 1.5", 10, with(LONG, &[("bornTimestamp", "1.5")]), bad("bornTimestamp is \"1.5\"")),
        ("send to a bad topic", 310, with(SHORT, &[("b", "a b")]), name("a b")),
        ("pull nothing", 11, vec![], malformed("sysFlag is missing")),
        ("pull and commit nothing", 11, without(&with(PULL, &[("sysFlag", "1")]), "commitOffset"), malformed("commitOffset is missing")),
        ("hold for nothing", 11, without(&with(PULL, &[("sysFlag", "2")]), "suspendTimeoutMillis"), malformed("suspendTimeoutMillis is missing")),
        ("pull queue -1", 11, with(PULL, &[("queueId", "-1")]), bad("queueId is \"-1\"")),
        ("offset of no queue", 30, vec![("topic", "T")], malformed("queueId is missing")),
        ("offset beyond i64", 15, [QUEUE, &[("consumerGroup", "g"), ("commitOffset", "9223372036854775808")]].concat(),
            bad("commitOffset is \"9223372036854775808\"")),
        ("a long value", 33, vec![("offset", "0123456789012345678901234567890123456789xxxxx")],
            bad("offset is \"0123456789012345678901234567890123456789…\"")),
        ("no topic", 17, vec![], malformed("topic is missing")),
    ];
    check(rows, b"");
    let what = "header field brokerName is missing".to_owned();
    let unnamed: Row<'_, NameServerRequest> =
        ("no broker", 104, without(BROKER, "brokerName"), Err(Refusal::Malformed(what)));
    check(vec![unnamed], b"");
}

#[test]
fn requests_that_are_not_served_are_refused_by_code() {
    let table = codes::request::TABLE;
    assert!(table.is_sorted_by(|a, b| a.code < b.code));
    assert!(Request::SERVED.iter().all(|code| !NameServerRequest::SERVED.contains(code)));
    for code in [0, 13, 37, 39, 323, 1001, 9999, -1] {
        for frame in both(code, &[], b"") {
            let refusal = Refusal::UnknownRequest { code };
            assert_eq!(request(&frame), Err(refusal.clone()), "{code}");
            assert_eq!(asked::<NameServerRequest>(&frame), Err(refusal), "{code}");
        }
    }
}

/// POP codes lose their upper half in the binary header; decoding restores it.
#[test]
fn truncated_codes_are_made_whole() {
    for code in [200_050, 200_051, 200_052, 200_053, 200_054, 200_055, 200_056, 200_151] {
        let refusal = Err(Refusal::UnknownRequest { code });
        assert_eq!(request(&binary_frame(code as i16, 0, &[], b"")), refusal);
        assert_eq!(request(&json_frame(&json_header(code, 0, &[]), b"")), refusal);
    }
    let code = 3_449;
    assert_eq!(request(&binary_frame(3_449, 0, &[], b"")), Err(Refusal::UnknownRequest { code }));
}

#[test]
fn flags_are_reported() {
    for (flag, one_way, is_reply) in [(0, false, false), (2, true, false), (1, false, true)] {
        let frames =
            [json_frame(&json_header(28, flag, &[]), b""), binary_frame(28, flag, &[], b"")];
        for frame in frames {
            let mut head = Head::of(&frame);
            decode_head(&mut head).unwrap();
            assert_eq!((head.is_one_way(), head.is_reply()), (one_way, is_reply), "{flag}");
            assert_eq!((head.code, head.opaque, head.version), (28, 7, 409));
            assert_eq!(
                head.dialect(),
                Dialect { encoding: frame.encoding, language: Language::Java }
            );
        }
    }
}

/// Only request codes decide who serves what: a reply is never taken for a request.
#[test]
fn a_reply_is_no_request() {
    let code = 28;
    for frame in [json_frame(&json_header(code, 1, &[]), b""), binary_frame(28, 1, &[], b"")] {
        assert_eq!(request(&frame), Err(Refusal::UnknownRequest { code }));
    }
}

/// C++ and Node clients send numbers and booleans among the fields, in any order of keys.
#[test]
fn numbers_in_fields_are_read_as_their_text() {
    let header = "{\"language\":\"CPP\",\"version\":333,\"opaque\":7,\"flag\":0,\"code\":310,\n\
        \"remark\":null,\"extFields\":{\"a\":\"g\",\"b\":\"T\",\"c\":\"TBW102\",\"d\":4,\"e\":3,\"f\":8,\
        \"g\":1700000000000,\"h\":-5,\"i\":\"TAGS\\u0001TagA\\u0002\",\"j\":2,\"k\":false,\"l\":null,\
        \"m\":true,\"Signature\":\"\"}}\n";
    let expected = Produce { retry_count_max: None, is_batch: true, ..produce() };
    assert_eq!(request(&json_frame(header, b"hello")), Ok(Request::Produce(expected)));
}

#[test]
fn texts_and_bodies_point_into_the_frame() {
    let frame = json_frame(&json_header(310, 0, SHORT), b"hello");
    let Ok(Request::Produce(produce)) = request(&frame) else { panic!("not a send") };
    let is_inside = |part: &[u8], whole: &Bytes| whole.as_ptr_range().contains(&part.as_ptr());
    assert!(is_inside(produce.topic.as_str().as_bytes(), &frame.header));
    assert!(is_inside(produce.group.as_bytes(), &frame.header));
    assert!(is_inside(&produce.body, &frame.body));
}

/// A heartbeat as Java sends it, and one as C++ might: numbers instead of names, nothing optional.
#[test]
fn heartbeats_of_different_clients() {
    let java = br#"{"clientID":"10.0.0.9@12345#998877","consumerDataSet":[{"consumeFromWhere":
        "CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_ACTIVELY","groupName":"g","messageModel":
        "BROADCASTING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919],
        "expressionType":"TAG","subString":"TagA","subVersion":1700000000000,"tagsSet":["TagA"],
        "topic":"T"}],"unitMode":false}],"heartbeatFingerprint":0,
        "producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"withoutSub":false}"#;
    let consumer = |consume_type, model, subscriptions| ConsumerData {
        group: group("g"),
        consume_type,
        model,
        subscriptions,
    };
    let subscription = |expression: Option<Expression>, version| SubscriptionData {
        topic: topic("T"),
        expression: expression.unwrap(),
        version,
    };
    let expected = Heartbeat {
        client: "10.0.0.9@12345#998877".into(),
        producers: vec![group("CLIENT_INNER_PRODUCER")],
        consumers: vec![consumer(
            ConsumeType::Actively,
            MessageModel::Broadcasting,
            vec![subscription(tags("TagA"), 1_700_000_000_000)],
        )],
        skipped: vec![],
    };
    assert_heartbeat(java, Ok(expected));

    let cpp = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,
        "groupName":"g","messageModel":"1","subscriptionDataSet":[{"subVersion":"12","topic":"T",
        "subString":null,"expressionType":null,"codeSet":[],"tagsSet":["x"]}]}]}"#;
    let expected = Heartbeat {
        client: "c".into(),
        producers: vec![],
        consumers: vec![consumer(
            ConsumeType::Passively,
            MessageModel::Clustering,
            vec![subscription(tags("*"), 12)],
        )],
        skipped: vec![],
    };
    assert_heartbeat(cpp, Ok(expected));

    let what = "body of HEART_BEAT: truncated at byte 0";
    assert_heartbeat(b"", Err(Refusal::Malformed(what.to_owned())));
}

/// An invalid group or subscription does not affect the client's others.
#[test]
fn bad_parts_of_a_heartbeat_are_passed_over_and_told() {
    let body = br#"{"clientID":"c","producerDataSet":[{"groupName":"a b"},{"groupName":"p"},{},7],
        "consumerDataSet":[{"consumeType":"CONSUME_SIDEWAYS","groupName":"x"},{"groupName":"g",
        "subscriptionDataSet":[{"topic":""},{"topic":"T"},{"topic":"U","subVersion":"new"}]}]}"#;
    let subscription =
        SubscriptionData { topic: topic("T"), expression: tags("*").unwrap(), version: 0 };
    let expected = Heartbeat {
        client: "c".into(),
        producers: vec![group("p")],
        consumers: vec![ConsumerData {
            group: group("g"),
            consume_type: ConsumeType::Passively,
            model: MessageModel::Clustering,
            subscriptions: vec![subscription],
        }],
        skipped: [
            "producer group: \"a b\": the name contains ' '; only letters, digits and % | _ - are allowed",
            "producer group: \"\": the name is empty",
            "producer group: expected '{' at byte 0",
            "consumer group: unknown variant `CONSUME_SIDEWAYS`, expected one of `CONSUME_ACTIVELY`, \
             `CONSUME_PASSIVELY`, `CONSUME_POP` at byte 33",
            "subscription: \"\": the name is empty",
            "subscription: \"new\" is not such a number at byte 26",
        ]
        .map(str::to_owned)
        .into(),
    };
    assert_heartbeat(body, Ok(expected));
    let many = format!(r#"{{"clientID":"c","producerDataSet":[{}]}}"#, vec!["{}"; 1_000].join(","));
    for frame in both(34, &[], many.as_bytes()) {
        let Ok(Request::Heartbeat(heartbeat)) = request(&frame) else { panic!("not taken") };
        assert_eq!((heartbeat.producers.len(), heartbeat.skipped.len()), (0, 16));
    }
}

/// Requests for another kind of server are not decoded: their bodies, which are invalid, do not
/// matter.
#[test]
fn requests_for_another_kind_of_server_are_refused_unread() {
    fn check<Served: DecodeRequest + Debug, Other: DecodeRequest + Debug>(codes: &[i32]) {
        for &code in codes {
            for frame in both(code, &[("compressed", "true")], b"not a body of anything") {
                let unknown = Refusal::UnknownRequest { code };
                assert_eq!(asked::<Other>(&frame).unwrap_err(), unknown);
                assert_ne!(asked::<Served>(&frame).unwrap_err(), unknown);
            }
        }
    }
    check::<NameServerRequest, Request>(&[103, 322]);
    check::<Request, NameServerRequest>(&[34, 310, 17]);
}

/// A reply has the fields of a message; only the code differs.
#[test]
fn replies_to_requests_of_clients() {
    for (codes, fields) in [([10, 324], LONG), ([310, 325], SHORT)] {
        let [as_message, as_reply] =
            codes.map(|code| both(code, fields, b"body").map(|frame| request(&frame).unwrap()));
        for (message, reply) in as_message.into_iter().zip(as_reply) {
            let Request::Produce(message) = message else { panic!("{message:?}") };
            assert_eq!(reply, Request::SendReply(message));
        }
    }
}

#[test]
fn filters_to_check() {
    let body = br#"{"clientId":"c@1","group":"g","namespace":"","subscriptionData":{
        "classFilterMode":false,"codeSet":[],"expressionType":"SQL92","subString":"a > 1",
        "subVersion":1,"tagsSet":[],"topic":"T"}}"#;
    let expression = Expression { kind: "SQL92".into(), text: "a > 1".into() };
    for frame in both(46, &[], body) {
        assert_eq!(request(&frame), Ok(Request::CheckFilter(expression.clone())));
    }
}

#[test]
fn bad_queues_of_a_lock_request_are_skipped() {
    let body = br#"{"clientId":"c@1","consumerGroup":"g","mqSet":[
        {"brokerName":"b","queueId":0,"topic":"T"},{"queueId":-1,"topic":"T"},{"topic":"T"},7,
        {"brokerName":"b","queueId":2,"topic":" "},{"queueId":3,"topic":"U"}],"onlyThisBroker":false}"#;
    let queue = |broker: &'static str, topic_name, id| BrokerQueue {
        broker_name: broker.into(),
        queue: QueueOf { topic: topic(topic_name), queue: QueueId(id) },
    };
    let decoded = |code| {
        both(code, &[], body).map(|frame| match request(&frame) {
            Ok(Request::LockQueues(lock) | Request::UnlockQueues(lock)) => lock,
            other => panic!("{other:?}"),
        })
    };
    for lock in [decoded(41), decoded(42)].into_iter().flatten() {
        assert_eq!((lock.group, lock.client), (group("g"), "c@1".into()));
        assert_eq!(lock.queues, [queue("b", "T", 0), queue("", "U", 3)]);
        assert_eq!(lock.skipped.len(), 4, "{:?}", lock.skipped);
    }
    for (body, what) in [
        (&br#"{"consumerGroup":"g"}"#[..], "field clientId is missing"),
        (br#"{"clientId":"c","consumerGroup":"a b"}"#, "contains ' '"),
    ] {
        let refusal = request(&both(41, &[], body)[0]).unwrap_err().to_string();
        assert!(refusal.contains(what), "{refusal}");
    }
}

fn assert_heartbeat(body: &[u8], expected: Result<Heartbeat, Refusal>) {
    for frame in both(34, &[], body) {
        assert_eq!(request(&frame), expected.clone().map(Request::Heartbeat));
    }
}

#[test]
fn the_manual_lists_every_served_command() {
    let manual = include_str!("../../../docs/wire.md");
    let served = [Request::SERVED, NameServerRequest::SERVED, ClientRequest::SERVED].concat();
    for command in served.iter().map(|&code| codes::command(code).expect("it has a name")) {
        let start = format!("| {} | {} | ", command.code, command.name);
        assert!(manual.lines().any(|line| line.starts_with(&start)), "no line {start:?}");
    }
}
