use std::sync::{Arc, Mutex};

use super::*;
use crate::client::blocking::testing::{Scripted, Server, record, route_to};
use crate::client::remote;
use crate::model::{NameServerReply, Refusal, Reply};

/// A broker with two queues that hold messages with these `bodies`; the first `gone` are not
/// retained.
#[derive(Clone, Default)]
struct Log {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    gone: u64,
    /// Number of pulls to refuse first.
    busy: Arc<Mutex<usize>>,
    pulls: Arc<Mutex<Vec<HeaderEncoding>>>,
    committed: Arc<Mutex<Option<i64>>>,
}

impl Log {
    fn of(bodies: &[&str]) -> Self {
        let bodies = bodies.iter().map(|body| body.as_bytes().to_vec()).collect();
        Self { bodies: Arc::new(Mutex::new(bodies)), ..Self::default() }
    }

    fn serve(self, speaks_fixed: bool) -> Server {
        Server::start(move |request, encoding| match request {
            Request::Heartbeat(_) if speaks_fixed => Scripted::Give(Ok(Reply::HeartbeatTaken)),
            Request::Heartbeat(_) => Scripted::Give(Ok(Reply::Done)),
            Request::Pull(pull) => {
                self.pulls.lock().unwrap().push(encoding);
                self.pull(pull)
            }
            Request::MinOffset(_) => Scripted::Give(Ok(Reply::Offset(QueueOffset(self.gone)))),
            Request::MaxOffset(_) => Scripted::Give(Ok(Reply::Offset(self.end()))),
            Request::OffsetByTime { at, .. } => {
                Scripted::Give(Ok(Reply::Offset(QueueOffset(at.0))))
            }
            Request::CommitOffset { offset, .. } => {
                *self.committed.lock().unwrap() = Some(*offset);
                Scripted::Give(Ok(Reply::Done))
            }
            Request::CommittedOffset { group, .. } => {
                let committed = self.committed.lock().unwrap();
                let offset = committed.map(|offset| Reply::Offset(QueueOffset(offset as u64)));
                Scripted::Give(offset.ok_or_else(|| Refusal::NoOffset(group.clone())))
            }
            other => panic!("{other:?}"),
        })
    }

    fn end(&self) -> QueueOffset {
        QueueOffset(self.bodies.lock().unwrap().len() as u64)
    }

    fn pull(&self, pull: &Pull) -> Scripted {
        let mut busy = self.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Scripted::Give(Err(Refusal::ShuttingDown));
        }
        let (from, end) = (pull.offset as u64, self.end());
        let (status, next) = match from {
            _ if from < self.gone => (PullStatus::OffsetMoved, self.gone),
            _ if from > end.0 => (PullStatus::OffsetMoved, end.0),
            _ if from == end.0 => (PullStatus::NothingNew, from),
            _ => (PullStatus::Found, end.0.min(from + u64::from(pull.count_max))),
        };
        let range = if status == PullStatus::Found { from..next } else { 0..0 };
        let pulled = Pulled {
            status,
            next_offset: QueueOffset(next),
            min_offset: QueueOffset(self.gone),
            max_offset: end,
            count: range.clone().count() as u32,
            read_from: 0,
        };
        let records = range.flat_map(|offset| self.record(pull, offset)).collect();
        Scripted::GiveWith(Reply::Pulled(pulled), records)
    }

    fn record(&self, pull: &Pull, offset: u64) -> Vec<u8> {
        let (Pull { queue, .. }, bodies) = (pull, self.bodies.lock().unwrap());
        let body = &bodies[offset as usize];
        record(queue.topic.as_str(), queue.queue, QueueOffset(offset), b"", body)
    }
}

fn nameserver(broker: &str) -> Server {
    let route = route_to([("b".to_owned(), broker)], 2, 6);
    Server::start_nameserver(move |_| Scripted::Give(Ok(NameServerReply::Route(route.clone()))))
}

fn consumer(nameserver: &Server, count_max: u32) -> Consumer {
    let client = remote::ClientOptions::new(&*nameserver.address);
    // The servers here never hold a request.
    let options = ConsumerOptions { count_max, hold_ms: 0, ..ConsumerOptions::new(client) };
    Consumer::new(options).unwrap()
}

fn queue(number: u32) -> QueueRef {
    let topic = TopicName::new("T").unwrap();
    QueueRef { topic, broker: "b".to_owned(), queue: QueueId(number) }
}

/// Fetches until there are `count` messages. Returns them as `queue:offset:body`, and other events.
fn read(consumer: &mut Consumer, count: usize) -> (Vec<String>, Vec<String>) {
    let (mut messages, mut others) = (Vec::new(), Vec::new());
    let deadline = consumer.remote.now().plus_ms(20_000);
    while messages.len() < count {
        assert!(consumer.remote.now() < deadline, "{messages:?} {others:?}");
        for event in consumer.fetch(100) {
            match event {
                Event::Messages(fetched) => {
                    let count = messages.len() + fetched.count as usize;
                    messages.extend(fetched.records().map(|record| {
                        let record = record.unwrap();
                        let body = String::from_utf8_lossy(record.body).into_owned();
                        format!("{}:{}:{body}", record.queue.0, record.queue_offset)
                    }));
                    assert_eq!(messages.len(), count);
                }
                Event::Moved { from, to, .. } => others.push(format!("moved {from} to {to}")),
                Event::Passed { queue, .. } => panic!("{queue:?} has no filter"),
                Event::Trouble { error, .. } => others.push(error.to_string()),
            }
        }
    }
    messages.sort();
    (messages, others)
}

