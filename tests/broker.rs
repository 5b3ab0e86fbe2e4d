//! The broker's guarantees on a simulated disk: stock semantics of requests, and what survives a
//! power cut at any moment. No runtime, no socket, no clock.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use ringmq::broker::clients::{CallError, Outgoing};
use ringmq::broker::operation::Context;
use ringmq::broker::{Answer, Broker, BrokerConfig, CutError, Origin, Outcome, Released};
use ringmq::client::session::Session;
use ringmq::model::batch::BatchItem;
use ringmq::model::client::ResetOffsets;
use ringmq::model::record::{NewRecord, RecordView, property};
use ringmq::model::reply::{PullStatus, Pulled};
use ringmq::model::request::{
    BrokerQueue, ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, Produce,
    ProduceRecords, Pull, QueueOf, SubscriptionData,
};
use ringmq::model::topic::TopicChange;
use ringmq::model::{
    ClientReply, ClientRequest, GroupName, LogOffset, Moment, Now, QueueId, QueueOffset, Refusal,
    Reply, Request, ShardId, Timestamp, TopicConfig, TopicName,
};
use ringmq::sim::{self, Fault, On, Operation, Rng, SimDisk};
use ringmq::storage::{CommitRule, Epoch, Flush, StoreConfig};
use ringmq::wire::{self, RecordBatch};

#[path = "broker/groups.rs"]
mod groups;

const NOW: Now = Now { wall: Timestamp(1_700_000_000_000), moment: Moment(7) };

fn store_config() -> StoreConfig {
    StoreConfig {
        segment_size: 256 << 10,
        ready_segments: 1,
        tail_cache_bytes: 128 << 10,
        append_budget_bytes: 8 << 20,
        index_cache_bytes: 1 << 20,
        flush: Flush::Sync,
        commit: CommitRule::Local,
        epoch: Epoch::Found,
        retention_age_ms: u64::MAX,
        retention_bytes: u64::MAX,
        reserve_bytes: 0,
        checksum_seed: 7,
    }
}

fn broker_config(auto_create_topics: bool) -> BrokerConfig {
    BrokerConfig {
        cluster: "DefaultCluster".into(),
        broker_name: "s00-broker-a".into(),
        shard: ShardId(0),
        store_host: ringmq::model::record::Host { address: [127, 0, 0, 1], port: 10_911.into() },
        auto_create_topics,
        started: NOW,
        offset_retention_ms: u64::MAX,
        delay_levels_ms: vec![1_000, 5_000],
    }
}

async fn open(disk: &SimDisk) -> Broker<SimDisk> {
    Broker::open(disk.clone(), store_config(), broker_config(true)).await.unwrap().0
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name.to_owned()).unwrap()
}

fn group() -> GroupName {
    GroupName::new("readers").unwrap()
}

fn queue(name: &str, queue: u32) -> QueueOf {
    QueueOf { topic: topic(name), queue: QueueId(queue) }
}

fn produce(name: &str, queue: u32, tag: &str, body: &[u8]) -> Produce {
    Produce {
        group: "senders".into(),
        topic: topic(name),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(queue)),
        system_flag: 0,
        born_at: NOW.wall,
        flag: 5,
        properties: Bytes::from(format!("TAGS\x01{tag}\x02KEYS\x01k\x02")),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: Bytes::copy_from_slice(body),
    }
}

fn pull(name: &str, queue_id: u32, offset: i64) -> Pull {
    Pull {
        group: Some(group()),
        queue: queue(name, queue_id),
        offset,
        count_max: 32,
        bytes_max: None,
        commit: None,
        hold_ms: None,
        subscription: Some(Expression { kind: "TAG".into(), text: "*".into() }),
        subscription_version: 0,
    }
}

fn ask(broker: &Broker<SimDisk>, request: Request) -> Outcome {
    broker.handle(&request, Origin::default(), NOW)
}

/// Writes until everything appended so far is committed.
async fn commit(broker: &Broker<SimDisk>) {
    while broker.store().committed() < broker.store().end() {
        broker.store().commit_step().await.unwrap();
    }
    let released = broker.advance();
    assert!(released.is_empty(), "nothing is held here");
}

async fn set_topic(broker: &Broker<SimDisk>, config: TopicConfig) {
    assert_eq!(answer(broker, Request::UpdateTopic(config)).await.reply, Ok(Reply::Done));
}

async fn send(broker: &Broker<SimDisk>, request: Produce) -> Result<QueueOffset, Refusal> {
    send_request(broker, Request::Produce(request)).await
}

async fn send_request(broker: &Broker<SimDisk>, request: Request) -> Result<QueueOffset, Refusal> {
    loop {
        match ask(broker, request.clone()) {
            Outcome::Committed { reply: Reply::Produced(produced), .. } => {
                commit(broker).await;
                return Ok(produced.queue_offset);
            }
            Outcome::NoRoom { .. } => _ = broker.store().commit_step().await.unwrap(),
            Outcome::Now(answer) => return Err(answer.reply.unwrap_err()),
            other => panic!("{other:?}"),
        }
    }
}

/// The context of requests here: no connection, and cold reads need not wait.
struct Here;

impl Context for Here {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        NOW
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// The answer to any request, after all writes, reads and waits that it needs.
async fn answer(broker: &Broker<SimDisk>, request: Request) -> Answer {
    answer_to(broker, request, &Here).await
}

async fn answer_to(broker: &Broker<SimDisk>, request: Request, context: &impl Context) -> Answer {
    match broker.handle(&request, context.origin(), context.now()) {
        Outcome::Now(answer) => answer,
        Outcome::Cold(task) => match broker.pull_cold(task, context).await {
            Outcome::Now(answer) => answer,
            other => panic!("{other:?}"),
        },
        Outcome::Operation => {
            let mut operation = pin!(broker.operate(&request, context));
            loop {
                if let Some(answer) = poll_once(&mut operation).await {
                    return answer;
                }
                go_on(broker).await;
            }
        }
        other => panic!("{other:?}"),
    }
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let poll = |context: &mut std::task::Context<'_>| match Pin::new(&mut *future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    };
    poll_fn(poll).await
}

/// Lets time pass until something is due, then commits everything.
async fn go_on(broker: &Broker<SimDisk>) {
    if broker.store().committed() == broker.store().end() {
        let moment = broker.next_deadline().unwrap();
        let released = broker.act(Now { moment, ..NOW });
        assert!(released.is_empty(), "nothing is held here");
    }
    commit(broker).await;
}

/// One message as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: u64,
    tag: String,
    body: Vec<u8>,
}

