//! A test: a broker that has served requests, one that starts on its log, with or without a snapshot,
//! and a follower that has taken its entries, have the same durable state.
//!
//! This is why it matters that everything goes through [`Durable::apply`](super::state::Durable).

use std::cell::Cell;
use std::pin::pin;

use bytes::Bytes;

use super::facts::{AGES, DELAYS, OFFSETS, TOPIC};
use super::operation::Context;
use super::state::Snapshot;
use super::{Broker, BrokerConfig, Fact, Handled, Origin, Outcome};
use crate::model::batch::BatchItem;
use crate::model::record::Host;
use crate::model::request::{
    BrokerQueue, LockQueues, Produce, QueueOf, ResetGroup, ResetTo, SendBack,
};
use crate::model::{
    GroupConfig, GroupName, LogOffset, Moment, Now, QueueId, QueueOffset, Reply, Request, ShardId,
    Timestamp, TopicConfig, TopicName,
};
#[cfg(test)] // Tests may use modules of higher layers.
use crate::sim::copies::entries_on;
#[cfg(test)]
use crate::sim::{self, Rng, SimDisk, Tasks, small_store};
use crate::storage::{CommitRule, CommitStep, StoreConfig};

/// A topic fact that begins like this has the table's version.
const TABLE: u8 = 3;
/// A life ends before the first sweep, which drops what belongs to deleted topics: nobody can see
/// that, so it is not recorded. [`sweep`] does the same everywhere.
const STEPS: usize = 150;
const SEEDS: u64 = 100;
const BEGIN: Now = Now { wall: Timestamp(1_700_000_000_000), moment: Moment(9) };

struct Clock(Cell<Now>);

impl Clock {
    fn pass(&self, ms: u64) {
        let Now { wall, moment } = self.0.get();
        self.0.set(Now { wall: wall.plus_ms(ms), moment: moment.plus_ms(ms) });
    }
}

impl Context for Clock {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        self.0.get()
    }

    async fn cold_read(&self, _size_max: usize) {}
}

fn broker_config(started: Now) -> BrokerConfig {
    BrokerConfig {
        cluster: "DefaultCluster".into(),
        broker_name: "s00-broker-a".into(),
        shard: ShardId(0),
        store_host: Host { address: [127, 0, 0, 1], port: 10_911.into() },
        auto_create_topics: true,
        started,
        offset_retention_ms: u64::MAX,
        dedup_window_ms: 60_000,
        catch_up_bytes_per_s: 0,
        delay_levels_ms: vec![1_000, 5_000],
    }
}

fn store_config() -> StoreConfig {
    StoreConfig { segment_size: 256 << 10, ..small_store() }
}

async fn open(disk: &SimDisk, config: StoreConfig, now: Now) -> Broker<SimDisk> {
    Broker::open(disk.clone(), config, broker_config(now)).await.unwrap().0
}

/// The facts of a snapshot taken now.
fn state_of(broker: &Broker<SimDisk>) -> Vec<String> {
    let (mut snapshot, mut bytes) = (Snapshot::default(), Vec::new());
    let state = broker.state.borrow();
    loop {
        let slice = broker.store.with_index(|index| snapshot.next_slice(&state.durable, index));
        if slice.is_empty() {
            break;
        }
        bytes.extend_from_slice(&slice);
    }
    let facts = Fact::of_snapshot(&bytes).each().map(Result::unwrap);
    // How long segments have existed is a matter of the machine's clock.
    let facts = facts.filter(|fact| fact.kind != AGES);
    let show = |fact: Fact<'_>| {
        let mut payload = fact.payload.to_vec();
        if fact.kind == DELAYS {
            // So is the newest reading of the clock of due times.
            payload[56..72].fill(0);
        }
        if fact.kind == TOPIC {
            // The version under which NameServers know the topics is new after each start.
            payload[24..32].fill(0);
            if payload[0] == TABLE {
                payload[8..24].fill(0);
            }
        }
        format!("{:?} {} {payload:02x?}", fact.kind, fact.subject)
    };
    facts.map(show).collect()
}

/// A broker that gets random requests.
struct Life<'a> {
    broker: &'a Broker<SimDisk>,
    clock: &'a Clock,
    rng: Rng,
    sent: Vec<Produce>,
    positions: Vec<LogOffset>,
    handles: Vec<(TopicName, Box<str>)>,
}

