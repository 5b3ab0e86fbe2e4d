//! Delayed messages across power cuts: each acknowledged one is delivered exactly once, and not
//! early, or it is recalled and never delivered.
//!
//! The oracle remembers what was sent and what was acknowledged, and collects what consumers see.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Range};

use bytes::Bytes;
use ringmq::broker::{Broker, Delay, Handled, Origin, Outcome};
use ringmq::model::batch::BatchItem;
use ringmq::model::record::{Host, NewRecord, RecordView, property};
use ringmq::model::reply::{PullStatus, TopicStats};
use ringmq::model::request::Produce;
use ringmq::model::{
    GroupName, LogOffset, Moment, Now, QueueId, Refusal, Reply, Request, Timestamp, TopicConfig,
    TopicName,
};
use ringmq::sim::{self, Rng, SimDisk, Tasks, small_store};
use ringmq::storage::StoreConfig;

use super::shard::{Clock, broker_config, commit, pull};

/// Number of steps of each life but the last one.
const STEPS: usize = 50;
const LIVES: u64 = 3;
/// Number of seeds of each of the two tests with many lives.
const SEEDS: u64 = 500;
/// Latest time at which any message is due, in moments of the last life.
const LATEST_MS: u64 = 3_300_000;
/// Messages of each topic; their queues are numbered on.
const TOPICS: [&str; 2] = ["orders", "bills"];
const QUEUES: u32 = 3;
const LEVELS_MS: [u64; 3] = [100, 1_000, 20_000];

/// A sent message: when it may be seen, and whether it was acknowledged.
#[derive(Debug)]
struct Sent {
    due: Timestamp,
    is_acknowledged: bool,
    recall_handle: Option<Box<str>>,
    recalled: Recalled,
}

#[derive(Debug, PartialEq)]
enum Recalled {
    No,
    /// A recall was interrupted.
    Perhaps,
    Yes,
}

impl Sent {
    fn new(due: Timestamp) -> Self {
        Self { due, is_acknowledged: false, recall_handle: None, recalled: Recalled::No }
    }

    /// Whether consumers must see it some time.
    fn is_due_some_time(&self) -> bool {
        self.is_acknowledged && self.recalled == Recalled::No
    }
}

/// What outlives every broker: the clock, and the oracle's state.
struct World {
    now: Clock,
    sent: RefCell<Vec<Sent>>,
    /// The number of the message at each queue and queue offset.
    seen: RefCell<BTreeMap<(u32, u64), usize>>,
    /// Bytes of the log that retention has deleted.
    deleted: Cell<u64>,
}

impl World {
    fn new() -> Self {
        let (sent, seen, deleted) = Default::default();
        Self { now: Clock::new(), sent, seen, deleted }
    }

    /// Whether everything that consumers must see has been seen.
    fn is_complete(&self) -> bool {
        let (sent, seen) = (self.sent.borrow(), self.seen.borrow());
        let numbers: BTreeSet<usize> = seen.values().copied().collect();
        let is_seen = |number| numbers.contains(&number);
        sent.iter().enumerate().all(|(number, of)| !of.is_due_some_time() || is_seen(number))
    }

    fn check(&self, seed: u64, is_complete: bool) {
        let (sent, seen) = (self.sent.borrow(), self.seen.borrow());
        let mut times = vec![0; sent.len()];
        seen.values().for_each(|&number| times[number] += 1);
        for (number, (sent, times)) in sent.iter().zip(&times).enumerate() {
            assert!(*times <= 1, "seed {seed}: {number} was delivered {times} times");
            assert!(
                *times == 0 || sent.recalled != Recalled::Yes,
                "seed {seed}: {number} had been recalled"
            );
            let is_lost = is_complete && sent.is_due_some_time() && *times == 0;
            assert!(!is_lost, "seed {seed}: {number} is lost: {sent:?}");
        }
    }
}

/// One life of a broker.
struct Life<'a> {
    world: &'a World,
    broker: &'a Broker<SimDisk>,
    /// Messages that are not acknowledged yet, with the log offset that must be committed first.
    waiting: Vec<(LogOffset, usize)>,
}

