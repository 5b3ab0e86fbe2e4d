use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::client::blocking::testing::{Scripted, Server, dead_address, route_to};
use crate::model::batch::{BatchItems, Records};
use crate::model::record::Host;
use crate::model::reply::Produced;
use crate::model::{LogOffset, NameServerReply, NameServerRequest, QueueOffset, Reply, Request};

/// A broker that keeps the bodies of each queue. `judge` may reply instead of storing; it gets the
/// number of the produce request, counted from 0.
struct Broker {
    server: Server,
    stored: Arc<Mutex<Stored>>,
}

#[derive(Default)]
struct Stored {
    requests: usize,
    encodings: Vec<HeaderEncoding>,
    queues: BTreeMap<u32, Vec<Vec<u8>>>,
}

impl Broker {
    fn new(judge: impl Fn(usize) -> Option<Scripted> + Send + Sync + 'static) -> Self {
        Self::that(true, judge)
    }

    fn that(
        speaks_fixed: bool,
        judge: impl Fn(usize) -> Option<Scripted> + Send + Sync + 'static,
    ) -> Self {
        let stored: Arc<Mutex<Stored>> = Arc::default();
        let kept = stored.clone();
        let server = Server::start(move |request, encoding| {
            let mut stored = kept.lock().unwrap();
            let (queue, bodies) = match request {
                Request::Heartbeat(_) if speaks_fixed => {
                    return Scripted::Give(Ok(Reply::HeartbeatTaken));
                }
                Request::Heartbeat(_) | Request::Unregister { .. } => {
                    return Scripted::Give(Ok(Reply::Done));
                }
                Request::ProduceRecords(batch) => {
                    let records = Records::new(&batch.records);
                    (batch.queue, records.map(|record| record.unwrap().body.to_vec()).collect())
                }
                Request::Produce(produce) => (produce.queue.unwrap(), bodies_of(produce)),
                other => panic!("{other:?}"),
            };
            let number = stored.requests;
            stored.requests += 1;
            stored.encodings.push(encoding);
            if let Some(answer) = judge(number) {
                return answer;
            }
            let bodies: Vec<Vec<u8>> = bodies;
            let of_queue = stored.queues.entry(queue.0).or_default();
            let produced = Produced {
                queue,
                queue_offset: QueueOffset(of_queue.len() as u64),
                positions: bodies.iter().map(|_| LogOffset(0)).collect(),
                store_host: Host { address: [127, 0, 0, 1], port: 1.into() },
                recall_handle: None,
            };
            of_queue.extend(bodies);
            Scripted::Give(Ok(Reply::Produced(produced)))
        });
        Self { server, stored }
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        let stored = self.stored.lock().unwrap();
        let mut bodies: Vec<Vec<u8>> = stored.queues.values().flatten().cloned().collect();
        bodies.sort();
        bodies
    }
}

fn bodies_of(produce: &crate::model::request::Produce) -> Vec<Vec<u8>> {
    if produce.is_batch {
        BatchItems::new(&produce.body).map(|item| item.unwrap().body.to_vec()).collect()
    } else {
        vec![produce.body.to_vec()]
    }
}

fn always(_: usize) -> Option<Scripted> {
    None
}

fn refuse(refusal: Refusal) -> Scripted {
    Scripted::Give(Err(refusal))
}

fn busy() -> Refusal {
    Refusal::Busy { reason: "test", wait_ms: 0, retry_after_ms: 5, shard: 0 }
}

/// A route to brokers at these addresses, four queues each; they are called `b0`, `b1`, ….
fn route(addresses: &[&str], perm: u32) -> Route {
    let named = addresses.iter().enumerate();
    route_to(named.map(|(index, address)| (format!("b{index}"), *address)), 4, perm)
}

fn nameserver(topic: &'static str, addresses: &[&str]) -> Server {
    let route = route(addresses, 7);
    Server::start_nameserver(move |request| match request {
        NameServerRequest::Route { topic: wanted } if wanted == topic => {
            Scripted::Give(Ok(NameServerReply::Route(route.clone())))
        }
        NameServerRequest::Route { topic } => {
            Scripted::Give(Err(Refusal::UnknownRoute(topic.to_string())))
        }
        other => panic!("{other:?}"),
    })
}

fn producer(nameservers: &str) -> ProducerOptions {
    let mut options = ProducerOptions::new(
        ClientOptions { call_timeout_ms: 2_000, ..ClientOptions::new(nameservers) },
        GroupName::new("g").unwrap(),
    );
    options.outbox.backoff_ms = 1;
    options
}

fn topic() -> TopicName {
    TopicName::new("T").unwrap()
}

fn message(number: usize) -> Message {
    Message::new(topic(), format!("{number:04}"))
}

fn send_all(producer: &mut Producer, count: usize) {
    for number in 0..count {
        assert_eq!(producer.send(message(number)), Ok(Ticket(number as u64)));
    }
}

