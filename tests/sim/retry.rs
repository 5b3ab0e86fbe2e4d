//! Messages that fail, across power cuts: none is lost, none is consumed more often than the group allows, and
//! each that never succeeds ends up as a dead letter.
//!
//! The oracle decides beforehand how often each message fails. Without a power cut everything happens exactly
//! once; after a power cut, a message that the consumer has already returned may come back again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use ringmq::broker::{Broker, Handled, Origin, Outcome};
use ringmq::model::record::{RecordView, property};
use ringmq::model::reply::{DelayedCounts, TopicStats};
use ringmq::model::request::{Produce, SendBack};
use ringmq::model::{GroupConfig, GroupName, Moment, QueueId, Refusal, Reply, Request, TopicName};
use ringmq::sim::{self, Rng, SimDisk, Tasks, small_store};

use super::shard::{Clock, broker_config, commit, pull};

const LEVELS_MS: [u64; 3] = [10, 100, 1_000];
const RETRIES: i32 = 2;
const MESSAGES: usize = 25;
/// Number of seeds of each of the two tests.
const SEEDS: u64 = 500;
/// More queues than any topic here has.
const QUEUES: u32 = 4;

fn group() -> GroupName {
    GroupName::new("readers").unwrap()
}

fn orders() -> TopicName {
    TopicName::new("orders").unwrap()
}

/// A message as the oracle knows it.
#[derive(Clone, Debug, Default)]
struct Message {
    /// How many attempts fail.
    fails: i32,
    is_sent: bool,
    /// The attempt number of each delivery.
    attempts: Vec<i32>,
    is_done: bool,
    dead: usize,
}

/// What outlives every broker: the oracle, and the consumer with its offsets.
struct World {
    now: Clock,
    messages: RefCell<Vec<Message>>,
    offsets: RefCell<BTreeMap<(TopicName, u32), u64>>,
    disk: SimDisk,
}

impl World {
    fn is_settled(&self) -> bool {
        let messages = self.messages.borrow();
        messages.iter().all(|of| !of.is_sent || of.is_done || of.dead > 0)
    }

    fn check(&self, seed: u64, was_cut: bool) {
        for (number, message) in self.messages.borrow().iter().enumerate() {
            let what = format!("seed {seed}: {number}: {message:?}");
            if !message.is_sent {
                continue;
            }
            assert!(message.is_done || message.dead > 0, "lost: {what}");
            assert!(message.attempts.iter().all(|attempt| *attempt <= RETRIES), "{what}");
            assert_eq!(message.dead > 0, message.fails > RETRIES, "{what}");
            if !was_cut {
                let expected: Vec<i32> = (0..=message.fails.min(RETRIES)).collect();
                assert_eq!(message.attempts, expected, "{what}");
                assert!(message.dead <= 1, "{what}");
            }
        }
    }
}

/// One life of a broker.
struct Life<'a> {
    world: &'a World,
    broker: &'a Broker<SimDisk>,
}

