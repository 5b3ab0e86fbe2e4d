//! A topic whose permission was set to 0 cannot be opened again: tools request its route first.
//!
//! Kind of report: "updateTopicPerm fails with 'No topic route info' after the permission was set
//! to 0" (issues about mqadmin and dashboards).
//!
//! Source: apache/rocketmq issues 718 and 7102.

use serde_json::json;

use crate::client::{Client, ROUTE};
use crate::server::{Scratch, Server, free_ports, local};

#[test]
fn a_closed_topic_has_a_route_and_can_be_reopened() {
    let scratch = Scratch::new("closed");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut broker = Client::connect(local(port + 3));
    let mut nameserver = Client::connect(local(port));
    for perm in [6, 0, 4, 2, 0, 6] {
        assert_eq!(broker.set_topic("doors", 3, perm).code, 0);
        let said = nameserver.ask(ROUTE, &json!({"topic": "doors"}), b"");
        assert_eq!(said.code, 0, "perm {perm}: {said:?}");
        let queues = said.json()["queueDatas"].take();
        let expected = json!([{"brokerName": "s00-broker-a", "perm": perm, "readQueueNums": 3,
            "topicSysFlag": 0, "writeQueueNums": 3}]);
        assert_eq!(queues, expected);
    }
    assert!(server.stop().success());
}
