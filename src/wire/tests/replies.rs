//! Replies, compared whole.

use std::sync::Arc;

use smallvec::smallvec;

use super::*;
use crate::model::Peer;
use crate::model::TopicConfig;
use crate::model::nameserver::*;
use crate::model::record::Host;
use crate::model::reply::*;
use crate::model::request::{
    BrokerQueue, ConsumeType, Expression, MessageModel, QueueOf, SubscriptionData,
};
use crate::model::{
    DataVersion, GroupConfig, GroupName, LogOffset, NameServerReply, QueueId, QueueOffset,
    Timestamp, TopicName,
};
use crate::wire::codes;

fn host() -> Host {
    Host { address: [127, 0, 0, 1], port: 10_911.into() }
}

fn produced(positions: &[u64]) -> Reply {
    Reply::Produced(Produced {
        queue: QueueId(3),
        queue_offset: QueueOffset(5),
        positions: positions.iter().map(|&position| LogOffset(position)).collect(),
        store_host: host(),
        recall_handle: None,
    })
}

fn pulled(status: PullStatus) -> Reply {
    Reply::Pulled(Pulled {
        status,
        next_offset: QueueOffset(6),
        min_offset: QueueOffset(1),
        max_offset: QueueOffset(9),
        count: 0,
        read_from: 0,
    })
}

/// Header and body of a JSON reply.
fn json_answer<R: EncodeReply>(code: i32, reply: Result<R, Refusal>) -> (String, String) {
    let frame = frame(&answer(reply_to(HeaderEncoding::Json, code), reply));
    assert_eq!(frame.encoding, HeaderEncoding::Json);
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
    (text(frame.header), text(frame.body))
}

fn json_body(code: i32, reply: impl EncodeReply) -> String {
    let (header, body) = json_answer(code, Ok(reply));
    assert_eq!(header, header_of(0, "", ""));
    body
}

fn header_of(code: i32, fields: &str, remark: &str) -> String {
    format!(
        "{{\"code\":{code},\"extFields\":{{{fields}}},\"flag\":1,\"language\":\"JAVA\",\"opaque\":7,\
         {remark}\"serializeTypeCurrentRPC\":\"JSON\",\"version\":453}}"
    )
}

