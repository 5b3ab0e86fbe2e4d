//! Recalled messages: each is either recalled or delivered, also across power cuts, and nobody can
//! recall what is not theirs to recall.

use std::cell::RefCell;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use ringmq::broker::{Broker, Handled, Origin, Outcome};
use ringmq::model::batch::BatchItem;
use ringmq::model::record::{Host, NewRecord, Placement, RecordView};
use ringmq::model::reply::Produced;
use ringmq::model::request::Produce;
use ringmq::model::{
    GroupName, LogOffset, QueueId, QueueOffset, Refusal, Reply, Request, TopicConfig, TopicName,
};
use ringmq::sim::{self, SimDisk, Tasks, small_store};
use ringmq::storage::StoreConfig;
use ringmq::storage::entry::EntryHeader;

use zerocopy::byteorder::big_endian::U32;

use super::shard::{Clock, broker_config, commit, pull};

const TOPIC: &str = "orders";
const NOBODY: Host = Host { address: [0; 4], port: U32::ZERO };
/// Where the body begins in a record.
const BODY_AT: u64 = 88;

/// Calls `test` with a broker on `disk` that commits and delivers.
fn with_broker(disk: &SimDisk, clock: &Clock, test: impl for<'a> AsyncFnOnce(&'a Broker<SimDisk>)) {
    with_store(disk, small_store(), clock, test);
}

fn with_store(
    disk: &SimDisk,
    store: StoreConfig,
    clock: &Clock,
    test: impl for<'a> AsyncFnOnce(&'a Broker<SimDisk>),
) {
    let config = broker_config(clock.get(), &[1_000]);
    let (broker, _) = sim::run(Broker::open(disk.clone(), store, config)).unwrap();
    let tasks = Tasks::new(1);
    tasks.spawn("committer", commit(&broker));
    tasks.spawn("delivery", async { broker.deliver(clock).await });
    tasks.run_until(async {
        test(&broker).await;
        broker.stop_delivery();
        broker.store().stop();
    });
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name.to_owned()).unwrap()
}

fn message(number: usize, properties: &str) -> Produce {
    Produce {
        group: "senders".into(),
        topic: topic(TOPIC),
        default_topic: "TBW102".into(),
        default_queue_count: 1,
        queue: Some(QueueId(0)),
        system_flag: 0,
        born_at: Clock::BEGIN.wall,
        flag: 0,
        properties: Bytes::from(format!("UNIQ_KEY\x01id-{number}\x02{properties}")),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: Bytes::from(number.to_string()),
    }
}