impl Life<'_> {
    /// Returns the reply, or `None` once power is lost.
    async fn ask(&self, request: Request) -> Option<Result<Reply, Refusal>> {
        let (now, origin) = (self.world.now.get(), Origin::default());
        match self.broker.handle(&request, origin, now) {
            Handled::Done(Outcome::Now(answer)) => Some(answer.reply),
            Handled::Done(Outcome::Committed { mark, reply }) => {
                while self.broker.store().committed() < mark {
                    self.while_power().await?;
                }
                Some(Ok(reply))
            }
            Handled::Operation => {
                let operation = pin!(self.broker.operate(&request, &self.world.now));
                match select(operation, pin!(self.power_fails())).await {
                    Either::Left((answer, _)) => Some(answer.reply),
                    Either::Right(_) => None,
                }
            }
            Handled::NoRoom { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    async fn while_power(&self) -> Option<()> {
        sim::pause().await;
        self.world.disk.has_power().then_some(())
    }

    async fn power_fails(&self) {
        while self.while_power().await.is_some() {}
    }

    async fn configure(&self, rng: &mut Rng) {
        let config = GroupConfig {
            retry_count_max: RETRIES,
            retry_queue_count: 1 + rng.below(3) as u32,
            ..GroupConfig::new(group())
        };
        self.ask(Request::UpdateGroup(config)).await;
    }

    async fn send(&self, number: usize, rng: &mut Rng) {
        let is_sent = self.world.messages.borrow()[number].is_sent;
        let request = Request::Produce(Produce {
            group: "senders".into(),
            topic: orders(),
            default_topic: "TBW102".into(),
            default_queue_count: 2,
            queue: None,
            system_flag: 0,
            born_at: self.world.now.get().wall,
            flag: 5,
            properties: Bytes::from_static(b"KEYS\x01k\x02DELAY\x010\x02"),
            reconsume_times: 0,
            retry_count_max: None,
            is_batch: false,
            body: Bytes::from(format!("{number} {}", "x".repeat(rng.below(300) as usize))),
        });
        if !is_sent && let Some(Ok(_)) = self.ask(request).await {
            self.world.messages.borrow_mut()[number].is_sent = true;
        }
    }

    /// Consumes what there is. Returns false once power is lost.
    async fn consume(&self, rng: &mut Rng) -> bool {
        for topic in [orders(), TopicName::retry_of(&group()), TopicName::dead_letters_of(&group())]
        {
            for queue in 0..QUEUES {
                if self.consume_queue(&topic, queue, rng).await.is_none() {
                    return false;
                }
            }
        }
        true
    }

    async fn consume_queue(&self, topic: &TopicName, queue: u32, rng: &mut Rng) -> Option<()> {
        loop {
            let place = (topic.clone(), queue);
            let offset = self.world.offsets.borrow().get(&place).copied().unwrap_or(0);
            let request = pull(group(), topic.clone(), queue, offset, 1);
            let now = self.world.now.get();
            let outcome = match self.broker.handle(&request, Origin::default(), now) {
                Handled::Done(Outcome::Cold(task)) => {
                    let read = pin!(self.broker.pull_cold(task, &self.world.now));
                    match select(read, pin!(self.power_fails())).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => return None,
                    }
                }
                Handled::Done(outcome) => outcome,
                other => panic!("{other:?}"),
            };
            let Outcome::Now(answer) = outcome else { panic!("{outcome:?}") };
            let bytes: Vec<u8> = answer.chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
            if bytes.is_empty() {
                return Some(());
            }
            let record = RecordView::parse(&bytes).unwrap();
            match *topic == TopicName::dead_letters_of(&group()) {
                true => self.bury(&record),
                false => self.process(&record, rng).await?,
            }
            self.world.offsets.borrow_mut().insert(place, offset + 1);
        }
    }

    /// Processes a message. One that fails is returned, and acknowledged only after that.
    async fn process(&self, record: &RecordView<'_>, rng: &mut Rng) -> Option<()> {
        let number = number_of(record);
        let attempt = record.reconsume_times;
        let fails = {
            let message = &mut self.world.messages.borrow_mut()[number];
            // A message that was sent and not acknowledged may be there anyway.
            message.is_sent = true;
            message.attempts.push(attempt);
            message.is_done |= attempt >= message.fails;
            attempt < message.fails
        };
        check_origin(record, attempt > 0);
        if !fails {
            return Some(());
        }
        loop {
            let request = match rng.below(3) {
                0 => by_sending(record),
                _ => Request::SendBack(SendBack {
                    offset: record.physical_offset,
                    group: group(),
                    delay_level: 0,
                    retry_count_max: None,
                }),
            };
            match self.ask(request).await {
                Some(Ok(_)) => return Some(()),
                _ => self.while_power().await?,
            }
        }
    }

    fn bury(&self, record: &RecordView<'_>) {
        assert_eq!(property(record.properties, "DELAY"), None);
        assert_eq!(record.reconsume_times, RETRIES + 1);
        check_origin(record, true);
        self.world.messages.borrow_mut()[number_of(record)].dead += 1;
    }

    async fn stats(&self, topic: TopicName) -> Option<TopicStats> {
        match self.ask(Request::TopicStats { topic }).await? {
            Ok(Reply::TopicStats(stats)) => Some(stats),
            // It does not exist yet.
            _ => None,
        }
    }

    /// All messages that are not due yet are retries of the one topic.
    async fn check_counts(&self) {
        let all = TopicName::new("SCHEDULE_TOPIC_XXXX").unwrap();
        loop {
            let Some(before) = self.stats(all.clone()).await else { return };
            let Some(stats) = self.stats(orders()).await else { return };
            // Otherwise some were delivered meanwhile.
            if self.stats(all.clone()).await.is_none_or(|after| after == before) {
                let [all] = &before.queues[..] else { panic!("{before:?}") };
                let retries = all.max_offset.0 - all.min_offset.0;
                assert_eq!(stats.delayed, Some(DelayedCounts { delayed: 0, retries }));
                return;
            }
        }
    }

    /// Lets time pass until nothing more happens.
    async fn finish(&self, rng: &mut Rng) {
        for _ in 0..400 {
            self.consume(rng).await;
            if self.world.is_settled() {
                return;
            }
            self.world.now.pass(200);
            self.broker.act(self.world.now.get());
            for _ in 0..40 {
                sim::pause().await;
            }
        }
    }
}

fn number_of(record: &RecordView<'_>) -> usize {
    let text = std::str::from_utf8(record.body).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// A message that came back names its first topic and id; whatever the producer set is unchanged.
fn check_origin(record: &RecordView<'_>, is_back: bool) {
    let topic = property(record.properties, "RETRY_TOPIC");
    let id = property(record.properties, "ORIGIN_MESSAGE_ID");
    assert_eq!((topic.is_some(), id.is_some()), (is_back, is_back), "{record:?}");
    assert!(topic.is_none_or(|topic| topic == b"orders"));
    assert!(id.is_none_or(|id| id.len() == 32 && id.starts_with(b"7F00000100002A9F")));
    assert_eq!(property(record.properties, "KEYS"), Some(&b"k"[..]));
    assert_eq!(record.flag, 5);
}

/// A request that sends the message to the retry topic, as clients do when they cannot return it.
fn by_sending(record: &RecordView<'_>) -> Request {
    let id = property(record.properties, "ORIGIN_MESSAGE_ID").map_or_else(
        || format!("7F00000100002A9F{:016X}", record.physical_offset.0),
        |id| String::from_utf8(id.to_vec()).unwrap(),
    );
    let level = 3 + record.reconsume_times;
    let properties = format!(
        "KEYS\x01k\x02RETRY_TOPIC\x01orders\x02ORIGIN_MESSAGE_ID\x01{id}\x02DELAY\x01{level}\x02"
    );
    Request::Produce(Produce {
        group: "CLIENT_INNER_PRODUCER".into(),
        topic: TopicName::retry_of(&group()),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(0)),
        system_flag: 0,
        born_at: record.born_at,
        flag: 5,
        properties: Bytes::from(properties),
        reconsume_times: record.reconsume_times + 1,
        retry_count_max: Some(RETRIES),
        is_batch: false,
        body: Bytes::copy_from_slice(record.body),
    })
}

fn live(seed: u64, world: &World, is_last: bool) {
    let mut rng = Rng::from_seed(seed);
    let disk = &world.disk;
    let opened =
        Broker::open(disk.clone(), small_store(), broker_config(world.now.get(), &LEVELS_MS));
    let Ok((broker, _)) = sim::run(opened) else {
        assert!(!disk.has_power());
        return;
    };
    let tasks = Tasks::new(seed);
    for _ in 0..3 {
        tasks.spawn("committer", commit(&broker));
    }
    tasks.spawn("delivery", async { broker.deliver(&world.now).await });
    tasks.run_until(async {
        let life = Life { world, broker: &broker };
        life.configure(&mut rng).await;
        for step in 0..60 {
            match rng.below(8) {
                0..4 => life.send((step / 2) % MESSAGES, &mut rng).await,
                4 => life.configure(&mut rng).await,
                5 => {
                    world.now.pass(rng.below(300));
                    broker.act(world.now.get());
                }
                6 => drop(broker.maintain(world.now.get(), rng.below(4) == 0).await),
                _ => _ = life.consume(&mut rng).await,
            }
            if life.while_power().await.is_none() {
                return;
            }
            life.check_counts().await;
        }
        if is_last {
            life.finish(&mut rng).await;
        }
        broker.stop_delivery();
        broker.store().stop();
    });
}

/// Returns the number of deliveries and of dead letters.
fn lives(seed: u64, cuts: u64) -> (usize, usize) {
    let mut rng = Rng::from_seed(seed);
    let message = |_| Message { fails: rng.below(5) as i32, ..Message::default() };
    let messages = RefCell::new((0..MESSAGES).map(message).collect());
    let disk = SimDisk::new(seed);
    disk.slow(2);
    let offsets = RefCell::default();
    let mut world = World { now: Clock::new(), messages, offsets, disk };
    for life in 0..=cuts {
        let is_last = life == cuts;
        if !is_last {
            world.disk.lose_power_after(20 + rng.below(300));
        }
        live(seed * 10 + life, &world, is_last);
        world.now.pass(rng.below(2_000));
        // The monotonic clock starts from a new origin.
        world.now.restart(Moment(rng.below(100)));
        world.disk = world.disk.after_crash(seed * 3 + life);
    }
    world.check(seed, cuts > 0);
    let messages = world.messages.borrow();
    let deliveries = messages.iter().map(|of| of.attempts.len()).sum();
    (deliveries, messages.iter().map(|of| of.dead).sum())
}

#[test]
fn a_failing_message_is_consumed_as_often_as_allowed_and_then_one_dead_letter() {
    let (mut deliveries, mut dead) = (0, 0);
    for seed in 0..SEEDS {
        let (more_deliveries, more_dead) = lives(seed, 0);
        (deliveries, dead) = (deliveries + more_deliveries, dead + more_dead);
    }
    assert!(
        deliveries as u64 > 25 * SEEDS && dead as u64 > 5 * SEEDS,
        "{deliveries} deliveries, {dead} dead letters"
    );
}

#[test]
fn no_message_that_comes_back_is_lost_by_power_cuts() {
    let deliveries: usize = (SEEDS..2 * SEEDS).map(|seed| lives(seed, 2).0).sum();
    assert!(deliveries as u64 > 33 * SEEDS, "{deliveries} deliveries");
}
