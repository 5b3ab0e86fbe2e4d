//! Delayed messages over real sockets: none is early, lost or duplicated, even across kill -9.

use std::collections::BTreeMap;
use std::time::Instant;

use ringmq::client::consumer::{ConsumerOptions, Event, QueueRef};
use ringmq::client::producer::{Delivery, Message, ProducerOptions};
use ringmq::client::{Consumer, Producer};
use ringmq::model::record::property;
use ringmq::model::{GroupName, QueueOffset, TopicName};

use crate::crash::client;
use crate::server::{PATIENCE, Ports, Scratch, Server, run};

const LEVELS_MS: [u64; 3] = [200, 1_000, 3_000];
const COUNT: u64 = 300;

/// Sends messages whose bodies contain their number and minimum delay, and waits until all of them
/// are acknowledged.
fn send_all(ports: Ports) {
    let group = GroupName::new("senders").unwrap();
    let options = ProducerOptions::new(client(ports, "sender"), group);
    let mut producer = Producer::new(options).unwrap();
    let (mut left, deadline) = (0, Instant::now() + PATIENCE);
    for number in 0..COUNT {
        let level = (number % 4) as usize;
        let (property, delay_ms) = match level {
            3 => (("TIMER_DELAY_MS".to_owned(), "2500".to_owned()), 2_500),
            level => (("DELAY".to_owned(), (level + 1).to_string()), LEVELS_MS[level]),
        };
        let topic = TopicName::new("later").unwrap();
        let mut message = Message::new(topic, format!("{number} {delay_ms}"));
        message.properties.push(property);
        producer.send(message).unwrap();
        left += 1;
    }
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} are not acknowledged");
        for outcome in producer.poll(20) {
            assert!(matches!(outcome.delivery, Delivery::Stored { .. }), "{outcome:?}");
            left -= 1;
        }
    }
    producer.close();
}

/// Waits for all messages and checks when each was delivered, by the broker's clock.
fn receive_all(ports: Ports) {
    let mut consumer = Consumer::new(ConsumerOptions::new(client(ports, "reader"))).unwrap();
    let topic = TopicName::new("later").unwrap();
    let queues: Vec<QueueRef> = consumer.queues(&topic).unwrap();
    queues.into_iter().for_each(|queue| consumer.assign(queue, QueueOffset(0)));
    let (mut times, deadline) = (BTreeMap::new(), Instant::now() + PATIENCE);
    while (times.len() as u64) < COUNT {
        assert!(Instant::now() < deadline, "{} of {COUNT} came", times.len());
        for event in consumer.fetch(100) {
            let Event::Messages(fetched) = event else { panic!("{event:?}") };
            for record in fetched.records() {
                let record = record.unwrap();
                let text = std::str::from_utf8(record.body).unwrap();
                let (number, delay_ms) = text.split_once(' ').unwrap();
                let waited_ms = record.stored_at.ms_since(record.born_at);
                assert!(waited_ms >= delay_ms.parse().unwrap(), "{text}: after {waited_ms} ms");
                assert_eq!(property(record.properties, "DELAY"), None);
                assert_eq!(property(record.properties, "REAL_TOPIC"), Some(&b"later"[..]));
                *times.entry(number.to_owned()).or_insert(0) += 1;
            }
        }
    }
    assert!(times.values().all(|times| *times == 1), "delivered twice: {times:?}");
}

#[test]
fn delayed_messages_arrive_once_and_not_early_across_kill_9() {
    let scratch = Scratch::new("delay");
    let (data, ports) = (scratch.0.join("data"), Ports::free());
    let levels = LEVELS_MS.map(|ms| format!("{ms}ms")).join(" ");
    let start = || Server::dev_with(&data, ports, 1, &["--delay-levels", &levels]);
    let server = start();
    let namesrv = ports.nameserver_address().to_string();
    assert!(run(&["topic", "create", "later", "--namesrv", &namesrv]).status.success());
    send_all(ports);
    server.kill();
    let server = start();
    receive_all(ports);
    assert!(server.terminate().success());
}
