//! Opens a shard: loads the snapshot, then replays the log after it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Display};

use rustc_hash::FxHashMap;

use super::delays;
use super::delivery_state::Delivery;
use super::facts::{Fact, FactError};
use super::messages::messages_of;
use super::rates::Rates;
use super::state::Durable;
use super::upkeep::first_deadlines;
use super::{Broker, BrokerConfig, Pending, State};
use crate::model::QueueOffset;
use crate::storage::disk::Disk;
use crate::storage::{
    self, Index, Opening, QueueKey, RecoveryReport, Replayed, Store, StoreConfig,
};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] storage::OpenError),
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// The result of opening, displayed for the operator.
#[derive(Debug)]
pub struct OpenReport {
    pub recovery: RecoveryReport,
    pub topic_count: usize,
}

impl Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} topics, {}", self.topic_count, self.recovery)
    }
}

impl<D: Disk> Broker<D> {
    /// Opens the shard whose files `disk` holds; an empty disk becomes a new shard.
    pub async fn open(
        disk: D,
        store: StoreConfig,
        config: BrokerConfig,
    ) -> Result<(Self, OpenReport), OpenError> {
        let opening = Store::open(disk, store).await?;
        let Restored { store, mut durable, unseen, recovery } =
            restore(opening, config.dedup_window_ms).await?;
        durable.topics.change(config.started.wall);
        durable.locks.start(config.started.moment);
        store.note_time(config.started);
        let delivery = Delivery::begin(config.started, &durable.delays);
        let deadlines = first_deadlines();
        let mut state = State { durable, delivery, deadlines, ..State::default() };
        state.see(&store, unseen);
        let topic_count = state.durable.topics.count();
        let state = RefCell::new(state);
        let (flushes, outgoing, deliveries, leading) = Default::default();
        let replicas = Default::default();
        let rates = RefCell::new(Rates::new(config.started.moment));
        let broker =
            Self { config, store, state, flushes, outgoing, deliveries, leading, replicas, rates };
        Ok((broker, OpenReport { recovery, topic_count }))
    }
}

/// The state restored from a shard's files.
pub struct Restored<D: Disk> {
    pub store: Store<D>,
    pub durable: Durable,
    pub unseen: Unseen,
    pub recovery: RecoveryReport,
}

/// Restores the snapshot, then replays the log after it. After a cut, the state is restored the
/// same way.
pub async fn restore<D: Disk>(
    mut opening: Opening<D>,
    dedup_window_ms: u64,
) -> Result<Restored<D>, OpenError> {
    let mut durable = Durable::new(dedup_window_ms);
    let (mut unseen, mut broken) = (Unseen::default(), None);
    let committed = opening.committed();
    durable.raft.begin(committed);
    if let Some(snapshot) = opening.snapshot().map(<[u8]>::to_vec) {
        durable.apply(opening.index(), Fact::of_snapshot(&snapshot))?;
    }
    let (store, recovery) = opening
        .replay(messages_of, |index, entry| {
            if let Err(error) = replay(&mut durable, index, &entry) {
                broken.get_or_insert(error);
            }
            if entry.end > committed {
                unseen.note(&entry);
            }
        })
        .await?;
    match broken {
        Some(error) => Err(error.into()),
        None => {
            // What settled messages may have been there.
            let damage_end = recovery.damaged.iter().map(|hole| hole.end).max();
            durable.delayed_topics.forget_before(damage_end.unwrap_or_default());
            Ok(Restored { store, durable, unseen, recovery })
        }
    }
}

/// Messages that are not committed, and therefore not visible yet.
#[derive(Default)]
pub struct Unseen {
    pending: VecDeque<Pending>,
    /// The first uncommitted offset of each queue.
    first: FxHashMap<QueueKey, QueueOffset>,
}

impl Unseen {
    pub fn note(&mut self, entry: &Replayed<'_>) {
        messages_of(entry, &mut |queue, offset, _| {
            if delays::is_group(queue.topic) {
                return;
            }
            self.first.entry(queue).or_insert(offset);
            let (end, next) = (entry.end, offset.plus(1));
            match self.pending.back_mut().filter(|last| (last.end, last.queue) == (end, queue)) {
                Some(last) => last.next = next,
                None => self.pending.push_back(Pending { end, queue, next }),
            }
        });
    }
}

impl Unseen {
    /// Appends that are not visible yet, in log order.
    pub fn into_pending(self) -> VecDeque<Pending> {
        self.pending
    }
}

impl State {
    /// Makes committed messages visible; the others wait for their commit.
    pub fn see<D: Disk>(&mut self, store: &Store<D>, unseen: Unseen) {
        store.with_index(|index| {
            // Messages of topics that a later entry deletes.
            let Durable { topics, delays, .. } = &self.durable;
            index.retain_topics(|topic| topics.topic(topic).is_some() || delays.keeps(topic));
            for (key, next) in index.next_offsets() {
                if let Some(topic) = self.durable.topics.topic_mut(key.topic) {
                    let visible = unseen.first.get(&key).copied().unwrap_or(next);
                    topic.queue_kept(key.queue).visible = visible;
                }
            }
        });
        self.pending = unseen.pending;
    }
}

fn replay(durable: &mut Durable, index: &mut Index, entry: &Replayed<'_>) -> Result<(), FactError> {
    let fact = Fact::of_entry(entry);
    match entry.in_snapshot {
        true => durable.apply_indexed(index, fact),
        false => durable.apply(index, fact),
    }
}
