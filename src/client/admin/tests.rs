use std::sync::{Arc, Mutex};

use super::*;
use crate::client::blocking::testing::{Scripted, Server, dead_address, route_to};
use crate::model::record::{Host, NewRecord, Placement};
use crate::model::reply::{DelayedCounts, TopicStats};
use crate::model::request::QueueOf;
use crate::model::{NameServerReply, QueueId, QueueOffset, Refusal, Reply};

type Told = Arc<Mutex<Vec<String>>>;

fn lines(told: &Told) -> Vec<String> {
    told.lock().unwrap().clone()
}

/// A broker that notes orders, and refuses them if `refuses`.
fn broker(name: &'static str, refuses: bool) -> (Server, Told) {
    let told = Told::default();
    let noted = told.clone();
    let server = Server::start(move |request, _| {
        let order = match request {
            Request::CreateTopic(topic) => format!("create {}", topic.name),
            Request::DeleteTopic { topic } => format!("delete {topic}"),
            Request::TopicStats { topic } => {
                return Scripted::Give(Ok(Reply::TopicStats(TopicStats {
                    queues: vec![stats(name, topic)],
                    delayed: Some(DelayedCounts { delayed: 3, retries: 1 }),
                })));
            }
            Request::RuntimeInfo => {
                let info = vec![("bootTimestamp".to_owned(), "1".to_owned())];
                return Scripted::Give(Ok(Reply::RuntimeInfo(info)));
            }
            Request::MessageByOffset { offset } => return message(*offset),
            other => panic!("{other:?}"),
        };
        noted.lock().unwrap().push(order);
        Scripted::Give(if refuses { Err(Refusal::ShuttingDown) } else { Ok(Reply::Done) })
    });
    (server, told)
}

fn stats(broker: &str, topic: &TopicName) -> QueueStats {
    QueueStats {
        queue: QueueOf { topic: topic.clone(), queue: QueueId(0) },
        min_offset: QueueOffset(0),
        max_offset: QueueOffset(7),
        last_stored_at: Some(Timestamp(1_700_000_000_000)),
        broker_name: broker.into(),
    }
}

/// A message at offset 7, and nothing anywhere else.
fn message(offset: LogOffset) -> Scripted {
    if offset != LogOffset(7) {
        return Scripted::Give(Err(Refusal::NoMessage(offset)));
    }
    let host = Host { address: [127, 0, 0, 1], port: 1.into() };
    let record = NewRecord {
        topic: "T",
        queue: QueueId(0),
        flag: 0,
        system_flag: 0,
        born_at: Timestamp(1),
        born_host: host,
        reconsume_times: 0,
        body: b"found",
        properties: [b"", b""],
    };
    let placement = Placement {
        queue_offset: QueueOffset(0),
        physical_offset: offset,
        stored_at: Timestamp(1),
        store_host: host,
    };
    let mut out = vec![0; record.size()];
    record.write(&placement, &mut out);
    Scripted::GiveWith(Reply::Message, out)
}

/// A NameServer that knows masters `b0`, `b1`, … at these addresses, each with topic `T`.
fn nameserver(masters: &[&str]) -> (Server, Told) {
    let told = Told::default();
    let noted = told.clone();
    let named = masters.iter().enumerate();
    let route = route_to(named.map(|(index, address)| (format!("b{index}"), *address)), 1, 6);
    let server = Server::start_nameserver(move |request| {
        Scripted::Give(match request {
            NameServerRequest::Route { topic } if topic == "T" => {
                Ok(NameServerReply::Route(route.clone()))
            }
            NameServerRequest::Route { topic } => Err(Refusal::UnknownRoute(topic.to_string())),
            NameServerRequest::ClusterInfo => {
                Ok(NameServerReply::ClusterInfo(ClusterInfo { brokers: route.brokers.clone() }))
            }
            NameServerRequest::TopicList => {
                Ok(NameServerReply::TopicList(vec!["T".into(), "A".into()]))
            }
            NameServerRequest::DeleteTopicRoute { topic, .. } => {
                noted.lock().unwrap().push(format!("delete {topic}"));
                Ok(NameServerReply::Done)
            }
            other => panic!("{other:?}"),
        })
    });
    (server, told)
}

fn admin(nameservers: &[&str]) -> Admin {
    Admin::new(ClientOptions::new(nameservers.join(";"))).unwrap()
}

fn topic() -> TopicName {
    TopicName::new("T").unwrap()
}

#[test]
fn a_topic_is_created_and_deleted_everywhere() {
    let ((b0, told_b0), (b1, told_b1)) = (broker("b0", false), broker("b1", false));
    let masters = [b0.address.as_str(), b1.address.as_str()];
    let ((n0, told_n0), (n1, told_n1)) = (nameserver(&masters), nameserver(&masters));
    let mut admin = admin(&[&n0.address, &n1.address]);
    let brokers = vec!["b0".to_owned(), "b1".to_owned()];
    let other = admin.create_topic(&TopicConfig::new(topic(), 4), None);
    assert!(matches!(other, Err(ClientError::TopicExists(_))), "it is not changed: {other:?}");
    let config = TopicConfig::new(topic(), 1);
    assert_eq!(admin.create_topic(&config, None), Ok(brokers.clone()));
    assert_eq!(admin.await_route(&topic(), &brokers, 1_000), Ok(()));
    assert_eq!(admin.delete_topic(&topic(), Some("c")), Ok(brokers));
    for told in [&told_b0, &told_b1] {
        assert_eq!(lines(told), ["create T", "delete T"]);
    }
    for told in [&told_n0, &told_n1] {
        assert_eq!(lines(told), ["delete T"]);
    }
    let error = admin.create_topic(&config, Some("d")).unwrap_err();
    assert_eq!(error, ClientError::UnknownCluster("d".to_owned()));
}

