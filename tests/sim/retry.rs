//! Messages that fail, across power cuts: none is lost, none is consumed more often than the group
//! allows, and each that never succeeds ends up as a dead letter.
//!
//! The oracle decides beforehand how often each message fails. Producers and consumers repeat some
//! requests, as if they had seen no reply. Each repeated request stores one more copy, which is
//! counted, except for sent messages with a unique key, which the broker recognizes. A request that
//! a power cut interrupts may have stored its copy or not.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use ringmq::broker::{Broker, Handled, Origin, Outcome};
use ringmq::model::record::{RecordView, property};
use ringmq::model::request::{Produce, SendBack};
use ringmq::model::{GroupConfig, GroupName, Moment, QueueId, Refusal, Reply, Request, TopicName};
use ringmq::sim::{self, Rng, SimDisk, Tasks, small_store};

use super::shard::{Clock, Copies, Repeats, broker_config, commit, pending_of, pull};

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
    /// Its copies at each attempt, which those of the attempt before are asked to become. The last
    /// are dead letters.
    copies: [Copies; RETRIES as usize + 2],
}

impl Message {
    fn new(number: usize, rng: &mut Rng) -> Self {
        let mut message = Self { fails: rng.below(5) as i32, ..Self::default() };
        if has_key(number) {
            message.copies[0].repeats = Repeats::Recognized;
        }
        message
    }

    fn dead(&self) -> usize {
        self.copies[RETRIES as usize + 1].seen
    }

    fn deliveries(&self) -> usize {
        self.copies.iter().map(|of| of.seen).sum::<usize>() - self.dead()
    }
}

