//! A wait whose target is gone ends at its deadline instead of immediately.
//!
//! Kind of report: "consumer keeps polling a deleted topic", "pull hangs 15 seconds after
//! deleteTopic", and offset commits that time out while an operator removes a topic (issues of
//! clients and dashboards).
//!
//! Source: apache/rocketmq issue 2777.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{
    COMMIT_OFFSET, Client, DELETE_GROUP, DELETE_TOPIC, HEARTBEAT, PULL, RUNNING_INFO, SET_GROUP,
    Said, UNREGISTER,
};
use crate::server::{Scratch, Server, free_ports, local};

/// How long the pulls may be held.
const HOLD_MS: u64 = 20_000;

/// Has a pull held on queue 1 of a topic with two queues, then changes the topic. Returns the
/// consumer's next frame and how long after the change it came.
fn heard_after(change: impl Fn(&mut Client)) -> (Said, Duration) {
    let scratch = Scratch::new("gone");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut operator = Client::connect(local(port + 3));
    assert_eq!(operator.set_topic("t", 2, 6).code, 0);
    let mut consumer = Client::connect(local(port + 3));
    let waiting = consumer.say(PULL, &Client::pull_fields("t", 1, 0, HOLD_MS), b"");
    // The reply to this shows that the pull is held.
    assert_eq!(consumer.send("t", 0, b"x").code, 0);
    let began = Instant::now();
    change(&mut operator);
    let said = consumer.hear();
    let after = began.elapsed();
    assert_eq!(said.opaque, i64::from(waiting), "{said:?}");
    assert!(server.stop().success());
    (said, after)
}

/// Checks that the pull is refused with `code` and `text` long before its deadline.
fn a_change_ends_the_wait(change: impl Fn(&mut Client), code: i64, text: &str) {
    let (said, after) = heard_after(change);
    assert_eq!(said.code, code, "{said:?}");
    assert!(said.remark.contains(text), "{said:?}");
    assert!(after < Duration::from_millis(HOLD_MS / 2));
}

#[test]
fn a_held_pull_on_a_deleted_topic_ends_at_once() {
    let delete = |operator: &mut Client| {
        assert_eq!(operator.ask(DELETE_TOPIC, &json!({"topic": "t"}), b"").code, 0);
    };
    a_change_ends_the_wait(delete, 17, "RINGMQ-1005");
}

#[test]
fn a_held_pull_on_a_removed_queue_ends_at_once() {
    let shrink = |operator: &mut Client| assert_eq!(operator.set_topic("t", 1, 6).code, 0);
    a_change_ends_the_wait(shrink, 17, "RINGMQ-1006");
}

#[test]
fn a_held_pull_on_a_topic_closed_to_readers_ends_at_once() {
    let close = |operator: &mut Client| assert_eq!(operator.set_topic("t", 2, 2).code, 0);
    a_change_ends_the_wait(close, 16, "RINGMQ-1007");
}

#[test]
fn a_held_pull_of_a_deleted_group_ends_at_once() {
    let delete = |operator: &mut Client| {
        let fields = json!({"groupName": "field", "removeOffset": "false"});
        assert_eq!(operator.ask(DELETE_GROUP, &fields, b"").code, 0);
    };
    a_change_ends_the_wait(delete, 26, "RINGMQ-3011");
}

#[test]
fn a_held_pull_of_a_group_that_may_no_longer_consume_ends_at_once() {
    let close = |operator: &mut Client| {
        let config = json!({"groupName": "field", "consumeEnable": false}).to_string();
        assert_eq!(operator.ask(SET_GROUP, &json!({}), config.as_bytes()).code, 0);
    };
    a_change_ends_the_wait(close, 16, "RINGMQ-3009");
}

/// An operator's request that is passed on to a member, which never replies.
#[test]
fn a_request_to_a_member_that_leaves_ends_at_once() {
    let scratch = Scratch::new("member-gone");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let connect = || Client::connect(local(port + 3));
    let heartbeat = json!({"clientID": "c@1", "consumerDataSet": [
        {"groupName": "g", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "subscriptionDataSet": [{"topic": "t", "subString": "*", "subVersion": 1}]}]});
    let heartbeat = heartbeat.to_string();
    let leave = |member: &mut Client| {
        member.say(UNREGISTER, &json!({"clientID": "c@1", "consumerGroup": "g"}), b"");
    };
    let reconnect = |_: &mut Client| {
        connect().say(HEARTBEAT, &json!({}), heartbeat.as_bytes());
    };
    for change in [&leave as &dyn Fn(&mut Client), &reconnect] {
        let (mut member, mut operator) = (connect(), connect());
        member.say(HEARTBEAT, &json!({}), heartbeat.as_bytes());
        let until = |member: &mut Client, code: i64| while member.hear().code != code {};
        until(&mut member, 0);
        let began = Instant::now();
        operator.say(RUNNING_INFO, &json!({"consumerGroup": "g", "clientId": "c@1"}), b"");
        until(&mut member, i64::from(RUNNING_INFO));
        change(&mut member);
        let said = operator.hear();
        assert!(said.code == 1 && said.remark.contains("RINGMQ-3015"), "{said:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "it did not wait for the deadline");
    }
    assert!(server.stop().success());
}

/// A topic that gains a queue keeps its held pulls.
#[test]
fn a_held_pull_on_a_topic_that_grows_stays_held() {
    let (said, _) = heard_after(|operator| {
        assert_eq!(operator.set_topic("t", 3, 6).code, 0);
        assert_eq!(operator.send("t", 1, b"it waits for this").code, 0);
    });
    assert_eq!(said.code, 0, "{said:?}");
}

/// Commits share one entry per second, so this one is waiting when its topic is deleted.
#[test]
fn a_waiting_commit_on_a_deleted_topic_ends_at_once() {
    let scratch = Scratch::new("commit-gone");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut operator = Client::connect(local(port + 3));
    for topic in ["kept", "t"] {
        assert_eq!(operator.set_topic(topic, 1, 6).code, 0);
    }
    let commit = |topic: &str, offset: u32| {
        json!({"consumerGroup": "field", "topic": topic, "queueId": "0",
            "commitOffset": offset.to_string()})
    };
    let mut consumer = Client::connect(local(port + 3));
    assert_eq!(consumer.ask(COMMIT_OFFSET, &commit("kept", 1), b"").code, 0);
    let waiting = consumer.say(COMMIT_OFFSET, &commit("t", 1), b"");
    assert_eq!(consumer.send("kept", 0, b"x").code, 0);
    assert_eq!(operator.ask(DELETE_TOPIC, &json!({"topic": "t"}), b"").code, 0);
    let said = consumer.hear();
    assert_eq!((said.opaque, said.code), (i64::from(waiting), 17), "{said:?}");
    assert!(server.stop().success());
}