async fn read(broker: &Broker<SimDisk>, request: Pull) -> (Pulled, Vec<Seen>) {
    let answer = answer(broker, Request::Pull(request)).await;
    let Ok(Reply::Pulled(pulled)) = answer.reply else { panic!("{:?}", answer.reply) };
    let mut seen = Vec::new();
    for chunk in &answer.chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let record = RecordView::parse(rest).unwrap();
            let tag = property(record.properties, "TAGS").unwrap_or_default();
            seen.push(Seen {
                offset: record.queue_offset.0,
                tag: String::from_utf8(tag.to_vec()).unwrap(),
                body: record.body.to_vec(),
            });
            rest = &rest[record.size..];
        }
    }
    assert_eq!(seen.len(), pulled.count as usize);
    (pulled, seen)
}

async fn read_all(broker: &Broker<SimDisk>, name: &str, queue_id: u32) -> Vec<Seen> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let (pulled, seen) = read(broker, pull(name, queue_id, at)).await;
        at = pulled.next_offset.0 as i64;
        all.extend(seen);
        if pulled.status != PullStatus::Found {
            return all;
        }
    }
}

#[test]
fn messages_come_back_as_they_were_sent_and_only_when_they_are_committed() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        let outcome = ask(&broker, Request::Produce(produce("t", 0, "A", b"one")));
        let Outcome::Committed { mark, .. } = outcome else { panic!("{outcome:?}") };
        assert!(mark > broker.store().committed());
        let (pulled, seen) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!((pulled.status, seen.len()), (PullStatus::NothingNew, 0), "not committed yet");

        commit(&broker).await;
        assert!(mark <= broker.store().committed());
        let (pulled, seen) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!(pulled.status, PullStatus::Found);
        assert_eq!((pulled.next_offset, pulled.max_offset), (QueueOffset(1), QueueOffset(1)));
        assert_eq!(seen, [Seen { offset: 0, tag: "A".into(), body: b"one".to_vec() }]);
    });
}

/// Remoting reference, 5.3: the rows of its table, for a queue that holds offsets 0 to 3.
#[test]
fn pulls_outside_a_queue_learn_its_bounds() {
    sim::run(async {
        let broker = open(&SimDisk::new(2)).await;
        for nth in 0..4u8 {
            send(&broker, produce("t", 0, "A", &[nth])).await.unwrap();
        }
        let rows = [
            (0, 0, PullStatus::Found, 4),
            (0, 3, PullStatus::Found, 4),
            (0, 4, PullStatus::NothingNew, 4),
            (0, 5, PullStatus::OffsetMoved, 4),
            (0, -1, PullStatus::OffsetMoved, 0),
            (1, 0, PullStatus::NothingNew, 0),
            (1, 7, PullStatus::OffsetMoved, 0),
        ];
        for (queue_id, offset, status, next) in rows {
            let (pulled, _) = read(&broker, pull("t", queue_id, offset)).await;
            let case = format!("queue {queue_id} offset {offset}");
            assert_eq!((pulled.status, pulled.next_offset.0), (status, next), "{case}");
        }
        let refusals = [
            (pull("unknown", 0, 0), Refusal::UnknownTopic(topic("unknown"))),
            (
                pull("t", 9, 0),
                Refusal::UnknownQueue { topic: topic("t"), queue: QueueId(9), count: 4 },
            ),
        ];
        for (request, refusal) in refusals {
            assert_eq!(answer(&broker, Request::Pull(request)).await.reply, Err(refusal));
        }
    });
}

#[test]
fn a_filter_passes_its_tags_and_skips_the_others() {
    sim::run(async {
        let broker = open(&SimDisk::new(3)).await;
        for tag in ["A", "B", "A", "C"] {
            send(&broker, produce("t", 0, tag, tag.as_bytes())).await.unwrap();
        }
        let with = |text: &str| Pull {
            subscription: Some(Expression { kind: "TAG".into(), text: text.into() }),
            ..pull("t", 0, 0)
        };
        let (pulled, seen) = read(&broker, with("A || C")).await;
        assert_eq!(pulled.next_offset, QueueOffset(4));
        assert_eq!(seen.iter().map(|one| one.offset).collect::<Vec<_>>(), [0, 2, 3]);
        let (pulled, _) = read(&broker, with("D")).await;
        assert_eq!(pulled.status, PullStatus::NothingMatched);
        assert_eq!(pulled.next_offset, QueueOffset(4));
        let sql = Expression { kind: "SQL92".into(), text: "a > 1".into() };
        let request = Pull { subscription: Some(sql), ..pull("t", 0, 0) };
        let refused = answer(&broker, Request::Pull(request)).await.reply;
        assert_eq!(refused, Err(Refusal::UnsupportedFilter("SQL92".into())));
    });
}