/// Lets other tasks run for a while, and calls `before_each` before each time.
async fn let_run(mut before_each: impl FnMut()) {
    for _ in 0..40 {
        before_each();
        sim::pause().await;
    }
}

impl Life<'_> {
    /// A message's properties, and the delay that they request.
    fn properties(rng: &mut Rng, now: Now) -> (String, u64) {
        let level =
            |level: u64| (format!("DELAY\x01{level}\x02"), LEVELS_MS[level.min(3) as usize - 1]);
        let ms = match rng.below(4) {
            0 => rng.below(500),
            1 => rng.below(5_000),
            2 => rng.below(60_000),
            _ => rng.below(3_000_000),
        };
        match rng.below(6) {
            0 => level(1 + rng.below(4)),
            1 => (format!("TIMER_DELAY_SEC\x01{}\x02", ms / 1_000), ms / 1_000 * 1_000),
            2 => (format!("TIMER_DELAY_MS\x01{ms}\x02"), ms),
            3 => (format!("TIMER_DELIVER_MS\x01{}\x02", now.wall.0 + ms), ms),
            4 => (format!("TIMER_DELIVER_MS\x01{}\x02", now.wall.0 - ms), 0),
            _ => ("TAGS\x01a\x02".into(), 0),
        }
    }

    /// Sends one message, or a few as a batch.
    fn send(&mut self, rng: &mut Rng) {
        let now = self.world.now.get();
        let first = self.world.sent.borrow().len();
        let count = if rng.below(5) == 0 { 1 + rng.below(4) as usize } else { 0 };
        let text = |number, rng: &mut Rng| {
            format!("{number} {}", "x".repeat(rng.below(900) as usize)).into_bytes()
        };
        let (mut body, mut properties, mut delays_ms) = (Vec::new(), String::new(), Vec::new());
        for number in first..first + count {
            let (properties, delay_ms) = Self::properties(rng, now);
            delays_ms.push(delay_ms);
            let text = text(number, rng);
            BatchItem { flag: 5, body: &text, properties: properties.as_bytes() }.write(&mut body);
        }
        if count == 0 {
            let delay_ms;
            (properties, delay_ms) = Self::properties(rng, now);
            properties += &format!("UNIQ_KEY\x01{first}\x02");
            (body, delays_ms) = (text(first, rng), vec![delay_ms]);
        }
        let request = Request::Produce(Produce {
            group: "senders".into(),
            topic: TopicName::new(TOPICS[rng.below(2) as usize]).unwrap(),
            default_topic: "TBW102".into(),
            default_queue_count: QUEUES,
            queue: Some(QueueId(rng.below(u64::from(QUEUES)) as u32)),
            system_flag: 0,
            born_at: now.wall,
            flag: 5,
            properties: Bytes::from(properties),
            reconsume_times: 0,
            retry_count_max: None,
            is_batch: count > 0,
            body: Bytes::from(body),
        });
        if let Handled::Done(Outcome::Committed { mark, reply: Reply::Produced(produced) }) =
            self.broker.handle(&request, Origin::default(), now)
        {
            for (number, delay_ms) in (first..).zip(delays_ms) {
                let due = now.wall.plus_ms(delay_ms);
                let recall_handle = produced.recall_handle.clone();
                self.world.sent.borrow_mut().push(Sent { recall_handle, ..Sent::new(due) });
                self.waiting.push((mark, number));
            }
        }
    }

    /// Recalls a message, which may have been delivered or recalled before.
    async fn recall(&self, rng: &mut Rng) {
        let handles: Vec<(usize, String)> = {
            let sent = self.world.sent.borrow();
            let known = sent.iter().enumerate().filter(|(_, of)| of.is_acknowledged);
            let handle = |of: &Sent| of.recall_handle.as_ref().map(|handle| handle.to_string());
            known.filter_map(|(number, of)| Some((number, handle(of)?))).collect()
        };
        if handles.is_empty() {
            return;
        }
        let (number, handle) = &handles[rng.below(handles.len() as u64) as usize];
        let topics = TOPICS.map(|topic| TopicName::new(topic).unwrap());
        for topic in topics {
            let request = Request::Recall { topic, handle: handle.as_str().into() };
            match self.broker.operate(&request, &self.world.now).await.reply {
                Ok(Reply::Recalled(id)) => {
                    assert_eq!(*id, *number.to_string());
                    self.world.sent.borrow_mut()[*number].recalled = Recalled::Yes;
                }
                Err(Refusal::OutcomeUnknown) => {
                    let recalled = &mut self.world.sent.borrow_mut()[*number].recalled;
                    if *recalled == Recalled::No {
                        *recalled = Recalled::Perhaps;
                    }
                }
                // Of the other topic, delivered, or the power is gone.
                Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        }
    }

    fn acknowledge(&mut self) {
        let committed = self.broker.store().committed();
        self.waiting.retain(|&(mark, number)| {
            if mark <= committed {
                self.world.sent.borrow_mut()[number].is_acknowledged = true;
            }
            mark > committed
        });
    }

    /// Pulls everything that consumers can see and have not seen yet.
    async fn pull_all(&self) {
        for queue in 0..QUEUES * TOPICS.len() as u32 {
            while self.pull_some(queue).await {}
        }
    }

    async fn pull_some(&self, queue: u32) -> bool {
        let offset = {
            let seen = self.world.seen.borrow();
            let last = seen.range((queue, 0)..(queue + 1, 0)).next_back();
            last.map_or(0, |((_, offset), _)| offset + 1)
        };
        let (group, topic) = ("readers", TOPICS[(queue / QUEUES) as usize]);
        let (group, topic) = (GroupName::new(group).unwrap(), TopicName::new(topic).unwrap());
        let request = pull(group, topic, queue % QUEUES, offset, 32);
        let outcome = match self.broker.handle(&request, Origin::default(), self.world.now.get()) {
            Handled::Done(Outcome::Cold(task)) => {
                self.broker.pull_cold(task, &self.world.now).await
            }
            Handled::Done(outcome) => outcome,
            other => panic!("{other:?}"),
        };
        let Outcome::Now(answer) = outcome else { panic!("{outcome:?}") };
        let Ok(Reply::Pulled(pulled)) = answer.reply else { return false };
        for chunk in &answer.chunks {
            let mut rest: &[u8] = chunk;
            while !rest.is_empty() {
                let record = RecordView::parse(rest).unwrap();
                self.see(queue, &record);
                rest = &rest[record.size..];
            }
        }
        assert!(pulled.status != PullStatus::OffsetMoved, "deleted before it was seen");
        pulled.status == PullStatus::Found
    }

    fn see(&self, queue: u32, record: &RecordView<'_>) {
        let text = std::str::from_utf8(record.body).unwrap();
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        let sent = &self.world.sent.borrow()[number];
        assert!(record.stored_at >= sent.due, "{number} is early: {sent:?}, {record:?}");
        let topic = TOPICS[(queue / QUEUES) as usize];
        let place = (topic, QueueId(queue % QUEUES));
        assert_eq!((record.topic, record.queue, record.flag), (place.0, place.1, 5));
        for name in ["DELAY", "TIMER_DELAY_SEC", "TIMER_DELAY_MS"] {
            let value = property(record.properties, name).unwrap_or(b"0");
            assert_eq!(value, b"0", "{name} has had its effect, or had none");
        }
        let place = (queue, record.queue_offset.0);
        let before = self.world.seen.borrow_mut().insert(place, number);
        assert_eq!(before, None, "a consumer saw {place:?} twice");
    }

    async fn maintain(&self, force_snapshot: bool) {
        // Consumers are faster than retention.
        self.pull_all().await;
        self.broker.maintain(self.world.now.get(), force_snapshot).await.ok();
        let begin = self.broker.store().begin().0;
        self.world.deleted.set(begin.max(self.world.deleted.get()));
    }

    async fn stats(&self, topic: &str) -> Option<TopicStats> {
        let request = Request::TopicStats { topic: TopicName::new(topic).unwrap() };
        match self.broker.operate(&request, &self.world.now).await.reply {
            Ok(Reply::TopicStats(stats)) => Some(stats),
            _ => None,
        }
    }

    /// The offsets of the messages of all topics that are not due yet.
    async fn pending(&self) -> Range<u64> {
        let stats = self.stats("SCHEDULE_TOPIC_XXXX").await.unwrap();
        stats.queues[0].min_offset.0..stats.queues[0].max_offset.0
    }

    /// The number of pending messages of each topic. Their sum is that of all topics.
    async fn pending_of_topics(&self) -> [u64; 2] {
        loop {
            let all = self.pending().await;
            let mut counts = [0; 2];
            for (count, topic) in counts.iter_mut().zip(TOPICS) {
                // A topic that does not exist yet has no messages.
                let Some(stats) = self.stats(topic).await else { continue };
                match stats.delayed {
                    Some(counts) => *count = counts.delayed,
                    None => panic!("{topic}: not all that is pending is counted"),
                }
            }
            // Otherwise some were delivered meanwhile.
            if self.pending().await == all {
                assert_eq!(counts.iter().sum::<u64>(), all.end - all.start, "{counts:?}");
                return counts;
            }
        }
    }

    /// How many messages of each topic consumers have seen.
    fn seen_of_topics(&self) -> [u64; 2] {
        let seen = self.world.seen.borrow();
        let count = |topic: u32| seen.range((topic * QUEUES, 0)..((topic + 1) * QUEUES, 0)).count();
        [count(0) as u64, count(1) as u64]
    }

    /// Acts as a replica that stops leading and is elected again before any other one.
    fn lead_again(&self) {
        self.broker.follow();
        let leads = |epoch| self.broker.lead(epoch, self.world.now.get()).is_ok();
        assert!((1..1_000).any(leads), "some epoch is higher than the last");
    }

    /// Lets time pass until nothing can be pending any more. What was pending is seen then.
    async fn finish(&mut self, rng: &mut Rng) {
        // No time passes, so what is due at the start is delivered and committed, and nothing else.
        for _ in 0..20 {
            let_run(|| {}).await;
            self.pull_all().await;
        }
        let (pending, seen) = (self.pending_of_topics().await, self.seen_of_topics());
        while self.world.now.get().moment < Moment(LATEST_MS) {
            let now = self.world.now.get();
            let next = self.broker.next_deadline().map_or(0, |at| at.ms_since(now.moment));
            // Steps grow over time, because fewer messages are due later, and overdue ones are
            // still due.
            let least = match self.world.is_complete() {
                true => LATEST_MS / 8,
                false => rng.below(1 + now.moment.0),
            };
            self.world.now.pass(next.clamp(1, 40_000).max(least));
            self.broker.act(self.world.now.get());
            let_run(|| {
                // Deliveries that this interrupts are retried later.
                if rng.below(60) == 0 && now.moment < Moment(LATEST_MS / 2) {
                    self.lead_again();
                }
            })
            .await;
            self.maintain(rng.coin()).await;
            self.pending_of_topics().await;
        }
        self.acknowledge();
        self.pull_all().await;
        // Interrupted deliveries are late.
        for _ in 0..100 {
            if self.world.is_complete() && self.pending_of_topics().await == [0; 2] {
                break;
            }
            self.world.now.pass(1_000);
            self.broker.act(self.world.now.get());
            let_run(|| {}).await;
            self.pull_all().await;
        }
        assert_eq!(self.pending_of_topics().await, [0; 2]);
        let [first, second] = self.seen_of_topics();
        assert_eq!([first - seen[0], second - seen[1]], pending, "what was counted is seen");
    }
}

