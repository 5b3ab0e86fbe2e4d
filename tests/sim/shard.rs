//! What the simulations of a broker share: a configuration, a clock, a pull that matches
//! everything, and how often consumers must see a message whose request was repeated.

use std::cell::Cell;
use std::ops::{Range, RangeInclusive};

use ringmq::broker::operation::Context;
use ringmq::broker::{Broker, BrokerConfig, Origin};
use ringmq::model::record::Host;
use ringmq::model::reply::{DelayedCounts, TopicStats};
use ringmq::model::request::{Expression, Pull, QueueOf};
use ringmq::model::{
    GroupName, Moment, Now, QueueId, Reply, Request, ShardId, Timestamp, TopicName,
};
use ringmq::sim::SimDisk;
use ringmq::storage::CommitStep;

pub fn broker_config(started: Now, delay_levels_ms: &[u64]) -> BrokerConfig {
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
        delay_levels_ms: delay_levels_ms.to_vec(),
    }
}

/// A pull that matches everything and is not held.
pub fn pull(
    group: GroupName,
    topic: TopicName,
    queue: u32,
    offset: u64,
    count_max: u32,
) -> Request {
    Request::Pull(Pull {
        group: Some(group),
        queue: QueueOf { topic, queue: QueueId(queue) },
        offset: offset as i64,
        count_max,
        bytes_max: None,
        commit: None,
        hold_ms: None,
        subscription: Some(Expression { kind: "TAG".into(), text: "*".into() }),
        subscription_version: 0,
    })
}

/// The clocks, which outlive a broker. Requests come from no connection in particular.
pub struct Clock(Cell<Now>);

impl Clock {
    pub const BEGIN: Now = Now { wall: Timestamp(1_700_000_000_123), moment: Moment(50) };

    pub fn new() -> Self {
        Self(Cell::new(Self::BEGIN))
    }

    pub fn get(&self) -> Now {
        self.0.get()
    }

    pub fn pass(&self, ms: u64) {
        let Now { wall, moment } = self.get();
        self.0.set(Now { wall: wall.plus_ms(ms), moment: moment.plus_ms(ms) });
    }

    /// Sets the wall clock by this much, without time passing.
    pub fn set_by(&self, ms: i64) {
        let now = self.get();
        self.0.set(Now { wall: Timestamp(now.wall.0.saturating_add_signed(ms)), ..now });
    }

    /// Starts the moments of the next process at `moment`, because each process has its own origin.
    pub fn restart(&self, moment: Moment) {
        self.0.set(Now { moment, ..self.get() });
    }
}

impl Context for Clock {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        self.get()
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// What the broker does with a request that is repeated.
#[derive(Clone, Copy, Debug, Default)]
pub enum Repeats {
    /// It stores another copy of the message.
    #[default]
    Stored,
    /// It recognizes the request and stores nothing.
    Recognized,
    /// One or the other.
    Either,
}

/// The copies of one message, which was requested once or more. A request that was not acknowledged
/// may have stored one or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copies {
    pub repeats: Repeats,
    pub asked: usize,
    pub acknowledged: usize,
    /// Copies that consumers have seen.
    pub seen: usize,
}

impl Copies {
    /// How many copies consumers see in the end.
    pub fn expected(&self) -> RangeInclusive<usize> {
        let Self { asked, acknowledged, .. } = *self;
        match self.repeats {
            Repeats::Stored => acknowledged..=asked,
            Repeats::Recognized => acknowledged.min(1)..=asked.min(1),
            Repeats::Either => acknowledged.min(1)..=asked,
        }
    }

    pub fn are_all_seen(&self) -> bool {
        self.seen >= *self.expected().start()
    }
}

/// The statistics of a topic; `None` if it does not exist yet.
async fn stats(broker: &Broker<SimDisk>, clock: &Clock, topic: &str) -> Option<TopicStats> {
    let request = Request::TopicStats { topic: TopicName::new(topic).unwrap() };
    match broker.operate(&request, clock).await.reply {
        Ok(Reply::TopicStats(stats)) => Some(stats),
        _ => None,
    }
}

/// The offsets of the messages of all topics that are not due yet.
async fn pending(broker: &Broker<SimDisk>, clock: &Clock) -> Range<u64> {
    let stats = stats(broker, clock, "SCHEDULE_TOPIC_XXXX").await.unwrap();
    let [all] = &stats.queues[..] else { panic!("{stats:?}") };
    all.min_offset.0..all.max_offset.0
}

/// The number of messages of each topic that are not due yet. Their sum is that of all topics.
pub async fn pending_of<const COUNT: usize>(
    broker: &Broker<SimDisk>,
    clock: &Clock,
    topics: [&str; COUNT],
) -> [DelayedCounts; COUNT] {
    loop {
        let all = pending(broker, clock).await;
        let mut counts = [DelayedCounts::default(); COUNT];
        for (counts, topic) in counts.iter_mut().zip(topics) {
            // A topic that does not exist yet has no messages.
            let Some(stats) = stats(broker, clock, topic).await else { continue };
            match stats.delayed {
                Some(known) => *counts = known,
                None => panic!("{topic}: not all that is pending is counted"),
            }
        }
        // Otherwise some were delivered meanwhile.
        if pending(broker, clock).await == all {
            let sum: u64 = counts.iter().map(|of| of.delayed + of.retries).sum();
            assert_eq!(sum, all.end - all.start, "{counts:?}");
            return counts;
        }
    }
}

/// Runs one committer.
pub async fn commit(broker: &Broker<SimDisk>) {
    while let Ok(step) = broker.store().commit_step().await {
        broker.advance();
        if step == CommitStep::Stopped {
            return;
        }
    }
}
