//! Messages that are sent again because their producer has seen no acknowledgement.

use super::replicas::{commit_all, open_driven, put, write_all};
use super::*;

fn unique(key: &str, body: &[u8]) -> Produce {
    let properties = Bytes::from(format!("UNIQ_KEY\x01{key}\x02TAGS\x01a\x02"));
    Produce { properties, ..produce("t", 0, "", body) }
}

/// A batch of two messages, of which the first has the key.
fn batch(key: &str) -> Produce {
    let properties = format!("UNIQ_KEY\x01{key}\x02");
    let mut body = Vec::new();
    BatchItem { flag: 0, body: b"one", properties: properties.as_bytes() }.write(&mut body);
    BatchItem { flag: 0, body: b"two", properties: b"KEYS\x01k\x02" }.write(&mut body);
    Produce { is_batch: true, properties: Bytes::new(), body: body.into(), ..unique("", b"") }
}

fn delayed(key: &str, body: &[u8]) -> Produce {
    let properties = Bytes::from(format!("UNIQ_KEY\x01{key}\x02DELAY\x012\x02"));
    Produce { properties, ..produce("t", 0, "", body) }
}

/// A batch of our own client with two messages, of which the first has the key.
fn fixed(key: &str) -> Request {
    let mut batch = RecordBatch::new(QueueId(0), 1 << 20);
    for (body, properties) in [("one", format!("UNIQ_KEY\x01{key}\x02")), ("two", String::new())] {
        let record = NewRecord {
            topic: "t",
            queue: QueueId(0),
            flag: 0,
            system_flag: 0,
            born_at: NOW.wall,
            born_host: broker_config(true).store_host,
            reconsume_times: 0,
            body: body.as_bytes(),
            properties: [properties.as_bytes(), b""],
        };
        batch.append(&record).unwrap();
    }
    Request::ProduceRecords(batch.into_request())
}

fn ask_at(broker: &Broker<SimDisk>, request: &Request, later_ms: u64) -> (LogOffset, Reply) {
    let now = Now { wall: NOW.wall.plus_ms(later_ms), ..NOW };
    match broker.handle(request, Origin::default(), now) {
        Handled::Done(Outcome::Committed { mark, reply }) => (mark, reply),
        other => panic!("{other:?}"),
    }
}

/// Sends a request twice. Returns whether the second one got the same reply and appended nothing.
async fn is_recognized(broker: &Broker<SimDisk>, requests: [&Request; 2], later_ms: u64) -> bool {
    let (_, first) = ask_at(broker, requests[0], 0);
    let end = broker.store().end();
    let (mark, second) = ask_at(broker, requests[1], later_ms);
    assert!(mark >= end, "it waits for the first");
    let is_recognized = broker.store().end() == end;
    assert_eq!(first == second, is_recognized, "{first:?} {second:?}");
    commit(broker).await;
    is_recognized
}

#[test]
fn a_repeated_message_is_stored_once_and_answered_with_its_first_place() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        send(&broker, produce("t", 0, "a", b"x")).await.unwrap();
        send(&broker, Produce { topic: topic("u"), ..unique("A", b"x") }).await.unwrap();
        let produce = Request::Produce;
        let one = produce(unique("A", b"one"));
        let elsewhere = produce(Produce { queue: Some(QueueId(2)), ..unique("A", b"one") });
        let reordered = Bytes::from_static(b"TAGS\x01a\x02UNIQ_KEY\x01A\x02");
        let reordered = produce(Produce { properties: reordered, ..unique("", b"one") });
        let later = produce(Produce { born_at: NOW.wall.plus_ms(5), ..unique("A", b"one") });
        let changed = produce(unique("A", b"two"));
        let tagged = Bytes::from_static(b"UNIQ_KEY\x01A\x02TAGS\x01b\x02");
        let tagged = produce(Produce { properties: tagged, ..unique("", b"one") });
        let retry = produce(Produce { topic: topic("%RETRY%readers"), ..unique("R", b"one") });
        let plain = produce(super::produce("t", 0, "a", b"plain"));
        let several = produce(batch("B"));
        let shorter = produce(unique("B", b"one"));
        let records = fixed("C");
        let timed = produce(delayed("D", b"later"));
        #[rustfmt::skip]
        let rows = [
            ("the same", [&one, &one], 0, true),
            ("after some time", [&one, &one], 59_999, true),
            ("in another queue", [&one, &elsewhere], 0, true),
            ("in another order", [&one, &reordered], 0, true),
            ("another attempt", [&one, &later], 0, true),
            ("another body", [&one, &changed], 0, false),
            ("another tag", [&one, &tagged], 0, false),
            ("to a retry topic", [&retry, &retry], 0, false),
            ("without a key", [&plain, &plain], 0, false),
            ("a batch", [&several, &several], 0, true),
            ("part of a batch", [&several, &shorter], 0, false),
            ("a batch of records", [&records, &records], 0, true),
            ("a delayed message", [&timed, &timed], 0, true),
            ("too late", [&one, &one], 120_000, false),
        ];
        for (case, requests, later_ms, expected) in rows {
            assert_eq!(is_recognized(&broker, requests, later_ms).await, expected, "{case}");
        }
    });
}

/// What was sent is derived from the log: it is known after a start, from a snapshot or from the
/// log after it, and after a cut. A message that was cut off is stored again.
#[test]
fn a_repeated_message_is_recognized_after_a_start_and_after_a_cut() {
    sim::run(async {
        for has_snapshot in [false, true] {
            let disk = SimDisk::new(1);
            let broker = open_driven(&disk).await;
            let mut requests = vec![fixed("C")];
            for request in [unique("A", b"one"), batch("B"), delayed("D", b"later")] {
                requests.push(Request::Produce(request));
            }
            put(&broker, "t", 0).await;
            let first: Vec<Reply> =
                requests.iter().map(|request| ask_at(&broker, request, 0).1).collect();
            commit_all(&broker).await;
            if has_snapshot {
                broker.maintain(NOW, true).await.unwrap();
            }
            let broker = open_driven(&disk).await;
            commit_all(&broker).await;
            let kept = broker.store().newest_ordinal();
            let end = broker.store().end();
            for (request, first) in requests.iter().zip(&first) {
                assert_eq!(ask_at(&broker, request, 10).1, *first, "snapshot: {has_snapshot}");
            }
            assert_eq!(broker.store().end(), end);

            let cut = Request::Produce(unique("E", b"cut"));
            ask_at(&broker, &cut, 0);
            let longer = broker.store().end();
            write_all(&broker).await;
            broker.cut_to(kept, NOW.wall).await.unwrap();
            assert_eq!(broker.store().end(), end);
            for (request, first) in requests.iter().zip(&first) {
                assert_eq!(ask_at(&broker, request, 10).1, *first);
            }
            ask_at(&broker, &cut, 0);
            assert_eq!(broker.store().end(), longer, "it is stored again");
        }
    });
}

#[test]
fn without_a_window_every_message_is_stored() {
    sim::run(async {
        let config = BrokerConfig { dedup_window_ms: 0, ..broker_config(true) };
        let disk = SimDisk::new(1);
        let broker = Broker::open(disk, store_config(), config).await.unwrap().0;
        let one = Request::Produce(unique("A", b"one"));
        assert!(!is_recognized(&broker, [&one, &one], 0).await);
    });
}