/// A consumer that pulls by an expression from its heartbeat is told why it gets nothing.
#[test]
fn filters_that_are_not_supported_are_refused_wherever_they_come_from() {
    sim::run(async {
        let broker = open(&SimDisk::new(62)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let sql = Expression { kind: "SQL92".into(), text: "a > 1".into() };
        let no_tag = Expression { kind: "TAG".into(), text: "||".into() };
        let refusals = [
            (&sql, Refusal::UnsupportedFilter("SQL92".into())),
            (&no_tag, Refusal::BadSubscription("no tag in \"||\"".into())),
        ];
        for (expression, refusal) in refusals {
            let check = Request::CheckFilter(expression.clone());
            assert_eq!(answer(&broker, check).await.reply, Err(refusal.clone()));
            let Request::Heartbeat(mut heartbeat) = heartbeat("a", &["t"]) else { unreachable!() };
            heartbeat.consumers[0].subscriptions[0].expression = expression.clone();
            assert!(answer(&broker, Request::Heartbeat(heartbeat)).await.reply.is_ok());
            let request = Request::Pull(Pull { subscription: None, ..pull("t", 0, 0) });
            assert_eq!(answer(&broker, request).await.reply, Err(refusal));
        }
        let tags = Expression { kind: "TAG".into(), text: "A || B".into() };
        assert_eq!(answer(&broker, Request::CheckFilter(tags)).await.reply, Ok(Reply::Done));
    });
}

#[test]
fn a_held_pull_is_answered_by_the_first_match_or_by_its_deadline() {
    sim::run(async {
        let broker = open(&SimDisk::new(4)).await;
        send(&broker, produce("t", 0, "A", b"old")).await.unwrap();
        let hold = |text: &str| {
            let subscription = Some(Expression { kind: "TAG".into(), text: text.into() });
            Request::Pull(Pull { hold_ms: Some(1000), subscription, ..pull("t", 0, 1) })
        };
        let origin = |ticket| Origin { connection: 1, ticket, ..Origin::default() };
        assert!(matches!(broker.handle(&hold("B"), origin(1), NOW), Outcome::Held));
        assert!(matches!(broker.handle(&hold("C"), origin(2), NOW), Outcome::Held));

        ask(&broker, Request::Produce(produce("t", 0, "B", b"new")));
        assert!(broker.advance().is_empty(), "nothing is committed yet");
        while broker.store().committed() < broker.store().end() {
            broker.store().commit_step().await.unwrap();
        }
        let released = broker.advance();
        assert_eq!(released.iter().map(|one| one.origin.ticket).collect::<Vec<_>>(), [1]);

        let after = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        assert_eq!(broker.next_deadline(), Some(after(1000).moment));
        assert!(broker.act(after(999)).is_empty());
        let expired = broker.act(after(1000));
        assert_eq!(expired.len(), 1);
        let Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) = &expired[0].outcome
        else {
            panic!("{expired:?}")
        };
        assert_eq!(pulled.status, PullStatus::NothingMatched, "it saw a message it did not want");
        assert_eq!(pulled.next_offset, QueueOffset(2));
    });
}

