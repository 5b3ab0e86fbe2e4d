//! Creating an existing topic modifies it: queues with messages disappear from its route.
//!
//! Kind of report: "half of the queues are gone after the deployment script ran updateTopic again"
//! (creating and updating are one command in the stock tools).
//!
//! Source: apache/rocketmq issue 7100.

use serde_json::{Value, json};

use crate::client::{Client, ROUTE};
use crate::server::{Scratch, Server, free_ports, local, run};

fn queue_data(port: u16) -> Value {
    let said = Client::connect(local(port)).ask(ROUTE, &json!({"topic": "orders"}), b"");
    said.json()["queueDatas"][0].take()
}

#[test]
fn create_refuses_an_existing_topic_and_update_changes_it() {
    let scratch = Scratch::new("create");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let namesrv = local(port).to_string();
    let mut broker = Client::connect(local(port + 3));
    assert_eq!(broker.set_topic("orders", 16, 4).code, 0);
    let before = queue_data(port);
    let topic = |args: &[&str]| {
        let said = run(&[&["topic"], args, &["--namesrv", &namesrv]].concat());
        (said.status.code().unwrap(), String::from_utf8(said.stderr).unwrap())
    };
    let (code, error) = topic(&["create", "orders"]);
    assert_eq!(code, 1, "{error}");
    let parts =
        ["RINGMQ-1014", "orders with 16 queues and perm 4", "orders with 4 queues and perm 6"];
    for part in &parts[1..] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(queue_data(port), before);
    // Another client may have created it after the tool's check: the broker itself refuses.
    let fields = json!({
        "topic": "orders", "readQueueNums": "8", "writeQueueNums": "8", "perm": "6",
        "createOnly": "true",
    });
    let said = broker.ask(17, &fields, b"");
    assert_eq!(said.code, 18, "{said:?}");
    assert!(said.remark.contains(parts[0]), "{said:?}");
    assert_eq!(queue_data(port), before);

    assert_eq!(topic(&["update", "orders", "--perm", "6"]).0, 0);
    assert_eq!(queue_data(port)["perm"], 6);
    assert_eq!(queue_data(port)["writeQueueNums"], 16, "what is not named stays");
    assert_eq!(topic(&["update", "orders", "--queues", "20"]).0, 0);
    assert_eq!(queue_data(port)["readQueueNums"], 20);
    assert_eq!(topic(&["create", "orders", "--queues", "20"]).0, 0, "it is as it was asked for");
    assert_eq!(topic(&["update", "orders"]).0, 2, "nothing was named");
    assert_eq!(topic(&["update", "nowhere", "--queues", "2"]).0, 1);
    // The stock command still updates.
    assert_eq!(broker.set_topic("orders", 3, 6).code, 0);
    assert_eq!(queue_data(port)["writeQueueNums"], 3);
    assert!(server.stop().success());
}