impl Life<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.rng.below(end)
    }

    fn topic(&mut self) -> TopicName {
        TopicName::new(format!("t{}", self.below(4))).unwrap()
    }

    fn group(&mut self) -> GroupName {
        GroupName::new(format!("g{}", self.below(3))).unwrap()
    }

    fn queue(&mut self) -> QueueOf {
        QueueOf { topic: self.topic(), queue: QueueId(self.below(3) as u32) }
    }

    fn properties(&mut self) -> String {
        let mut properties = match self.below(5) {
            0 => format!("DELAY\x01{}\x02", 1 + self.below(2)),
            1 => format!("TIMER_DELAY_MS\x01{}\x02", self.below(100_000)),
            _ => format!("TAGS\x01{}\x02", self.below(3)),
        };
        if self.below(3) > 0 {
            properties += &format!("UNIQ_KEY\x01{}\x02", self.sent.len());
        }
        properties
    }

    fn new_message(&mut self) -> Produce {
        let is_batch = self.below(4) == 0;
        let (mut body, mut properties) =
            (format!("{}", self.sent.len()).into_bytes(), String::new());
        if is_batch {
            body.clear();
            for _ in 0..1 + self.below(3) {
                let properties = self.properties();
                let text = vec![b'x'; self.below(300) as usize + 1];
                BatchItem { flag: 1, body: &text, properties: properties.as_bytes() }
                    .write(&mut body);
            }
        } else {
            properties = self.properties();
        }
        Produce {
            group: "senders".into(),
            topic: self.topic(),
            default_topic: "TBW102".into(),
            default_queue_count: 3,
            queue: (self.below(2) == 0).then(|| QueueId(self.rng.below(3) as u32)),
            system_flag: 0,
            born_at: self.clock.now().wall,
            flag: 5,
            properties: Bytes::from(properties),
            reconsume_times: 0,
            retry_count_max: None,
            is_batch,
            body: body.into(),
        }
    }

    fn send(&mut self) {
        let message = match self.sent.is_empty() || self.below(5) > 0 {
            true => self.new_message(),
            false => self.sent[self.rng.below(self.sent.len() as u64) as usize].clone(),
        };
        let request = Request::Produce(message.clone());
        let outcome = self.broker.handle(&request, Origin::default(), self.clock.now());
        if let Handled::Done(Outcome::Committed { reply: Reply::Produced(produced), .. }) = outcome
        {
            self.positions.extend(produced.positions);
            let handle = produced.recall_handle.map(|handle| (message.topic.clone(), handle));
            self.handles.extend(handle);
            self.sent.push(message);
        }
    }

    /// A request that is not a send.
    fn other(&mut self) -> Request {
        match self.below(13) {
            0 => {
                let position = match self.positions.len() as u64 {
                    0 => LogOffset(0),
                    count => self.positions[self.rng.below(count) as usize],
                };
                let (group, delay_level) = (self.group(), self.below(3) as i32 - 1);
                Request::SendBack(SendBack {
                    offset: position,
                    group,
                    delay_level,
                    retry_count_max: None,
                })
            }
            1..4 => Request::CommitOffset {
                group: self.group(),
                queue: self.queue(),
                offset: self.below(20) as i64,
            },
            4 => Request::UpdateTopic(TopicConfig::new(self.topic(), 1 + self.below(5) as u32)),
            5 if self.below(3) == 0 => Request::DeleteTopic { topic: self.topic() },
            6 => Request::UpdateGroup(GroupConfig {
                retry_count_max: self.below(9) as i32,
                ..GroupConfig::new(self.group())
            }),
            7 if self.below(3) == 0 => {
                let with_offsets = self.below(2) == 0;
                Request::DeleteGroup { group: self.group(), with_offsets }
            }
            8 => Request::ResetGroup(ResetGroup {
                group: self.group(),
                topic: self.topic(),
                queue: None,
                to: ResetTo::Offset(QueueOffset(self.below(5))),
                is_forced: true,
            }),
            9 | 10 => {
                let queues = (0..3).map(|_| BrokerQueue {
                    broker_name: "s00-broker-a".into(),
                    queue: self.queue(),
                });
                let queues = queues.collect();
                let client = format!("c{}", self.below(2)).into();
                let locks = LockQueues { group: self.group(), client, queues, skipped: Vec::new() };
                match self.below(3) {
                    0 => Request::UnlockQueues(locks),
                    _ => Request::LockQueues(locks),
                }
            }
            _ => match self.handles.len() as u64 {
                0 => Request::MaxOffset(self.queue()),
                count => {
                    let (topic, handle) = self.handles[self.rng.below(count) as usize].clone();
                    Request::Recall { topic, handle: handle.to_string().into() }
                }
            },
        }
    }

    async fn run(&mut self, is_snapshot_taken: bool) {
        let snapshot_at = self.below(STEPS as u64) as usize;
        for step in 0..STEPS {
            match self.below(10) {
                0..6 => self.send(),
                6..9 => {
                    let request = self.other();
                    self.operate(&request).await;
                }
                _ => self.act(700).await,
            }
            if is_snapshot_taken && step == snapshot_at {
                self.broker.maintain(self.clock.now(), true).await.unwrap();
            }
        }
        // Committed offsets and what is due are in the log after a while.
        for _ in 0..20 {
            self.act(500).await;
        }
        while self.broker.store.committed() < self.broker.store.end() {
            sim::pause().await;
        }
    }

    /// Some operations wait for a moment.
    async fn operate(&mut self, request: &Request) {
        let mut operation = pin!(self.broker.operate(request, self.clock));
        while futures_util::poll!(&mut operation).is_pending() {
            self.clock.pass(10);
            self.broker.act(self.clock.now());
            sim::pause().await;
        }
    }

    async fn act(&mut self, ms: u64) {
        self.clock.pass(ms);
        self.broker.act(self.clock.now());
        for _ in 0..30 {
            sim::pause().await;
        }
    }
}

