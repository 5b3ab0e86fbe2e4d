//! A topic with the name of a built-in one: it shadows a route that clients use to find brokers,
//! and deleting it removes that route for good.
//!
//! Kind of report: "created a topic called DefaultCluster, now updateTopic -c fails", "deleted
//! TBW102 in the dashboard, automatic creation has stopped".
//!
//! Source: alibaba/rocketmq issue 342 and apache/rocketmq pull request 1985.

use serde_json::json;

use crate::client::{Client, DELETE_ROUTE, DELETE_TOPIC, ROUTE, SEND, send_fields};
use crate::server::{Scratch, Server, free_ports, local, run};

#[test]
fn built_in_names_are_refused_however_they_are_created_or_deleted() {
    let scratch = Scratch::new("reserved");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &["--cluster", "shop"]);
    let namesrv = local(port).to_string();
    let mut broker = Client::connect(local(port + 3));
    let mut nameserver = Client::connect(local(port));
    let names = [
        "TBW102",
        "shop",
        "shop_REPLY_TOPIC",
        "s00-broker-a",
        "s01-broker-a",
        "SCHEDULE_TOPIC_XXXX",
        "SELF_TEST_TOPIC",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "rmq_sys_wheel_timer",
    ];
    for name in names {
        let topic = json!({"topic": name});
        let before = nameserver.ask(ROUTE, &topic, b"").body;
        let said = [
            broker.set_topic(name, 1, 6),
            broker.ask(SEND, &send_fields(name, 0), b"body"),
            broker.ask(DELETE_TOPIC, &topic, b""),
            nameserver.ask(DELETE_ROUTE, &topic, b""),
        ];
        for (nth, said) in said.iter().enumerate() {
            // The NameServer does not know the name of a shard that does not exist.
            let is_unknown = nth == 3 && ["s01-broker-a"].contains(&name);
            assert_eq!(said.code, if is_unknown { 0 } else { 16 }, "{name} {nth}: {said:?}");
            assert!(is_unknown || said.remark.contains("RINGMQ-1004"), "{name}: {said:?}");
        }
        assert_eq!(nameserver.ask(ROUTE, &topic, b"").body, before, "{name}");
        for args in [["topic", "create", name], ["topic", "delete", name]] {
            let said = run(&[&args[..], &["--namesrv", &namesrv]].concat());
            let error = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(said.status.code(), Some(1), "{name}: {error}");
            assert!(error.contains("RINGMQ-1004"), "{name}: {error}");
        }
    }
    for name in ["shops", "broker-a", "RMQ_SYS_TRACE_TOPIC"] {
        let said = broker.set_topic(name, 1, 6);
        assert_eq!(said.code, 0, "{name} is a topic like others: {said:?}");
    }
    let said = run(&["nameserver", "--listen", "127.0.0.1:0"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    let said = run(&["dev", "--cluster", "TBW102", "--data", &scratch.path("other")]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(server.stop().success());
}
