//! Consumer groups of a broker with several shards, through our own client's connections.

use ringmq::client::blocking::Connections;
use ringmq::model::request::{
    ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, SubscriptionData,
};
use ringmq::model::{GroupName, NameServerRequest, Request, TopicName};
use ringmq::wire::{HeaderEncoding, Response};

use crate::server::{Ports, Scratch, Server};

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
