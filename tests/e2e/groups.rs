//! Consumer groups of a broker with several shards, through our own client's connections.

use std::time::Duration;

use ringmq::client::blocking::{Caller, Connections};
use ringmq::model::request::{
    BrokerQueue, ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, QueueOf,
    RunningInfo, SubscriptionData,
};
use ringmq::model::{
    ClientReply, ClientRequest, GroupName, NameServerRequest, QueueId, Refusal, Request, TopicName,
};
use ringmq::wire::{HeaderEncoding, ReplyTo, Response};

use crate::server::{Ports, Scratch, Server, wait_until};

const TIMEOUT_MS: u64 = 10_000;

/// A client process: one connection to each server.
struct Client {
    connections: Connections,
    ports: Ports,
}

impl Client {
    fn new(ports: Ports) -> Self {
        Self { connections: Connections::new(TIMEOUT_MS), ports }
    }

    fn ask(&mut self, shard: u16, request: &Request) -> Response {
        let address = format!("127.0.0.1:{}", self.ports.broker + 4 * shard);
        self.connections.call(&address, HeaderEncoding::Json, request, TIMEOUT_MS).unwrap()
    }

    fn beat(&mut self, shard: u16, client: &str, group: &GroupName) {
        self.ask(shard, &heartbeat(client, group)).done().unwrap();
    }

    /// Returns the members that each shard lists.
    fn members(&mut self, group: &GroupName) -> Vec<Vec<String>> {
        let members = |shard| {
            let response = self.ask(shard, &Request::GroupMembers { group: group.clone() });
            response.members().unwrap_or_default().iter().map(ToString::to_string).collect()
        };
        (0..3).map(members).collect()
    }

    /// Waits until all shards list these members.
    fn await_members(&mut self, group: &GroupName, expected: &[&str]) -> Duration {
        let patience = Duration::from_secs(5);
        wait_until("the members", Duration::from_millis(20), patience, || {
            self.members(group) == vec![expected.to_vec(); 3]
        })
    }

    /// Waits for the next request from a server that expects a reply.
    fn await_request(&mut self) -> (Caller, ReplyTo, ClientRequest) {
        let mut asked = None;
        wait_until("a request", Duration::from_millis(1), Duration::from_secs(5), || {
            self.connections.turn(self.connections.now().plus_ms(10));
            asked = std::iter::from_fn(|| self.connections.poll_server_request())
                .find_map(|(caller, of)| Some((caller, of.reply_to?, of.request)));
            asked.is_some()
        });
        asked.unwrap()
    }

    /// Returns the number of notifications of a change that have arrived.
    fn told(&mut self) -> usize {
        let told = std::iter::from_fn(|| self.connections.poll_server_request());
        told.filter(|(_, of)| matches!(of.request, ClientRequest::MembersChanged { .. })).count()
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name.to_owned()).unwrap()
}

fn heartbeat(client: &str, group: &GroupName) -> Request {
    let subscription = SubscriptionData {
        topic: TopicName::new("t").unwrap(),
        expression: Expression { kind: "TAG".into(), text: "*".into() },
        version: 1,
    };
    let consumer = ConsumerData {
        group: group.clone(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions: vec![subscription],
    };
    Request::Heartbeat(Heartbeat {
        client: client.to_owned().into(),
        consumers: vec![consumer],
        ..Heartbeat::default()
    })
}

#[test]
fn a_group_and_its_retry_topic_are_everywhere_before_the_first_heartbeat_is_answered() {
    let scratch = Scratch::new("groups-created");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 3);
    let mut client = Client::new(ports);
    for name in ["readers".to_owned(), "g".repeat(255)] {
        let group = group(&name);
        client.beat(1, "c@1", &group);
        let topic = TopicName::retry_of(&group).as_str().into();
        let route = NameServerRequest::Route { topic };
        let namesrv = ports.nameserver_address().to_string();
        let route =
            client.connections.call(&namesrv, HeaderEncoding::Json, &route, TIMEOUT_MS).unwrap();
        let route = route.route().unwrap();
        assert_eq!(route.queues.len(), 3, "{route:?}");
        for shard in 0..3 {
            let config = client.ask(shard, &Request::GroupConfig { group: group.clone() });
            assert_eq!(config.group_config().unwrap().name, group);
        }
    }
    assert!(server.terminate().success());
}

