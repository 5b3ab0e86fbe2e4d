//! One bad element of a list causes the loss of all others.
//!
//! Kind of report: "consumer never gets messages because another group of the same application has
//! a dot in its name", "one topic with a broken configuration and the whole broker is not
//! registered".
//!
//! Source: apache/rocketmq issue 265, of names with a dot.

use serde_json::json;

use crate::client::{Client, HEARTBEAT, LOCK, MEMBERS, REGISTER, ROUTE};
use crate::server::{Scratch, Server, free_ports, local};

#[test]
fn good_groups_of_a_heartbeat_take_effect_and_the_bad_one_is_logged_once() {
    let scratch = Scratch::new("bad-group");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let good = json!({"groupName": "good", "consumeType": "CONSUME_PASSIVELY",
        "messageModel": "CLUSTERING",
        "subscriptionDataSet": [{"topic": "t", "subString": "*", "subVersion": 1}]});
    let with = |key: &str, value: serde_json::Value| {
        let mut consumer = good.clone();
        consumer["groupName"] = json!("other");
        consumer[key] = value;
        consumer
    };
    let bad = [
        with("groupName", json!("com.acme.order")),
        with("groupName", json!("x".repeat(300))),
        with("groupName", json!(" ")),
        with("consumeType", json!("CONSUME_SIDEWAYS")),
        with("messageModel", json!({})),
        with("subscriptionDataSet", json!([{"topic": " "}, {"topic": "t", "subString": "*"}])),
        json!(7),
    ];
    for (nth, bad) in bad.iter().enumerate() {
        let client_id = format!("client-{nth}");
        let mut client = Client::connect(local(port + 3));
        let body = json!({"clientID": client_id, "consumerDataSet": [bad, good],
            "producerDataSet": [{"groupName": "a b"}, {"groupName": "senders"}]});
        for _ in 0..2 {
            let said = client.ask(HEARTBEAT, &json!({}), body.to_string().as_bytes());
            assert_eq!(said.code, 0, "{bad}: {said:?}");
        }
        let said = client.ask(MEMBERS, &json!({"consumerGroup": "good"}), b"");
        assert_eq!(said.json()["consumerIdList"], json!([client_id]), "{bad}");
        let told = server.log().matches(&format!("client={client_id}\n")).count();
        assert_eq!(told, 1, "{bad}\n{}", server.log());
    }
    let logged = server.log();
    for name in ["com.acme.order", "xxxxxx", "a b"] {
        assert!(logged.contains(&format!("group: \"{name}")), "{name}\n{logged}");
    }
    // What is invalid later is logged as well, for a client that is known.
    let mut client = Client::connect(local(port + 3));
    let body = json!({"clientID": "client-0", "consumerDataSet": [with("groupName", json!("now.another"))]});
    assert_eq!(client.ask(HEARTBEAT, &json!({}), body.to_string().as_bytes()).code, 0);
    assert!(server.log().contains("\"now.another\""), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn good_queues_of_a_lock_request_are_locked_and_the_bad_one_is_logged_once() {
    let scratch = Scratch::new("bad-queue");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut client = Client::connect(local(port + 3));
    assert_eq!(client.set_topic("ordered", 2, 6).code, 0);
    let queue = |queue| json!({"brokerName": "", "queueId": queue, "topic": "ordered"});
    let bad = [
        queue(json!(-1)),
        queue(json!("first")),
        json!({"queueId": 1, "topic": "com.acme.order"}),
        json!({"queueId": 1, "topic": "x".repeat(300)}),
        json!({"topic": "ordered"}),
        json!(null),
    ];
    for (nth, bad) in bad.iter().enumerate() {
        let client_id = format!("client-{nth}");
        let group = format!("group-{nth}");
        let body = json!({"clientId": client_id, "consumerGroup": group,
            "mqSet": [queue(json!(0)), bad, queue(json!(1))]});
        for _ in 0..2 {
            let said = client.ask(LOCK, &json!({}), body.to_string().as_bytes());
            assert_eq!(said.code, 0, "{bad}: {said:?}");
            let locked = said.json()["lockOKMQSet"].as_array().unwrap().len();
            assert_eq!(locked, 2, "{bad}: {said:?}");
        }
        let told = server.log().matches(&format!("client={client_id}\n")).count();
        assert_eq!(told, 1, "{bad}\n{}", server.log());
    }
    assert!(server.stop().success());
}

#[test]
fn good_topics_of_a_registration_take_effect_and_the_bad_one_is_logged_once() {
    let scratch = Scratch::new("bad-topic");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut nameserver = Client::connect(local(port));
    let fields = json!({"brokerName": "stock", "brokerAddr": "10.0.0.1:10911", "brokerId": "0",
        "clusterName": "c", "haServerAddr": "10.0.0.1:10912", "compressed": "false",
        "bodyCrc32": "0"});
    let body = json!({"topicConfigSerializeWrapper": {
    "dataVersion": {"counter": 1, "stateVersion": 0, "timestamp": 1},
    "topicConfigTable": {
        "First": {"topicName": "First", "perm": 6, "readQueueNums": 4, "writeQueueNums": 4},
        "Bad": {"topicName": "Bad", "perm": "rw"},
        "com.acme": {"perm": 6},
        "Last": {"topicName": "Last", "perm": 6, "readQueueNums": 2, "writeQueueNums": 2},
    }}});
    for _ in 0..2 {
        let said = nameserver.ask(REGISTER, &fields, body.to_string().as_bytes());
        assert_eq!(said.code, 0, "{said:?}");
    }
    for (topic, code) in [("First", 0), ("Last", 0), ("Bad", 17), ("com.acme", 17)] {
        assert_eq!(nameserver.ask(ROUTE, &json!({"topic": topic}), b"").code, code, "{topic}");
    }
    let log = server.log();
    assert_eq!(log.matches("stock registers topics that cannot be used").count(), 1, "{log}");
    // A stock broker always registers the name of its host: this is nothing to warn of.
    let told: Vec<&str> = log.lines().filter(|line| line.contains("\"com.acme\"")).collect();
    assert!(told.len() == 1 && told[0].contains("INFO"), "{told:?}");
    assert!(server.stop().success());
}