#[test]
fn headers_of_answers() {
    let traced = r#""MSG_REGION":"DefaultRegion","TRACE_ON":"true""#;
    let stored =
        |ids: &str| format!("{traced},\"msgId\":\"{ids}\",\"queueId\":\"3\",\"queueOffset\":\"5\"");
    let one = "7F00000100002A9F00000000000004D2";
    let two = "7F00000100002A9F00000000000004D2,7F00000100002A9F00000000000FFFFF";
    let numbers =
        r#""maxOffset":"9","minOffset":"1","nextBeginOffset":"6","suggestWhichBrokerId":"0""#;
    let found = r#""remark":"FOUND","#;
    let none = r#""remark":"OFFSET_OVERFLOW_ONE","#;
    let filtered = r#""remark":"NO_MATCHED_MESSAGE","#;
    let moved = r#""remark":"OFFSET_MOVED","#;
    let index = r#""indexLastUpdatePhyoffset":"0","indexLastUpdateTimestamp":"0""#;
    let full = r#""remark":"RINGMQ-2003 disk full: writes are refused, reads continue; free up space or lower retention","#;
    let group = GroupName::new("g").unwrap();
    let unset = r#""remark":"RINGMQ-3002 group g has no committed offset for this queue","#;
    #[rustfmt::skip]
    let rows = [
        (15, Ok(Reply::Done), header_of(0, "", "")),
        (310, Ok(produced(&[1234])), header_of(0, &stored(one), "")),
        (320, Ok(produced(&[1234, 0xFFFFF])), header_of(0, &stored(two), "")),
        (310, Err(Refusal::DiskFull), header_of(14, traced, full)),
        (10, Err(Refusal::DiskFull), header_of(14, traced, full)),
        (17, Err(Refusal::DiskFull), header_of(14, "", full)),
        (11, Ok(pulled(PullStatus::Found)), header_of(0, numbers, found)),
        (11, Ok(pulled(PullStatus::NothingNew)), header_of(19, numbers, none)),
        (361, Ok(pulled(PullStatus::NothingMatched)), header_of(20, numbers, filtered)),
        (11, Ok(pulled(PullStatus::OffsetMoved)), header_of(21, numbers, moved)),
        (33, Ok(Reply::Message), header_of(0, "", "")),
        (12, Ok(Reply::Message), header_of(0, index, "")),
        (30, Ok(Reply::Offset(QueueOffset(9))), header_of(0, r#""offset":"9""#, "")),
        (14, Err(Refusal::NoOffset(group)), header_of(22, "", unset)),
        (32, Ok(Reply::StoreTime(Some(Timestamp(9)))), header_of(0, r#""timestamp":"9""#, "")),
        (32, Ok(Reply::StoreTime(None)), header_of(0, r#""timestamp":"-1""#, "")),
        (34, Ok(Reply::HeartbeatTaken), header_of(0, r#""RINGMQ_FIXED":"1""#, "")),
    ];
    for (code, reply, expected) in rows {
        assert_eq!(json_answer(code, reply.clone()), (expected, String::new()), "{code} {reply:?}");
    }
}

fn route_broker(name: &str, cluster: &str, addresses: &[(u64, &str)]) -> RouteBroker {
    RouteBroker {
        cluster: cluster.into(),
        name: name.into(),
        addresses: addresses.iter().map(|&(id, address)| (id, address.into())).collect(),
    }
}

fn route_queues(name: &str, queue_count: u32) -> RouteQueues {
    RouteQueues {
        broker_name: name.into(),
        read_queue_count: queue_count,
        write_queue_count: queue_count,
        perm: 6,
        system_flag: 0,
    }
}

/// Sorted, in whatever order they are given; compact, with quoted keys.
#[test]
fn route_as_clients_read_it() {
    let route = Route {
        queues: vec![route_queues("b-01", 8), route_queues("b-00", 4)],
        brokers: vec![
            route_broker("b-01", "c", &[(0, "10.0.0.1:10915")]),
            route_broker("b-00", "c", &[(1, "10.0.0.2:10911"), (0, "10.0.0.1:10911")]),
        ],
    };
    let expected = concat!(
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},"#,
        r#""brokerName":"b-00","cluster":"c","enableActingMaster":false},"#,
        r#"{"brokerAddrs":{"0":"10.0.0.1:10915"},"brokerName":"b-01","cluster":"c","#,
        r#""enableActingMaster":false}],"filterServerTable":{},"queueDatas":["#,
        r#"{"brokerName":"b-00","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4},"#,
        r#"{"brokerName":"b-01","perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}"#,
    );
    assert_eq!(json_body(105, NameServerReply::Route(route)), expected);
}

#[test]
fn cluster_as_tools_read_it() {
    let info = ClusterInfo {
        brokers: vec![
            route_broker("b-01", "c1", &[(0, "h:3")]),
            route_broker("b-00", "c2", &[(0, "h:2")]),
            route_broker("a", "c1", &[(0, "h:1")]),
        ],
    };
    let expected = concat!(
        r#"{"brokerAddrTable":{"#,
        r#""a":{"brokerAddrs":{"0":"h:1"},"brokerName":"a","cluster":"c1","enableActingMaster":false},"#,
        r#""b-00":{"brokerAddrs":{"0":"h:2"},"brokerName":"b-00","cluster":"c2","enableActingMaster":false},"#,
        r#""b-01":{"brokerAddrs":{"0":"h:3"},"brokerName":"b-01","cluster":"c1","enableActingMaster":false}},"#,
        r#""clusterAddrTable":{"c1":["a","b-01"],"c2":["b-00"]}}"#,
    );
    assert_eq!(json_body(106, NameServerReply::ClusterInfo(info)), expected);
}

fn queue_stats(queue: u32, stored_at: Option<u64>) -> QueueStats {
    QueueStats {
        queue: QueueOf { topic: TopicName::new("T").unwrap(), queue: QueueId(queue) },
        min_offset: QueueOffset(1),
        max_offset: QueueOffset(9),
        last_stored_at: stored_at.map(Timestamp),
        broker_name: "b".into(),
    }
}

const GROUP: &str = r#"{"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g","groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#;

fn broker_queue() -> BrokerQueue {
    let queue = QueueOf { topic: TopicName::new("T").unwrap(), queue: QueueId(1) };
    BrokerQueue { broker_name: "b".into(), queue }
}

fn consumers() -> GroupConnections {
    let peer = |port: u32| Peer {
        host: Host { address: [10, 0, 0, 9], port: port.into() },
        language: 9,
        version: 317,
    };
    let expression = Expression { kind: "TAG".into(), text: "A || B".into() };
    let topic = TopicName::new("T").unwrap();
    GroupConnections {
        members: vec![MemberConnections {
            client: "c@1".into(),
            peers: vec![peer(1), peer(2)],
            is_shared: true,
        }],
        consume_type: ConsumeType::Actively,
        model: MessageModel::Broadcasting,
        subscriptions: vec![SubscriptionData { topic, expression, version: 7 }],
    }
}

const CONSUMERS: &str = r#"{"connectionSet":[{"clientAddr":"10.0.0.9:1","clientId":"c@1","language":"GO","version":317,"isShared":true},{"clientAddr":"10.0.0.9:2","clientId":"c@1","language":"GO","version":317,"isShared":true}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_ACTIVELY","messageModel":"BROADCASTING","subscriptionTable":{"T":{"classFilterMode":false,"expressionType":"TAG","subString":"A || B","subVersion":7,"topic":"T"}}}"#;

fn progress() -> GroupProgress {
    let queue = QueueProgress {
        queue: broker_queue(),
        committed: Some(QueueOffset(3)),
        min: QueueOffset(2),
        end: QueueOffset(9),
        last_at: Some(Timestamp(5)),
        waiting_since: Some(Timestamp(6)),
    };
    GroupProgress { queues: vec![queue], committed_at: Some(Timestamp(8)) }
}

const PROGRESS: &str = r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"b","queueId":1,"topic":"T"}:{"brokerOffset":9,"consumerOffset":3,"lastTimestamp":5,"pullOffset":3,"isCommitted":true,"minOffset":2,"waitingSince":6}},"lastCommitTimestamp":8}"#;

#[test]
fn what_a_broker_says_of_groups_is_read_back() {
    let to = |code| reply_to(HeaderEncoding::Json, code);
    let read = response(to(203), Ok(Reply::Consumers(consumers())));
    assert_eq!(read.consumers(), Ok(consumers()));
    let members = consumers().members;
    let read = response(to(204), Ok(Reply::Producers(members.clone())));
    assert_eq!(read.producers(), Ok(members));
    let read = response(to(208), Ok(Reply::Progress(progress())));
    assert_eq!(read.progress(), Ok(progress()));
    let offsets = vec![(broker_queue(), 41)];
    let read = response(to(222), Ok(Reply::OffsetsReset(offsets.clone())));
    assert_eq!(read.offsets_reset(), Ok(offsets));
    let groups = vec![GroupName::new("g").unwrap()];
    let read = response(to(300), Ok(Reply::Groups(groups.clone())));
    assert_eq!(read.groups(), Ok(groups));
}

#[test]
fn bodies_as_tools_read_them() {
    let config = GroupConfig::new(GroupName::new("g").unwrap());
    let version = DataVersion { counter: 3, state_version: 0, timestamp: 1_700_000_000_000 };
    let stats = vec![queue_stats(0, Some(1_700_000_000_000)), queue_stats(1, None)];
    let table = vec![("bootTimestamp".to_owned(), "1".to_owned()), ("x".into(), "a\"b".into())];
    let rows = [
        (
            202,
            Reply::TopicStats(TopicStats { queues: stats, delayed: None }),
            concat!(
                r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:"#,
                r#"{"lastUpdateTimestamp":1700000000000,"maxOffset":9,"minOffset":1},"#,
                r#"{"brokerName":"b","queueId":1,"topic":"T"}:"#,
                r#"{"lastUpdateTimestamp":0,"maxOffset":9,"minOffset":1}},"topicPutTps":0.0}"#,
            ),
        ),
        (
            351,
            Reply::TopicConfig(TopicConfig::new(TopicName::new("T").unwrap(), 8)),
            concat!(
                r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":8,"#,
                r#""topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":8}"#,
            ),
        ),
        (28, Reply::RuntimeInfo(table), r#"{"table":{"bootTimestamp":"1","x":"a\"b"}}"#),
        (
            41,
            Reply::Locked(vec![BrokerQueue {
                broker_name: "b".into(),
                queue: QueueOf { topic: TopicName::new("T").unwrap(), queue: QueueId(3) },
            }]),
            r#"{"lockOKMQSet":[{"brokerName":"b","queueId":3,"topic":"T"}]}"#,
        ),
        (41, Reply::Locked(vec![]), r#"{"lockOKMQSet":[]}"#),
        (
            38,
            Reply::Members(Arc::new(MemberList::new(vec!["c@1".into()]))),
            r#"{"consumerIdList":["c@1"]}"#,
        ),
        (352, Reply::GroupConfig(config.clone()), GROUP),
        (203, Reply::Consumers(consumers()), CONSUMERS),
        (300, Reply::Groups(vec![config.name.clone()]), r#"{"groupList":["g"]}"#),
        (208, Reply::Progress(progress()), PROGRESS),
        (
            222,
            Reply::OffsetsReset(vec![(broker_queue(), 41)]),
            r#"{"offsetTable":{{"brokerName":"b","queueId":1,"topic":"T"}:41}}"#,
        ),
    ];
    for (code, reply, expected) in rows {
        assert_eq!(json_body(code, reply), expected);
    }
    let groups = Reply::GroupConfigs { configs: vec![config], count: 3 };
    let (header, body) = json_answer(201, Ok(groups));
    assert_eq!(header, header_of(0, r#""totalGroupNum":"3""#, ""));
    let first = r#""dataVersion":{"counter":0,"stateVersion":0,"timestamp":0}"#;
    let rest = format!(r#""forbiddenTable":{{}},"subscriptionGroupTable":{{"g":{GROUP}}}"#);
    assert_eq!(body, format!("{{{first},{rest}}}"));
    let topics = |names: &[&'static str]| {
        NameServerReply::TopicList(names.iter().map(|&name| name.into()).collect())
    };
    let rows = [
        (206, topics(&["A", "B"]), r#"{"topicList":["A","B"]}"#),
        (206, topics(&[]), r#"{"topicList":[]}"#),
        (103, NameServerReply::Registered, r#"{"table":{}}"#),
    ];
    for (code, reply, expected) in rows {
        assert_eq!(json_body(code, reply), expected);
    }
    let known = NameServerReply::DataVersion { is_changed: true, known: Some(version) };
    let (header, body) = json_answer(322, Ok(known));
    assert_eq!(header, header_of(0, r#""changed":"true""#, ""));
    assert_eq!(body, r#"{"counter":3,"stateVersion":0,"timestamp":1700000000000}"#);
    let unknown = NameServerReply::DataVersion { is_changed: true, known: None };
    assert_eq!(json_answer(322, Ok(unknown)).1, "");
}

/// Binary replies contain the same as JSON replies: once decoded, all fields are equal.
#[test]
fn both_encodings_say_the_same() {
    let replies = [
        (310, Ok(produced(&[1234]))),
        (310, Err(Refusal::EmptyBody)),
        (11, Ok(pulled(PullStatus::NothingNew))),
        (30, Ok(Reply::Offset(QueueOffset(9)))),
        (34, Ok(Reply::HeartbeatTaken)),
        (999, Err(Refusal::UnknownRequest { code: 999 })),
    ];
    for (code, reply) in replies {
        assert_same(code, reply);
    }
    assert_same(206, Ok(NameServerReply::TopicList(vec!["A".into()])));
}

fn assert_same<R: EncodeReply + Clone>(code: i32, reply: Result<R, Refusal>) {
    let json = response(reply_to(HeaderEncoding::Json, code), reply.clone());
    let binary = response(reply_to(HeaderEncoding::Binary, code), reply);
    assert_eq!(format!("{json:?}"), format!("{binary:?}"));
}

#[test]
fn chunks_count_into_the_frame() {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
        let mut out = Vec::new();
        encode_reply(&mut out, reply_to(encoding, 2), &Ok(pulled(PullStatus::Found)), 3);
        assert_eq!(next_frame(&mut BytesMut::from(&out[..]), FRAME_SIZE_MAX), Ok(None));
        out.extend_from_slice(b"abc");
        assert_eq!(frame(&out).body, "abc");
    }
}

#[test]
fn typed_answers() {
    let to = |code| reply_to(HeaderEncoding::Json, code);
    let stored = response(to(320), Ok(produced(&[1234, 5678]))).produced().unwrap();
    assert_eq!((stored.queue, stored.queue_offset, stored.count), (QueueId(3), QueueOffset(5), 2));
    assert_eq!((stored.position, stored.code), (Some(LogOffset(1234)), 0));

    for status in [PullStatus::Found, PullStatus::NothingNew, PullStatus::NothingMatched] {
        let Reply::Pulled(expected) = pulled(status) else { unreachable!() };
        assert_eq!(response(to(11), Ok(pulled(status))).pulled(), Ok(expected));
    }
    assert_eq!(response(to(30), Ok(Reply::Offset(QueueOffset(9)))).offset(), Ok(QueueOffset(9)));
    assert_eq!(response(to(32), Ok(Reply::StoreTime(None))).store_time(), Ok(None));
    assert!(response(to(34), Ok(Reply::HeartbeatTaken)).speaks_fixed());
    assert!(!response(to(34), Ok(Reply::Done)).speaks_fixed());

    let members = vec!["c@1".into(), "c@2".into()];
    let list = Arc::new(MemberList::new(members.clone()));
    for _ in 0..2 {
        assert_eq!(
            response(to(38), Ok(Reply::Members(list.clone()))).members(),
            Ok(members.clone())
        );
    }
    for delayed in [None, Some(7)] {
        let delayed = delayed.map(|delayed| DelayedCounts { delayed, retries: 2 });
        let queues = vec![queue_stats(0, Some(7)), queue_stats(1, None)];
        let stats = TopicStats { queues, delayed };
        assert_eq!(
            response(to(202), Ok(Reply::TopicStats(stats.clone()))).topic_stats(),
            Ok(stats)
        );
    }
    let table = vec![("a".to_owned(), "1".to_owned())];
    assert_eq!(response(to(28), Ok(Reply::RuntimeInfo(table.clone()))).runtime_info(), Ok(table));
    let route = Route {
        queues: vec![route_queues("a", 4)],
        brokers: vec![route_broker("a", "c", &[(0, "h:1"), (1, "h:2")])],
    };
    assert_eq!(response(to(105), Ok(NameServerReply::Route(route.clone()))).route(), Ok(route));
    let info = ClusterInfo { brokers: vec![route_broker("a", "c", &[(0, "h:1")])] };
    assert_eq!(
        response(to(106), Ok(NameServerReply::ClusterInfo(info.clone()))).cluster(),
        Ok(info)
    );
    let topics = vec!["A".into()];
    assert_eq!(
        response(to(206), Ok(NameServerReply::TopicList(topics.clone()))).topic_list(),
        Ok(topics)
    );
    let known = Some(DataVersion { counter: 1, state_version: 2, timestamp: 3 });
    let reply = NameServerReply::DataVersion { is_changed: false, known };
    assert_eq!(response(to(322), Ok(reply)).data_version(), Ok((false, known)));
}

/// Replies of stock servers: old ones do not quote the ids of brokers.
#[test]
fn answers_of_stock_servers() {
    let reply = |code: i32, fields: Named<'_>, body: &[u8]| {
        decode_reply(&json_frame(&json_header(code, 1, fields), body)).unwrap()
    };
    let body =
        br#"{"brokerDatas":[{"brokerAddrs":{1:"h:2",0:"h:1"},"brokerName":"a","cluster":"c"}],
        "filterServerTable":{},"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":4,
        "topicSynFlag":0,"writeQueueNums":4}]}"#;
    let route = reply(0, &[], body).route().unwrap();
    assert_eq!(route.brokers, [route_broker("a", "c", &[(0, "h:1"), (1, "h:2")])]);
    assert_eq!(route.queues, [route_queues("a", 4)]);

    let ids = "20010DB8000000000000000000000001000 02A9F00000000000004D2".replace(' ', "");
    let fields = [("msgId", ids.as_str()), ("queueId", "1"), ("queueOffset", "2")];
    let stored = reply(10, &fields, b"").produced().unwrap();
    assert_eq!((stored.position, stored.code), (Some(LogOffset(1234)), 10));

    let refused = reply(17, &[], b"").route().unwrap_err();
    assert_eq!((refused.code, refused.remark.as_str()), (17, ""));
    let unreadable = reply(0, &[], b"").route().unwrap_err();
    assert_eq!(unreadable.to_string(), "code -1: cannot decode the reply: truncated at byte 0");
    let unreadable = reply(0, &[("offset", "x")], b"").offset().unwrap_err();
    assert_eq!(unreadable.remark, "cannot decode the reply: field offset is \"x\"");
}

/// One refusal of every kind, with its code and remark as stock clients see them.
#[test]
fn refusals_as_clients_see_them() {
    let topic = || TopicName::new("T").unwrap();
    let group = || GroupName::new("g").unwrap();
    let boxed = |queues| Box::new(TopicConfig::new(topic(), queues));
    let exists = Refusal::TopicExists { known: boxed(4), asked: boxed(2) };
    #[rustfmt::skip]
    let rows = [
        (3, Refusal::UnknownRequest { code: 9999 }, "RINGMQ-1001 request type 9999 not supported"),
        (3, Refusal::UnknownRequest { code: 37 }, "RINGMQ-1001 request type 37 not supported (END_TRANSACTION)"),
        (1, Refusal::Malformed("header field x is missing".into()), "RINGMQ-1002 header field x is missing"),
        (29, Refusal::IllegalName(TopicName::new("").unwrap_err()), "RINGMQ-1003 illegal name: the name is empty"),
        (16, Refusal::ReservedTopic(topic()), "RINGMQ-1004 topic T is reserved for internal use"),
        (17, Refusal::UnknownTopic(topic()), "RINGMQ-1005 topic T does not exist on this shard; create it, or refresh the route"),
        (17, Refusal::UnknownQueue { topic: topic(), queue: QueueId(9), count: 4 }, "RINGMQ-1006 topic T has 4 queues on this shard, not queue 9"),
        (16, Refusal::NotReadable(topic()), "RINGMQ-1007 topic T is not readable"),
        (16, Refusal::NotWritable(topic()), "RINGMQ-1008 topic T is not writable"),
        (13, Refusal::TooLarge { what: "body", size: 9, size_max: 8 }, "RINGMQ-1009 body of 9 bytes exceeds the limit of 8"),
        (13, Refusal::EmptyBody, "RINGMQ-1010 the message has no body"),
        (13, Refusal::BadBatch("x".into()), "RINGMQ-1011 batch refused: x"),
        (3, Refusal::NotOffered("dances"), "RINGMQ-1012 dances are not supported yet; nothing was stored"),
        (29, Refusal::TooMany { what: "groups", count_max: 8 }, "RINGMQ-1013 more than 8 groups in one request"),
        (18, exists, "RINGMQ-1014 topic T with 4 queues and perm 6 exists, but T with 2 queues and perm 6 was requested; nothing was changed, use `ringmq topic update` to change it"),
        (13, Refusal::BadDelay("x".into()), "RINGMQ-1015 delay refused: x"),
        (604, Refusal::NoRecall("x"), "RINGMQ-1016 the delayed message cannot be recalled: x"),
        (2, Refusal::Busy { reason: "append_queue", wait_ms: 210, retry_after_ms: 50, shard: 3 }, "RINGMQ-2001 reason=append_queue wait_ms=210 retry_after_ms=50 shard=3"),
        (14, Refusal::ShuttingDown, "RINGMQ-2002 the broker is shutting down"),
        (14, Refusal::DiskFull, "RINGMQ-2003 disk full: writes are refused, reads continue; free up space or lower retention"),
        (14, Refusal::Fenced, "RINGMQ-2004 this shard is fenced after a storage fault; see its log, then restart it"),
        (1, Refusal::OutcomeUnknown, "RINGMQ-2005 outcome unknown: storage failed while the request was in flight"),
        (1, Refusal::Damaged(LogOffset(7)), "RINGMQ-2006 the log is damaged at 7: this part is quarantined and not served"),
        (2, Refusal::Full { what: "topics", count_max: 8 }, "RINGMQ-2007 this shard has reached its limit of 8 topics"),
        (1, Refusal::DiskFault { shard: 3 }, "RINGMQ-2008 a disk read failed; see the log of shard 3"),
        (14, Refusal::NotLeader { shard: 3 }, "RINGMQ-2009 shard 3 is a follower here; refresh the route and send to the leader"),
        (1, Refusal::NotReplicated { shard: 3 }, "RINGMQ-2010 shard 3 has no replicas; start the brokers with --replicas"),
        (29, Refusal::UnknownReplica { replica: 4, voters: vec![1, 2, 3] }, "RINGMQ-2011 there is no replica 4; the voters are [1, 2, 3]"),
        (1, Refusal::NotReady { replica: 2, why: "x".into() }, "RINGMQ-2012 replica 2 cannot lead: x"),
        (1, Refusal::NotTakenOver { replica: 2, ms: 5 }, "RINGMQ-2013 replica 2 has not taken over within 5 ms; the replicas elect a leader"),
        (1, Refusal::CatchingUp { replica: 2, why: "x".into() }, "RINGMQ-2014 replica 2 is being added and does not vote yet: x"),
        (1, Refusal::LosesMajority { replica: 2, why: "x".into() }, "RINGMQ-2015 without replica 2 the others would not have a majority: x"),
        (1, Refusal::LeaderStays { replica: 2 }, "RINGMQ-2016 replica 2 leads this shard, so it cannot be removed; let another one lead first"),
        (1, Refusal::Bug("x"), "RINGMQ-2017 the broker has a bug, and has done nothing: x"),
        (1, Refusal::NoConsumer(group()), "RINGMQ-3001 no consumer for group g on this shard"),
        (22, Refusal::NoOffset(group()), "RINGMQ-3002 group g has no committed offset for this queue"),
        (1, Refusal::NoMessage(LogOffset(7)), "RINGMQ-3003 no message at offset 7"),
        (22, Refusal::NothingFound, "RINGMQ-3004 no message found"),
        (24, Refusal::NotSubscribed { group: group(), topic: topic() }, "RINGMQ-3005 group g has not subscribed to T on this shard yet; send a heartbeat first"),
        (25, Refusal::SubscriptionOutdated(group()), "RINGMQ-3006 group g has a newer subscription than this shard knows; send a heartbeat first"),
        (23, Refusal::BadSubscription("x".into()), "RINGMQ-3007 subscription refused: x"),
        (1, Refusal::UnsupportedFilter("SQL92".into()), "RINGMQ-3008 the broker does not support consumer to filter message by SQL92; filter by tags"),
        (16, Refusal::NotConsumable(group()), "RINGMQ-3009 group g may not consume: its configuration does not allow it"),
        (16, Refusal::NotBroadcast(group()), "RINGMQ-3010 group g may not consume by broadcasting: its configuration does not allow it"),
        (26, Refusal::UnknownGroup(group()), "RINGMQ-3011 group g does not exist on this shard"),
        (206, Refusal::NotOnline(group()), "RINGMQ-3012 group g has no consumer online"),
        (1, Refusal::NoProducer(group()), "RINGMQ-3013 group g has no producer online on this shard"),
        (1, Refusal::NoRequester { client: "c@1".into(), why: "x".into() }, "RINGMQ-3014 the reply could not be delivered to client c@1: x"),
        (1, Refusal::Unanswered { client: "c@1".into(), why: "x".into() }, "RINGMQ-3015 client c@1 did not reply: x"),
        (207, Refusal::AnswerTimedOut { client: "c@1".into(), ms: 5 }, "RINGMQ-3016 client c@1 did not reply within 5 ms"),
        (17, Refusal::UnknownRoute("X".into()), "RINGMQ-4001 No topic route info in name server for the topic: X"),
        (1, Refusal::Registration("x".into()), "RINGMQ-4002 registration refused: x"),
    ];
    let mut numbers: Vec<u16> = rows.iter().map(|row| row.1.number()).collect();
    numbers.dedup();
    assert_eq!(numbers, numbers_of_refusals(), "a row for every refusal");
    let manual = include_str!("../../../docs/errors.md");
    for (code, refusal, remark) in rows {
        let line = format!("| RINGMQ-{} | {} |", refusal.number(), codes::refusal_code(&refusal));
        assert!(manual.contains(&line), "docs/errors.md has no line that begins {line:?}");
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
            let error =
                response::<Reply>(reply_to(encoding, 1), Err(refusal.clone())).done().unwrap_err();
            assert_eq!((error.code, error.remark.as_str()), (code, remark));
        }
    }
}

/// A control character takes six bytes in JSON, so a reply that repeated what it refuses would be
/// larger than any request, and too large for a header.
#[test]
fn a_refusal_repeats_only_the_beginning_of_what_it_refuses() {
    let long = "\u{1}".repeat(4 << 20);
    let with_text = [
        Refusal::Malformed(long.clone()),
        Refusal::BadBatch(long.clone()),
        Refusal::BadDelay(long.clone()),
        Refusal::BadSubscription(long.clone()),
        Refusal::UnsupportedFilter(long.clone()),
        Refusal::UnknownRoute(long.clone()),
        Refusal::Registration(long),
    ];
    let source = include_str!("../../model/refusal.rs");
    assert_eq!(source.matches("(String)").count(), with_text.len(), "a row for all that hold text");
    for refusal in with_text {
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary, HeaderEncoding::Fixed] {
            let bytes = answer::<Reply>(reply_to(encoding, 310), Err(refusal.clone()));
            assert!(bytes.len() < 4096, "{encoding:?}: {} bytes", bytes.len());
            let error = decode_reply(&frame(&bytes)).unwrap().done().unwrap_err();
            let number = format!("RINGMQ-{}", refusal.number());
            assert!(error.remark.starts_with(&number) && error.remark.ends_with('…'), "{error}");
        }
    }
}

#[test]
fn a_batch_has_an_id_per_message() {
    let reply = Produced {
        queue: QueueId(0),
        queue_offset: QueueOffset(0),
        positions: smallvec![LogOffset(0), LogOffset(u64::MAX)],
        store_host: host(),
        recall_handle: None,
    };
    let response = response(reply_to(HeaderEncoding::Binary, 320), Ok(Reply::Produced(reply)));
    let expected = "7F00000100002A9F0000000000000000,7F00000100002A9FFFFFFFFFFFFFFFFF";
    assert_eq!(response.field("msgId").map(|ids| &ids[..]), Some(expected));
}

/// The numbers as the source lists them, so that a new refusal cannot be forgotten here.
fn numbers_of_refusals() -> Vec<u16> {
    let source = include_str!("../../model/refusal.rs").split("fn number").nth(1).unwrap();
    let arms = source.lines().filter_map(|line| line.split("=> ").nth(1));
    let mut numbers: Vec<u16> =
        arms.map(|arm| arm.trim_end_matches(',').parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}
