//! Our server decodes what our client encodes to what was meant. The suites beside this one show
//! that it is also what the protocol means.

use std::fmt::Debug;

use super::*;
use crate::model::nameserver::*;
use crate::model::replicas::ReplicaOrder;
use crate::model::request::*;
use crate::model::{
    DataVersion, GroupConfig, GroupName, LogOffset, QueueId, QueueOffset, Timestamp, TopicConfig,
    TopicName,
};
use crate::wire::{EncodeRequest, encode_request};

fn topic() -> TopicName {
    TopicName::new("T").unwrap()
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

fn queue() -> QueueOf {
    QueueOf { topic: topic(), queue: QueueId(3) }
}

fn broker() -> BrokerId {
    BrokerId { cluster: "c".into(), name: "b".into(), address: "h:1".into(), id: 1 }
}

fn expression() -> Expression {
    Expression { kind: "TAG".into(), text: "TagA || \"TagB\"".into() }
}

fn produce() -> Produce {
    Produce {
        group: "g".into(),
        topic: topic(),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: None,
        system_flag: 1,
        born_at: Timestamp(9),
        flag: -1,
        properties: "TAGS\u{1}\u{4e3b}\u{2}".into(),
        reconsume_times: 1,
        retry_count_max: Some(3),
        is_batch: false,
        body: Bytes::from_static(b"\x00\xffbody"),
    }
}

fn pull() -> Pull {
    Pull {
        group: Some(group()),
        queue: queue(),
        offset: -1,
        count_max: 32,
        bytes_max: Some(9),
        commit: Some(4),
        hold_ms: Some(5),
        subscription: Some(expression()),
        subscription_version: 6,
    }
}

fn heartbeat() -> Heartbeat {
    let subscription = SubscriptionData { topic: topic(), expression: expression(), version: 7 };
    Heartbeat {
        client: "c@1".into(),
        producers: vec![group()],
        consumers: vec![ConsumerData {
            group: group(),
            consume_type: ConsumeType::Pop,
            model: MessageModel::Broadcasting,
            subscriptions: vec![subscription],
        }],
        skipped: vec![],
    }
}

fn registration() -> Registration {
    let odd = TopicConfig { perm: 7, system_flag: 1, order: true, ..TopicConfig::new(topic(), 4) };
    Registration {
        broker: broker(),
        ha_address: "h:2".into(),
        lease_ms: Some(30_000),
        version: DataVersion { counter: 1, state_version: 2, timestamp: 3 },
        topics: vec![odd, TopicConfig::new(TopicName::new("U").unwrap(), 8)],
        skipped: Vec::new(),
        misnamed: Vec::new(),
    }
}

fn lock() -> LockQueues {
    let queues = vec![BrokerQueue { broker_name: "b".into(), queue: queue() }];
    LockQueues { group: group(), client: "c".into(), queues, skipped: Vec::new() }
}

/// One of every kind that RocketMQ's header can carry.
fn requests() -> Vec<Request> {
    let (at, boundary) = (Timestamp(9), Boundary::Upper);
    vec![
        Request::Produce(produce()),
        Request::Produce(Produce { is_batch: true, queue: Some(QueueId(1)), ..produce() }),
        Request::Pull(pull()),
        Request::Pull(Pull {
            bytes_max: None,
            commit: None,
            hold_ms: None,
            subscription: None,
            ..pull()
        }),
        Request::MaxOffset(queue()),
        Request::MinOffset(queue()),
        Request::OffsetByTime { queue: queue(), at, boundary },
        Request::EarliestStoreTime(queue()),
        Request::CommittedOffset { group: group(), queue: queue(), zero_if_missing: false },
        Request::CommitOffset { group: group(), queue: queue(), offset: 5 },
        Request::Heartbeat(heartbeat()),
        Request::Unregister { client: "c".into(), producer: None, consumer: Some(group()) },
        Request::GroupMembers { group: group() },
        Request::SendReply(produce()),
        Request::CheckFilter(Expression { kind: "SQL92".into(), text: "a > 1".into() }),
        Request::LockQueues(lock()),
        Request::UnlockQueues(lock()),
        Request::MessageByOffset { offset: LogOffset(9) },
        Request::QueryMessages { topic: topic(), key: "k\"".into(), count_max: 3 },
        Request::CreateTopic(TopicConfig::new(topic(), 4)),
        Request::UpdateTopic(TopicConfig { perm: 4, order: true, ..TopicConfig::new(topic(), 4) }),
        Request::DeleteTopic { topic: topic() },
        Request::Recall { topic: topic(), handle: "djEg".into() },
        Request::TopicStats { topic: topic() },
        Request::TopicConfig { topic: topic() },
        Request::RuntimeInfo,
        Request::UpdateGroup(group_config()),
        Request::DeleteGroup { group: group(), with_offsets: true },
        Request::GroupConfig { group: group() },
        Request::GroupConfigs { first: 3, count_max: 10 },
        Request::Replicas,
        Request::ChangeReplicas(ReplicaOrder::Transfer { to: 2 }),
        Request::ChangeReplicas(ReplicaOrder::Add { replica: 4, address: "h:10912".into() }),
        Request::ChangeReplicas(ReplicaOrder::Remove { replica: 3, is_forced: true }),
        Request::ChangeReplicas(ReplicaOrder::Remove { replica: 3, is_forced: false }),
        send_back(None),
        send_back(Some(-1)),
        Request::Consumers { group: group() },
        Request::Producers { group: group() },
        Request::GroupsOf { topic: topic() },
        Request::GroupProgress { group: group(), topic: None },
        Request::GroupProgress { group: group(), topic: Some(topic()) },
        Request::ConsumerStatus { topic: topic(), group: group(), client: None },
        Request::ConsumerStatus { topic: topic(), group: group(), client: Some("c@1".into()) },
        Request::RunningInfo(RunningInfo {
            group: group(),
            client: "c@1".into(),
            with_stacks: true,
        }),
        Request::ConsumeDirectly(ConsumeDirectly {
            group: group(),
            client: "c@1".into(),
            message_id: "7F00000100002A9F00000000000004D2".into(),
            offset: LogOffset(1234),
        }),
        Request::UpdateGroups(vec![group_config(), GroupConfig::new(group())]),
        reset(None, ResetTo::End),
        reset(None, ResetTo::Time(Timestamp(9))),
        reset(Some(QueueId(3)), ResetTo::Time(Timestamp(0))),
        reset(Some(QueueId(3)), ResetTo::Offset(QueueOffset(7))),
    ]
}

fn send_back(retry_count_max: Option<i32>) -> Request {
    let (offset, group) = (LogOffset(1234), group());
    Request::SendBack(SendBack { offset, group, delay_level: -1, retry_count_max })
}

fn reset(queue: Option<QueueId>, to: ResetTo) -> Request {
    let (group, topic) = (group(), topic());
    Request::ResetGroup(ResetGroup { group, topic, queue, to, is_forced: queue.is_some() })
}

/// Differs from the default in every field.
fn group_config() -> GroupConfig {
    GroupConfig {
        may_consume: false,
        may_broadcast: false,
        from_min: false,
        is_orderly: true,
        notifies: false,
        retry_queue_count: 4,
        retry_count_max: -1,
        system_flag: 2,
        broker_id: 3,
        slow_broker_id: 4,
        consume_timeout_minutes: 5,
        name: group(),
    }
}

fn nameserver_requests() -> Vec<NameServerRequest> {
    vec![
        NameServerRequest::RegisterBroker(registration()),
        NameServerRequest::UnregisterBroker(broker()),
        NameServerRequest::QueryDataVersion { broker: broker(), version: registration().version },
        NameServerRequest::BrokerHeartbeat { broker: broker() },
        NameServerRequest::Route { topic: "T".into() },
        NameServerRequest::ClusterInfo,
        NameServerRequest::TopicList,
        NameServerRequest::DeleteTopicRoute { topic: "T".into(), cluster: Some("c".into()) },
    ]
}

#[test]
fn requests_arrive_as_they_were_meant() {
    check(requests());
    check(nameserver_requests());
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut out = Vec::new();
        encode_request(&mut out, encoding, 7, true, &Request::RuntimeInfo).unwrap();
        assert!(decode_request(&frame(&out)).unwrap().one_way);
    }
}

