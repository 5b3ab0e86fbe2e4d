//! What the simulations of a broker share: a configuration, a clock, and a pull that matches
//! everything.

use std::cell::Cell;

use ringmq::broker::operation::Context;
use ringmq::broker::{Broker, BrokerConfig, Origin};
use ringmq::model::record::Host;
use ringmq::model::request::{Expression, Pull, QueueOf};
use ringmq::model::{GroupName, Moment, Now, QueueId, Request, ShardId, Timestamp, TopicName};
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

/// Runs one committer.
pub async fn commit(broker: &Broker<SimDisk>) {
    while let Ok(step) = broker.store().commit_step().await {
        broker.advance();
        if step == CommitStep::Stopped {
            return;
        }
    }
}