fn live(seed: u64, world: &World, disk: &SimDisk, is_last: bool, config: &StoreConfig) {
    let mut rng = Rng::from_seed(seed);
    let opened = sim::run(Broker::open(
        disk.clone(),
        config.clone(),
        broker_config(world.now.get(), &LEVELS_MS),
    ));
    let Ok((broker, _)) = opened else {
        assert!(!disk.has_power(), "{:?}", opened.err());
        return;
    };
    let tasks = Tasks::new(seed);
    for _ in 0..3 {
        tasks.spawn("committer", commit(&broker));
    }
    tasks.spawn("delivery", async { broker.deliver(&world.now).await });
    tasks.run_until(async {
        let mut life = Life { world, broker: &broker, waiting: Vec::new() };
        for _ in 0..if is_last { 0 } else { STEPS } {
            if !disk.has_power() {
                return;
            }
            life.pending_of_topics().await;
            match rng.below(11) {
                10 => life.recall(&mut rng).await,
                0..5 => life.send(&mut rng),
                5..7 => {
                    world.now.pass(rng.below(300));
                    broker.act(world.now.get());
                }
                7 => life.acknowledge(),
                8 => life.pull_all().await,
                _ => life.maintain(rng.below(4) == 0).await,
            }
            sim::pause().await;
        }
        if is_last {
            life.finish(&mut rng).await;
        }
        life.acknowledge();
        broker.stop_delivery();
        broker.store().stop();
    });
}

