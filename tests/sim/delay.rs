//! Delayed messages across power cuts: each acknowledged one is delivered exactly once, and not
//! early, or it is recalled and never delivered. A client that has seen no reply sends again: the
//! broker recognizes a message by its unique key; without one, it is another message.
//!
//! The oracle remembers what was sent and what was acknowledged, and collects what consumers see.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Add, Range};

use bytes::Bytes;
use ringmq::broker::{Broker, Delay, Handled, Origin, Outcome};
use ringmq::model::batch::BatchItem;
use ringmq::model::record::{Host, NewRecord, RecordView, property};
use ringmq::model::reply::PullStatus;
use ringmq::model::request::Produce;
use ringmq::model::{
    GroupName, LogOffset, Moment, Now, QueueId, Refusal, Reply, Request, Timestamp, TopicConfig,
    TopicName,
};
use ringmq::sim::{self, Rng, SimDisk, Tasks, small_store};
use ringmq::storage::StoreConfig;

use super::shard::{Clock, Copies, Repeats, broker_config, commit, pending_of, pull};

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

/// A sent message: when it may be seen, and how often.
#[derive(Debug)]
struct Sent {
    copies: Copies,
    /// When the copy of each request is due.
    due: Vec<Timestamp>,
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
    fn new(repeats: Repeats) -> Self {
        let copies = Copies { repeats, ..Copies::default() };
        Self { copies, due: Vec::new(), recall_handle: None, recalled: Recalled::No }
    }

    /// A message that the broker itself has scheduled.
    fn scheduled(due: Timestamp) -> Self {
        let mut sent = Self::new(Repeats::Recognized);
        sent.ask(due);
        sent.copies.acknowledged = 1;
        sent
    }

    /// Notes a request to store it.
    fn ask(&mut self, due: Timestamp) {
        self.copies.asked += 1;
        self.due.push(due);
        self.due.sort_unstable();
    }

    /// Notes a copy that was delivered at this time. There must be one that was due.
    fn see(&mut self, at: Timestamp) {
        let due = self.due.get(self.copies.seen);
        assert!(due.is_some_and(|due| at >= *due), "early, or too often: {self:?} at {at:?}");
        self.copies.seen += 1;
    }

    /// Whether consumers have seen all that they must see.
    fn is_complete(&self) -> bool {
        self.copies.are_all_seen() || self.recalled != Recalled::No
    }
}

/// When a message is due.
#[derive(Clone, Copy)]
enum Due {
    /// The message requests no delay.
    Now,
    /// This long after the broker has received it, ms.
    After(u64),
    At(Timestamp),
}

impl Due {
    fn at(self, now: Now) -> Timestamp {
        match self {
            Self::Now => now.wall,
            Self::After(ms) => now.wall.plus_ms(ms),
            Self::At(due) => due,
        }
    }
}

/// A request with one message or a batch, which may be repeated.
#[derive(Clone)]
struct Sending {
    produce: Produce,
    /// The number of the first message.
    first: usize,
    due: Vec<Due>,
}

/// What outlives every broker: the clock, and the oracle's state.
struct World {
    now: Clock,
    sent: RefCell<Vec<Sent>>,
    sendings: RefCell<Vec<Sending>>,
    repeats: Cell<usize>,
    /// The number of the message at each queue and queue offset.
    seen: RefCell<BTreeMap<(u32, u64), usize>>,
    /// Bytes of the log that retention has deleted.
    deleted: Cell<u64>,
}

impl World {
    fn new() -> Self {
        let (sent, sendings, repeats, seen, deleted) = Default::default();
        Self { now: Clock::new(), sent, sendings, repeats, seen, deleted }
    }

    /// Whether everything that consumers must see has been seen.
    fn is_complete(&self) -> bool {
        self.sent.borrow().iter().all(Sent::is_complete)
    }

