//! "Last updated: never" for a topic that has messages, once it has been idle for a while.
//!
//! Kind of report: "topicStatus shows 1970 as the last update time" (dashboards, and cleaners that
//! delete what was never used).
//!
//! Source: apache/rocketmq issue 10722, of topics whose last store time cannot be read.

use serde_json::{Value, json};

use crate::client::{Client, MIN_OFFSET, PULL, TOPIC_STATS};
use crate::server::{Scratch, Server, free_ports, local, run, wait_until};

/// Returns the store time of the newest message in the topic's first queue, according to the
/// broker.
fn last_update(client: &mut Client, topic: &str) -> i64 {
    let said = client.ask(TOPIC_STATS, &json!({"topic": topic}), b"");
    assert_eq!(said.code, 0, "{said:?}");
    let text = String::from_utf8(said.body).unwrap();
    let queue = r#""queueId":0"#;
    // The map has objects as keys, which is not JSON, so this searches the text.
    let (_, row) = text.split_once(queue).unwrap();
    let (_, value) = row.split_once(r#""lastUpdateTimestamp":"#).unwrap();
    value.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn the_time_of_the_newest_message_survives_sealing_and_restarts() {
    let scratch = Scratch::new("last-stored");
    let port = free_ports();
    let more = ["--segment-size", "1MiB"];
    let server = Server::dev(&scratch, port, &more);
    let mut client = Client::connect(local(port + 3));
    for topic in ["idle", "busy"] {
        assert_eq!(client.set_topic(topic, 2, 6).code, 0);
    }
    assert_eq!(last_update(&mut client, "idle"), 0, "it has no message");
    assert_eq!(client.send("idle", 0, b"once").code, 0);
    let stored_at = last_update(&mut client, "idle");
    assert!(stored_at > 1_700_000_000_000, "{stored_at}");
    for _ in 0..120 {
        assert_eq!(client.send("busy", 0, &vec![b'x'; 50_000]).code, 0);
    }
    let data = scratch.path("data/shard-00");
    let has_index = || {
        let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".index")).count() > 2
    };
    wait_until("segments are sealed", has_index);
    assert_eq!(last_update(&mut client, "idle"), stored_at);
    assert!(server.stop().success());

    let server = Server::dev(&scratch, port, &more);
    let mut client = Client::connect(local(port + 3));
    assert_eq!(last_update(&mut client, "idle"), stored_at);
    let namesrv = local(port).to_string();
    let said = run(&["topic", "describe", "idle", "-o", "json", "--namesrv", &namesrv]);
    let queues: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(queues[0]["last_stored_at_ms"], stored_at);
    assert_eq!(queues[1]["last_stored_at_ms"], Value::Null);
    let said = run(&["topic", "describe", "idle", "--namesrv", &namesrv]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("LAST STORED (UTC)"), "{said:?}");
    assert_eq!(client.ask(PULL, &Client::pull_fields("idle", 0, 0, 0), b"").code, 0);
    assert!(server.stop().success());
}

#[test]
fn the_time_of_the_newest_message_survives_the_message() {
    let scratch = Scratch::new("last-expired");
    let port = free_ports();
    let more = ["--segment-size", "1MiB", "--retention-size", "4MiB"];
    let server = Server::dev(&scratch, port, &more);
    let mut client = Client::connect(local(port + 3));
    for topic in ["idle", "busy"] {
        assert_eq!(client.set_topic(topic, 2, 6).code, 0);
    }
    assert_eq!(client.send("idle", 0, b"once").code, 0);
    let stored_at = last_update(&mut client, "idle");
    let min_offset = |client: &mut Client| {
        let said = client.ask(MIN_OFFSET, &json!({"topic": "idle", "queueId": "0"}), b"");
        said.number("offset")
    };
    let body = vec![b'x'; 50_000];
    wait_until("retention has removed the only message", || {
        assert_eq!(client.send("busy", 0, &body).code, 0);
        min_offset(&mut client) == 1
    });
    assert_eq!(last_update(&mut client, "idle"), stored_at);
    // It is killed, so the last snapshot may be older than what retention has done since.
    drop(server);

    for _ in 0..2 {
        let server = Server::dev(&scratch, port, &more);
        let mut client = Client::connect(local(port + 3));
        assert_eq!(min_offset(&mut client), 1);
        assert_eq!(last_update(&mut client, "idle"), stored_at);
        assert!(server.stop().success());
    }
    let server = Server::dev(&scratch, port, &more);
    let mut client = Client::connect(local(port + 3));
    assert_eq!(client.send("idle", 0, b"again").code, 0);
    assert!(last_update(&mut client, "idle") > stored_at);
    assert!(server.stop().success());
}