/// What happened in the lives of one seed.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seen: usize,
    recalled: usize,
    /// Bytes of the log that retention has deleted.
    deleted: u64,
    /// Power cuts that interrupted something.
    cuts: usize,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seen: self.seen + other.seen,
            recalled: self.recalled + other.recalled,
            deleted: self.deleted + other.deleted,
            cuts: self.cuts + other.cuts,
        }
    }
}

fn lives(seed: u64, config: &StoreConfig) -> Tally {
    let world = World::new();
    let mut rng = Rng::from_seed(seed);
    let mut disk = SimDisk::new(seed);
    let mut cuts = 0;
    disk.slow(2);
    for life in 0..LIVES {
        let is_last = life + 1 == LIVES;
        if !is_last {
            disk.lose_power_after(3 + rng.below(70));
        }
        live(seed * 10 + life, &world, &disk, is_last, config);
        cuts += usize::from(!disk.has_power());
        world.check(seed, is_last);
        world.now.pass(rng.below(2_000));
        // The monotonic clock starts from a new origin.
        world.now.restart(Moment(rng.below(100)));
        disk = disk.after_crash(seed * 3 + life);
    }
    let recalled = world.sent.borrow().iter().filter(|of| of.recalled == Recalled::Yes).count();
    let (seen, deleted) = (world.seen.into_inner().len(), world.deleted.get());
    Tally { seen, recalled, deleted, cuts }
}