fn check<R: DecodeRequest + EncodeRequest + PartialEq + Debug>(requests: Vec<R>) {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        for expected in &requests {
            let mut out = Vec::new();
            encode_request(&mut out, encoding, 7, false, expected).unwrap();
            let incoming = crate::wire::decode_request::<R>(&frame(&out)).unwrap();
            assert_eq!(incoming.request.as_ref(), Ok(expected), "{encoding:?}");
            assert_eq!((incoming.reply_to.opaque, incoming.one_way), (7, false));
        }
    }
}

/// Stock servers filter by hashes, so a heartbeat carries them; and a request's JSON, whole.
#[test]
fn what_stock_servers_read() {
    let json = |request: &Request| {
        let mut out = Vec::new();
        encode_request(&mut out, HeaderEncoding::Json, 7, false, request).unwrap();
        let frame = frame(&out);
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
        (text(frame.header), text(frame.body))
    };
    let mut heartbeat = heartbeat();
    heartbeat.consumers[0].subscriptions[0].expression.text = "TagA || TagB".into();
    let (header, body) = json(&Request::Heartbeat(heartbeat));
    let expected = concat!(
        r#"{"code":34,"extFields":{},"flag":0,"language":"OTHER","opaque":7,"#,
        r#""serializeTypeCurrentRPC":"JSON","version":453}"#,
    );
    assert_eq!(header, expected);
    let expected = concat!(
        r#"{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","#,
        r#""consumeType":"CONSUME_POP","groupName":"g","messageModel":"BROADCASTING","#,
        r#""subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919,2598920],"#,
        r#""expressionType":"TAG","subString":"TagA || TagB","subVersion":7,"#,
        r#""tagsSet":["TagA","TagB"],"topic":"T"}],"unitMode":false}],"#,
        r#""producerDataSet":[{"groupName":"g"}]}"#,
    );
    assert_eq!(body, expected);

    let (header, body) = json(&Request::Produce(Produce { body: "b".into(), ..produce() }));
    let expected = concat!(
        r#"{"code":310,"extFields":{"a":"g","b":"T","c":"TBW102","d":"4","e":"-1","f":"1","#,
        r#""g":"9","h":"-1","i":"TAGS\u0001主\u0002","j":"1","k":"false","l":"3","m":"false"},"flag":0,"#,
        r#""language":"OTHER","opaque":7,"serializeTypeCurrentRPC":"JSON","version":453}"#,
    );
    assert_eq!((header.as_str(), body.as_str()), (expected, "b"));
}

#[test]
fn a_request_beyond_the_frame_limit_is_not_written() {
    let body = Bytes::from(vec![0; FRAME_SIZE_MAX]);
    let request = Request::Produce(Produce { body, ..produce() });
    let mut out = b"before".to_vec();
    assert!(encode_request(&mut out, HeaderEncoding::Binary, 7, false, &request).is_err());
    assert_eq!(out, b"before");
}