/// Remoting reference, 5.6.
#[test]
fn a_new_group_begins_at_the_first_message_and_a_known_one_at_its_offset() {
    sim::run(async {
        let broker = open(&SimDisk::new(5)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let query = |zero_if_missing| Request::CommittedOffset {
            group: group(),
            queue: queue("t", 0),
            zero_if_missing,
        };
        let missing = Err(Refusal::NoOffset(group()));
        assert_eq!(answer(&broker, query(true)).await.reply, Ok(Reply::Offset(QueueOffset(0))));
        assert_eq!(answer(&broker, query(false)).await.reply, missing);
        for (offset, expected) in [(1, 1), (-1, 1), (0, 0)] {
            let request = Request::CommitOffset { group: group(), queue: queue("t", 0), offset };
            assert_eq!(answer(&broker, request).await.reply, Ok(Reply::Done));
            let found = answer(&broker, query(false)).await.reply;
            assert_eq!(found, Ok(Reply::Offset(QueueOffset(expected))), "after {offset}");
        }
    });
}

#[test]
fn invalid_messages_are_refused_and_leave_no_trace() {
    sim::run(async {
        let disk = SimDisk::new(6);
        let broker = Broker::open(disk, store_config(), broker_config(false)).await.unwrap().0;
        let unknown = send(&broker, produce("t", 0, "A", b"x")).await;
        assert_eq!(unknown, Err(Refusal::UnknownTopic(topic("t"))), "no automatic creation");

        set_topic(&broker, TopicConfig::new(topic("t"), 2)).await;
        let end = broker.store().end();
        let too_large = vec![0; (4 << 20) + 1];
        let rows = [
            (produce("t", 0, "A", b""), "the message has no body"),
            (produce("t", 0, "A", &too_large), "message body of 4194305 bytes"),
            (produce("t", 2, "A", b"x"), "2 queues on this shard, not queue 2"),
            (produce("TBW102", 0, "A", b"x"), "reserved"),
            (Produce { is_batch: true, ..produce("t", 0, "A", b"\0\0\0\x09") }, "batch refused"),
            (Produce { is_batch: true, ..produce("t", 0, "A", b"") }, "batch refused"),
        ];
        for (request, expected) in rows {
            let refusal = send(&broker, request).await.unwrap_err().to_string();
            assert!(refusal.contains(expected), "{refusal}");
        }
        assert_eq!(broker.store().end(), end, "nothing was appended");
    });
}

/// The broker checks permissions: writing needs bit 2, reading bit 4.
#[test]
fn permissions_of_a_topic_are_enforced() {
    sim::run(async {
        for (perm, may_write, may_read) in
            [(0, false, false), (2, true, false), (4, false, true), (6, true, true)]
        {
            let broker = open(&SimDisk::new(61)).await;
            let open_topic = TopicConfig::new(topic("t"), 2);
            set_topic(&broker, open_topic.clone()).await;
            send(&broker, produce("t", 0, "A", b"before")).await.unwrap();
            set_topic(&broker, TopicConfig { perm, ..open_topic }).await;
            let fixed = Request::ProduceRecords(records(&produce("t", 0, "A", b"fixed")));
            let stored = [
                send(&broker, produce("t", 0, "A", b"x")).await,
                send_request(&broker, fixed).await,
            ];
            for stored in stored {
                let refused = stored.as_ref().err() == Some(&Refusal::NotWritable(topic("t")));
                assert_eq!(
                    (stored.is_ok(), refused),
                    (may_write, !may_write),
                    "{perm}: {stored:?}"
                );
            }
            let pulled = answer(&broker, Request::Pull(pull("t", 0, 0))).await.reply;
            let refused = pulled.as_ref().err() == Some(&Refusal::NotReadable(topic("t")));
            assert_eq!((pulled.is_ok(), refused), (may_read, !may_read), "{perm}: {pulled:?}");
        }
    });
}

/// The body of `request` as a client with the fixed header sends it.
fn records(request: &Produce) -> ProduceRecords {
    let queue = request.queue.unwrap();
    let mut batch = RecordBatch::new(queue, 1 << 20);
    let record = NewRecord {
        topic: request.topic.as_str(),
        queue,
        flag: request.flag,
        system_flag: request.system_flag,
        born_at: request.born_at,
        born_host: Origin::default().host,
        reconsume_times: 0,
        body: &request.body,
        properties: [&request.properties, &[]],
    };
    batch.append(&record).unwrap();
    batch.finish()
}

/// Everything that a run was promised, and everything that it tried.
#[derive(Default)]
struct Promised {
    /// Acknowledged bodies, by queue and offset.
    messages: BTreeMap<(String, u32, u64), Vec<u8>>,
    /// The last acknowledged offset, then the ones tried after it.
    offsets: BTreeMap<(String, u32), Vec<i64>>,
    acknowledged_offsets: BTreeSet<(String, u32)>,
    sent: Vec<Vec<u8>>,
}

/// Sends, commits offsets and creates topics until the disk loses power.
async fn run_until_power_is_lost(disk: &SimDisk, rng: &mut Rng, promised: &mut Promised) {
    let opened = Broker::open(disk.clone(), store_config(), broker_config(true)).await;
    let Ok((broker, _)) = opened else { return };
    for _ in 0..40 {
        let (mut waiting, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..=rng.below(4) {
            let name = ["a", "b", "c"][rng.below(3) as usize];
            let queue_id = rng.below(3) as u32;
            let body = vec![rng.below(256) as u8; 1 + rng.below(9_000) as usize];
            if rng.below(5) == 0 {
                let offset = rng.below(100) as i64;
                let tried = promised.offsets.entry((name.to_owned(), queue_id)).or_default();
                tried.push(offset);
                let queue = queue(name, queue_id);
                let request = Request::CommitOffset { group: group(), queue, offset };
                let broker = &broker;
                let operation = async move { broker.operate(&request, &Here).await.reply };
                let mut operation = Box::pin(operation);
                if poll_once(&mut operation).await.is_none() {
                    commits.push((operation, name, queue_id, offset));
                }
                continue;
            }
            promised.sent.push(body.clone());
            let request = Request::Produce(produce(name, queue_id, "A", &body));
            if let Outcome::Committed { mark, reply: Reply::Produced(produced) } =
                ask(&broker, request)
            {
                waiting.push((mark, name, queue_id, body, produced.queue_offset.0));
            }
        }
        if rng.below(3) > 0 {
            let moment = broker.next_deadline().unwrap();
            broker.act(Now { moment, ..NOW });
        }
        while broker.store().committed() < broker.store().end() {
            if broker.store().commit_step().await.is_err() {
                break;
            }
        }
        for (mark, name, queue_id, body, offset) in waiting {
            if mark > broker.store().committed() {
                return;
            }
            promised.messages.insert((name.to_owned(), queue_id, offset), body);
        }
        for (mut operation, name, queue_id, offset) in commits {
            // An unanswered one is dropped, as when its connection ends.
            if poll_once(&mut operation).await != Some(Ok(Reply::Done)) {
                continue;
            }
            let tried = promised.offsets.entry((name.to_owned(), queue_id)).or_default();
            let acknowledged = tried.iter().rposition(|one| *one == offset).unwrap();
            tried.drain(..acknowledged);
            promised.acknowledged_offsets.insert((name.to_owned(), queue_id));
        }
        broker.advance();
        if rng.below(3) == 0 && broker.maintain(NOW, rng.below(4) == 0).await.is_err() {
            return;
        }
    }
}

async fn check(disk: &SimDisk, promised: &Promised, seed: u64) {
    let broker = open(disk).await;
    for name in ["a", "b", "c"] {
        for queue_id in 0..3 {
            let known = answer(&broker, Request::MaxOffset(queue(name, queue_id))).await.reply;
            let found = match known {
                Ok(_) => read_all(&broker, name, queue_id).await,
                Err(_) => Vec::new(),
            };
            for (nth, one) in found.iter().enumerate() {
                assert_eq!(one.offset, nth as u64, "seed {seed}: a gap in {name} {queue_id}");
                assert!(promised.sent.contains(&one.body), "seed {seed}: an invented message");
            }
            let place = (name.to_owned(), queue_id, 0);
            for ((other, queue, offset), body) in promised.messages.range(place..) {
                if (other.as_str(), *queue) != (name, queue_id) {
                    break;
                }
                let one = found.get(*offset as usize).map(|one| &one.body);
                assert!(one == Some(body), "seed {seed}: lost {name} {queue_id} {offset}");
            }
        }
    }
    for (name, queue_id) in &promised.acknowledged_offsets {
        let possible = &promised.offsets[&(name.clone(), *queue_id)];
        let queue = queue(name, *queue_id);
        let request = Request::CommittedOffset { group: group(), queue, zero_if_missing: false };
        let reply = answer(&broker, request).await.reply;
        let Ok(Reply::Offset(found)) = reply else {
            panic!("seed {seed}: lost offsets: {reply:?}")
        };
        assert!(possible.contains(&(found.0 as i64)), "seed {seed}: {found}, not of {possible:?}");
    }
}

/// Three lives, each ended by a power cut at a random step, on a disk with concurrent writes. In
/// the end, everything acknowledged in any of them is in its place, and nothing is there that was
/// never sent.
#[test]
fn acknowledged_changes_survive_power_cuts() {
    for seed in 0..500 {
        let mut rng = Rng::from_seed(seed);
        let mut disk = SimDisk::new(seed);
        let mut promised = Promised::default();
        for life in 0..3 {
            disk.slow(rng.below(4) as u32);
            disk.lose_power_after(1 + rng.below(120));
            sim::run(run_until_power_is_lost(&disk, &mut rng, &mut promised));
            disk.lose_power();
            disk = disk.after_crash(seed * 3 + life);
        }
        sim::run(check(&disk, &promised, seed));
    }
}

/// The broker decides the layout of a record: a client that claims an IPv6 host changes nothing.
#[test]
fn system_flags_of_clients_do_not_change_how_a_record_is_read() {
    sim::run(async {
        let disk = SimDisk::new(21);
        let broker = open(&disk).await;
        let flags = (0..31).map(|bit| 1 << bit).filter(|flag| *flag != 4);
        let mut sent = 0;
        for flag in flags {
            let request = Produce { system_flag: flag, ..produce("t", 0, "A", b"one") };
            send(&broker, request).await.unwrap();
            sent += 1;
        }
        assert_eq!(read_all(&broker, "t", 0).await.len(), sent);
        let again = open(&disk).await;
        assert_eq!(read_all(&again, "t", 0).await.len(), sent);
    });
}

/// What happens to a sent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Visible,
    Delayed,
    Refused(u16),
}

/// A half message of a transaction must not become visible, and a delayed one not yet.
#[test]
fn what_consumers_must_not_see_yet_is_delayed_or_refused() {
    use Fate::{Delayed, Refused, Visible};
    let rows: [(i32, &[u8], Fate); 26] = [
        (0, b"TAGS\x01A\x02", Visible),
        (0, b"TRAN_MSG\x01true\x02PGROUP\x01g\x02", Refused(1012)),
        (0, b"UNIQ_KEY\x01u\x02TRAN_MSG\x01TRUE", Refused(1012)),
        (0, b"TRAN_MSG\x01false\x02", Visible),
        (4, b"", Refused(1012)),
        (12, b"", Refused(1012)),
        (8, b"", Visible),
        (0, b"DELAY\x013\x02", Delayed),
        (0, b"DELAY\x0199\x02", Delayed),
        (0, b"DELAY\x010\x02", Visible),
        (0, b"DELAY\x01-1\x02", Visible),
        (0, b"DELAY\x01soon\x02", Refused(1015)),
        (0, b"K\x01v\x02TIMER_DELIVER_MS\x011700000000000\x02", Visible),
        (0, b"TIMER_DELIVER_MS\x011700000000001", Delayed),
        (0, b"TIMER_DELIVER_MS\x01-1", Visible),
        (0, b"TIMER_DELIVER_MS\x011700259200000", Delayed),
        (0, b"TIMER_DELIVER_MS\x011700259200001", Refused(1015)),
        (0, b"TIMER_DELIVER_MS\x019223372036854775807", Refused(1015)),
        (0, b"TIMER_DELIVER_MS\x019223372036854775808", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x01259200", Delayed),
        (0, b"TIMER_DELAY_SEC\x01259201", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x019223372036854775807", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x010\x02TIMER_DELAY_MS\x0110", Visible),
        (0, b"DELAY\x011\x02TIMER_DELAY_SEC\x01x", Delayed),
        (0, b"TIMER_DELAY_SEC\x015\x02TIMER_DEL_UNIQKEY\x01t+u", Refused(1015)),
        (0, b"DELAYED\x013\x02TIMER\x011\x02", Visible),
    ];
    sim::run(async move {
        let broker = open(&SimDisk::new(22)).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
        for (system_flag, properties, expected) in rows {
            let visible = read_all(&broker, "t", 0).await.len();
            let properties = Bytes::from_static(properties);
            let what = format!("{system_flag} {properties:?}");
            let sent =
                send(&broker, Produce { system_flag, properties, ..produce("t", 0, "A", b"body") });
            let fate = match sent.await {
                Ok(_) if read_all(&broker, "t", 0).await.len() > visible => Visible,
                Ok(_) => Delayed,
                Err(refusal) => Refused(refusal.number()),
            };
            assert_eq!(fate, expected, "{what}");
        }
    });
}

/// A separator is added between a message's own properties and those of its batch.
#[test]
fn a_batch_whose_properties_just_do_not_fit_is_refused() {
    sim::run(async {
        let broker = open(&SimDisk::new(23)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let shared = b"WAIT\x01true\x02";
        for (room, fits) in [(0, false), (1, true)] {
            let own = vec![b'p'; 32_767 - shared.len() - room];
            let mut body = Vec::new();
            BatchItem { flag: 0, body: b"x", properties: &own }.write(&mut body);
            let request = Produce {
                is_batch: true,
                properties: Bytes::from_static(shared),
                ..produce("t", 0, "A", &body)
            };
            let sent = send(&broker, request).await;
            assert_eq!(sent.is_ok(), fits, "{sent:?}");
        }
    });
}

async fn fill_segments(broker: &Broker<SimDisk>, tag: &str, segments: usize) {
    while broker.store().stats().segment_count < segments {
        send(broker, produce("t", 0, tag, &[7; 3000])).await.unwrap();
        broker.maintain(NOW, false).await.unwrap();
    }
}

#[test]
fn a_pull_that_filters_more_index_pages_than_the_cache_holds_is_answered() {
    sim::run(async {
        let store = StoreConfig { index_cache_bytes: 64 << 10, ..store_config() };
        let opened = Broker::open(SimDisk::new(24), store, broker_config(true)).await;
        let broker = opened.unwrap().0;
        fill_segments(&broker, "A", 4).await;
        let subscription = Some(Expression { kind: "TAG".into(), text: "Z".into() });
        let filtered = Request::Pull(Pull { subscription, ..pull("t", 0, 0) });
        let answer = answer(&broker, filtered).await;
        let Ok(Reply::Pulled(pulled)) = answer.reply else { panic!("{answer:?}") };
        assert_eq!(pulled.status, PullStatus::NothingMatched);
    });
}

#[test]
fn messages_of_a_removed_queue_return_with_it() {
    sim::run(async {
        let disk = SimDisk::new(26);
        let broker = open(&disk).await;
        let with = |count| TopicConfig::new(topic("t"), count);
        set_topic(&broker, with(4)).await;
        for _ in 0..5 {
            send(&broker, produce("t", 3, "A", b"kept")).await.unwrap();
        }
        set_topic(&broker, with(2)).await;
        broker.maintain(NOW, true).await.unwrap();
        let broker = open(&disk).await;
        set_topic(&broker, with(4)).await;
        assert_eq!(read_all(&broker, "t", 3).await.len(), 5);
    });
}

/// A reply that a topic exists, or is deleted, is reliable even if another client requested the
/// same a moment ago.
#[test]
fn repeated_changes_of_a_topic_are_acknowledged_when_durable() {
    sim::run(async {
        let broker = open(&SimDisk::new(27)).await;
        let set = Request::UpdateTopic(TopicConfig::new(topic("t"), 4));
        let delete = Request::DeleteTopic { topic: topic("t") };
        for request in [set.clone(), set, delete.clone(), delete] {
            let (mut first, mut again) =
                (pin!(broker.operate(&request, &Here)), pin!(broker.operate(&request, &Here)));
            let is_new = poll_once(&mut first).await.is_none();
            assert_eq!(is_new, broker.store().committed() < broker.store().end());
            // The entry with that change may not be committed yet.
            let early = poll_once(&mut again).await;
            assert_eq!(early.is_none(), is_new);
            commit(&broker).await;
            for operation in [&mut first, &mut again].into_iter().filter(|_| is_new) {
                let answer = poll_once(operation).await.expect("all is committed");
                assert_eq!(answer.reply, Ok(Reply::Done));
            }
        }
    });
}

/// A message rots while the broker runs. The consumer gets the messages before it, then continues
/// after it.
#[test]
fn a_consumer_gets_past_a_rotten_message() {
    sim::run(async {
        let disk = SimDisk::new(4);
        let store = StoreConfig { tail_cache_bytes: 0, ..store_config() };
        let broker = Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0;
        for nth in 0..10u8 {
            send(&broker, produce("t", 0, "A", &[nth; 4000])).await.unwrap();
        }
        let name = format!("{:020}", 0);
        let contents = disk.contents(&name).unwrap();
        let at = contents.windows(100).position(|bytes| bytes == [7u8; 100]).unwrap();
        disk.damage(&name, at as u64 + 50, &[0xFF]);
        let rows = [
            (0, PullStatus::Found, 7),
            (7, PullStatus::OffsetMoved, 8),
            (7, PullStatus::OffsetMoved, 8),
            (8, PullStatus::Found, 10),
        ];
        for (from, status, next) in rows {
            let reply = answer(&broker, Request::Pull(pull("t", 0, from))).await.reply;
            let Ok(Reply::Pulled(pulled)) = reply else { panic!("from {from}: {reply:?}") };
            assert_eq!((pulled.status, pulled.next_offset), (status, QueueOffset(next)));
        }
    });
}

/// A disk error is a system error, not the client's mistake; reads work again afterwards.
#[test]
fn a_disk_error_is_not_the_clients_mistake() {
    sim::run(async {
        let disk = SimDisk::new(5);
        let store = StoreConfig { tail_cache_bytes: 0, ..store_config() };
        let broker = Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0;
        send(&broker, produce("t", 0, "A", &[7; 4000])).await.unwrap();
        // Fails the requested read, and those that check whether it is only one block.
        for skip in 0..1_000 {
            disk.inject(On::nth(Operation::Read, skip), Fault::io_error());
        }
        let refused = answer(&broker, Request::Pull(pull("t", 0, 0))).await.reply;
        assert_eq!(refused, Err(Refusal::DiskFault { shard: 0 }));
        while disk.faults_left() > 0 {
            _ = answer(&broker, Request::Pull(pull("t", 0, 0))).await;
        }
        let (pulled, _) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!((pulled.status, pulled.count), (PullStatus::Found, 1));
    });
}

/// The figures that stock tools request come from the metrics, and include all of them.
#[test]
fn the_work_of_a_shard_is_counted_and_reported() {
    sim::run(async {
        let broker = open(&SimDisk::new(64)).await;
        for body in [b"one", b"two"] {
            send(&broker, produce("t", 0, "A", body)).await.unwrap();
        }
        assert_eq!(read_all(&broker, "t", 0).await.len(), 2);
        let Ok(Reply::RuntimeInfo(table)) = answer(&broker, Request::RuntimeInfo).await.reply
        else {
            panic!("request 28 gives a table")
        };
        let table: BTreeMap<String, String> = table.into_iter().collect();
        let end = broker.store().end().0.to_string();
        for (name, expected) in [
            ("msgPutTotalTodayNow", "2"),
            ("msgGetTotalTodayNow", "2"),
            ("ringmq_messages_stored_total", "2"),
            ("ringmq_messages_pulled_total", "2"),
            ("ringmq_pulls_found_total", "1"),
            ("ringmq_pulls_missed_total", "1"),
            ("ringmq_log_end", &end),
            ("ringmq_log_durable", &end),
            ("ringmq_fenced", "0"),
        ] {
            assert_eq!(table[name], expected, "{name}");
        }
        let number = |name: &str| table[name].parse::<u64>().unwrap();
        assert_eq!(number("ringmq_log_write_ns.count"), number("ringmq_log_writes_total"));
        assert!(number("ringmq_log_write_ns.p50") > 0 && number("ringmq_log_writes_total") > 0);
    });
}

/// However often groups commit, the log gets one entry per second for that, and waiting commits are
/// acknowledged with it.
#[test]
fn commits_of_a_second_share_one_entry() {
    sim::run(async {
        let broker = open(&SimDisk::new(63)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let appends = || broker.store().stats().appends;
        let before = appends();
        let at = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        let requests: Vec<Request> = (0..30)
            .map(|nth: i64| {
                let group = GroupName::new(format!("g{}", nth % 10)).unwrap();
                Request::CommitOffset { group, queue: queue("t", 0), offset: nth + 1 }
            })
            .collect();
        let mut waiting: Vec<_> =
            requests.iter().map(|one| Box::pin(broker.operate(one, &Here))).collect();
        // The first is written at once, the others with the next entry.
        assert!(poll_once(&mut waiting[0]).await.is_none());
        assert_eq!(appends() - before, 1);
        for operation in &mut waiting[1..] {
            assert!(poll_once(operation).await.is_none());
        }
        broker.act(at(999));
        commit(&broker).await;
        assert_eq!(appends() - before, 1);
        assert!(poll_once(&mut waiting[0]).await.is_some());
        assert!(poll_once(&mut waiting[1]).await.is_none(), "it is not in the log");
        broker.act(at(1000));
        commit(&broker).await;
        assert_eq!(appends() - before, 2);
        for operation in &mut waiting[1..] {
            assert_eq!(poll_once(operation).await.unwrap().reply, Ok(Reply::Done));
        }
        broker.act(at(5000));
        assert_eq!(appends() - before, 2, "nothing has changed since");
    });
}

/// A consumer gets its messages although the offset table is full.
#[test]
fn a_full_offset_table_does_not_keep_messages_from_consumers() {
    sim::run(async {
        let broker = open(&SimDisk::new(64)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let pull_of = |group: usize| {
            let group = Some(GroupName::new(format!("g{group}")).unwrap());
            Request::Pull(Pull { group, commit: Some(1), ..pull("t", 0, 0) })
        };
        for group in 0..100_001 {
            let outcome = ask(&broker, pull_of(group));
            let Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) = outcome else {
                panic!("group {group}: {outcome:?}")
            };
            assert_eq!(pulled.count, 1);
        }
        let group = GroupName::new("g100000").unwrap();
        let explicit = Request::CommitOffset { group, queue: queue("t", 0), offset: 1 };
        let refused = answer(&broker, explicit).await.reply;
        assert!(matches!(refused, Err(Refusal::Full { .. })), "{refused:?}");
    });
}

fn heartbeat(client: &str, topics: &[&str]) -> Request {
    let subscription = |name: &&str| SubscriptionData {
        topic: topic(name),
        expression: Expression { kind: "TAG".into(), text: "*".into() },
        version: 1,
    };
    let consumer = ConsumerData {
        group: group(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions: topics.iter().map(subscription).collect(),
    };
    Request::Heartbeat(Heartbeat {
        client: client.to_owned().into(),
        consumers: vec![consumer],
        ..Heartbeat::default()
    })
}

/// The connections that the broker notifies, in order.
fn told(broker: &Broker<SimDisk>) -> Vec<u64> {
    let outgoing = std::iter::from_fn(|| broker.take_outgoing());
    let connection = |one: Outgoing| {
        assert_eq!(one.request, ClientRequest::MembersChanged { group: group() });
        one.connection
    };
    outgoing.map(connection).collect()
}

/// Remoting reference, 5.23: a newcomer is notified before its reply, the others a moment later. A
/// change of topics is notified, a change of only tags is not.
#[test]
fn members_are_notified_when_their_group_changes() {
    sim::run(async {
        let broker = open(&SimDisk::new(65)).await;
        let beat = async |connection: u64, client: &str, topics: &[&str]| {
            let answer = answer_to(&broker, heartbeat(client, topics), &From(connection)).await;
            assert_eq!(answer.reply, Ok(Reply::HeartbeatTaken));
            told(&broker)
        };
        let later = || {
            broker.act(Now { moment: NOW.moment.plus_ms(100), ..NOW });
            told(&broker)
        };
        assert_eq!((beat(1, "a", &["t"]).await, later()), (vec![1], vec![1]));
        assert_eq!((beat(1, "a", &["t"]).await, later()), (vec![], vec![]), "nothing is new");
        assert_eq!((beat(2, "b", &["t"]).await, later()), (vec![2], vec![1, 2]));
        assert_eq!((beat(2, "b", &["t", "u"]).await, later()), (vec![2], vec![1, 2]));
        broker.connection_closed(1, NOW.moment);
        assert_eq!(later(), [2]);
        broker.connection_closed(2, NOW.moment);
        assert_eq!(later(), Vec::<u64>::new(), "nobody is left");
    });
}

/// The context of a request from this connection.
struct From(u64);

impl Context for From {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin { connection: self.0, ..Origin::default() }
    }

    fn now(&self) -> Now {
        NOW
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// The broker's requests reach the user of our client unchanged, and a reply reaches the operation
/// that waits for it.
#[test]
fn our_own_client_understands_requests_of_the_broker() {
    sim::run(async {
        let broker = open(&SimDisk::new(66)).await;
        let mut client = Session::default();
        let mut deliver = |broker: &Broker<SimDisk>| {
            let Outgoing { connection, request, call } = broker.take_outgoing().unwrap();
            let mut bytes = Vec::new();
            wire::encode_client_request(
                &mut bytes,
                wire::header::head::Dialect::default(),
                7,
                &request,
            )
            .unwrap();
            client.handle_bytes(&bytes).unwrap();
            let received = client.poll_server_request().unwrap();
            assert_eq!((connection, &received.request), (3, &request));
            (call, received.reply_to)
        };
        let at = BrokerQueue { broker_name: "s00-broker-a".into(), queue: queue("t", 1) };
        let reset = ClientRequest::ResetOffsets(ResetOffsets {
            topic: topic("t"),
            group: group(),
            at: Some(NOW.wall),
            is_forced: true,
            offsets: vec![(at.clone(), 41)],
        });
        for one_way in [ClientRequest::MembersChanged { group: group() }, reset] {
            assert!(broker.notify_client(3, one_way));
            assert_eq!(deliver(&broker).0, None);
        }

        let status = ClientRequest::ConsumerStatus { topic: topic("t"), group: group() };
        let until = NOW.moment.plus_ms(500);
        let mut answered = pin!(broker.call_client(3, status.clone(), until));
        let mut late = pin!(broker.call_client(3, status.clone(), until));
        let mut lost = pin!(broker.call_client(4, status, until));
        for call in [&mut answered, &mut late] {
            assert!(poll_once(call).await.is_none());
        }
        let (call, _) = deliver(&broker);
        deliver(&broker);
        assert!(poll_once(&mut lost).await.is_none());
        let reply = ClientReply::ConsumerStatus(vec![(at, 41)]);
        broker.reply_arrived(call.unwrap(), Ok(reply.clone()));
        assert_eq!(poll_once(&mut answered).await, Some(Ok(reply)));
        broker.connection_closed(4, NOW.moment);
        assert_eq!(poll_once(&mut lost).await, Some(Err(CallError::Closed)));
        broker.act(Now { moment: until, ..NOW });
        assert_eq!(poll_once(&mut late).await, Some(Err(CallError::TimedOut)));
    });
}

/// A commit that cannot be written is refused at once, instead of waiting for one that can.
#[test]
fn a_commit_that_cannot_be_logged_is_refused() {
    sim::run(async {
        let disk = SimDisk::new(67);
        let broker = open(&disk).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        disk.inject(On::nth(Operation::Write, 0), Fault::io_error());
        let stored = ask(&broker, Request::Produce(produce("t", 0, "A", b"two")));
        assert!(matches!(stored, Outcome::Committed { .. }));
        broker.store().commit_step().await.unwrap_err();
        let request = Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 1 };
        let refused = answer(&broker, request).await.reply;
        assert_eq!(refused, Err(Refusal::Fenced));
    });
}

/// Opens a broker whose log is committed by its owner.
async fn open_driven(disk: &SimDisk) -> Broker<SimDisk> {
    let store = StoreConfig { commit: CommitRule::Driven, ..store_config() };
    Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0
}

async fn write_all(broker: &Broker<SimDisk>) {
    while broker.store().written() < broker.store().end() {
        broker.store().commit_step().await.unwrap();
    }
}

/// Commits everything in the log.
async fn commit_all(broker: &Broker<SimDisk>) -> Vec<Released> {
    write_all(broker).await;
    broker.store().commit_to(broker.store().end());
    broker.advance()
}

/// Appends a message that is not visible yet.
async fn put(broker: &Broker<SimDisk>, name: &str, queue: u32) -> LogOffset {
    let request = Request::Produce(produce(name, queue, "a", name.as_bytes()));
    loop {
        match ask(broker, request.clone()) {
            Outcome::Committed { mark, .. } => return mark,
            Outcome::NoRoom { .. } => _ = broker.store().commit_step().await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs an operation and commits its entries.
async fn operate(broker: &Broker<SimDisk>, request: Request) -> Result<Reply, Refusal> {
    let mut operation = pin!(broker.operate(&request, &Here));
    loop {
        if let Some(answer) = poll_once(&mut operation).await {
            return answer.reply;
        }
        let moment = broker.next_deadline().unwrap();
        assert!(broker.act(Now { moment, ..NOW }).is_empty(), "nothing is held meanwhile");
        commit_all(broker).await;
    }
}

/// Everything that clients can observe.
async fn seen(broker: &Broker<SimDisk>) -> Vec<String> {
    let mut seen = Vec::new();
    for config in broker.published_topics().1 {
        seen.push(format!("{config:?}"));
        for id in 0..config.read_queue_count {
            let of = queue(config.name.as_str(), id);
            for request in [
                Request::MinOffset(of.clone()),
                Request::MaxOffset(of.clone()),
                Request::CommittedOffset { group: group(), queue: of, zero_if_missing: false },
            ] {
                seen.push(format!("{:?}", broker.operate(&request, &Here).await.reply));
            }
            if let Outcome::Now(answer) =
                ask(broker, Request::Pull(pull(config.name.as_str(), id, 0)))
            {
                seen.push(format!("{:?}", answer.reply));
            }
        }
    }
    seen
}

fn commit_offset(name: &str, offset: i64) -> Request {
    Request::CommitOffset { group: group(), queue: queue(name, 0), offset }
}

#[test]
fn after_a_cut_a_broker_has_never_seen_the_cut_entries() {
    sim::run(async {
        let disks = [SimDisk::new(1), SimDisk::new(2)];
        let brokers = [open_driven(&disks[0]).await, open_driven(&disks[1]).await];
        let [broker, other] = &brokers;
        for broker in &brokers {
            for nth in 0..60 {
                put(broker, ["t0", "t1", "t2"][nth % 3], nth as u32 % 4).await;
            }
            assert_eq!(operate(broker, commit_offset("t0", 3)).await, Ok(Reply::Done));
            commit_all(broker).await;
            broker.maintain(NOW, true).await.unwrap();
            put(broker, "t2", 0).await;
            commit_all(broker).await;
            broker.published_topics();
        }
        let kept = broker.store().newest_ordinal();
        let held_pull = |name: &str, offset| {
            let pull = Pull { hold_ms: Some(60_000), ..pull(name, 0, offset) };
            assert!(matches!(ask(broker, Request::Pull(pull)), Outcome::Held));
        };
        held_pull("t0", 5);
        for name in ["t0", "t3", "t2", "t0"] {
            put(broker, name, 0).await;
        }
        held_pull("t3", 0);
        let deletion = Request::DeleteTopic { topic: topic("t1") };
        let mut deletion = pin!(broker.operate(&deletion, &Here));
        assert!(poll_once(&mut deletion).await.is_none());
        let offset = commit_offset("t0", 4);
        let mut offset = pin!(broker.operate(&offset, &Here));
        assert!(poll_once(&mut offset).await.is_none());
        write_all(broker).await;
        assert!(broker.advance().is_empty(), "nothing of that is committed");

        let released = broker.cut_to(kept, NOW.wall).await.unwrap();
        let [Released { outcome: Outcome::Now(answer), .. }] = &released[..] else {
            panic!("{released:?}")
        };
        assert_eq!(answer.reply, Err(Refusal::UnknownTopic(topic("t3"))));
        let (_, changes) = broker.take_topic_changes();
        let t1 = broker.published_topics().1.into_iter().find(|config| config.name == topic("t1"));
        let expected = [TopicChange::Set(t1.unwrap()), TopicChange::Removed(topic("t3"))];
        assert_eq!(changes, expected);
        for waiting in [poll_once(&mut deletion).await, poll_once(&mut offset).await] {
            assert_eq!(waiting.unwrap().reply, Err(Refusal::OutcomeUnknown));
        }
        assert_eq!(seen(broker).await, seen(other).await);

        let mut answered = 0;
        for broker in &brokers {
            for name in ["t1", "t0", "t4"] {
                put(broker, name, 0).await;
            }
            answered += commit_all(broker).await.len();
        }
        assert_eq!(answered, 1, "the pull that was held before");
        assert_eq!(seen(broker).await, seen(other).await);
        let refused = broker.cut_to(kept, NOW.wall).await.unwrap_err();
        assert!(matches!(refused, CutError::Store(_)), "{refused}");
        let again = [open_driven(&disks[0]).await, open_driven(&disks[1]).await];
        for broker in &again {
            broker.store().commit_to(broker.store().end());
            broker.advance();
        }
        assert_eq!(seen(&again[0]).await, seen(&again[1]).await);
    });
}

/// Uncommitted entries found at a start become visible once they are committed.
#[test]
fn an_opened_broker_shows_what_is_committed() {
    sim::run(async {
        let disk = SimDisk::new(1);
        let broker = open_driven(&disk).await;
        put(&broker, "t", 0).await;
        commit_all(&broker).await;
        broker.maintain(NOW, true).await.unwrap();
        let marks = [put(&broker, "t", 0).await, put(&broker, "t", 0).await];
        write_all(&broker).await;
        let broker = open_driven(&disk).await;
        let max = async || broker.operate(&Request::MaxOffset(queue("t", 0)), &Here).await.reply;
        let offset = |offset| Ok(Reply::Offset(QueueOffset(offset)));
        assert_eq!(max().await, offset(1));
        for (mark, visible) in marks.into_iter().zip(2..) {
            broker.store().commit_to(mark);
            broker.advance();
            assert_eq!(max().await, offset(visible));
        }
    });
}