fn all_lives(seeds: Range<u64>, config: &StoreConfig) -> Tally {
    let tally = seeds.map(|seed| lives(seed, config)).fold(Tally::default(), Add::add);
    let is_enough = tally.seen as u64 > 25 * SEEDS && tally.cuts as u64 > SEEDS / 2;
    assert!(is_enough && tally.recalled as u64 > SEEDS, "{tally:?}");
    tally
}

#[test]
fn delayed_messages_survive_power_cuts_and_are_delivered_once_and_not_early() {
    all_lives(0..SEEDS, &small_store());
}

/// Retention deletes segments while messages in them are pending; those are carried forward.
#[test]
fn retention_deletes_segments_and_no_pending_message() {
    let (segment_size, retention_bytes) = (16 << 10, 16 << 10);
    let config = StoreConfig { segment_size, retention_bytes, ..small_store() };
    let tally = all_lives(SEEDS..2 * SEEDS, &config);
    assert!(tally.deleted > SEEDS * retention_bytes, "{tally:?}");
}

/// A record that the broker itself delays, as it does for a consumer's retry.
#[test]
fn a_record_is_scheduled_for_its_own_topic_and_queue() {
    let world = World::new();
    let disk = SimDisk::new(1);
    let opened =
        sim::run(Broker::open(disk, small_store(), broker_config(Clock::BEGIN, &LEVELS_MS)));
    let (broker, _) = opened.unwrap();
    let tasks = Tasks::new(1);
    tasks.spawn("committer", commit(&broker));
    tasks.spawn("delivery", async { broker.deliver(&world.now).await });
    tasks.run_until(async {
        let config = TopicConfig::new(TopicName::new("orders").unwrap(), QUEUES);
        broker.operate(&Request::CreateTopic(config), &world.now).await.reply.unwrap();
        let record = NewRecord {
            topic: "orders",
            queue: QueueId(2),
            flag: 5,
            system_flag: 0,
            born_at: Clock::BEGIN.wall,
            born_host: Host { address: [1, 2, 3, 4], port: 5.into() },
            reconsume_times: 3,
            body: b"0 ",
            properties: [b"KEYS\x01k\x02REAL_TOPIC\x01old", b"DELAY\x015\x02"],
        };
        assert_eq!(Delay::of_level(0, &LEVELS_MS), None);
        let delay = Delay::of_level(9, &LEVELS_MS).unwrap();
        broker.schedule(&record, delay, &world.now).await.unwrap();
        let due = Clock::BEGIN.wall.plus_ms(20_000);
        world.sent.borrow_mut().push(Sent { is_acknowledged: true, ..Sent::new(due) });
        let mut life = Life { world: &world, broker: &broker, waiting: Vec::new() };
        life.finish(&mut Rng::from_seed(1)).await;
        world.check(1, true);
        assert_eq!(world.seen.borrow().get(&(2, 0)), Some(&0));
        broker.stop_delivery();
        broker.store().stop();
    });
}