/// A member that is connected to one shard is listed by all as soon as its heartbeat gets a reply.
/// The other members are notified when it joins and when it leaves, well within a second.
#[test]
fn all_shards_list_the_same_members_at_once() {
    let scratch = Scratch::new("groups-members");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 3);
    let group = group("readers");
    let (mut first, mut second) = (Client::new(ports), Client::new(ports));
    first.beat(2, "a@1", &group);
    assert!(first.told() > 0, "before the reply");
    assert_eq!(first.members(&group), [["a@1"]; 3]);
    first.beat(0, "a@1", &group);
    first.told();
    second.beat(1, "b@2", &group);
    assert_eq!(second.members(&group), [["a@1", "b@2"]; 3]);
    assert!(second.told() > 0);
    let told = wait_until("told", Duration::from_millis(10), Duration::from_secs(5), || {
        first.members(&group);
        first.told() > 0
    });
    assert!(told < Duration::from_secs(1), "{told:?}");

    let address = |shard: u16| format!("127.0.0.1:{}", ports.broker + 4 * shard);
    first.connections.close(&address(2), "one of two");
    // Only its connection to the other shard keeps the member in the group.
    second.connections.close(&address(1), "its only one");
    let took = first.await_members(&group, &["a@1"]);
    assert!(took < Duration::from_secs(1), "{took:?}");
    second.beat(1, "b@2", &group);
    second.beat(0, "b@2", &group);
    let leave =
        Request::Unregister { client: "b@2".into(), producer: None, consumer: Some(group.clone()) };
    second.ask(0, &leave).done().unwrap();
    assert_eq!(first.members(&group), [["a@1"]; 3], "signed off at one shard");

    // A second process with the same client id.
    let mut twin = Client::new(ports);
    for client in [&mut twin, &mut first] {
        client.beat(0, "a@1", &group);
        client.beat(1, "a@1", &group);
    }
    let logged = || server.log().matches("two processes have the same client id").count();
    let patience = Duration::from_secs(5);
    wait_until("the warning", Duration::from_millis(20), patience, || logged() > 0);
    let found = first.ask(2, &Request::Consumers { group: group.clone() }).consumers().unwrap();
    assert!(found.members[0].is_shared, "{found:?}");
    drop(twin);
    for _ in 0..5 {
        assert_eq!(first.members(&group), [["a@1"]; 3], "the other process stays");
    }
    first.beat(0, "a@1", &group);
    assert_eq!(logged(), 1, "{}", server.log());
    assert!(server.terminate().success());
}

/// An operator's query reaches a consumer over its connection to the same shard, and its answer
/// comes back unchanged.
#[test]
fn an_operator_asks_consumers_through_the_broker() {
    let scratch = Scratch::new("groups-asked");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 2);
    let (group, topic) = (group("readers"), TopicName::new("t").unwrap());
    let (mut consumer, mut operator) = (Client::new(ports), Client::new(ports));
    consumer.beat(1, "c@1", &group);
    let info = |client: &str| {
        let (group, client) = (group.clone(), client.to_owned().into());
        Request::RunningInfo(RunningInfo { group, client, with_stacks: false })
    };
    for (shard, client) in [(0, "c@1"), (1, "c@2")] {
        let absent = operator.ask(shard, &info(client)).done().unwrap_err();
        assert!(absent.remark.contains("RINGMQ-3015"), "{absent}");
    }
    let info = info("c@1");

    let address = format!("127.0.0.1:{}", ports.broker + 4);
    let queue = QueueOf { topic: topic.clone(), queue: QueueId(3) };
    let queue = BrokerQueue { broker_name: "b".into(), queue };
    let status = Request::ConsumerStatus { topic, group: group.clone(), client: None };
    let statuses = concat!(
        r#"{"consumerTable":{"c@1":{{"brokerName":"b","queueId":3,"topic":"t"}:7}},"#,
        r#""messageQueueTable":{}}"#,
    );
    let refusal = Refusal::Malformed("not now".into());
    for (request, reply, expected) in [
        (&info, Ok(ClientReply::Relayed("{said}".into())), (0, "{said}")),
        (&info, Err(refusal.clone()), (1, "")),
        (&status, Ok(ClientReply::ConsumerStatus(vec![(queue, 7)])), (0, statuses)),
        (&status, Err(refusal), (0, r#"{"consumerTable":{},"messageQueueTable":{}}"#)),
    ] {
        let connections = &mut operator.connections;
        let call = connections.start(&address, HeaderEncoding::Json, request, TIMEOUT_MS).unwrap();
        let (caller, reply_to, _) = consumer.await_request();
        consumer.connections.reply(&caller, reply_to, &reply);
        consumer.connections.turn(consumer.connections.now());
        let response = operator.connections.wait_for(call).unwrap();
        let body = String::from_utf8_lossy(&response.body);
        assert_eq!((response.code, &*body), expected, "{:?}", response.remark);
    }
    assert!(server.terminate().success());
}
