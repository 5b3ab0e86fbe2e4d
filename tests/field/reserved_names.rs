//! A topic with the name of a built-in one: it shadows a route that clients use to find brokers,
//! and deleting it removes that route for good.
//!
//! Kind of report: "created a topic called DefaultCluster, now updateTopic -c fails", "deleted
//! TBW102 in the dashboard, automatic creation has stopped".
//!
//! Source: alibaba/rocketmq issue 342 and apache/rocketmq pull request 1985.

use serde_json::{Value, json};

use crate::client::{
    Client, DELETE_ROUTE, DELETE_TOPIC, REGISTER, ROUTE, SEND, TOPIC_LIST, send_fields,
};
use crate::server::{Scratch, Server, free_ports, local, run, wait_until};

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

/// What a broker of another make registers: its topics, as a whole table.
fn register(broker: &mut Client, cluster: &str, name: &str, address: &str, topics: &[&str]) {
    let config = |topic: &&str| {
        let config =
            json!({"topicName": topic, "readQueueNums": 4, "writeQueueNums": 4, "perm": 6});
        ((*topic).to_owned(), config)
    };
    let table: serde_json::Map<String, Value> = topics.iter().map(config).collect();
    let version = json!({"counter": 1, "stateVersion": 0, "timestamp": 1_700_000_000_000_u64});
    let wrapper = json!({"topicConfigTable": table, "dataVersion": version});
    let body = json!({"topicConfigSerializeWrapper": wrapper, "filterServerList": []});
    let fields = json!({
        "clusterName": cluster, "brokerName": name, "brokerAddr": address, "brokerId": "0",
        "haServerAddr": address, "compressed": "false", "bodyCrc32": "0",
    });
    let said = broker.ask(REGISTER, &fields, body.to_string().as_bytes());
    assert_eq!(said.code, 0, "{said:?}");
}

/// The names of the brokers in a topic's route.
fn brokers_of(nameserver: &mut Client, topic: &str) -> Vec<String> {
    let said = nameserver.ask(ROUTE, &json!({"topic": topic}), b"");
    if said.code == 17 {
        return Vec::new();
    }
    assert_eq!(said.code, 0, "{said:?}");
    let brokers = said.json()["brokerDatas"].as_array().unwrap().clone();
    brokers.iter().map(|broker| broker["brokerName"].as_str().unwrap().to_owned()).collect()
}

/// A broker knows the name of its own cluster only, and the form of the names of our shards. The
/// NameServer knows every name.
#[test]
fn names_that_other_machines_and_clusters_use_cannot_be_taken() {
    let scratch = Scratch::new("taken");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &["--cluster", "shop"]);
    let mut broker = Client::connect(local(port + 3));
    let mut nameserver = Client::connect(local(port));
    for name in ["s00-broker-z", "s63-elsewhere"] {
        for said in [broker.set_topic(name, 1, 6), broker.ask(SEND, &send_fields(name, 0), b"body")]
        {
            assert_eq!(said.code, 16, "{name}: {said:?}");
            assert!(said.remark.contains("RINGMQ-1004"), "{name}: {said:?}");
        }
    }

    let taken = ["stock-b", "mall", "mall_REPLY_TOPIC"];
    for name in taken {
        assert_eq!(broker.set_topic(name, 1, 6).code, 0, "this broker does not know {name}");
        wait_until("it is routed", || brokers_of(&mut nameserver, name) == ["s00-broker-a"]);
    }
    // Its connection holds its registration.
    let mut other = Client::connect(local(port));
    register(&mut other, "mall", "stock-b", "127.0.0.1:19", &[&taken[..], &["orders"]].concat());
    for name in taken {
        assert_eq!(brokers_of(&mut nameserver, name), ["stock-b"], "{name}");
    }
    assert_eq!(brokers_of(&mut nameserver, "orders"), ["stock-b"]);
    // One that takes the names of a broker and a cluster that are here already.
    let mut rival = Client::connect(local(port));
    let built_in = ["s00-broker-a", "shop", "shop_REPLY_TOPIC"];
    let names = [&built_in[..], &taken[..], &["orders"]].concat();
    register(&mut rival, "yard", "stock-c", "127.0.0.1:29", &names);
    assert_eq!(brokers_of(&mut nameserver, "s00-broker-a"), [""; 0], "not even by this name");
    for name in ["shop", "shop_REPLY_TOPIC"] {
        assert_eq!(brokers_of(&mut nameserver, name), ["s00-broker-a"], "{name}");
    }
    for name in taken {
        assert_eq!(brokers_of(&mut nameserver, name), ["stock-b"], "{name}");
    }
    assert_eq!(brokers_of(&mut nameserver, "orders"), ["stock-b", "stock-c"]);
    let list = nameserver.ask(TOPIC_LIST, &json!({}), b"").json();
    let has = |name: &str| list["topicList"].as_array().unwrap().iter().any(|topic| topic == name);
    assert!(has("mall") && has("shop") && !has("s00-broker-a"), "{list}");
    for (topic, broker) in [("mall", "s00-broker-a"), ("shop", "stock-c")] {
        let line = format!("topic {topic} of {broker} is not routed");
        wait_until("it is logged", || server.log().contains(&line));
        assert_eq!(server.log().matches(&line).count(), 1);
    }
    assert!(server.stop().success());
}