/// Whether the message has a unique key, by which the broker recognizes it when it is sent again.
fn has_key(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// What outlives every broker: the oracle, and the consumer with its offsets.
struct World {
    now: Clock,
    messages: RefCell<Vec<Message>>,
    offsets: RefCell<BTreeMap<(TopicName, u32), u64>>,
    /// The last offset of each queue that the consumer has seen; it may have to process it again.
    seen: RefCell<BTreeMap<(TopicName, u32), u64>>,
    /// Requests that repeated another one which was acknowledged.
    repeats: Cell<usize>,
    disk: SimDisk,
}

impl World {
    fn is_settled(&self) -> bool {
        let messages = self.messages.borrow();
        messages.iter().flat_map(|of| &of.copies).all(Copies::are_all_seen)
    }

    /// Notes that consumers see a copy of a message for the first time.
    fn see(&self, number: usize, attempt: i32) {
        self.messages.borrow_mut()[number].copies[attempt as usize].seen += 1;
    }

    /// Whether a client that has its reply sends the request again anyway.
    fn is_repeated(&self, rng: &mut Rng) -> bool {
        let is_repeated = rng.chance(1, 8);
        self.repeats.set(self.repeats.get() + usize::from(is_repeated));
        is_repeated
    }

    fn check(&self, seed: u64, was_cut: bool) {
        for (number, message) in self.messages.borrow().iter().enumerate() {
            let what = format!("seed {seed}: {number}: {message:?}");
            for of in &message.copies {
                assert!(of.expected().contains(&of.seen), "{of:?}: {what}");
                assert!(was_cut || of.acknowledged == of.asked, "{of:?}: {what}");
            }
            // Every copy that fails comes back, and no other does.
            for (attempt, pair) in message.copies.windows(2).enumerate() {
                let fails = (attempt as i32) < message.fails && pair[0].seen > 0;
                assert_eq!(pair[1].seen > 0, fails, "attempt {attempt}: {what}");
                assert!(!fails || pair[1].seen >= pair[0].seen, "attempt {attempt}: {what}");
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
        let copies = self.world.messages.borrow()[number].copies[0];
        if copies.acknowledged > 0 && !self.world.is_repeated(rng) {
            return;
        }
        let key = if has_key(number) { format!("UNIQ_KEY\x01{number}\x02") } else { String::new() };
        let request = Request::Produce(Produce {
            group: "senders".into(),
            topic: orders(),
            default_topic: "TBW102".into(),
            default_queue_count: 2,
            queue: None,
            system_flag: 0,
            born_at: self.world.now.get().wall,
            flag: 5,
            properties: Bytes::from(format!("KEYS\x01k\x02DELAY\x010\x02{key}")),
            reconsume_times: 0,
            retry_count_max: None,
            is_batch: false,
            body: Bytes::from(format!("{number} {}", "x".repeat(number * 12))),
        });
        self.ask_for_copy(request, number, 0).await;
    }

    /// Requests another copy of a message. Returns whether it was acknowledged.
    async fn ask_for_copy(&self, request: Request, number: usize, attempt: i32) -> bool {
        let note = |change: &dyn Fn(&mut Copies)| {
            change(&mut self.world.messages.borrow_mut()[number].copies[attempt as usize]);
        };
        note(&|copies| copies.asked += 1);
        let is_acknowledged = matches!(self.ask(request).await, Some(Ok(_)));
        note(&|copies| copies.acknowledged += usize::from(is_acknowledged));
        is_acknowledged
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
            if self.world.seen.borrow_mut().insert(place.clone(), offset) != Some(offset) {
                self.world.see(number_of(&record), record.reconsume_times);
            }
            match *topic == TopicName::dead_letters_of(&group()) {
                true => bury(&record),
                false => self.process(&record, rng).await?,
            }
            self.world.offsets.borrow_mut().insert(place, offset + 1);
        }
    }

    /// Processes a message. One that fails is returned, perhaps more than once, and acknowledged
    /// only after that.
    async fn process(&self, record: &RecordView<'_>, rng: &mut Rng) -> Option<()> {
        let (number, attempt) = (number_of(record), record.reconsume_times);
        check_origin(record, attempt > 0);
        if attempt >= self.world.messages.borrow()[number].fails {
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
            match self.ask_for_copy(request, number, attempt + 1).await {
                true if !self.world.is_repeated(rng) => return Some(()),
                true => {}
                false => self.while_power().await?,
            }
        }
    }

    /// All messages that are not due yet are retries of the one topic.
    async fn check_counts(&self) {
        let [counts] = pending_of(self.broker, &self.world.now, ["orders"]).await;
        assert_eq!(counts.delayed, 0, "no producer has delayed any");
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

fn bury(record: &RecordView<'_>) {
    assert_eq!(property(record.properties, "DELAY"), None);
    assert_eq!(record.reconsume_times, RETRIES + 1);
    check_origin(record, true);
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
    let key = property(record.properties, "UNIQ_KEY");
    let number = number_of(record);
    assert_eq!(key, has_key(number).then_some(number.to_string().as_bytes()));
    assert_eq!(record.flag, 5);
}

/// A request that sends the message to the retry topic, as clients do when they cannot return it.
fn by_sending(record: &RecordView<'_>) -> Request {
    let id = property(record.properties, "ORIGIN_MESSAGE_ID").map_or_else(
        || format!("7F00000100002A9F{:016X}", record.physical_offset.0),
        |id| String::from_utf8(id.to_vec()).unwrap(),
    );
    let level = 3 + record.reconsume_times;
    let mut properties = format!(
        "KEYS\x01k\x02RETRY_TOPIC\x01orders\x02ORIGIN_MESSAGE_ID\x01{id}\x02DELAY\x01{level}\x02"
    );
    if let Some(key) = property(record.properties, "UNIQ_KEY") {
        properties += &format!("UNIQ_KEY\x01{}\x02", String::from_utf8_lossy(key));
    }
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

/// Returns the number of deliveries, of dead letters, and of repeated requests.
fn lives(seed: u64, cuts: u64) -> [usize; 3] {
    let mut rng = Rng::from_seed(seed);
    let message = |number| Message::new(number, &mut rng);
    let messages = RefCell::new((0..MESSAGES).map(message).collect());
    let disk = SimDisk::new(seed);
    disk.slow(2);
    let (offsets, seen, repeats) = Default::default();
    let mut world = World { now: Clock::new(), messages, offsets, seen, repeats, disk };
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
    let sum = |of: fn(&Message) -> usize| messages.iter().map(of).sum();
    [sum(Message::deliveries), sum(Message::dead), world.repeats.get()]
}

fn all_lives(seeds: Range<u64>, cuts: u64) -> [u64; 3] {
    seeds
        .map(|seed| lives(seed, cuts))
        .fold([0; 3], |sums, more| std::array::from_fn(|nth| sums[nth] + more[nth] as u64))
}

#[test]
fn a_failing_message_is_consumed_as_often_as_allowed_and_then_a_dead_letter() {
    let [deliveries, dead, repeats] = all_lives(0..SEEDS, 0);
    assert!(
        deliveries > 25 * SEEDS && dead > 5 * SEEDS && repeats > 5 * SEEDS,
        "{deliveries} deliveries, {dead} dead letters, {repeats} repeats"
    );
}

#[test]
fn no_message_that_comes_back_is_lost_by_power_cuts() {
    let [deliveries, _, repeats] = all_lives(SEEDS..2 * SEEDS, 2);
    assert!(
        deliveries > 33 * SEEDS && repeats > 5 * SEEDS,
        "{deliveries} deliveries, {repeats} repeats"
    );
}