#[test]
fn a_message_that_is_due_alone_does_not_wait_and_those_that_follow_share_a_delivery() {
    const PACE_MS: u64 = 10;
    let world = World::new();
    let disk = SimDisk::new(1);
    let opened =
        sim::run(Broker::open(disk, small_store(), broker_config(Clock::BEGIN, &LEVELS_MS)));
    let (broker, _) = opened.unwrap();
    let tasks = Tasks::new(1);
    tasks.spawn("committer", commit(&broker));
    tasks.spawn("delivery", async { broker.deliver(&world.now).await });
    tasks.run_until(async {
        let config = TopicConfig::new(TopicName::new("orders").unwrap(), QUEUES);
        broker.operate(&Request::CreateTopic(config), &world.now).await.reply.unwrap();
        let life = Life { world: &world, broker: &broker, waiting: Vec::new() };
        let send = async |number: usize, delay_ms: u64| {
            let body = format!("{number} ").into_bytes();
            let record = NewRecord {
                topic: "orders",
                queue: QueueId(0),
                flag: 5,
                system_flag: 0,
                born_at: Clock::BEGIN.wall,
                born_host: Host { address: [1, 2, 3, 4], port: 5.into() },
                reconsume_times: 0,
                body: &body,
                properties: [b"", b""],
            };
            let due = world.now.get().wall.plus_ms(delay_ms);
            world.sent.borrow_mut().push(Sent { is_acknowledged: true, ..Sent::new(due) });
            let property = format!("TIMER_DELAY_MS\x01{delay_ms}\x02");
            let delay = Delay::of_properties(property.as_bytes(), &LEVELS_MS, Clock::BEGIN.wall);
            let delay = delay.unwrap().unwrap();
            broker.schedule(&record, delay, &world.now).await.unwrap();
        };
        let seen_by = async |moment: Moment| {
            world.now.pass(moment.ms_since(world.now.get().moment));
            broker.wake_delivery(world.now.get().moment);
            let_run(|| {}).await;
            life.pull_all().await;
            world.seen.borrow().len()
        };
        let begin = world.now.get().moment;
        // One millisecond more, so that none is early.
        let first = begin.plus_ms(501);
        for (number, delay_ms) in [500, 502, 505].into_iter().enumerate() {
            send(number, delay_ms).await;
            assert_eq!(broker.next_delivery(), Some(first), "the earliest");
        }
        assert_eq!(seen_by(begin.plus_ms(500)).await, 0);
        assert_eq!(seen_by(first).await, 1);
        let second = first.plus_ms(PACE_MS);
        assert_eq!(broker.next_delivery(), Some(second));
        assert_eq!(seen_by(first.plus_ms(PACE_MS - 1)).await, 1, "not due yet");
        assert_eq!(seen_by(second).await, 3);
        assert_eq!(broker.next_delivery(), None);
        broker.stop_delivery();
        broker.store().stop();
    });
}