    fn check(&self, seed: u64, is_complete: bool) {
        for (number, sent) in self.sent.borrow().iter().enumerate() {
            let copies = &sent.copies;
            let is_too_often = copies.seen > *copies.expected().end();
            assert!(!is_too_often, "seed {seed}: {number} was delivered too often: {sent:?}");
            assert!(
                copies.seen == 0 || sent.recalled != Recalled::Yes,
                "seed {seed}: {number} had been recalled"
            );
            let is_lost = is_complete && !sent.is_complete();
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
    fn properties(rng: &mut Rng, now: Now) -> (String, Due) {
        let level = |level: u64| {
            let ms = LEVELS_MS[level.min(3) as usize - 1];
            (format!("DELAY\x01{level}\x02"), Due::After(ms))
        };
        let ms = match rng.below(4) {
            0 => rng.below(500),
            1 => rng.below(5_000),
            2 => rng.below(60_000),
            _ => rng.below(3_000_000),
        };
        let at = |at: Timestamp| (format!("TIMER_DELIVER_MS\x01{}\x02", at.0), Due::At(at));
        match rng.below(6) {
            0 => level(1 + rng.below(4)),
            1 => (format!("TIMER_DELAY_SEC\x01{}\x02", ms / 1_000), Due::After(ms / 1_000 * 1_000)),
            2 => (format!("TIMER_DELAY_MS\x01{ms}\x02"), Due::After(ms)),
            3 => at(now.wall.plus_ms(ms)),
            4 => at(Timestamp(now.wall.0 - ms)),
            _ => Self::no_delay(),
        }
    }

    fn no_delay() -> (String, Due) {
        ("TAGS\x01a\x02".into(), Due::Now)
    }

    /// Sends one message, or a few as a batch, or repeats an earlier request.
    fn send(&mut self, rng: &mut Rng) {
        let mut sendings = self.world.sendings.borrow_mut();
        if !sendings.is_empty() && rng.chance(1, 8) {
            // Mostly a recent one.
            let back = 1 + rng.below(8) as usize;
            let sending = sendings[sendings.len().saturating_sub(back)].clone();
            // After a recall, it is a new message.
            if self.world.sent.borrow()[sending.first].recalled == Recalled::No {
                self.world.repeats.set(self.world.repeats.get() + 1);
                self.produce(&sending);
            }
            return;
        }
        let (sending, repeats) = self.new_sending(rng);
        let messages = sending.due.iter().map(|_| Sent::new(repeats));
        self.world.sent.borrow_mut().extend(messages);
        self.produce(&sending);
        sendings.push(sending);
    }

    /// A request with new messages, and what the broker does when it is repeated.
    fn new_sending(&self, rng: &mut Rng) -> (Sending, Repeats) {
        let now = self.world.now.get();
        let first = self.world.sent.borrow().len();
        let count = if rng.below(5) == 0 { 1 + rng.below(4) as usize } else { 0 };
        let has_key = rng.chance(3, 4);
        let may_be_delayed = count == 0 || rng.coin();
        let text = |number, rng: &mut Rng| {
            format!("{number} {}", "x".repeat(rng.below(900) as usize)).into_bytes()
        };
        let message = |number, rng: &mut Rng| {
            let (mut properties, due) =
                if may_be_delayed { Self::properties(rng, now) } else { Self::no_delay() };
            if has_key {
                properties += &format!("UNIQ_KEY\x01{number}\x02");
            }
            (properties, due)
        };
        let (mut body, mut properties, mut due) = (Vec::new(), String::new(), Vec::new());
        for number in first..first + count {
            let (properties, due_of_this) = message(number, rng);
            due.push(due_of_this);
            let text = text(number, rng);
            BatchItem { flag: 5, body: &text, properties: properties.as_bytes() }.write(&mut body);
        }
        if count == 0 {
            let due_of_this;
            (properties, due_of_this) = message(first, rng);
            (body, due) = (text(first, rng), vec![due_of_this]);
        }
        let produce = Produce {
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
        };
        let has_delay = !due.iter().all(|due| matches!(due, Due::Now));
        let repeats = match has_key {
            false => Repeats::Stored,
            // Batches with delayed messages are not recognized; whether they have any depends on
            // when they arrive.
            true if count > 1 && has_delay => Repeats::Either,
            true => Repeats::Recognized,
        };
        (Sending { produce, first, due }, repeats)
    }

    fn produce(&mut self, sending: &Sending) {
        let now = self.world.now.get();
        let request = Request::Produce(sending.produce.clone());
        if let Handled::Done(Outcome::Committed { mark, reply: Reply::Produced(produced) }) =
            self.broker.handle(&request, Origin::default(), now)
        {
            for (number, due) in (sending.first..).zip(&sending.due) {
                let sent = &mut self.world.sent.borrow_mut()[number];
                sent.ask(due.at(now));
                sent.recall_handle.clone_from(&produced.recall_handle);
                self.waiting.push((mark, number));
            }
        }
    }

    /// Recalls a message, which may have been delivered or recalled before.
    async fn recall(&self, rng: &mut Rng) {
        let handles: Vec<(usize, String)> = {
            let sent = self.world.sent.borrow();
            let known = sent.iter().enumerate().filter(|(_, of)| of.copies.acknowledged > 0);
            let handle = |of: &Sent| of.recall_handle.as_ref().map(|handle| handle.to_string());
            known.filter_map(|(number, of)| Some((number, handle(of)?))).collect()
        };
        if handles.is_empty() {
            return;
        }
        let (number, handle) = &handles[rng.below(handles.len() as u64) as usize];
        let topics = TOPICS.map(|topic| TopicName::new(topic).unwrap());
        let mut refused = 0;
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
                // Of the other topic, or delivered.
                Err(Refusal::NoRecall(_) | Refusal::UnknownTopic(_)) => refused += 1,
                // The power is gone.
                Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        }
        let sent = &self.world.sent.borrow()[*number];
        let is_pending = sent.recalled == Recalled::No && sent.due[0] > self.world.now.get().wall;
        assert!(refused < TOPICS.len() || !is_pending, "{number} cannot be recalled: {sent:?}");
    }

    fn acknowledge(&mut self) {
        let committed = self.broker.store().committed();
        self.waiting.retain(|&(mark, number)| {
            if mark <= committed {
                self.world.sent.borrow_mut()[number].copies.acknowledged += 1;
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
        self.world.sent.borrow_mut()[number].see(record.stored_at);
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

    /// The number of pending messages of each topic.
    async fn pending_of_topics(&self) -> [u64; 2] {
        let counts = pending_of(self.broker, &self.world.now, TOPICS).await;
        assert_eq!(counts.map(|of| of.retries), [0; 2], "no group has returned any");
        counts.map(|of| of.delayed)
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
    /// Requests that repeated another.
    repeats: usize,
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
            repeats: self.repeats + other.repeats,
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
    Tally { seen, recalled, repeats: world.repeats.get(), deleted, cuts }
}

fn all_lives(seeds: Range<u64>, config: &StoreConfig) -> Tally {
    let tally = seeds.map(|seed| lives(seed, config)).fold(Tally::default(), Add::add);
    let is_enough = tally.seen as u64 > 25 * SEEDS && tally.cuts as u64 > SEEDS / 2;
    assert!(is_enough && tally.recalled as u64 > SEEDS, "{tally:?}");
    assert!(tally.repeats as u64 > 2 * SEEDS, "{tally:?}");
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
        world.sent.borrow_mut().push(Sent::scheduled(due));
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
            let record = order(&body, Clock::BEGIN.wall);
            let due = world.now.get().wall.plus_ms(delay_ms);
            world.sent.borrow_mut().push(Sent::scheduled(due));
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

/// One life of a broker whose wall clock may be set. Ends with a snapshot, like an orderly stop.
fn clocked(world: &World, disk: &SimDisk, act: impl AsyncFn(&Clocked<'_>)) {
    let opened = sim::run(Broker::open(
        disk.clone(),
        small_store(),
        broker_config(world.now.get(), &LEVELS_MS),
    ));
    let (broker, _) = opened.unwrap();
    let tasks = Tasks::new(1);
    tasks.spawn("committer", commit(&broker));
    tasks.spawn("delivery", async { broker.deliver(&world.now).await });
    tasks.run_until(async {
        let life = Life { world, broker: &broker, waiting: Vec::new() };
        act(&Clocked { life: &life }).await;
        broker.stop_delivery();
        broker.maintain(world.now.get(), true).await.unwrap();
        broker.store().stop();
    });
}

struct Clocked<'a> {
    life: &'a Life<'a>,
}

/// A message of the topic to which the messages of these tests go.
fn order(body: &[u8], born_at: Timestamp) -> NewRecord<'_> {
    NewRecord {
        topic: "orders",
        queue: QueueId(0),
        flag: 5,
        system_flag: 0,
        born_at,
        born_host: Host { address: [1, 2, 3, 4], port: 5.into() },
        reconsume_times: 0,
        body,
        properties: [b"", b""],
    }
}

impl Clocked<'_> {
    /// Stores a message that is due in 20 s of elapsed time. What the wall clock shows then does not
    /// matter.
    async fn send(&self) {
        let Life { world, broker, .. } = self.life;
        let config = TopicConfig::new(TopicName::new("orders").unwrap(), QUEUES);
        broker.operate(&Request::CreateTopic(config), &world.now).await.reply.unwrap();
        let number = world.sent.borrow().len();
        world.sent.borrow_mut().push(Sent::scheduled(Timestamp(0)));
        let body = format!("{number} ").into_bytes();
        let record = order(&body, world.now.get().wall);
        let delay = Delay::of_level(3, &LEVELS_MS).unwrap();
        broker.schedule(&record, delay, &world.now).await.unwrap();
    }

    /// Lets time pass, with maintenance. Returns how many messages consumers have seen.
    async fn seen_after(&self, ms: u64) -> usize {
        let Life { world, broker, .. } = self.life;
        let end = world.now.get().moment.plus_ms(ms);
        loop {
            broker.act(world.now.get());
            let_run(|| {}).await;
            self.life.maintain(false).await;
            self.life.pull_all().await;
            let left_ms = end.ms_since(world.now.get().moment);
            if left_ms == 0 {
                return world.seen.borrow().len();
            }
            world.now.pass(left_ms.min(500));
        }
    }
}

/// The broker starts while the wall clock is ten years ahead, and the clock is set back later.
#[test]
fn a_clock_that_is_years_ahead_at_a_start_makes_no_message_early_or_late() {
    const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
    let (world, disk) = (World::new(), SimDisk::new(1));
    clocked(&world, &disk, async |broker| {
        broker.send().await;
        assert_eq!(broker.seen_after(5_000).await, 0);
    });
    world.now.set_by(TEN_YEARS_MS);
    world.now.restart(Moment(7));
    clocked(&world, &disk, async |broker| {
        assert_eq!(broker.seen_after(1_000).await, 0, "it is not due for another 14 s");
        broker.send().await;
        assert_eq!(broker.seen_after(13_000).await, 0);
        assert_eq!(broker.seen_after(2_000).await, 1, "the one from before the jump");
        world.now.set_by(-TEN_YEARS_MS);
        assert_eq!(broker.seen_after(1_000).await, 1);
    });
    world.now.pass(1_000);
    world.now.restart(Moment(9));
    clocked(&world, &disk, async |broker| {
        assert_eq!(broker.seen_after(1_000).await, 1, "17 s after the second one was sent");
        assert_eq!(broker.seen_after(3_000).await, 2, "the one that was sent during the jump");
    });
    world.check(1, true);
}

/// The wall clock is ahead when the last message is stored, and is right again long before the
/// broker stops.
#[test]
fn a_message_that_was_stored_during_a_jump_is_in_time_after_a_restart() {
    const HOUR_MS: i64 = 3_600_000;
    let (world, disk) = (World::new(), SimDisk::new(1));
    clocked(&world, &disk, async |broker| {
        broker.seen_after(1_000).await;
        world.now.set_by(HOUR_MS);
        broker.seen_after(1_000).await;
        broker.send().await;
        world.now.set_by(-HOUR_MS);
        assert_eq!(broker.seen_after(15_000).await, 0);
    });
    world.now.pass(2_000);
    world.now.restart(Moment(7));
    clocked(&world, &disk, async |broker| {
        assert_eq!(broker.seen_after(1_000).await, 0);
        assert_eq!(broker.seen_after(3_000).await, 1, "21 s after it was sent");
    });
    world.check(1, true);
}