#[test]
fn assigned_queues_are_read_in_either_encoding() {
    for (speaks_fixed, encoding) in [(true, HeaderEncoding::Fixed), (false, HeaderEncoding::Json)] {
        let log = Log::of(&["a", "b", "c", "d", "e"]);
        let broker = log.clone().serve(speaks_fixed);
        let nameserver = nameserver(&broker.address);
        let mut consumer = consumer(&nameserver, 2);
        let queues = consumer.queues(&queue(0).topic).unwrap();
        assert_eq!(queues, [queue(0), queue(1)]);
        consumer.assign(queue(0), QueueOffset(0));
        consumer.assign(queue(1), QueueOffset(3));
        let (messages, others) = read(&mut consumer, 7);
        let expected = ["0:0:a", "0:1:b", "0:2:c", "0:3:d", "0:4:e", "1:3:d", "1:4:e"];
        assert_eq!(messages, expected);
        assert_eq!(others, [""; 0]);
        assert_eq!(consumer.position(&queue(1)), Some(QueueOffset(5)));
        assert!(log.pulls.lock().unwrap().iter().all(|used| *used == encoding), "{encoding:?}");
    }
}

#[test]
fn reading_goes_on_where_the_queue_begins_or_ends() {
    let rows = [(0, "moved 0 to 2", 1), (9, "moved 9 to 3", 0)];
    for (from, expected, count) in rows {
        let log = Log { gone: 2, ..Log::of(&["a", "b", "c"]) };
        let broker = log.serve(true);
        let nameserver = nameserver(&broker.address);
        let mut consumer = consumer(&nameserver, 2);
        consumer.assign(queue(0), QueueOffset(from));
        let mut others = Vec::new();
        while others.is_empty() {
            others = consumer.fetch(1_000);
        }
        let [Event::Moved { from, to, .. }] = &others[..] else { panic!("{others:?}") };
        assert_eq!(format!("moved {from} to {to}"), expected);
        assert_eq!(read(&mut consumer, count).0.len(), count);
    }
}

#[test]
fn trouble_is_told_and_passes() {
    let log = Log { busy: Arc::new(Mutex::new(2)), ..Log::of(&["a"]) };
    let broker = log.serve(true);
    let nameserver = nameserver(&broker.address);
    let mut consumer = consumer(&nameserver, 2);
    consumer.assign(queue(0), QueueOffset(0));
    let (messages, others) = read(&mut consumer, 1);
    assert_eq!(messages, ["0:0:a"]);
    assert_eq!(others.len(), 2, "{others:?}");
    broker.cut_connections();
    consumer.assign(queue(0), QueueOffset(0));
    assert_eq!(read(&mut consumer, 1).0, ["0:0:a"], "a lost connection is opened anew");
}

#[test]
fn an_answer_from_before_a_jump_is_dropped() {
    let log = Log::of(&["a", "b", "c"]);
    let broker = log.serve(true);
    let nameserver = nameserver(&broker.address);
    let mut consumer = consumer(&nameserver, 1);
    consumer.assign(queue(0), QueueOffset(0));
    assert_eq!(read(&mut consumer, 1).0, ["0:0:a"]);
    // A request for offset 1 is sent, and the consumer seeks before the reply is handled.
    consumer.start_due();
    consumer.assign(queue(0), QueueOffset(2));
    assert_eq!(read(&mut consumer, 1).0, ["0:2:c"]);
}

#[test]
fn offsets_are_looked_up_and_committed() {
    let log = Log { gone: 1, ..Log::of(&["a", "b", "c"]) };
    let broker = log.serve(true);
    let nameserver = nameserver(&broker.address);
    let mut consumer = consumer(&nameserver, 1);
    let group = GroupName::new("g").unwrap();
    assert_eq!(consumer.min_offset(&queue(0)), Ok(QueueOffset(1)));
    assert_eq!(consumer.max_offset(&queue(0)), Ok(QueueOffset(3)));
    assert_eq!(consumer.offset_at(&queue(0), Timestamp(2)), Ok(QueueOffset(2)));
    assert_eq!(consumer.committed(&group, &queue(0)), Ok(None));
    assert_eq!(consumer.commit(&group, &queue(0), QueueOffset(2)), Ok(()));
    assert_eq!(consumer.committed(&group, &queue(0)), Ok(Some(QueueOffset(2))));
    let elsewhere = QueueRef { broker: "x".to_owned(), ..queue(0) };
    let error = consumer.min_offset(&elsewhere).unwrap_err();
    assert!(matches!(error, ClientError::UnknownBroker { .. }), "{error}");
}