#[test]
fn what_was_done_in_part_is_told_in_part() {
    let ((b0, _told_b0), (b1, _told_b1)) = (broker("b0", false), broker("b1", true));
    let (nameserver, _told) = nameserver(&[&b0.address, &b1.address]);
    let mut admin = admin(&[&nameserver.address]);
    let error = admin.create_topic(&TopicConfig::new(topic(), 1), None).unwrap_err();
    let ClientError::Partly { done, failed, .. } = error else { panic!("{error}") };
    assert_eq!(done, ["b0"]);
    assert_eq!(failed.0.len(), 1);
    assert!(failed.to_string().starts_with(&format!("b1 at {} (RINGMQ-", b1.address)));
}

/// The NameServers learn of a new leader a moment after it was elected.
#[test]
fn a_command_follows_the_leader() {
    let ((old, told_old), (new, told_new)) = (standby("old"), broker("new", false));
    let (old_address, new_address) = (old.address.clone(), new.address.clone());
    let asked = Arc::new(Mutex::new(0));
    let nameserver = Server::start_nameserver(move |request| {
        let NameServerRequest::ClusterInfo = request else {
            return Scripted::Give(Err(Refusal::UnknownRoute("T".to_owned())));
        };
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let (old, new) = (old_address.clone(), new_address.clone());
        let addresses = match *asked {
            1 | 2 => vec![(0, old), (2, new)],
            3 => vec![(1, old), (2, new)],
            _ => vec![(1, old), (0, new)],
        };
        let broker = RouteBroker { cluster: "c".into(), name: "b0".into(), addresses };
        Scripted::Give(Ok(NameServerReply::ClusterInfo(ClusterInfo { brokers: vec![broker] })))
    });
    let mut admin = admin(&[&nameserver.address]);
    let created = admin.create_topic(&TopicConfig::new(topic(), 1), None);
    assert_eq!(created, Ok(vec!["b0".to_owned()]));
    assert_eq!(lines(&told_new), ["create T"]);
    assert!(!lines(&told_old).is_empty(), "it was asked first");
}

/// A replica that does not lead.
fn standby(name: &'static str) -> (Server, Told) {
    let told = Told::default();
    let noted = told.clone();
    let server = Server::start(move |request, _| {
        noted.lock().unwrap().push(format!("{name}: {request:?}"));
        Scripted::Give(Err(Refusal::NotLeader { shard: 0 }))
    });
    (server, told)
}

#[test]
fn a_route_that_does_not_come_is_waited_for_so_long() {
    let (nameserver, _told) = nameserver(&[]);
    let mut admin = admin(&[&nameserver.address]);
    let error = admin.await_route(&topic(), &["b9".to_owned()], 50).unwrap_err();
    assert!(matches!(error, ClientError::TookTooLong { waited_ms: 50, .. }), "{error}");
}

#[test]
fn a_cluster_is_described() {
    let (b0, _told_b0) = broker("b0", false);
    let (nameserver, _told) = nameserver(&[&b0.address]);
    let mut admin = admin(&[&nameserver.address]);
    assert_eq!(admin.cluster().unwrap().brokers.len(), 1);
    assert_eq!(admin.topics(), Ok(vec!["A".to_owned(), "T".to_owned()]));
    let described = admin.describe_topic(&topic()).unwrap();
    assert_eq!(described.queues, [stats("b0", &topic())]);
    let counts = DelayedCounts { delayed: 3, retries: 1 };
    assert_eq!(described.delayed, [("b0".to_owned(), counts)].into());
    assert_eq!(described.route.brokers[0].name, "b0");
    let info = admin.runtime_info(&b0.address).unwrap();
    assert_eq!(info, [("bootTimestamp".to_owned(), "1".to_owned())]);
    let unknown = admin.describe_topic(&TopicName::new("U").unwrap()).unwrap_err();
    assert_eq!(unknown, ClientError::UnknownTopic("U".to_owned()));
}

#[test]
fn a_message_is_found_by_its_id() {
    let (b0, _told_b0) = broker("b0", false);
    let id = |offset| MessageId { broker: b0.address.parse().unwrap(), offset: LogOffset(offset) };
    let mut admin = admin(&[&dead_address()]);
    let found = admin.message(&id(7)).unwrap();
    assert_eq!(found.record().unwrap().body, b"found");
    let error = admin.message(&id(8)).unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
}

#[test]
fn an_error_says_who_was_asked() {
    let (first, second) = (dead_address(), dead_address());
    let error = admin(&[&first, &second]).topics().unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    assert!(text.contains("start one"), "{text}");
}

#[test]
fn a_message_id_is_host_and_offset() {
    let id = MessageId { broker: "127.0.0.1:10911".parse().unwrap(), offset: LogOffset(1_234) };
    assert_eq!("7F00000100002A9F00000000000004D2".parse(), Ok(id.clone()));
    assert_eq!("7f00000100002a9f00000000000004d2".parse(), Ok(id.clone()));
    assert_eq!(id.to_string(), "7F00000100002A9F00000000000004D2");
    let wrong = [
        "",
        "7F00000100002A9F00000000000004D",
        "7F00000100012A9F00000000000004D2",
        "7G00000100002A9F00000000000004D2",
        "+F00000100002A9F00000000000004D2",
    ];
    for text in wrong {
        assert_eq!(
            MessageId::from_str(text),
            Err(ClientError::BadMessageId(text.to_owned())),
            "{text}"
        );
    }
}