async fn send(broker: &Broker<SimDisk>, clock: &Clock, message: Produce) -> Produced {
    let outcome = broker.handle(&Request::Produce(message), Origin::default(), clock.get());
    let Handled::Done(Outcome::Committed { mark, reply: Reply::Produced(produced) }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(broker.store().reached(mark).await);
    produced
}

/// Sends a message that is due at the same time as all others with the same delay.
async fn send_due_in(broker: &Broker<SimDisk>, clock: &Clock, number: usize, ms: u64) -> String {
    let delay = format!("TIMER_DELIVER_MS\x01{}\x02", clock.get().wall.0 + ms);
    let produced = send(broker, clock, message(number, &delay)).await;
    produced.recall_handle.expect("it can be recalled").into_string()
}

async fn recall(broker: &Broker<SimDisk>, clock: &Clock, handle: &str) -> Result<Reply, Refusal> {
    let request = Request::Recall { topic: topic(TOPIC), handle: handle.into() };
    broker.operate(&request, clock).await.reply
}

fn recalled(number: usize) -> Result<Reply, Refusal> {
    Ok(Reply::Recalled(format!("id-{number}").into()))
}

fn number_of(result: Result<Reply, Refusal>) -> u16 {
    result.unwrap_err().number()
}

/// Lets `ms` pass; returns the numbers of all messages that consumers can see then, in order.
async fn seen_after(broker: &Broker<SimDisk>, clock: &Clock, ms: u64) -> Vec<usize> {
    for _ in 0..20 {
        clock.pass(ms / 20);
        broker.act(clock.get());
        for _ in 0..40 {
            sim::pause().await;
        }
    }
    let mut seen = Vec::new();
    loop {
        let group = GroupName::new("readers").unwrap();
        let request = pull(group, topic(TOPIC), 0, seen.len() as u64, 32);
        let outcome = match broker.handle(&request, Origin::default(), clock.get()) {
            Handled::Done(Outcome::Cold(task)) => broker.pull_cold(task, clock).await,
            Handled::Done(outcome) => outcome,
            other => panic!("{other:?}"),
        };
        let Outcome::Now(answer) = outcome else { panic!("{outcome:?}") };
        if answer.chunks.is_empty() {
            return seen;
        }
        for chunk in &answer.chunks {
            let mut rest: &[u8] = chunk;
            while !rest.is_empty() {
                let record = RecordView::parse(rest).unwrap();
                seen.push(std::str::from_utf8(record.body).unwrap().parse().unwrap());
                rest = &rest[record.size..];
            }
        }
    }
}

async fn pending(broker: &Broker<SimDisk>, clock: &Clock) -> u64 {
    let request = Request::TopicStats { topic: topic(TOPIC) };
    match broker.operate(&request, clock).await.reply {
        Ok(Reply::TopicStats(stats)) => stats.delayed.expect("all are counted").delayed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recalled_message_is_not_delivered_and_those_around_it_are() {
    let clock = Clock::new();
    with_broker(&SimDisk::new(1), &clock, async |broker| {
        let mut handles = Vec::new();
        for number in 0..6 {
            handles.push(send_due_in(broker, &clock, number, 5_000).await);
        }
        for number in [0, 3, 5] {
            assert_eq!(recall(broker, &clock, &handles[number]).await, recalled(number));
        }
        assert_eq!(pending(broker, &clock).await, 3);
        // The producer may not have seen the first reply.
        assert_eq!(recall(broker, &clock, &handles[3]).await, recalled(3));
        assert_eq!(pending(broker, &clock).await, 3);
        assert_eq!(seen_after(broker, &clock, 10_000).await, [1, 2, 4]);
        assert_eq!(pending(broker, &clock).await, 0);
        assert_eq!(number_of(recall(broker, &clock, &handles[1]).await), 1016, "delivered");
        assert_eq!(seen_after(broker, &clock, 60_000).await.len(), 3);
    });
}

#[test]
fn a_recall_survives_a_crash_in_the_log_and_in_a_snapshot() {
    for is_in_snapshot in [false, true] {
        let (disk, clock) = (SimDisk::new(2), Clock::new());
        let handles = RefCell::new(Vec::new());
        with_broker(&disk, &clock, async |broker| {
            for number in 0..4 {
                let handle = send_due_in(broker, &clock, number, 5_000).await;
                handles.borrow_mut().push(handle);
            }
            let handle = handles.borrow()[2].clone();
            assert_eq!(recall(broker, &clock, &handle).await, recalled(2));
            if is_in_snapshot {
                broker.maintain(clock.get(), true).await.unwrap();
            }
        });
        with_broker(&disk.after_crash(1), &clock, async |broker| {
            assert_eq!(pending(broker, &clock).await, 3);
            let handle = handles.borrow()[2].clone();
            assert_eq!(recall(broker, &clock, &handle).await, recalled(2));
            let handle = handles.borrow()[1].clone();
            assert_eq!(recall(broker, &clock, &handle).await, recalled(1));
            assert_eq!(seen_after(broker, &clock, 10_000).await, [0, 3]);
        });
    }
}

/// A producer whose reply was lost resends, and gets a handle of the message that was stored first.
#[test]
fn the_handle_of_a_resend_is_that_of_the_message() {
    let clock = Clock::new();
    with_broker(&SimDisk::new(3), &clock, async |broker| {
        send_due_in(broker, &clock, 0, 5_000).await;
        let relative = message(1, "TIMER_DELAY_SEC\x015\x02");
        let first = send(broker, &clock, relative.clone()).await;
        clock.pass(1_700);
        let second = send(broker, &clock, relative).await;
        assert_eq!(second.positions, first.positions);
        let handle = second.recall_handle.unwrap();
        assert_eq!(recall(broker, &clock, &handle).await, recalled(1));
        assert_eq!(seen_after(broker, &clock, 20_000).await, [0]);
    });
}

/// Retention stores pending messages again at the end of the log; the handles stay valid.
#[test]
fn a_message_that_was_carried_forward_can_be_recalled() {
    let clock = Clock::new();
    let store = StoreConfig { segment_size: 16 << 10, retention_bytes: 16 << 10, ..small_store() };
    with_store(&SimDisk::new(8), store, &clock, async |broker| {
        let mut handles = Vec::new();
        for number in 0..4 {
            handles.push(send_due_in(broker, &clock, number, 5_000).await);
        }
        let sent_to = broker.store().end();
        for _ in 0..100 {
            let body = Bytes::from(vec![b'x'; 1_000]);
            let filler =
                Produce { body, topic: topic("bills"), properties: Bytes::new(), ..message(9, "") };
            send(broker, &clock, filler).await;
            broker.maintain(clock.get(), true).await.unwrap();
        }
        assert!(broker.store().begin() > sent_to, "retention has deleted where they were");
        for number in [1, 2, 1] {
            assert_eq!(recall(broker, &clock, &handles[number]).await, recalled(number));
        }
        assert_eq!(seen_after(broker, &clock, 20_000).await, [0, 3]);
    });
}

/// Some applications send the same message object again, to begin the delay anew.
#[test]
fn a_message_that_is_sent_again_after_its_recall_is_delivered() {
    for is_snapshot_taken in [false, true] {
        let (disk, clock) = (SimDisk::new(7), Clock::new());
        let again = || message(1, "TIMER_DELAY_SEC\x015\x02");
        let first = RefCell::new(None);
        with_broker(&disk, &clock, async |broker| {
            let sent = send(broker, &clock, again()).await;
            let handle = sent.recall_handle.unwrap();
            assert_eq!(recall(broker, &clock, &handle).await, recalled(1));
            if is_snapshot_taken {
                broker.maintain(clock.get(), true).await.unwrap();
            }
            first.replace(Some(sent.positions[0]));
        });
        with_broker(&disk.after_crash(1), &clock, async |broker| {
            let sent = send(broker, &clock, again()).await;
            assert_ne!(first.take(), Some(sent.positions[0]));
            // From now on it is recognized.
            let positions = send(broker, &clock, again()).await.positions;
            assert_eq!(positions, sent.positions);
            assert_eq!(seen_after(broker, &clock, 20_000).await, [1]);
        });
    }
}

#[test]
fn only_single_messages_with_a_time_have_a_handle() {
    let clock = Clock::new();
    with_broker(&SimDisk::new(4), &clock, async |broker| {
        let timer = "TIMER_DELAY_SEC\x0130\x02";
        let mut items = Vec::new();
        BatchItem { flag: 0, body: b"2", properties: timer.as_bytes() }.write(&mut items);
        let rows = [
            message(0, "TAGS\x01a\x02"),
            message(1, "DELAY\x011\x02"),
            Produce { is_batch: true, body: Bytes::from(items), ..message(2, "") },
            Produce { properties: Bytes::from(timer), ..message(3, "") },
            Produce { topic: topic("%RETRY%readers"), ..message(4, timer) },
            message(5, "TIMER_DELIVER_MS\x011000\x02"),
        ];
        for (nth, row) in rows.into_iter().enumerate() {
            assert_eq!(send(broker, &clock, row).await.recall_handle, None, "row {nth}");
        }
    });
}

#[test]
fn a_handle_of_something_else_is_refused() {
    let clock = Clock::new();
    with_broker(&SimDisk::new(5), &clock, async |broker| {
        let handle = send_due_in(broker, &clock, 0, 5_000).await;
        let mut other = message(1, "");
        other.topic = topic("bills");
        send(broker, &clock, other).await;
        for (name, expected) in [("bills", 1016), ("unknown", 1005)] {
            let request = Request::Recall { topic: topic(name), handle: handle.as_str().into() };
            assert_eq!(number_of(broker.operate(&request, &clock).await.reply), expected);
        }
        let text = String::from_utf8(URL_SAFE.decode(&handle).unwrap()).unwrap();
        let fields: Vec<&str> = text.split(' ').collect();
        let with = |nth: usize, value: &str| {
            let mut fields = fields.clone();
            fields[nth] = value;
            URL_SAFE.encode(fields.join(" "))
        };
        let huge = u64::MAX.to_string();
        let rows = [
            "djEg".to_owned(),
            "%".to_owned(),
            with(0, "v2"),
            with(2, "s01-broker-a"),
            with(4, "id-7"),
            with(3, "7"),
            with(5, "0"),
            with(5, &huge),
            URL_SAFE.encode([&fields[..5], &["0", "0"]].concat().join(" ")),
            URL_SAFE.encode([&fields[..5], &[&huge[..], &huge]].concat().join(" ")),
        ];
        for row in rows {
            assert_eq!(number_of(recall(broker, &clock, &row).await), 1016, "{row}");
        }
        // The due time is needed only to find a message that has been carried forward.
        for row in [with(6, "0"), with(6, &huge)] {
            assert_eq!(recall(broker, &clock, &row).await, recalled(0), "{row}");
        }
    });
}

/// A client can put a record of its own into the body of a message, and make a handle that points to
/// it. That must not recall another client's message.
#[test]
fn a_forged_record_recalls_nothing() {
    let clock = Clock::new();
    with_broker(&SimDisk::new(6), &clock, async |broker| {
        send_due_in(broker, &clock, 0, 5_000).await;
        let handle = send_due_in(broker, &clock, 1, 5_000).await;
        let text = String::from_utf8(URL_SAFE.decode(&handle).unwrap()).unwrap();
        let fields: Vec<&str> = text.split(' ').collect();
        let due_ms: u64 = fields[6].parse().unwrap();
        let forged = |position: u64| {
            let properties =
                format!("UNIQ_KEY\x01mine\x02REAL_TOPIC\x01{TOPIC}\x02TIMER_OUT_MS\x010\x02");
            let record = NewRecord {
                topic: "rmq_sys_wheel_timer",
                queue: QueueId(0),
                flag: 0,
                system_flag: 0,
                born_at: Clock::BEGIN.wall,
                born_host: NOBODY,
                reconsume_times: 0,
                body: b"forged",
                properties: [properties.as_bytes(), &[]],
            };
            let mut bytes = due_ms.to_le_bytes().to_vec();
            bytes.resize(8 + record.size(), 0);
            let placement = Placement {
                // Of the other client's message.
                queue_offset: QueueOffset(0),
                physical_offset: LogOffset(position),
                stored_at: Clock::BEGIN.wall,
                store_host: NOBODY,
            };
            record.write(&placement, &mut bytes[8..]);
            bytes
        };
        broker.operate(&Request::CreateTopic(TopicConfig::new(topic("bodies"), 1)), &clock).await;
        // An entry with one message, in whose body the forged one is.
        let record = broker.store().end().0 + size_of::<EntryHeader>() as u64;
        let position = record + BODY_AT + 8;
        let body = Bytes::from(forged(position));
        let sent = send(broker, &clock, Produce { body, topic: topic("bodies"), ..message(9, "") });
        assert_eq!(sent.await.positions[0], LogOffset(record));
        let found = broker.store().read_entry_at(LogOffset(position)).await.unwrap();
        assert_eq!(RecordView::parse(&found.rest).unwrap().body, b"forged");
        let fields = format!("v1 {TOPIC} s00-broker-a 1 mine {position} {due_ms}");
        assert_eq!(number_of(recall(broker, &clock, &URL_SAFE.encode(fields)).await), 1016);
        assert_eq!(seen_after(broker, &clock, 20_000).await, [0, 1]);
    });
}