async fn commit(broker: &Broker<SimDisk>) {
    while let Ok(step) = broker.store.commit_step().await {
        broker.advance();
        if step == CommitStep::Stopped {
            return;
        }
    }
}

/// The state of a broker after its life.
fn live(seed: u64, disk: &SimDisk, clock: &Clock, is_snapshot_taken: bool) -> Vec<String> {
    let broker = sim::run(open(disk, store_config(), clock.now()));
    let tasks = Tasks::new(seed);
    tasks.spawn("committer", commit(&broker));
    tasks.spawn("delivery", async { broker.deliver(clock).await });
    let mut state = Vec::new();
    tasks.run_until(async {
        let (sent, positions, handles) = Default::default();
        let (broker, rng) = (&broker, Rng::from_seed(seed));
        Life { broker, clock, rng, sent, positions, handles }.run(is_snapshot_taken).await;
        state = state_of(broker);
        broker.stop_delivery();
        broker.store.stop();
    });
    state
}

/// Has a broker sweep; returns its facts about offsets afterwards.
fn sweep(broker: &Broker<SimDisk>) -> Vec<String> {
    let mut moment = Moment(BEGIN.moment.0 + 1_000_000);
    for _ in 0..100 {
        moment = moment.plus_ms(1_000);
        broker.act(Now { wall: BEGIN.wall, moment });
    }
    offsets_of(state_of(broker))
}

fn offsets_of(state: Vec<String>) -> Vec<String> {
    let begin = format!("{OFFSETS:?} ");
    state.into_iter().filter(|fact| fact.starts_with(&begin)).collect()
}

fn require_same(left: &[String], right: &[String], what: &str) {
    for (nth, (left, right)) in left.iter().zip(right).enumerate() {
        assert_eq!(left, right, "{what}: fact {nth}");
    }
    assert_eq!(left.len(), right.len(), "{what}");
}

#[test]
fn a_live_broker_a_restarted_one_and_a_follower_have_the_same_state() {
    let mut swept_count = 0;
    for seed in 0..SEEDS {
        let is_snapshot_taken = seed % 2 == 1;
        let (disk, clock) = (SimDisk::new(seed), Clock(Cell::new(BEGIN)));
        let state = live(seed, &disk, &clock, is_snapshot_taken);
        let again = sim::run(open(&disk, store_config(), clock.now()));
        require_same(&state, &state_of(&again), &format!("seed {seed}, restarted"));
        sim::run(async {
            let config = StoreConfig { commit: CommitRule::Driven, ..store_config() };
            let follower = open(&SimDisk::new(seed), config, BEGIN).await;
            follower.follow();
            for entry in entries_on(&disk, store_config().checksum_seed) {
                follower.append_raw(&entry.bytes).await.unwrap();
                while follower.store.written() < follower.store.end() {
                    follower.store.commit_step().await.unwrap();
                }
            }
            require_same(&state, &state_of(&follower), &format!("seed {seed}, follower"));
            let (swept, swept_by_follower) = (sweep(&again), sweep(&follower));
            require_same(&swept, &swept_by_follower, &format!("seed {seed}, after a sweep"));
            swept_count += usize::from(swept != offsets_of(state));
        });
    }
    assert!(swept_count > SEEDS as usize / 4, "{swept_count} sweeps have dropped anything");
}