fn expected_bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{number:04}").into_bytes()).collect()
}

fn stored_count(outcomes: &[Outcome]) -> usize {
    let is_stored = |outcome: &&Outcome| matches!(outcome.delivery, Delivery::Stored { .. });
    outcomes.iter().filter(is_stored).count()
}

#[test]
fn all_that_was_sent_is_stored_when_the_producer_closes() {
    for (speaks_fixed, encoding) in [(true, HeaderEncoding::Fixed), (false, HeaderEncoding::Json)] {
        let brokers = [Broker::that(speaks_fixed, always), Broker::that(speaks_fixed, always)];
        let addresses = brokers.each_ref().map(|broker| broker.server.address.as_str());
        let nameserver = nameserver("T", &addresses);
        let mut options = producer(&nameserver.address);
        options.outbox.batch_count_max = 100;
        let mut producer = Producer::new(options).unwrap();
        send_all(&mut producer, 1_000);
        let outcomes = producer.close();
        assert_eq!(stored_count(&outcomes), 1_000);
        let mut bodies: Vec<Vec<u8>> = brokers.iter().flat_map(Broker::bodies).collect();
        bodies.sort();
        assert_eq!(bodies, expected_bodies(1_000));
        for broker in &brokers {
            let stored = broker.stored.lock().unwrap();
            assert!(!stored.encodings.is_empty(), "both brokers have their share");
            assert!(stored.encodings.iter().all(|used| *used == encoding), "{encoding:?}");
        }
    }
}

#[test]
fn outcomes_say_where_each_message_is() {
    let broker = Broker::new(always);
    let nameserver = nameserver("T", &[&broker.server.address]);
    let mut producer = Producer::new(producer(&nameserver.address)).unwrap();
    for number in 0..50 {
        let target = Target::Queue { broker: "b0".to_owned(), queue: QueueId(number as u32 % 4) };
        producer.send(Message { target, ..message(number) }).unwrap();
    }
    let outcomes = producer.close();
    let stored = broker.stored.lock().unwrap();
    assert_eq!(outcomes.len(), 50);
    for Outcome { ticket, delivery } in outcomes {
        let Delivery::Stored { queue, offset, .. } = delivery else { panic!("{delivery:?}") };
        let body = &stored.queues[&queue.0][offset.0 as usize];
        assert_eq!(*body, format!("{:04}", ticket.0).into_bytes());
    }
}

#[test]
fn a_key_keeps_its_queue_and_its_order_while_the_broker_is_busy() {
    let broker = Broker::new(|number| (number % 3 != 2).then(|| refuse(busy())));
    let nameserver = nameserver("T", &[&broker.server.address]);
    let mut options = producer(&nameserver.address);
    options.outbox.batch_count_max = 7;
    let mut producer = Producer::new(options).unwrap();
    for number in 0..100 {
        let target = Target::Key("customer 7".into());
        producer.send(Message { target, ..message(number) }).unwrap();
    }
    assert_eq!(stored_count(&producer.close()), 100);
    let stored = broker.stored.lock().unwrap();
    assert_eq!(stored.queues.len(), 1);
    assert_eq!(stored.queues.values().next(), Some(&expected_bodies(100)));
}

#[test]
fn a_broker_that_is_gone_is_passed_over() {
    let broker = Broker::new(always);
    let nameserver = nameserver("T", &[&dead_address(), &broker.server.address]);
    let mut options = producer(&nameserver.address);
    options.outbox.batch_count_max = 10;
    let mut producer = Producer::new(options).unwrap();
    send_all(&mut producer, 100);
    assert_eq!(stored_count(&producer.close()), 100);
    assert_eq!(broker.bodies(), expected_bodies(100));
}

/// One row: what the broker does, and the outcome that the producer then reports for the message.
#[test]
fn the_outcome_is_what_is_known() {
    type Judge = fn(usize) -> Option<Scripted>;
    let rows: [(&str, Judge, bool, &str); 7] = [
        ("stored", |_| None, false, "stored"),
        ("refused for good", |_| Some(refuse(Refusal::EmptyBody)), false, "refused 13"),
        (
            "refused too often",
            |_| Some(refuse(Refusal::UnknownTopic(topic()))),
            false,
            "refused 17",
        ),
        ("hung up", |_| Some(Scripted::HangUp), false, "unknown"),
        ("silent", |_| Some(Scripted::Silence), false, "unknown"),
        ("fenced on the way", |_| Some(refuse(Refusal::OutcomeUnknown)), false, "unknown"),
        ("hung up once", |number| (number == 0).then_some(Scripted::HangUp), true, "stored"),
    ];
    for (case, judge, repeat_unknown, expected) in rows {
        let broker = Broker::new(judge);
        let nameserver = nameserver("T", &[&broker.server.address]);
        let mut options = ProducerOptions { repeat_unknown, ..producer(&nameserver.address) };
        options.client.call_timeout_ms = 1_000;
        let mut producer = Producer::new(options).unwrap();
        producer.send(message(0)).unwrap();
        let outcomes = producer.close();
        let said = match &outcomes[..] {
            [Outcome { delivery: Delivery::Stored { .. }, .. }] => "stored".to_owned(),
            [Outcome { delivery: Delivery::Refused { code: Some(code), .. }, .. }] => {
                format!("refused {code}")
            }
            [Outcome { delivery: Delivery::Unknown { .. }, .. }] => "unknown".to_owned(),
            other => panic!("{case}: {other:?}"),
        };
        assert_eq!(said, expected, "{case}");
    }
}

