//! kill -9 under load: no acknowledged message may be missing or misplaced, and none invented.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringmq::client::consumer::{ConsumerOptions, Event, QueueRef};
use ringmq::client::producer::{Delivery, Message, ProducerOptions, Target, Ticket};
use ringmq::client::{ClientOptions, Consumer, Producer};
use ringmq::model::{GroupName, QueueId, QueueOffset, TopicName};
use ringmq::sim::Rng;

use crate::server::{PATIENCE, Ports, Scratch, Server, run};

const ROUNDS: u64 = 20;
const PRODUCERS: u32 = 3;
/// Messages in flight per producer.
const UNDER_WAY: usize = 64;

/// Where a message was acknowledged.
type Place = (String, u32, u64);

/// Shared by the producers and the test.
#[derive(Default)]
struct Progress {
    is_over: AtomicBool,
    acknowledged: [AtomicU64; PRODUCERS as usize],
}

impl Progress {
    /// Waits until every producer has got a new acknowledgement.
    fn wait_for_more(&self) {
        let now = || self.acknowledged.each_ref().map(|one| one.load(Ordering::Relaxed));
        let (before, deadline) = (now(), Instant::now() + PATIENCE);
        while now().iter().zip(before).any(|(now, before)| *now == before) {
            assert!(Instant::now() < deadline, "nothing more is acknowledged: {:?}", now());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The history of one producer.
#[derive(Default)]
struct History {
    sent: u64,
    acknowledged: BTreeMap<u64, Place>,
}

fn topic() -> TopicName {
    TopicName::new("crash").unwrap()
}

pub fn client(ports: Ports, name: &str) -> ClientOptions {
    let options = ClientOptions::new(ports.nameserver_address().to_string());
    ClientOptions { client_id: name.to_owned(), ..options }
}

/// Sends numbered messages to one queue until told to stop, regardless of what happens to the
/// broker.
fn produce(ports: Ports, producer: u32, progress: &Progress) -> History {
    let group = GroupName::new("crashers").unwrap();
    let options = ProducerOptions::new(client(ports, &format!("p{producer}")), group);
    let mut sender = Producer::new(options).unwrap();
    let target = Target::Queue { broker: "s00-broker-a".into(), queue: QueueId(producer) };
    let mut history = History::default();
    let mut numbers: HashMap<Ticket, u64> = HashMap::new();
    while !progress.is_over.load(Ordering::Relaxed) {
        while numbers.len() < UNDER_WAY {
            let number = history.sent;
            let mut body = format!("{producer} {number} ").into_bytes();
            body.resize(body.len() + (number * 7919 % 3000) as usize, b'x');
            let message = Message { target: target.clone(), ..Message::new(topic(), body) };
            // Refused while the broker is down: nothing was sent.
            let Ok(ticket) = sender.send(message) else { break };
            history.sent += 1;
            numbers.insert(ticket, number);
        }
        for outcome in sender.poll(20) {
            note(&mut history, &mut numbers, outcome.ticket, outcome.delivery);
        }
        let acknowledged = history.acknowledged.len() as u64;
        progress.acknowledged[producer as usize].store(acknowledged, Ordering::Relaxed);
    }
    for outcome in sender.close() {
        note(&mut history, &mut numbers, outcome.ticket, outcome.delivery);
    }
    history
}

fn note(
    history: &mut History,
    numbers: &mut HashMap<Ticket, u64>,
    ticket: Ticket,
    delivery: Delivery,
) {
    let number = numbers.remove(&ticket).expect("an outcome of a message that was sent");
    if let Delivery::Stored { broker, queue, offset, .. } = delivery {
        history.acknowledged.insert(number, (broker.to_string(), queue.0, offset.0));
    }
}

/// All messages of one queue, in order: producer and number of each.
pub fn read_queue(consumer: &mut Consumer, queue: &QueueRef) -> Vec<(u32, u64)> {
    let end = consumer.max_offset(queue).unwrap();
    consumer.assign(queue.clone(), QueueOffset(0));
    let mut found = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while (found.len() as u64) < end.0 {
        assert!(Instant::now() < deadline, "{} of {end} messages read", found.len());
        for event in consumer.fetch(1000) {
            let Event::Messages(fetched) = event else { panic!("{event:?}") };
            for record in fetched.records() {
                let record = record.unwrap();
                assert_eq!(record.queue_offset.0, found.len() as u64, "a gap");
                let text = String::from_utf8_lossy(record.body);
                let mut words = text.split(' ');
                let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                found.push((number() as u32, number()));
            }
        }
    }
    consumer.unassign(queue);
    found
}

#[test]
fn every_acknowledged_message_survives_kill_9() {
    let scratch = Scratch::new("crash");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    let mut server = Server::dev(&data, ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    assert!(run(&["topic", "create", "crash", "--namesrv", &namesrv]).status.success());

    let progress = Arc::new(Progress::default());
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let progress = progress.clone();
            std::thread::spawn(move || produce(ports, producer, &progress))
        })
        .collect();
    let mut rng = Rng::from_seed(0x11_11);
    for _ in 0..ROUNDS {
        progress.wait_for_more();
        // Not a wait for a state: this makes the moment of the kill random.
        std::thread::sleep(Duration::from_micros(rng.below(100_000)));
        server.kill();
        server = Server::dev(&data, ports, 1);
    }
    progress.wait_for_more();
    progress.is_over.store(true, Ordering::Relaxed);
    let histories: Vec<History> = producers.into_iter().map(|one| one.join().unwrap()).collect();

    let mut consumer = Consumer::new(ConsumerOptions::new(client(ports, "auditor"))).unwrap();
    for (producer, history) in histories.iter().enumerate() {
        let acknowledged = history.acknowledged.len();
        assert!(acknowledged as u64 > ROUNDS, "only {acknowledged} acknowledged: no load at all");
        let broker = "s00-broker-a".to_owned();
        let queue = QueueRef { topic: topic(), broker, queue: QueueId(producer as u32) };
        let found = read_queue(&mut consumer, &queue);
        for (number, (broker, queue, offset)) in &history.acknowledged {
            let there = found.get(*offset as usize);
            assert_eq!(there, Some(&(producer as u32, *number)), "{broker} {queue}@{offset}");
        }
        let numbers: Vec<u64> = found.iter().map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice");
        assert!(numbers.iter().all(|number| *number < history.sent), "invented");
        println!("producer {producer}: {} sent, {acknowledged} acknowledged", history.sent);
    }
    assert!(server.terminate().success());
}
