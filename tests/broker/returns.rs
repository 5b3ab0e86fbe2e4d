//! Messages that a consumer sends back, and waits for room in the log, for which they are one case.

use ringmq::model::group::GroupConfig;
use ringmq::model::record::MAGIC_V2;
use ringmq::model::request::SendBack;

use super::*;

/// Stores a message in `t`; returns its place in the log.
async fn sent(broker: &Broker<SimDisk>, body: &[u8]) -> LogOffset {
    let Outcome::Committed { reply: Reply::Produced(produced), .. } =
        ask(broker, Request::Produce(produce("t", 0, "A", body)))
    else {
        panic!()
    };
    commit(broker).await;
    produced.positions[0]
}

fn back(offset: LogOffset, group: &GroupName, delay_level: i32) -> Request {
    let group = group.clone();
    Request::SendBack(SendBack { offset, group, delay_level, retry_count_max: None })
}

async fn done(broker: &Broker<SimDisk>, request: Request) {
    assert_eq!(answer(broker, request).await.reply, Ok(Reply::Done));
}

/// The queues that a group loses may hold messages, and pending messages may be on their way there.
#[test]
fn fewer_retry_queues_lose_no_message() {
    sim::run(async {
        let broker = open(&SimDisk::new(91)).await;
        let configure = |retry_queue_count| {
            let config = GroupConfig { retry_queue_count, ..GroupConfig::new(group()) };
            Request::UpdateGroup(config)
        };
        done(&broker, configure(3)).await;
        // Levels 1 and 2: one and five seconds.
        for (nth, level) in [1, 1, 1, 2, 2, 2].into_iter().enumerate() {
            let at = sent(&broker, &[nth as u8]).await;
            done(&broker, back(at, &group(), level)).await;
        }
        deliver(&broker, 1_500).await;
        let retry = TopicName::retry_of(&group());
        let mut counts = [0; 3];
        for (queue, count) in (0..).zip(&mut counts) {
            *count = read_all(&broker, retry.as_str(), queue).await.len();
        }
        assert_eq!(counts, [1, 1, 1], "each queue has one, and one is pending for each");

        done(&broker, configure(1)).await;
        let at = sent(&broker, &[6]).await;
        done(&broker, back(at, &group(), 2)).await;
        deliver(&broker, 9_000).await;
        let mut bodies = Vec::new();
        for queue in 0..3 {
            let seen = read_all(&broker, retry.as_str(), queue).await;
            bodies.extend(seen.into_iter().map(|one| one.body[0]));
        }
        bodies.sort_unstable();
        assert_eq!(bodies, [0, 1, 2, 3, 4, 5, 6]);
    });
}

/// The name of its retry topic does not fit into the first version of a record.
#[test]
fn a_message_comes_back_to_the_group_with_the_longest_name() {
    sim::run(async {
        let broker = open(&SimDisk::new(92)).await;
        let long = GroupName::new("g".repeat(255)).unwrap();
        let mut at = sent(&broker, b"again").await;
        let places = [
            (1, TopicName::retry_of(&long), 0),
            (2, TopicName::retry_of(&long), 1),
            (-1, TopicName::dead_letters_of(&long), 0),
        ];
        for (times, (level, topic, offset)) in (1..).zip(places) {
            done(&broker, back(at, &long, level)).await;
            deliver(&broker, 10_000 * times).await;
            let queue = QueueOf { topic: topic.clone(), queue: QueueId(0) };
            let pull = Request::Pull(Pull { queue, ..pull("t", 0, offset) });
            let answer = answer(&broker, pull).await;
            let bytes: Vec<u8> = answer.chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
            let record = RecordView::parse(&bytes).unwrap();
            assert_eq!((record.topic, record.magic), (topic.as_str(), MAGIC_V2));
            assert_eq!((record.body, record.reconsume_times), (&b"again"[..], times as i32));
            at = record.physical_offset;
        }
    });
}

/// A broker whose log has no room, and that commits nothing; and the offset of a message of the group.
async fn full() -> (Broker<SimDisk>, LogOffset) {
    let broker = open(&SimDisk::new(93)).await;
    done(&broker, Request::CreateGroups { groups: vec![group()] }).await;
    let at = sent(&broker, b"failed").await;
    for size in [3_000, 300, 30, 1] {
        let filler = Request::Produce(produce("t", 1, "A", &vec![7; size]));
        while let Handled::Done(_) = try_ask(&broker, filler.clone()) {}
    }
    (broker, at)
}

#[test]
fn an_operation_that_waits_for_room_is_woken_by_its_own_time_limit_only() {
    sim::run(async {
        let (broker, at) = full().await;
        let context = At(Cell::new(NOW));
        let later = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        let request = back(at, &group(), -1);
        let mut waiting = Vec::new();
        for ms in 0..20 {
            context.0.set(later(ms));
            let mut operation = Watched::new(broker.operate(&request, &context));
            // It may have to read the message first.
            for _ in 0..3 {
                assert!(operation.poll().is_none());
            }
            waiting.push(operation);
        }
        let before: Vec<usize> = waiting.iter().map(Watched::wakes).collect();
        context.0.set(later(2_000));
        broker.act(later(2_000));
        let news: Vec<usize> =
            waiting.iter().zip(before).map(|(one, before)| one.wakes() - before).collect();
        assert_eq!(news[0], 1);
        assert_eq!(news[1..], [0; 19]);
        assert!(waiting[0].poll().is_some_and(|answer| answer.reply.is_err()));
    });
}

/// Stock clients close a connection whose request is not answered for three seconds.
#[test]
fn an_operation_waits_for_room_for_two_seconds_and_may_be_repeated() {
    sim::run(async {
        let (broker, at) = full().await;
        let end = broker.store().end();
        // A message, a pending one and a fact.
        let long = |nth: usize| GroupName::new(format!("{nth}").repeat(200)).unwrap();
        let requests = [
            back(at, &group(), -1),
            back(at, &group(), 1),
            Request::UpdateGroups((1..=9).map(|nth| GroupConfig::new(long(nth))).collect()),
        ];
        let context = At(Cell::new(NOW));
        let pass = |ms| {
            let now = Now { moment: NOW.moment.plus_ms(ms), ..NOW };
            context.0.set(now);
            broker.act(now);
        };
        let mut waiting: Vec<_> =
            requests.iter().map(|one| Box::pin(broker.operate(one, &context))).collect();
        for ms in [0, 1_999] {
            pass(ms);
            for operation in &mut waiting {
                assert!(poll_once(operation).await.is_none(), "after {ms} ms");
            }
        }
        pass(2_000);
        for operation in &mut waiting {
            let refused = poll_once(operation).await.unwrap().reply;
            let busy = Refusal::Busy {
                reason: "append_queue",
                wait_ms: 2_000,
                retry_after_ms: 50,
                shard: 0,
            };
            assert_eq!(refused, Err(busy));
        }
        assert_eq!(broker.store().end(), end, "nothing was stored");
        commit(&broker).await;
        drop(waiting);
        for request in requests {
            done(&broker, request).await;
        }
    });
}