#[test]
fn messages_that_nobody_takes_are_given_up_in_time() {
    let nameserver = nameserver("T", &[&dead_address()]);
    let mut options = producer(&nameserver.address);
    options.outbox.delivery_timeout_ms = 100;
    let mut producer = Producer::new(options).unwrap();
    send_all(&mut producer, 10);
    let outcomes = producer.close();
    assert_eq!(outcomes.len(), 10);
    for outcome in outcomes {
        let is_refused = matches!(outcome.delivery, Delivery::Refused { code: None, .. });
        assert!(is_refused, "{outcome:?}");
    }
}

#[test]
fn the_loss_of_nameservers_is_survived() {
    let broker = Broker::new(always);
    let nameserver = nameserver("T", &[&broker.server.address]);
    // A NameServer that has just started and knows nothing yet is no better than one that is gone.
    let empty = self::nameserver("U", &[]);
    let list = format!("{};{};{}", dead_address(), empty.address, nameserver.address);
    let mut producer = Producer::new(producer(&list)).unwrap();
    producer.send(message(0)).unwrap();
    assert_eq!(stored_count(&producer.flush()), 1);
    drop(nameserver);
    producer.send(message(1)).unwrap();
    assert_eq!(stored_count(&producer.close()), 1, "what is known goes on without any");
}

#[test]
fn a_topic_that_does_not_exist_is_created_by_sending() {
    let broker = Broker::new(always);
    let nameserver = nameserver(AUTO_CREATE_TEMPLATE, &[&broker.server.address]);
    let mut options = producer(&nameserver.address);
    let mut producer = Producer::new(options.clone()).unwrap();
    producer.send(message(0)).unwrap();
    assert_eq!(stored_count(&producer.close()), 1);
    // Only RocketMQ's own request can ask for a topic to be created.
    assert_eq!(broker.stored.lock().unwrap().encodings, [HeaderEncoding::Json]);

    options.auto_create = false;
    let mut producer = Producer::new(options).unwrap();
    let error = producer.send(message(0)).unwrap_err();
    assert_eq!(error, ClientError::UnknownTopic("T".to_owned()));
}

#[test]
fn messages_that_no_broker_would_take_are_not_taken() {
    let broker = Broker::new(always);
    let nameserver = nameserver("T", &[&broker.server.address]);
    let mut producer = Producer::new(producer(&nameserver.address)).unwrap();
    let property = |name: &str, value: &str| Message {
        properties: vec![(name.to_owned(), value.to_owned())],
        ..message(0)
    };
    let to = |broker: &str, queue| Message {
        target: Target::Queue { broker: broker.to_owned(), queue: QueueId(queue) },
        ..message(0)
    };
    let rows = [
        Message { body: Default::default(), ..message(0) },
        Message { body: vec![0; (4 << 20) + 1].into(), ..message(0) },
        property("", "v"),
        property("n", ""),
        property("n", "a\u{1}b"),
        property("n\u{2}", "v"),
        property("n", &"v".repeat(32_767)),
        to("b0", 4),
        to("b9", 0),
    ];
    for message in rows {
        let what = format!("{:?} {:?}", message.properties.first(), message.target);
        assert!(producer.send(message).is_err(), "{what}");
    }
    assert_eq!(producer.close(), []);
}

#[test]
fn a_topic_that_may_not_be_written_is_no_target() {
    let closed = route(&["127.0.0.1:1"], 4);
    let nameserver = Server::start_nameserver(move |_| {
        Scripted::Give(Ok(NameServerReply::Route(closed.clone())))
    });
    let mut producer = Producer::new(producer(&nameserver.address)).unwrap();
    let error = producer.send(message(0)).unwrap_err();
    assert!(matches!(error, ClientError::NoQueue { .. }), "{error}");
}

#[test]
fn remarks_tell_when_to_come_back() {
    let rows = [
        ("RINGMQ-2001 reason=x wait_ms=1 retry_after_ms=50 shard=3", 50),
        ("retry_after_ms=999999", RETRY_HINT_MAX_MS),
        ("retry_after_ms=soon", 0),
        ("[OVERLOAD]system busy", 0),
    ];
    for (remark, expected_ms) in rows {
        assert_eq!(retry_hint_ms(remark), expected_ms, "{remark}");
    }
}
